"""The built-in steps as programs with ATLAS-style options and a jobReport.json.

    python -m dask_runner.chain.simulate --inputEVNTFile E.root --outputHITSFile H.root

Owns the options, the report and the exit codes, for external chains and for trying a step by hand.
Gives the same bits as the same step inside a batch.

    0   done
    1   a defect (traceback in the log)
    5   wrong options, or a component is not installed
    8   an input is missing or damaged, or holds fewer events than are skipped
    74  the output cannot be written
"""

import argparse
import json
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import msgspec

from dask_runner import chain
from dask_runner.chain import formats
from dask_runner.errors import BadInputError, RunnerError, UsageError
from dask_runner.settings import GenerateSettings, Geometry

EXIT_DONE = 0
EXIT_BUG = 1
EXIT_OPTIONS = 5
EXIT_INPUT = 8
EXIT_OUTPUT = 74

REPORT = Path("jobReport.json")
GENERATE = "generate"
_ALL = -1

log = logging.getLogger(__name__)


def main(step: str, arguments: Sequence[str] | None = None) -> int:
    """Run a step as a program; return its exit code, after writing jobReport.json."""
    logging.basicConfig(stream=sys.stdout, level=logging.INFO, format="%(levelname)-7s %(message)s")
    entries, output = 0, ""
    try:
        options = _parser(step).parse_args(arguments)
        output = options.output.name
        entries = _generate(options) if step == GENERATE else _step(step, options)
        code, message = EXIT_DONE, "OK"
    except BadInputError as error:
        code, message = EXIT_INPUT, error.message
    except RunnerError as error:
        code, message = EXIT_OPTIONS, f"{error.message} {error.hint}".strip()
    except OSError as error:
        code, message = EXIT_OUTPUT, str(error)
    except Exception as error:
        log.exception("step %s", step)
        code, message = EXIT_BUG, f"{type(error).__name__}: {error}"
    _report(step, code, message, entries, output)
    if code:
        log.error("%s: %s", step, message)
    else:
        log.info("%s: %d events", step, entries)
    return code


def _report(step: str, code: int, message: str, entries: int, output: str) -> None:
    """jobReport.json with the fields of an ATLAS job transform that are read by others."""
    files = [{"subFiles": [{"name": output, "nentries": entries}]}] if output else []
    report = {
        "exitCode": code,
        "exitMsg": message,
        "executor": step,
        "nentries": entries,
        "files": {"output": files},
    }
    REPORT.write_text(json.dumps(report, indent=1) + "\n")


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(message, hint=f"usage: python -m {self.prog} --help")


def _parser(step: str) -> argparse.ArgumentParser:
    parser = _Parser(prog=f"dask_runner.chain.{step}", allow_abbrev=False)
    add = parser.add_argument
    if step == GENERATE:
        add("--outputEVNTFile", dest="output", type=Path, required=True)
        add("--firstEvent", type=int, default=1, help="number of the first event")
        for name, kind in (("mh", float), ("ms", float), ("ctau", float), ("process", int)):
            add(f"--{name}", type=kind, default=0, help="instead of the run number's")
        add("--pythia-card", default="", help="Pythia command file")
        add("--maxEvents", type=int, required=True)
        add("--runNumber", type=int, required=True)
    else:
        known = chain.STEPS[step]
        add(f"--input{known.input}File", dest="input", type=Path, required=True)
        add(f"--output{known.output}File", dest="output", type=Path, required=True)
        add("--maxEvents", type=int, default=_ALL, help="-1: all")
        add("--skipEvents", type=int, default=0)
        add("--runNumber", type=int, default=0, help="taken from the events; only checked")
        add("--geometry", default="{}", help="JSON of the settings section [geometry]")
    add("--randomSeed", type=int, default=1, help="the seed of the run, the same for all jobs")
    add("--jobNumber", type=int, default=0, help="without effect: events are independent of jobs")
    return parser


def _generate(options: argparse.Namespace) -> int:
    from dask_runner.chain import generate, hidden_valley  # noqa: PLC0415  # an optional component

    settings = GenerateSettings(
        run_number=options.runNumber,
        mh=options.mh,
        ms=options.ms,
        ctau=options.ctau,
        process=options.process,
        pythia_card=options.pythia_card,
    )
    sample = hidden_valley.resolve_sample(settings)
    with _Output(options.output) as path:
        counters = generate.generate_file(
            path,
            sample,
            first_event=options.firstEvent,
            count=options.maxEvents,
            seed=options.randomSeed,
            run_number=options.runNumber,
        )
    return int(counters["accepted"])


def _step(step: str, options: argparse.Namespace) -> int:
    data = formats.read(options.input)
    if not 0 <= options.skipEvents < data.entries:
        raise BadInputError(
            f"{options.input}: cannot skip {options.skipEvents} of {data.entries} events"
        )
    stop = data.entries
    if options.maxEvents != _ALL:
        stop = min(stop, options.skipEvents + options.maxEvents)
    data = formats.read(options.input, first=options.skipEvents, count=stop - options.skipEvents)
    if options.runNumber and (data.events["run"] != options.runNumber).any():
        raise BadInputError(f"{options.input}: has events of other runs than {options.runNumber}")
    result = chain.run_step(step, data, _geometry(options.geometry), options.randomSeed)
    with _Output(options.output) as path:
        formats.write(path, result)
    return result.entries


def _geometry(text: str) -> Geometry:
    try:
        return msgspec.json.decode(text, type=Geometry)
    except (msgspec.ValidationError, msgspec.DecodeError) as error:
        raise UsageError(f"--geometry: {error}") from error


class _Output:
    """A temporary name beside the output: a killed program leaves no half file under its name."""

    def __init__(self, target: Path) -> None:
        self._target = target
        self._part = target.with_name(f".{target.name}.{os.getpid()}.part")

    def __enter__(self) -> Path:
        return self._part

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self._part.replace(self._target)
        else:
            self._part.unlink(missing_ok=True)
