"""What --ship copies, what it refuses, and that nothing else is ever used in its place."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from dask_runner import pipeline, shipping, trees
from dask_runner.batch import WorkloadSpec
from dask_runner.errors import BadInputError, UsageError
from dask_runner.manifest import Header, read_state
from dask_runner.run_folder import RunFolder
from dask_runner.settings import Settings
from dask_runner.settings.schema import Storage
from dask_runner.workloads import load, spec_of
from dask_runner.workloads.shipped import module_name

HOSTILE = ["a b", "'quote\"", "new\nline", "$(rm -rf x)", "100%41", os.fsdecode(b"\xff\xfe.dat")]

MODULE = """
from typing import ClassVar
from msgspec import Struct
from dask_runner.batch import Batch
from dask_runner.workloads.interface import Plan
from {package}helper import WORD

class Words(Struct, frozen=True, kw_only=True):
    preload: ClassVar[tuple[str, ...]] = ("{name}",)
    uses_folder: ClassVar[bool] = True
    number: int = 1

    def plan(self):
        if not self.number:
            raise RuntimeError("no plan")
        batches = [Batch(index=i, workload="words", parameters={{"word": WORD}}) for i in range(self.number)]
        return Plan(batches=batches)

    def run(self, batch, folder):
        return {{}}

    def merge(self, request):
        return []
"""


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    path = tmp_path / "runs" / "20261120T225745Z"
    path.mkdir(parents=True)
    return RunFolder.at(path)


@pytest.fixture(autouse=True)
def _import_state(monkeypatch):
    """Importing from a copy changes this process: undone after each test."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "dont_write_bytecode", sys.dont_write_bytecode)
    before = dict(sys.modules)
    yield
    for name in set(sys.modules) - set(before):
        del sys.modules[name]


def header(shipment, spec=None) -> Header:
    spec = spec or WorkloadSpec(name="command", configuration={})
    return Header(timestamp="20261120T225745Z", workload=spec, seed=1, shipped=shipment)


def test_files_and_folders_are_copied_read_only_without_caches(folder, tmp_path):
    package = tmp_path / "package"
    (package / "__pycache__").mkdir(parents=True)
    (package / "__pycache__" / "x.pyc").write_bytes(b"x")
    (package / "__init__.py").write_text("X = 1\n")
    (package / "tool").write_text("#!/bin/sh\n")
    (package / "tool").chmod(0o755)
    (package / "empty").mkdir()
    data = tmp_path / "table.csv"
    data.write_text("1,2\n")
    shipment = shipping.ship([package, data], folder)
    copy = shipping.shipped_folder(header(shipment), folder)
    assert copy == folder.shipped(shipment.sha256)
    assert sorted(p.relative_to(copy).as_posix() for p in copy.rglob("*")) == [
        *("package", "package/__init__.py", "package/empty", "package/tool", "table.csv")
    ]
    assert os.stat(copy / "table.csv").st_mode & 0o777 == 0o444
    assert os.stat(copy / "package" / "tool").st_mode & 0o777 == 0o555
    assert [(item.name, item.bytes) for item in shipment.items] == [
        ("package", 16),
        ("table.csv", 4),
    ]
    assert os.listdir(folder.shipments) == [shipment.sha256]


def test_the_hash_is_of_names_contents_and_what_is_executable(tmp_path):
    def measured(name: str, content: str, mode: int) -> str:
        place = tmp_path / f"{name}{content}{mode}"
        place.mkdir()
        (place / name).write_text(content)
        (place / name).chmod(mode)
        return trees.measure(place).sha256

    hashes = [measured("a", "x", 0o644), measured("b", "x", 0o644), measured("a", "y", 0o644)]
    hashes.append(measured("a", "x", 0o755))
    assert len(set(hashes)) == 4
    assert measured("a", "x", 0o600) == hashes[0]


def test_hostile_names_pass_unharmed_and_in_json(folder, tmp_path):
    place = tmp_path / "data"
    place.mkdir()
    for name in HOSTILE:
        (place / name).write_text(name.encode(errors="surrogateescape").hex())
    shipment = shipping.ship([place, *(place / name for name in HOSTILE)], folder)
    assert sorted(os.listdir(folder.shipped(shipment.sha256))) == sorted(["data", *HOSTILE])
    assert shipping.shipped_folder(header(shipment), folder) is not None
    packed, unpacked = tmp_path / "packed", tmp_path / "unpacked"
    trees.pack(folder.shipped(shipment.sha256), packed)
    trees.unpack(packed, unpacked)
    assert trees.measure(unpacked).sha256 == shipment.sha256
    assert all(item.name.encode() for item in shipment.items)


def test_links_inside_are_followed_and_those_that_lead_out_are_refused(folder, tmp_path):
    place = tmp_path / "data"
    (place / "sub").mkdir(parents=True)
    (place / "real").write_text("real")
    (place / "sub" / "link").symlink_to("../real")
    named = tmp_path / "named"
    named.symlink_to(place)
    shipment = shipping.ship([named], folder)
    copy = folder.shipped(shipment.sha256) / "named" / "sub" / "link"
    assert copy.read_text() == "real"
    assert not copy.is_symlink()
    for target in ("/etc/hostname", "nowhere", "..", "."):
        (place / "bad").unlink(missing_ok=True)
        (place / "bad").symlink_to(target)
        with pytest.raises(UsageError, match="bad: is a link"):
            shipping.ship([place], folder)


def test_what_cannot_be_shipped_is_refused(folder, tmp_path):
    (tmp_path / "sub").mkdir()
    needed = ("json", "numpy", "yaml", "fsspec", "psutil", "tornado", "dask_runner")
    for name in (*(f"{module}.py" for module in needed), "same", "sub/same"):
        (tmp_path / name).write_text("")
    os.mkfifo(tmp_path / "pipe")
    refused = {
        "nothing": "no such file or folder",
        **{f"{name}.py": f"would take the place of the module {name}," for name in needed},
        "pipe": "neither a file nor a folder",
        "/": "has no name",
    }
    for name, message in refused.items():
        with pytest.raises(UsageError, match=message):
            shipping.ship([tmp_path / name], folder)
    with pytest.raises(UsageError, match="has the same name"):
        shipping.ship([tmp_path / "same", tmp_path / "sub" / "same"], folder)


@pytest.mark.parametrize(
    ("name", "module"),
    [("a.py", "a"), ("a.txt", ""), ("a.b.py", ""), ("my tool.py", ""), ("a.cpython-311.so", "a")],
)
def test_names_of_modules(tmp_path, name, module):
    assert module_name(tmp_path / name) == module


@pytest.mark.parametrize("damage", ["changed", "deleted", "added", "executable"])
def test_a_damaged_copy_is_said_and_never_used(folder, tmp_path, damage):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a").write_text("a")
    shipment = shipping.ship([tmp_path / "data"], folder)
    copy = folder.shipped(shipment.sha256)
    file = copy / "data" / "a"
    file.chmod(0o644)
    if damage == "changed":
        file.write_text("b")
    elif damage == "deleted":
        file.unlink()
    elif damage == "added":
        (copy / "more.py").write_text("")
    else:
        file.chmod(0o755)
    with pytest.raises(BadInputError, match="the run was made with other bytes") as caught:
        shipping.shipped_folder(header(shipment), folder)
    assert "new run" in caught.value.hint


def test_caches_of_python_do_not_count_as_damage(folder, tmp_path):
    (tmp_path / "m.py").write_text("")
    shipment = shipping.ship([tmp_path / "m.py"], folder)
    (folder.shipped(shipment.sha256) / "__pycache__").mkdir()
    assert shipping.shipped_folder(header(shipment), folder) is not None


def test_much_is_warned_of(folder, tmp_path, monkeypatch, caplog):
    (tmp_path / "data").write_bytes(b"x" * 2000)
    monkeypatch.setattr(shipping, "_MUCH", 1000)
    shipping.ship([tmp_path / "data"], folder)
    assert "MB are shipped" in caplog.text


def words(tmp_path: Path, word: str) -> Path:
    """A workload in a package of its own, imported as the user would."""
    package = tmp_path / "mywords"
    package.mkdir(exist_ok=True)
    (package / "__init__.py").write_text(MODULE.format(package=".", name="mywords"))
    (package / "helper.py").write_text(f"WORD = {word!r}\n")
    return package


def test_the_shipped_module_is_used_although_another_is_imported(folder, tmp_path):
    package = words(tmp_path, "shipped")
    shipment = shipping.ship([package], folder)
    words(tmp_path, "edited since")
    sys.path.insert(0, str(tmp_path))
    import mywords

    spec = spec_of(mywords.Words())
    workload = shipping.load_workload(header(shipment, spec), folder)
    assert workload.plan().batches[0].parameters == {"word": "shipped"}
    assert mywords.Words().plan().batches[0].parameters == {"word": "edited since"}
    assert sys.path[0] == str(folder.shipped(shipment.sha256))
    again = shipping.load_workload(header(shipment, spec), folder)
    assert type(again) is type(workload), "what is imported from the copy is not imported again"
    assert not list(folder.shipments.rglob("__pycache__"))


def test_a_shipped_module_is_not_preloaded(folder, tmp_path):
    package = words(tmp_path, "x")
    shipment = shipping.ship([package], folder)
    sys.path.insert(0, str(tmp_path))
    workload = load(WorkloadSpec(name="mywords:Words", configuration={}))
    assert shipping.preload(workload, None) == ("mywords",)
    assert shipping.preload(workload, shipment) == ()


def request(tmp_path: Path, ship: list[Path], **more) -> pipeline.RunRequest:
    sys.path.insert(0, str(tmp_path))
    import mywords

    return pipeline.RunRequest(
        workload=mywords.Words(**more),
        settings=Settings(storage=Storage(runs=str(tmp_path / "runs"))),
        ship=tuple(ship),
    )


def test_the_plan_of_a_run_is_made_from_the_copy_and_the_manifest_says_what_it_is(tmp_path):
    package = words(tmp_path, "one")
    wanted = request(tmp_path, [package])
    words(tmp_path, "edited before the run was made")
    folder, manifest = pipeline.create(wanted)
    manifest.close()
    state = read_state(folder.manifest)
    assert state.batches[0].parameters == {"word": "edited before the run was made"}
    assert [item.name for item in state.header.shipped.items] == ["mywords"]
    line = json.loads(folder.manifest.read_bytes().splitlines()[0])
    assert line["shipped"]["sha256"] == state.header.shipped.sha256
    assert line["shipped"]["items"][0]["bytes"] > 0


def test_a_run_that_cannot_be_planned_leaves_nothing(tmp_path):
    wanted = request(tmp_path, [words(tmp_path, "x")], number=0)
    with pytest.raises(RuntimeError, match="no plan"):
        pipeline.create(wanted)
    assert list((tmp_path / "runs").iterdir()) == []


def test_a_dry_run_leaves_nothing(tmp_path):
    result = pipeline.dry_run(request(tmp_path, [words(tmp_path, "x")], number=3))
    assert result.batches == 3
    assert not (tmp_path / "runs").exists()


def test_names_shipped_in_a_fresh_process_come_before_everything(folder, tmp_path):
    (tmp_path / "tool.py").write_text("WORD = 'shipped'\n")
    shipment = shipping.ship([tmp_path / "tool.py"], folder)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "tool.py").write_text("WORD = 'other'\n")
    code = (
        "import sys, pathlib, tool; from dask_runner.workloads.shipped import put_first;"
        f"put_first(pathlib.Path({str(folder.shipped(shipment.sha256))!r}));"
        "import tool as again; print(tool.WORD, again.WORD)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(elsewhere)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ["other", "shipped"]
