"""The options that all dispatching commands share: how a run is done, not what.

They stand here once. typer takes the options of a command from its signature, so `dispatching` adds
them to that of the command, which gets them as one argument, `how`.
"""

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dask_runner.cli import driving, options
from dask_runner.settings import LoadedSettings

_HOW = "how"


@dataclass(frozen=True, kw_only=True)
class How:
    """What was given of them."""

    dry: options.Dry = False
    label: options.Label = ""
    first: options.First = None
    detach: options.Detach = False
    quiet: options.Quiet = False
    slots: options.Slots = None
    max_slots: options.MaxSlots = None
    hosts: options.Hosts = ""
    cluster: options.ClusterName = None
    accept_numerics: options.AcceptNumerics = False
    attempts: options.Attempts = None
    timeout: options.Timeout = None
    memory: options.Memory = None
    runs: options.Runs = None
    settings: options.SettingsFile = None
    json: options.Json = False

    def overrides(self) -> dict[str, Any]:
        """Keys of the run section of the settings that were given."""
        names = ("slots", "attempts", "timeout", "memory")
        given = {name: getattr(self, name) for name in names}
        return {name: value for name, value in given.items() if value is not None}

    def load(self, own: dict[str, Any] | None = None) -> LoadedSettings:
        """The settings in force; `own` are keys that the command has options for besides, None if
        they were not given.
        """
        shared = {f"run.{name}": value for name, value in self.overrides().items()}
        given = {"cluster.name": self.cluster, **shared, **(own or {})}
        return options.settings_for(self.settings, given, runs=self.runs)

    def target(self, loaded: LoadedSettings) -> Any:
        """What is dispatched to."""
        return options.target(
            loaded, self.hosts, self.max_slots, accept_numerics=self.accept_numerics
        )

    def manner(self, loaded: LoadedSettings, *, of_run: bool = False) -> driving.Manner:
        """How `driving` does it; `of_run` if the run is there already, and has settings."""
        return driving.Manner(
            label=self.label,
            first=self.first,
            detach=self.detach,
            quiet=self.quiet,
            dry=self.dry,
            json=self.json,
            target=self.target(loaded),
            overrides=self.overrides() if of_run else None,
        )

    def run_path(self, timestamp: str) -> Path:
        """The folder of a run that is named."""
        return options.run_path(timestamp, self.runs, self.settings)


def dispatching(command: Callable[..., None]) -> Callable[..., None]:
    """The command with the fields of `How` behind its own options."""
    shared = inspect.signature(How).parameters
    own = inspect.signature(command).parameters

    @functools.wraps(command)
    def complete(*words: Any, **given: Any) -> None:
        how = How(**{name: given.pop(name) for name in shared if name in given})
        command(*words, **given, how=how)

    parameters = [one for name, one in own.items() if name != _HOW]
    signature = inspect.Signature([*parameters, *shared.values()])
    complete.__signature__ = signature  # type: ignore[attr-defined]
    complete.__annotations__ = {one.name: one.annotation for one in signature.parameters.values()}
    return complete
