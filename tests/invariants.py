"""One checker of the invariants I1-I7 and I9 after any fault, independent of the product.

Reads the bytes of the manifest and the files on disk with json, zlib, hashlib and uproot, and
folds them by rules of its own: it must not import dask_runner, or both could be wrong together.

    I1 every batch is exactly one of done, failed, pending
    I2 done => its outputs exist, their hashes match, they can be read and have the right entries
    I3 no acknowledged done is lost          (with an `earlier` copy of the manifest)
    I4 a done batch is not executed again    (unless its output was recorded as lost)
    I5 the union of the event ranges is exact: no gap, no overlap
    I6 at most one published output per planned name, never writable, nothing unplanned
    I7 no process of the run is left         (`survivors`)
    I9 no secret in logs, manifest, attempts (`secrets`)
    I10 the result is that of another run    (`reference_hash`, from `check(...).content`)
"""

import hashlib
import json
import os
import stat
import zlib
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote_to_bytes

import numpy as np
import uproot

MANIFEST = "manifest.jsonl"
_MARKER = "DASK_RUNNER_RUN"
_SECRET = b"PRIVATE KEY"
_ATTEMPTS_INSIDE_OUTPUTS = ".dask-runner"


class InvariantError(AssertionError):
    """All violations found, one a line, each beginning with the name of its invariant."""

    def __init__(self, violations: list[str]) -> None:
        super().__init__("\n".join(violations))
        self.violations = violations


@dataclass
class Result:
    """What a run adds up to. `content` is a hash of all done outputs in batch order; of ROOT files
    the planned tree's names, types and values, so that it says nothing of compression or dates.
    """

    done: set[int]
    failed: set[int]
    pending: set[int]
    content: str
    events_done: int


@dataclass
class History:
    """The manifest, folded independently."""

    header: dict[str, Any] = field(default_factory=dict)
    inputs: list[dict[str, Any]] = field(default_factory=list)
    batches: dict[int, dict[str, Any]] = field(default_factory=dict)
    superseded: set[int] = field(default_factory=set)
    started: set[tuple[int, int]] = field(default_factory=set)
    last_started: dict[int, int] = field(default_factory=dict)
    outcomes: dict[tuple[int, int], dict[str, Any]] = field(default_factory=dict)
    failed: dict[int, int] = field(default_factory=dict)
    intents: set[int] = field(default_factory=set)
    done: dict[int, int] = field(default_factory=dict)
    taken_back: set[int] = field(default_factory=set)
    violations: list[str] = field(default_factory=list)


def check(
    run_folder: Path,
    *,
    finished: bool = False,
    reference_hash: str | None = None,
    earlier: Path | None = None,
    also: Collection[str] = (),
    shared_outputs: bool = False,
) -> Result:
    """Check a run whose driver is not writing at the moment; raise InvariantError.

    `finished`: nothing may be pending, and the manifest has no torn tail. `also`: names in the
    output folder that are no batch's (merged files). `shared_outputs`: the folder may hold others'.
    """
    lines, violations = read_lines(run_folder / MANIFEST, whole=finished)
    history = fold(lines)
    violations += history.violations
    verdicts = _check_verdicts(history, finished, violations)
    content = _check_outputs(run_folder, history, violations)
    if earlier is not None:
        _check_nothing_lost(earlier, lines, history, violations)
    _check_ranges(history, violations)
    _check_names(run_folder, history, also, shared_outputs, violations)
    violations += [f"I9: {path} holds key material" for path in secrets(run_folder)]
    outside = output_folder(run_folder, history) / _ATTEMPTS_INSIDE_OUTPUTS / run_folder.name
    violations += [f"I9: {path} holds key material" for path in secrets(outside)]
    if reference_hash is not None and content != reference_hash:
        violations.append(f"I10: the content {content} is not the reference {reference_hash}")
    if violations:
        raise InvariantError(violations)
    done, failed, pending = verdicts
    events = sum(history.batches[index].get("count", 1) for index in done)
    return Result(done, failed, pending, content, events)


# The manifest's bytes.


def read_lines(path: Path, *, whole: bool) -> tuple[list[dict[str, Any]], list[str]]:
    """The records of the valid prefix; violations if there is damage, or (`whole`) any rest."""
    raw = path.read_bytes().split(b"\n")
    found: list[dict[str, Any]] = []
    for line in raw:
        if not _is_valid(line, len(found)):
            break
        found.append(json.loads(line))
    rest = raw[len(found) :]
    if rest == [b""]:
        return found, []
    where = sum(len(line) + 1 for line in raw[: len(found)])
    if len([line for line in rest if line]) > 2 and any(_is_valid(line) for line in rest[1:]):
        return found, [f"I3: the manifest is damaged in the middle, at byte {where}"]
    return found, [f"I3: the manifest has a torn tail at byte {where}"] if whole else []


def _is_valid(line: bytes, seq: int | None = None) -> bool:
    body, mark, tail = line.rpartition(b',"crc":"')
    if not mark or tail != b'%08x"}' % zlib.crc32(body):
        return False
    return seq is None or json.loads(line).get("seq") == seq


# The fold.


def fold(lines: list[dict[str, Any]]) -> History:
    """What the lines say, with violations of I1 and I4 on the way."""
    history = History()
    for line in lines:
        rule = _RULES.get(line["type"])
        if rule is None:
            history.violations.append(f"I1: a record of unknown type {line['type']!r}")
        else:
            rule(history, line)
    return history


def _header(history: History, line: dict[str, Any]) -> None:
    history.header = line


def _input(history: History, line: dict[str, Any]) -> None:
    history.inputs.append(line)


def _split(history: History, line: dict[str, Any]) -> None:
    history.superseded.add(line["batch"])
    for part in line["parts"]:
        _add(history, part)


def _extension(history: History, line: dict[str, Any]) -> None:
    for batch in line["batches"]:
        _add(history, batch)


def _group(history: History, line: dict[str, Any]) -> None:
    for index, number in line["attempts"]:
        if index in history.batches:
            _ATTEMPTS[line["type"]](history, index, number)
        else:
            history.violations.append(f"I1: {line['type']} of unknown batch {index}")


def _add(history: History, batch: dict[str, Any]) -> None:
    if batch["index"] != len(history.batches):
        history.violations.append(f"I1: batch {batch['index']} is not the next of the plan")
    history.batches[batch["index"]] = batch


def _started(history: History, index: int, number: int) -> None:
    if index in history.done:
        history.violations.append(f"I4: batch {index} was started again after it was done")
    if (index, number) in history.started:
        history.violations.append(f"I4: attempt {number} of batch {index} was started twice")
    if index in history.superseded:
        history.violations.append(f"I4: batch {index} was started after it was split")
    history.started.add((index, number))
    history.last_started[index] = max(number, history.last_started.get(index, 0))


def _intent(history: History, index: int, number: int) -> None:
    if (index, number) not in history.outcomes:
        history.violations.append(f"I2: batch {index}.{number} was published without an outcome")
    history.intents.add(index)


def _done(history: History, index: int, number: int) -> None:
    if history.done.get(index, number) != number:
        history.violations.append(f"I6: batch {index} is done by two attempts")
    history.done[index] = number
    history.failed.pop(index, None)


_ATTEMPTS = {"started": _started, "intent": _intent, "done": _done}


def _outcome(history: History, line: dict[str, Any]) -> None:
    index, number = line["batch"], line["attempt"]
    if index not in history.batches:
        history.violations.append(f"I1: outcome of unknown batch {index}")
        return
    latest = number >= history.last_started.get(index, 0)
    if line["status"] == "failed" and index not in history.done and latest:
        history.failed[index] = number
    history.outcomes.setdefault((index, number), line)


def _note(history: History, line: dict[str, Any]) -> None:
    if line["kind"] == "lost-output":
        for index in line["data"]["batches"]:
            history.taken_back.add(index)
            history.done.pop(index, None)
            history.intents.discard(index)


_RULES = {
    "header": _header,
    "input": _input,
    "batch": _add,
    "split": _split,
    "extension": _extension,
    "started": _group,
    "outcome": _outcome,
    "intent": _group,
    "done": _group,
    "note": _note,
}


# I1, I3, I5.


def _check_verdicts(
    history: History, finished: bool, violations: list[str]
) -> tuple[set[int], set[int], set[int]]:
    if not history.header:
        violations.append("I1: the manifest has no header")
    planned = history.header.get("batches", 0)
    if len(history.batches) < planned:
        violations.append(f"I1: {len(history.batches)} of {planned} planned batches are there")
    current = set(history.batches) - history.superseded
    done = set(history.done)
    # A later attempt that was started makes a failed batch pending again.
    failed = {
        index
        for index, number in history.failed.items()
        if number >= history.last_started.get(index, 0) and index not in done
    } & current
    pending = current - done - failed
    if done & history.superseded:
        violations.append(f"I1: done and split: {sorted(done & history.superseded)}")
    if finished and pending:
        violations.append(f"I1: pending after the end: {_some(pending)}")
    return done & current, failed, pending


def _check_nothing_lost(
    earlier: Path, lines: list[dict[str, Any]], history: History, violations: list[str]
) -> None:
    before, _ = read_lines(earlier, whole=False)
    if lines[: len(before)] != before:
        violations.append("I3: what the manifest said before is not what it says now")
    lost = set(fold(before).done) - set(history.done) - history.taken_back
    if lost:
        violations.append(f"I3: done before and not any more: {_some(lost)}")


def _check_ranges(history: History, violations: list[str]) -> None:
    spans: dict[str, list[tuple[int, int, int]]] = {
        file["path"]: [] for file in history.inputs if file["entries"]
    }
    for index, batch in history.batches.items():
        if index in history.superseded:
            continue
        for piece in batch.get("inputs", ()):
            count = piece.get("count", 0)
            if count and piece["path"] not in spans:
                violations.append(f"I5: batch {index} reads {piece['path']}, which is no input")
            elif count:
                first = piece.get("first", 0)
                spans[piece["path"]].append((first, first + count, index))
    for file in history.inputs:
        _check_cover(file, sorted(spans.get(file["path"], [])), violations)
    for point, pieces in _trials(history).items():
        _check_trials(point, sorted(pieces), violations)


def _trials(history: History) -> dict[str, list[tuple[int, int, int]]]:
    """The ranges of trials of each point; the pixels of all skies are like those of one."""
    found: dict[str, list[tuple[int, int, int]]] = {}
    for index, batch in history.batches.items():
        parameters = batch.get("parameters", {})
        if index not in history.superseded and _is_range(batch):
            key = json.dumps(parameters.get("point", {}), sort_keys=True)
            first = parameters["first"]
            found.setdefault(key, []).append((first, first + batch.get("count", 1), index))
    return found


def _is_range(batch: dict[str, Any]) -> bool:
    return "point" in batch.get("parameters", {}) or batch["workload"] == "skyscan"


def _check_trials(point: str, spans: list[tuple[int, int, int]], violations: list[str]) -> None:
    at = 0
    for first, last, index in spans:
        if first > at:
            violations.append(f"I5: trials [{at}, {first}) of {point} are in no batch")
        if first < at:
            violations.append(f"I5: trials [{first}, ...) of {point} are also in batch {index}")
        at = max(at, last)


def _check_cover(
    file: dict[str, Any], spans: list[tuple[int, int, int]], violations: list[str]
) -> None:
    at = 0
    for first, last, index in spans:
        if first > at:
            violations.append(f"I5: events [{at}, {first}) of {file['path']} are in no batch")
        if first < at:
            violations.append(
                f"I5: events [{first}, {min(at, last)}) of {file['path']} are also in batch {index}"
            )
        at = max(at, last)
    if at != file["entries"]:
        violations.append(f"I5: {file['path']} has {file['entries']} events, batches end at {at}")


# I2, I6: the disk.


def output_folder(run_folder: Path, history: History) -> Path:
    """Where the run publishes."""
    return run_folder / _path(history.header.get("outputs", "outputs"))


def _check_outputs(run_folder: Path, history: History, violations: list[str]) -> str:
    folder = output_folder(run_folder, history)
    content = Content()
    for index, number in sorted(history.done.items(), key=lambda item: _order(history, item[0])):
        outcome = history.outcomes.get((index, number))
        if outcome is None or outcome["status"] != "done":
            violations.append(
                f"I2: batch {index} is done by attempt {number}, which has no outcome"
            )
            continue
        written = {output["name"]: output for output in outcome.get("outputs", ())}
        planned = {output["name"]: output for output in history.batches[index].get("outputs", ())}
        for name, plan in planned.items():
            if name not in written and not plan.get("optional", False):
                violations.append(f"I2: batch {index} is done without its output {name}")
        for place, (name, output) in enumerate(written.items()):
            # The n-th outputs of all batches belong together (all AOD, all NTUP ...).
            content.place = place
            problem = _check_file(folder / _path(name), output, planned.get(name), content)
            if problem:
                violations.append(f"I2: output {name} of batch {index} {problem}")
    return content.digest()


def _order(history: History, index: int) -> tuple[Any, ...]:
    """Event order: parts of split batches stand where the whole stood."""
    parameters = history.batches[index].get("parameters", {})
    if _is_range(history.batches[index]):
        return (1, json.dumps(parameters.get("point", {}), sort_keys=True), parameters["first"])
    inputs = history.batches[index].get("inputs", ())
    if not inputs:
        return (0, index)
    names = [file["path"] for file in history.inputs]
    first = inputs[0]
    known = names.index(first["path"]) if first["path"] in names else len(names)
    return (0, known, first.get("first", 0), index)


def _check_file(
    path: Path, output: dict[str, Any], plan: dict[str, Any] | None, content: "Content"
) -> str:
    """What is wrong with a published file; "" if nothing is."""
    if plan is None:
        return "was not planned"
    if not path.is_file():
        return "does not exist"
    data = path.read_bytes()
    if len(data) != output["bytes"]:
        return f"has {len(data)} bytes, not {output['bytes']}"
    if hashlib.sha256(data).hexdigest() != output["sha256"]:
        return "does not have the recorded hash"
    if plan.get("tree", ""):
        return _check_tree(path, output, plan, content)
    if plan.get("returned", False):
        content.add_rows(path)
    else:
        content.add_bytes(data)
    return ""


def _check_tree(
    path: Path, output: dict[str, Any], plan: dict[str, Any], content: "Content"
) -> str:
    try:
        entries = content.add_tree(path, plan["tree"])
    except Exception as error:  # noqa: BLE001 - uproot raises many kinds; each is a violation
        return f"cannot be read: {error!r}"
    expected = plan.get("entries")
    if entries != output.get("entries"):
        return f"has {entries} entries, recorded were {output.get('entries')}"
    if expected is not None and not plan.get("acceptance", 1.0) * expected <= entries <= expected:
        return f"has {entries} entries, planned were {expected}"
    return ""


class Content:
    """A hash of what files hold; of trees independent of how they are cut into files."""

    def __init__(self) -> None:
        self.place = 0
        self._hashes: dict[str, Any] = {}

    def add_bytes(self, data: bytes) -> None:
        self._hash("bytes").update(hashlib.sha256(data).digest())

    def add_rows(self, path: Path) -> None:
        """Tables of trials, independent of how they are cut into files. What is beside them (why
        trials failed) is cut in the same way, and says nothing that the table does not.
        """
        if path.suffix == ".npy":
            rows = np.load(path)
            self._hash(f"rows {rows.dtype.descr}").update(rows.tobytes())

    def add_tree(self, path: Path, tree: str) -> int:
        """Read all of a tree, and return its number of entries."""
        with uproot.open(path) as file:
            found = file[tree]
            for name in found.keys():  # noqa: SIM118 - iteration gives the branches
                values = found[name].array(library="np")
                digest = self._hash(f"{tree}/{name} {values.dtype.str}")
                if values.dtype != object:
                    digest.update(values.tobytes())
                    continue
                for value in values:
                    plain = value.tolist() if hasattr(value, "tolist") else value
                    digest.update(repr((str(getattr(value, "dtype", "")), plain)).encode())
            return int(found.num_entries)

    def digest(self) -> str:
        lines = [f"{name} {digest.hexdigest()}" for name, digest in sorted(self._hashes.items())]
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()

    def _hash(self, name: str) -> Any:
        return self._hashes.setdefault(f"{self.place} {name}", hashlib.sha256())


def _check_names(
    run_folder: Path, history: History, also: Collection[str], shared: bool, violations: list[str]
) -> None:
    owners: dict[Path, int] = {}
    for index, batch in history.batches.items():
        if index in history.superseded:
            continue
        for output in batch.get("outputs", ()):
            name = _path(output["name"])
            if name in owners:
                violations.append(f"I6: {name} is an output of batches {owners[name]} and {index}")
            owners[name] = index
    folder = output_folder(run_folder, history)
    for path in _files(folder):
        name = path.relative_to(folder)
        owner = owners.get(name)
        if owner is None:
            if not shared and os.fspath(name) not in also:
                violations.append(f"I6: {name} in the output folder was never planned")
        elif owner not in set(history.done) | history.intents | history.taken_back:
            violations.append(f"I6: {name} is published, but batch {owner} is not done")
        elif owner in history.done and path.stat().st_mode & 0o222:
            mode = stat.filemode(path.stat().st_mode)
            violations.append(f"I6: {name} is published and still writable ({mode})")


def _files(folder: Path) -> Iterator[Path]:
    for root, folders, names in os.walk(folder):
        if _ATTEMPTS_INSIDE_OUTPUTS in folders:
            folders.remove(_ATTEMPTS_INSIDE_OUTPUTS)
        yield from (Path(root, name) for name in names)


def _path(text: str) -> Path:
    return Path(os.fsdecode(unquote_to_bytes(text.encode())))


def _some(indices: Collection[int]) -> str:
    shown = ", ".join(map(str, sorted(indices)[:10]))
    return f"{shown} ... ({len(indices)})" if len(indices) > 10 else shown


# I7, I9: processes and secrets.


def survivors(timestamp: str) -> list[int]:
    """The processes of a run that are alive, by the marker in their environment or arguments."""
    marker = f"{_MARKER}={timestamp}".encode()
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            words = (entry / "environ").read_bytes() + b"\0" + (entry / "cmdline").read_bytes()
            state = (entry / "stat").read_bytes().rpartition(b") ")[2][:1]
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
        if marker in words.split(b"\0") and state not in (b"Z", b"X"):
            found.append(int(entry.name))
    return sorted(found)


def secrets(folder: Path) -> list[Path]:
    """The files below `folder` (logs, manifest, attempts) with key material in them."""
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.rglob("*") if path.is_file() and _holds_secret(path))


def _holds_secret(path: Path) -> bool:
    rest = b""
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            if _SECRET in rest + block:
                return True
            rest = block[-len(_SECRET) :]
    return False
