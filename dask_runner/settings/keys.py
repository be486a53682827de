"""The schema as a flat table of dotted keys, and the nearest right key to a wrong one."""

import difflib
from collections.abc import Iterable
from typing import Any

import msgspec
from msgspec import Struct

from dask_runner.settings.schema import Settings, StepSettings

ENVIRONMENT_PREFIX = "DASK_RUNNER_"
STEPS = "reconstruct.steps"


class Key(Struct, frozen=True, kw_only=True):
    """A key of settings.toml; `kind` is its type with the limits."""

    section: str
    name: str
    kind: Any
    default: Any
    description: str

    @property
    def dotted(self) -> str:
        return f"{self.section}.{self.name}"

    @property
    def variable(self) -> str:
        """The environment variable that sets it."""
        return f"{ENVIRONMENT_PREFIX}{self.section}_{self.name}".upper()


def _keys_of(section: str, struct: type[Struct]) -> dict[str, Key]:
    return {
        field.name: Key(
            section=section,
            name=field.name,
            kind=field.type,
            default=field.default,
            description=_description(field.type),
        )
        for field in msgspec.structs.fields(struct)
    }


def _description(kind: Any) -> str:
    return " ".join(
        meta.description for meta in getattr(kind, "__metadata__", ()) if meta.description
    )


SECTION_TYPES: dict[str, type[Struct]] = {
    field.name: field.type for field in msgspec.structs.fields(Settings)
}
SECTIONS = {name: _keys_of(name, kind) for name, kind in SECTION_TYPES.items()}
KEYS = {key.dotted: key for keys in SECTIONS.values() for key in keys.values()}
VARIABLES = {key.variable: key for key in KEYS.values()}
STEP_KEYS = _keys_of("step", StepSettings)


def nearest(name: str, candidates: Iterable[str]) -> str:
    """The candidate that is most like `name`, or "" if none is."""
    return next(iter(difflib.get_close_matches(name, list(candidates), n=1)), "")


def hint_for_key(section: str, name: str) -> str:
    """What may have been meant by the unknown `name` in `section` ("" is the top level)."""
    keys = SECTIONS.get(section, {})
    if near := nearest(name, keys):
        return f"did you mean {section}.{near}?"
    if not section and (near := nearest(name, SECTIONS)):
        return f"did you mean [{near}]?"
    # The right key in the wrong section is the commonest mistake of all.
    elsewhere = {key.name: key for key in KEYS.values()}
    if near := nearest(name, elsewhere):
        return f"did you mean {near} in section [{elsewhere[near].section}]?"
    if keys:
        return f"the keys of [{section}] are {', '.join(keys)}"
    return f"the sections are {', '.join(f'[{known}]' for known in SECTIONS)}"
