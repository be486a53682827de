"""One batch of a planned run, here and before anything is dispatched: how long, how much memory.

It runs as batches do, in a slot of its own, and nothing of it is kept. Refuses to run longer than a
minute: what has been seen by then is told.
"""

import os
import socket
import tempfile
from collections.abc import Sequence
from pathlib import Path

import msgspec
from msgspec import Struct

from dask_runner.batch import Attempt, Batch, FailureKind, InputFile, Outcome, OutcomeStatus
from dask_runner.downloads import is_url, local_copy
from dask_runner.errors import RunnerError
from dask_runner.execution.pool import Pool, PoolConfig
from dask_runner.execution.task import Group, Limits, decode_outcomes, encode_group
from dask_runner.files import path_to_text
from dask_runner.versions import versions
from dask_runner.workloads import spec_of
from dask_runner.workloads.interface import Workload

_LONGEST = 60.0


class Pilot(Struct, frozen=True, kw_only=True):
    """What the first batch needed here: `wall` and `cpu` in s, `max_rss` in bytes. It is not
    `complete` if it was stopped after a minute: then it needs more. `skipped` is why there was no
    pilot, `failure` why it failed.
    """

    batch: int = 0
    wall: float = 0.0
    cpu: float = 0.0
    max_rss: int = 0
    complete: bool = False
    skipped: str = ""
    failure: str = ""

    @property
    def useful(self) -> bool:
        """True if its numbers say something about the other batches."""
        return not self.skipped and not self.failure


def measure(
    workload: Workload,
    batch: Batch,
    limits: Limits,
    *,
    import_path: tuple[str, ...] = (),
    inputs: Sequence[InputFile] = (),
    shipped: Path | None = None,
    preload: tuple[str, ...] | None = None,
) -> Pilot:
    """Run the batch in a temporary folder, which is removed. `inputs` are those of the plan: a URL
    is fetched. `shipped` is the folder of what the run ships, `preload` what the warm process
    imports (None: what the workload says).
    """
    preload = workload.preload if preload is None else preload
    try:
        paths = _copies(batch, inputs)
    except RunnerError as error:
        return Pilot(skipped=f"an input could not be fetched: {error}")
    timeout = min(limits.timeout or _LONGEST, _LONGEST)
    with tempfile.TemporaryDirectory(prefix="dask-runner-pilot-") as folder:
        attempts = Path(folder) / "attempts"
        attempts.mkdir()
        group = Group(
            run=f"pilot-{os.getpid()}",
            topic="",
            workload=spec_of(workload),
            attempts_folder=path_to_text(attempts),
            attempts=(Attempt(batch=batch, number=1),),
            limits=msgspec.structs.replace(limits, timeout=timeout, grace=1.0),
            versions=versions(),
            preload=preload,
            paths=paths,
            shipped="" if shipped is None else path_to_text(shipped),
            import_path=import_path,
        )
        config = PoolConfig(
            slots=1,
            host=socket.gethostname(),
            scratch=path_to_text(folder),
            import_path=import_path,
            preload=preload,
            cluster=f"pilot-{os.getpid()}",
        )
        try:
            outcome = _run(config, group)
        except (RunnerError, OSError) as error:
            return Pilot(skipped=f"it could not be started here: {error}")
    return _pilot(outcome, stopped=timeout >= _LONGEST)


def _copies(batch: Batch, inputs: Sequence[InputFile]) -> dict[str, str]:
    """This machine's copies of the batch's inputs that are URLs."""
    wanted = {item.path for item in batch.inputs if is_url(item.path) and not item.remote}
    return {
        file.path: path_to_text(local_copy(file.path, file.sha256, file.bytes)[0])
        for file in inputs
        if file.path in wanted
    }


def _run(config: PoolConfig, group: Group) -> Outcome:
    pool = Pool(config)
    try:
        parts: list[bytes] = []
        rest = pool.run(encode_group(group), parts.append)
        (outcome,) = [one for part in [*parts, rest] for one in decode_outcomes(part)]
        return outcome
    finally:
        pool.close()


def _pilot(outcome: Outcome, *, stopped: bool) -> Pilot:
    done = outcome.status is OutcomeStatus.DONE
    failure = outcome.failure
    over_time = failure is not None and failure.kind is FailureKind.TIMEOUT and stopped
    words = "" if done or over_time or failure is None else f"{failure.kind}: {failure.message}"
    return Pilot(
        batch=outcome.batch,
        wall=outcome.wall,
        cpu=outcome.cpu,
        max_rss=outcome.max_rss,
        complete=done,
        failure=words,
    )
