"""The plan of `command`, its parameter lists, and joining what it leaves."""

import io
import os
import sys

import msgspec
import numpy as np
import pytest
import uproot
from hypothesis import given
from hypothesis import strategies as st

from dask_runner import rootfiles
from dask_runner.batch import Batch, PlannedOutput, WorkloadSpec
from dask_runner.errors import BadInputError, UsageError
from dask_runner.files import path_to_text
from dask_runner.rootfiles import Table
from dask_runner.workloads import command_merge, load, spec_of
from dask_runner.workloads.command import Command, text_to_word
from dask_runner.workloads.interface import MergeRequest, Part


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    job = tmp_path / "my_job.sh"
    job.write_text("#!/bin/sh\n")
    job.chmod(0o755)
    return tmp_path


def _command(*words, number=None, outputs=(), parameters="", merge_command="", setup=None):
    return Command.from_options(
        words=words,
        number=number,
        outputs=list(outputs),
        setup=setup,
        parameters=parameters,
        merge_command=merge_command,
        seed=1,
    )


def _names(plan):
    return [[output.name for output in batch.outputs] for batch in plan.batches]


def test_one_batch_for_each_number(here):
    plan = _command("./my_job.sh", "{index}", "{seed}", "{output}", number=3).plan()
    assert _names(plan) == [["0.out"], ["1.out"], ["2.out"]]
    assert [batch.index for batch in plan.batches] == [0, 1, 2]


def test_declared_outputs(here):
    outputs = ["hist-{index}.root", "table-{index}.csv"]
    command = _command("./my_job.sh", "{output}", "{output2}", number=2, outputs=outputs)
    assert _names(command.plan()) == [
        ["hist-0.root", "table-0.csv"], ["hist-1.root", "table-1.csv"]
    ]  # fmt: skip


def test_no_output_is_needed(here):
    assert _names(_command("./my_job.sh", number=1).plan()) == [[]]


def test_the_manifest_alone_makes_the_same_plan(here, monkeypatch):
    workload = _command("./my_job.sh", "a\udcff%b", "{output}", number=2)
    spec = msgspec.json.decode(msgspec.json.encode(spec_of(workload)), type=WorkloadSpec)
    monkeypatch.chdir("/")
    assert load(spec) == workload
    assert load(spec).plan().batches == workload.plan().batches


def test_relative_programs_mean_the_folder_of_the_user(here, monkeypatch):
    (here / "data.txt").touch()
    (here / "other.py").touch()
    words = ["./my_job.sh", "./data.txt", "./none", "other.py", "--in=./data.txt"]
    command = _command(*words, number=1)
    assert list(command.words) == [
        str(here / "my_job.sh"), str(here / "data.txt"), "./none", "other.py", "--in=./data.txt"
    ]  # fmt: skip
    (note,) = command.plan().notes
    assert "'other.py' is a file here" in note
    assert "./other.py" in note


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"words": ["./none.sh"], "number": 1}, "no such program"),
        ({"words": ["./data"], "number": 1}, "is not executable"),
        ({"words": ["true", "{sed}"], "number": 1}, "unknown placeholder {sed}"),
        ({"words": ["true", "{output2}"], "number": 1}, "unknown placeholder {output2}"),
        ({"words": ["true", "{line}"], "number": 1}, "unknown placeholder {line}"),
        ({"words": ["true"]}, "how many batches?"),
        ({"words": ["true"], "number": 2, "outputs": ["x"]}, "2 batches would write 'x'"),
        ({"words": ["true"], "number": 2, "outputs": ["a/{index}"]}, "'a/0' is not a file name"),
        ({"words": ["true"], "number": 2, "outputs": ["{seed}"]}, "unknown placeholder {seed}"),
        ({"words": ["true"], "number": 1, "outputs": ["log.txt"]}, "dask-runner's own"),
        ({"words": ["true"], "number": 1, "outputs": ["x" * 256]}, "is longer than 255 bytes"),
        ({"words": ["true"], "number": 1, "parameters": "p.csv"}, "exclude each other"),
        ({"words": ["true"], "number": 1, "merge_command": "hadd {output}"}, "must use {output}"),
        ({"words": ["true"], "number": 1, "merge_command": "hadd {x}"}, "unknown placeholder {x}"),
        ({"words": []}, "the command is empty"),
    ],
)
def test_what_cannot_work_is_refused_when_planned(here, options, said):
    (here / "data").touch()
    (here / "p.csv").write_text("a\n1\n")
    words = options.pop("words")
    with pytest.raises(UsageError) as caught:
        _command(*words, **options).plan()
    assert said in caught.value.message


def test_a_missing_setup_file_is_refused(here):
    with pytest.raises(UsageError, match="no such file"):
        _command("true", number=1, setup=here / "none.sh")


class TestParameters:
    def test_columns_of_a_table_are_placeholders(self, here):
        (here / "points.csv").write_text('mass,name\n125,"a, b"\n\n200,"two\nlines"\n')
        command = _command(
            "true", "{mass}", "{name}", "{output}", parameters="points.csv", outputs=["m{mass}.csv"]
        )
        plan = command.plan()
        assert [batch.parameters["values"] for batch in plan.batches] == [
            {"mass": "125", "name": "a, b"},
            {"mass": "200", "name": "two\nlines"},
        ]
        assert _names(plan) == [["m125.csv"], ["m200.csv"]]

    def test_a_byte_order_mark_is_no_part_of_a_name(self, here):
        (here / "p.csv").write_bytes(b"\xef\xbb\xbfmass\r\n125\r\n")
        plan = _command("true", "{mass}", parameters="p.csv").plan()
        assert plan.batches[0].parameters["values"] == {"mass": "125"}

    @pytest.mark.parametrize(
        ("content", "said"),
        [
            ("", "no lines in"),
            ("a\n", "no lines in"),
            ("a,b\n1,2\n3\n", "line 3: 1 values for 2 columns"),
            ("a,a\n1,2\n", "the column name 'a' is taken"),
            ("index\n1\n", "the column name 'index' is taken"),
            ("a b\n1\n", "'a b' cannot be a placeholder"),
            ('a\n"x\n', "unexpected end of data"),
        ],
    )
    def test_wrong_tables_are_refused_with_their_line(self, here, content, said):
        (here / "p.csv").write_text(content)
        with pytest.raises(UsageError) as caught:
            _command("true", parameters="p.csv").plan()
        assert said in caught.value.message

    def test_a_missing_table(self, here):
        with pytest.raises(BadInputError, match=r"none\.csv"):
            _command("true", parameters="none.csv").plan()

    def test_lines_of_stdin(self, here, monkeypatch):
        content = b"a b\n\n $(x)\n\xff%41\n/data//x/./y"
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
        plan = _command("true", "{line}", parameters="-").plan()
        assert msgspec.json.encode(plan)
        lines = [text_to_word(batch.parameters["values"]["line"]) for batch in plan.batches]
        assert lines == ["a b", " $(x)", "\udcff%41", "/data//x/./y"]


@given(st.binary().map(os.fsdecode))
def test_text_of_any_bytes_survives_json(word):
    text = msgspec.json.decode(msgspec.json.encode(path_to_text(word)))
    assert text_to_word(text) == word


class TestMerge:
    def test_text_in_batch_order(self, here):
        parts = _parts(here, "out", [b"ten\n", b"two", b"", b"one\n"])
        (merged,) = _merge(here, parts, ["{index}.out"])
        assert (here / "m" / "merged.out").read_bytes() == b"ten\ntwo\none\n"
        assert merged.bytes == 12

    def test_a_table_keeps_one_header(self, here):
        parts = _parts(here, "csv", [b"a,b\n1,2\n", b"a,b\r\n3,4", b"a,b\n"])
        _merge(here, parts, ["{index}.csv"])
        assert (here / "m" / "merged.csv").read_bytes() == b"a,b\n1,2\n3,4\n"

    def test_differing_headers_are_refused(self, here):
        parts = _parts(here, "csv", [b"a,b\n1,2\n", b"b,a\n3,4\n"])
        with pytest.raises(BadInputError, match=r"1\.csv: its header 'b,a' differs from 'a,b'"):
            _merge(here, parts, ["{index}.csv"])

    def test_what_is_no_text_is_refused(self, here):
        with pytest.raises(UsageError, match="is not text") as caught:
            _merge(here, _parts(here, "npy", [b"\x93NUMPY\0"]), ["{index}.npy"])
        assert "--merge-command" in caught.value.hint

    def test_trees_are_joined(self, here):
        for k in range(3):
            table = Table(entries=2, columns={"x": np.array([2.0 * k, 2.0 * k + 1])})
            rootfiles.write(here / f"{k}.root", {"t": table}, {})
        parts = [_part(here, k, f"{k}.root") for k in (2, 0, 1)]
        (merged,) = _merge(here, parts, ["{index}.root"])
        joined = rootfiles.read(here / "m" / "merged.root", "t")["x"]
        assert joined.tolist() == [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]
        assert len(merged.content_hash) == 64

    def test_histograms_are_added(self, here):
        for k in range(3):
            with uproot.recreate(here / f"{k}.root") as file:
                file["h"] = np.histogram([0.5] * (k + 1), bins=2, range=(0, 2))
        parts = [_part(here, k, f"{k}.root") for k in range(3)]
        (merged,) = _merge(here, parts, ["{index}.root"])
        with uproot.open(here / "m" / "merged.root") as file:
            assert file["h"].values().tolist() == [6.0, 0.0]
        assert merged.content_hash == ""

    def test_a_merge_command_gets_every_part_as_one_word(self, here, capfd):
        parts = _parts(here, "it's $(x)", [b"1", b"2"])
        workload = _command(
            "true",
            number=2,
            outputs=["{index}.it's $(x)"],
            merge_command='bash -c \'echo talk; cat "$$@" > "$$0"\' {output} {inputs}',
        )
        assert workload.plan()
        (here / "m").mkdir()
        (merged,) = workload.merge(MergeRequest(parts=parts, folder=here / "m"))
        assert (here / "m" / "merged.it's $(x)").read_bytes() == b"12"
        assert merged.bytes == 2
        # Standard output is for data.
        said = capfd.readouterr()
        assert (said.out, said.err) == ("", "talk\n")

    @pytest.mark.parametrize(
        ("command", "said"),
        [("false {inputs} {output}", "exit code 1"), ("true {inputs} {output}", "but no merged")],
    )
    def test_a_merge_command_that_fails(self, here, command, said):
        workload = _command("true", number=2, outputs=["{index}.x"], merge_command=command)
        (here / "m").mkdir()
        request = MergeRequest(parts=_parts(here, "x", [b"1"]), folder=here / "m")
        with pytest.raises(UsageError, match=said):
            workload.merge(request)

    def test_names_of_merged_files_are_distinct(self):
        outputs = ["{index}.csv", "{name}.csv", "h-{name}_{index}.root", "fixed.txt"]
        assert command_merge.names(outputs) == [
            "merged.csv", "2-merged.csv", "h-merged.root", "fixed.txt"
        ]  # fmt: skip


def _part(folder, index, name):
    output = PlannedOutput(name=path_to_text(name))
    return Part(batch=Batch(index=index, workload="command", outputs=(output,)), folder=folder)


def _parts(folder, ending, contents):
    """Parts in reversed order, with contents[k] that of batch k."""
    parts = []
    for index, content in enumerate(contents):
        (folder / f"{index}.{ending}").write_bytes(content)
        parts.append(_part(folder, index, f"{index}.{ending}"))
    return parts[::-1]


def _merge(folder, parts, outputs):
    (folder / "m").mkdir()
    workload = _command("true", number=len(parts), outputs=outputs)
    return workload.merge(MergeRequest(parts=parts, folder=folder / "m"))
