"""Running a foreign command as if just logged in: a clean bash, its own setup, no quoting accident.

Owns the environment that a foreign command sees and the script that starts it. The script stays in
the attempt folder, where a person can run it again. The command's output goes to descriptor 1 (the
batch's log) as it comes, and to the caller. Knows nothing of exit codes, events or steps.
"""

import fcntl
import os
import select
import shlex
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import IO

from msgspec import Struct

# What a login gives, tickets of remote storage, and what pins a batch's numerics.
_KEEP = frozenset(
    {"HOME", "USER", "LOGNAME", "TERM", "LANG", "LC_ALL", "TZ", "TMPDIR"}
    | {"KRB5CCNAME", "X509_USER_PROXY"}
    | {"NPY_DISABLE_CPU_FEATURES", "OPENBLAS_CORETYPE", "PYTHONHASHSEED"}
)
# DASK_RUNNER_...: the mark by which the host agent finds processes that a command left behind.
_KEEP_PREFIX = "DASK_RUNNER_"
_KEEP_SUFFIX = "_THREADS"
_PATH = "/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin"
_CHUNK = 1 << 16
BASH = ("/bin/bash", "--noprofile", "--norc")

_SCRIPT = """\
# Made by dask-runner. To run this by hand: bash --noprofile --norc THIS-FILE
{setup}
command=({command})
if ! builtin type -P -- "${{command[0]}}" > /dev/null; then
    builtin printf 'dask-runner: %s: command not found after the setup\\n' "${{command[0]}}" >&2
    builtin exit 127
fi
{mark}exec -- "${{command[@]}}"
"""

# Tells the caller that the setup is done. By hand there is no caller, and that is no error.
_MARK = "{{ builtin printf x >&{mark}; exec {mark}>&-; }} 2> /dev/null\n"

_SETUP = """\
builtin source {file}
status=$?
if [ "$status" != 0 ]; then
    builtin printf 'dask-runner: the setup failed with exit code %s\\n' "$status" >&2
    builtin exit "$status"
fi"""


class Stage(StrEnum):
    """How far the shell came."""

    SETUP = "setup"
    COMMAND = "command"


class ShellEnd(Struct, frozen=True, kw_only=True):
    """How the command ended: `code` as subprocess has it, a negative number being a signal."""

    stage: Stage
    code: int


def setup_text(setup: str, base: Path) -> str:
    """A setup as shell text: what names an existing file is sourced, all else is commands.

    Relative names are those of the folder `base`, because batches run elsewhere.
    """
    if "\n" in setup.strip():
        return setup
    # os.path instead of Path: no error for text that cannot be a path, such as a very long line.
    path = os.path.join(base.absolute(), os.path.expanduser(setup.strip()))  # noqa: PTH111, PTH118
    return f"source {shlex.quote(path)}" if os.path.isfile(path) else setup  # noqa: PTH113


def environment(inherited: Mapping[str, str]) -> dict[str, str]:
    """The environment of a clean shell."""
    kept = {
        key: value
        for key, value in inherited.items()
        if key in _KEEP or key.startswith(_KEEP_PREFIX) or key.endswith(_KEEP_SUFFIX)
    }
    return {"LANG": "C.UTF-8", **kept, "PATH": _PATH, "SHELL": "/bin/bash"}


def write_script(words: Sequence[str], setup: str, folder: Path, name: str, mark: int = -1) -> Path:
    """Write `<name>.sh` (and `<name>.setup.sh`), which runs the quoted `words` after the setup."""
    source = ""
    if setup.strip():
        file = folder / f"{name}.setup.sh"
        file.write_bytes(os.fsencode(setup.rstrip("\n") + "\n"))
        source = _SETUP.format(file=shlex.quote(os.fspath(file.absolute())))
    script = folder / f"{name}.sh"
    text = _SCRIPT.format(
        setup=source, command=" ".join(words), mark=_MARK.format(mark=mark) if mark >= 0 else ""
    )
    script.write_bytes(os.fsencode(text))
    return script


def run(
    words: Sequence[str],
    *,
    setup: str,
    folder: Path,
    name: str,
    on_output: Callable[[bytes], None] = lambda _: None,
    log: int = 1,
) -> ShellEnd:
    """Run the quoted `words` in a clean shell with `folder` as working directory, to the end.

    All output goes to the descriptor `log` and to `on_output`. The command
    itself, not what it leaves running in the background, decides when the end is.
    """
    sys.stdout.flush()
    reader, mark = os.pipe()
    try:
        script = write_script(words, setup, folder, name, mark)
        with subprocess.Popen(
            [*BASH, script.absolute()],
            cwd=folder,
            env=environment(os.environ),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            pass_fds=(mark,),
            bufsize=0,
        ) as process:
            assert process.stdout is not None
            _pump(process.pid, process.stdout, lambda chunk: _pass_on(chunk, log, on_output))
            process.wait()
        os.set_blocking(reader, False)
        reached = _read(reader) == b"x"
    finally:
        os.close(reader)
        os.close(mark)
    return ShellEnd(stage=Stage.COMMAND if reached else Stage.SETUP, code=process.returncode)


def _pump(pid: int, pipe: IO[bytes], pass_on: Callable[[bytes], None]) -> None:
    """Copy the output until the process has ended and the pipe is empty.

    Not until end of file: a daemon that the command started may hold the pipe for ever.
    """
    source = pipe.fileno()
    os.set_blocking(source, False)
    ended = os.pidfd_open(pid)
    try:
        waiting = select.poll()
        waiting.register(source, select.POLLIN)
        waiting.register(ended, select.POLLIN)
        while ended not in dict(waiting.poll()):
            chunk = _read(source)
            if chunk == b"":  # closed by everybody: nothing left but to wait for the end
                waiting.unregister(source)
            elif chunk:
                pass_on(chunk)
        left = fcntl.fcntl(source, fcntl.F_GETPIPE_SZ)  # all that the process can have left there
        while left > 0 and (chunk := _read(source)):
            pass_on(chunk)
            left -= len(chunk)
    finally:
        os.close(ended)


def _read(descriptor: int) -> bytes | None:
    """What there is; b"" at end of file, None if there is nothing now."""
    try:
        return os.read(descriptor, _CHUNK)
    except BlockingIOError:
        return None


def _pass_on(chunk: bytes, log: int, on_output: Callable[[bytes], None]) -> None:
    view = memoryview(chunk)
    while view:
        view = view[os.write(log, view) :]
    on_output(chunk)
