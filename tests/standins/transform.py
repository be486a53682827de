"""A stand-in for a job transform: same options and habits, no physics. `--behave` picks the habit.

Imports nothing of dask-runner, like the programs it stands for.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

LOG = Path(__file__).with_name("athena.log")


def main() -> int:
    options = parse()
    if options.record:
        with options.record.open("a") as file:
            print(json.dumps({"argv": sys.argv[1:], "env": dict(os.environ)}), file=file)
    wanted = min(options.maxEvents, options.available - options.skipEvents)
    return HABITS[options.behave](options, wanted)


def parse():
    parser = argparse.ArgumentParser()
    parser.add_argument("--inputFile", type=Path)
    parser.add_argument("--outputFile", type=Path, required=True)
    parser.add_argument("--maxEvents", type=int, default=0)
    parser.add_argument("--skipEvents", type=int, default=0)
    parser.add_argument("--available", type=int, default=1_000_000)
    parser.add_argument("--randomSeed", type=int, default=0)
    parser.add_argument("--behave", default="good")
    parser.add_argument("--record", type=Path)
    return parser.parse_args()


def write(path: Path, entries: int) -> None:
    import numpy as np
    import uproot

    with uproot.recreate(path) as file:
        tree = file.mktree("CollectionTree", {"EventNumber": "int64"})
        tree.extend({"EventNumber": np.arange(entries)})


def report(name: str, entries, *, code: int = 0, message: str = "OK") -> None:
    outputs = [{"type": "AOD", "subFiles": [{"name": name, "nentries": entries}]}]
    content = {"exitCode": code, "exitMsg": message, "files": {"output": outputs}}
    Path("jobReport.json").write_text(json.dumps(content))


def good(options, wanted):
    write(options.outputFile, wanted)
    report(options.outputFile.name, wanted)
    return 0


def log_error(options, wanted):
    """Like the real ones: the file is there, the exit code says 68."""
    print(LOG.read_text())
    write(options.outputFile, wanted)
    report(options.outputFile.name, wanted, code=68, message="Fatal error in athena logfile")
    return 68


def error_lines(options, wanted):
    print(LOG.read_text())
    return good(options, wanted)


def lies(options, wanted):
    write(options.outputFile, wanted)
    report(options.outputFile.name, wanted + 1)
    return 0


def lies_about_partial(options, wanted):
    """Half the events, and a report that says all."""
    write(options.outputFile, wanted // 2)
    report(options.outputFile.name, wanted)
    return 0


def partial(options, wanted):
    write(options.outputFile, wanted // 2)
    return 0


def partial_then_fails(options, wanted):
    write(options.outputFile, wanted // 2)
    print("step failed half way")
    return 3


def truncated(options, wanted):
    write(options.outputFile, 50_000)
    os.truncate(options.outputFile, options.outputFile.stat().st_size // 2)
    return 0


def too_many(options, wanted):
    write(options.outputFile, wanted + 1)
    return 0


def no_output(options, wanted):
    return 0


def bad_report(options, wanted):
    write(options.outputFile, wanted)
    report(options.outputFile.name, wanted, code=65, message="Non-zero return code from sim")
    return 0


def broken_report(options, wanted):
    write(options.outputFile, wanted)
    Path("jobReport.json").write_text('{"exitCode": ')
    return 0


def vague_report(options, wanted):
    write(options.outputFile, wanted)
    report(options.outputFile.name, "UNDEFINED")
    return 0


def segfault(options, wanted):
    os.kill(os.getpid(), signal.SIGSEGV)


def daemon(options, wanted):
    """Leaves a process behind that holds the output's pipe."""
    child = subprocess.Popen(["sleep", "600"], start_new_session=True)
    print(f"daemon {child.pid}", flush=True)
    return good(options, wanted)


def exit_code(code):
    def habit(options, wanted):
        print("something went wrong")
        return code

    return habit


HABITS = {
    name.replace("_", "-"): habit
    for name, habit in list(globals().items())
    if callable(habit) and name not in {"main", "parse", "write", "report", "exit_code"}
}
HABITS |= {f"exit-{code}": exit_code(code) for code in (1, 3, 4, 19, 20, 38, 65, 67, 69, 74, 75)}

if __name__ == "__main__":
    sys.exit(main())
