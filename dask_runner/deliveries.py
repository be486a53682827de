"""Outputs that came with an outcome: written into the attempt's folder here, from where they are
published like all others.
"""

import os
from collections.abc import Mapping

from dask_runner.batch import Outcome
from dask_runner.errors import StorageError
from dask_runner.execution.returns import described
from dask_runner.files import text_to_path
from dask_runner.run_folder import RunFolder


def is_whole(outcome: Outcome, contents: Mapping[str, bytes]) -> bool:
    """True if the contents are what was hashed where the batch ran."""
    hashes = {output.name: output.sha256 for output in outcome.outputs}
    return all(hashes.get(output.name) == output.sha256 for output in described(contents))


def write(folder: RunFolder, outcome: Outcome, contents: Mapping[str, bytes]) -> None:
    """Put the contents where the attempt would have left them. Raises StorageError; publication
    makes them durable.
    """
    home = folder.attempt(outcome.batch, outcome.attempt)
    try:
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        for name, data in contents.items():
            _write(os.fspath(home / text_to_path(name)), data)
    except OSError as error:
        raise StorageError(
            f"cannot write results to {home}: {error.strerror}",
            hint="make space, then `dask-runner rerun`",
        ) from error


def _write(path: str, data: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o444)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
