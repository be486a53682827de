"""Settings: precedence, origins, and a helpful refusal of everything that is wrong."""

import os
import re
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dask_runner.errors import UsageError
from dask_runner.settings import Settings, load_settings
from dask_runner.settings.keys import KEYS, STEP_KEYS, VARIABLES
from dask_runner.settings.text import settings_markdown, settings_toml, toml_value
from dask_runner.settings.toml_lines import lines_of_keys
from dask_runner.workloads.external import GENERATE_PLACEHOLDERS, STEP_PLACEHOLDERS

TOP = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def write(text, name="settings.toml"):
    path = Path(name)
    path.write_text(text)
    path.chmod(0o644)
    return path


def refused(text="", environment=None, overrides=None):
    path = write(text) if text else None
    with pytest.raises(UsageError) as caught:
        load_settings(path, environment or {}, overrides or {})
    return f"{caught.value.message}\n{caught.value.hint}"


def test_defaults_without_a_file():
    loaded = load_settings(None, {}, {})
    assert loaded.settings == Settings()
    assert set(loaded.origin.values()) == {"default"}
    assert set(loaded.origin) == set(KEYS)


def test_precedence_and_origins():
    write("[run]\nnice = 1\nslots = 1\nattempts = 1\n")
    environment = {"DASK_RUNNER_RUN_NICE": "2", "DASK_RUNNER_RUN_SLOTS": "2"}
    loaded = load_settings(None, environment, {"run.nice": 3, "run.seed": None})
    run = loaded.settings.run
    assert (run.nice, run.slots, run.attempts, run.batch_size) == (3, 2, 1, 500)
    assert loaded.origin["run.nice"] == "command line"
    assert loaded.origin["run.slots"] == "DASK_RUNNER_RUN_SLOTS"
    assert loaded.origin["run.attempts"] == "settings.toml line 4"
    assert loaded.origin["run.seed"] == "default"
    assert loaded.file == "settings.toml"


def test_which_file_is_read():
    write("[run]\nnice = 1\n")
    write("[run]\nnice = 2\n", "two.toml")
    write("[run]\nnice = 3\n", "three.toml")
    environment = {"DASK_RUNNER_SETTINGS": "two.toml"}
    assert load_settings(None, {}, {}).settings.run.nice == 1
    assert load_settings(None, environment, {}).settings.run.nice == 2
    assert load_settings(Path("three.toml"), environment, {}).settings.run.nice == 3


def test_a_named_file_must_exist():
    with pytest.raises(UsageError, match=r"none\.toml: cannot be read: No such file"):
        load_settings(Path("none.toml"), {}, {})


@pytest.mark.parametrize(
    ("text", "place", "hint"),
    [
        ("[run]\nbach_size = 5\n", "line 2: unknown key run.bach_size", "mean run.batch_size?"),
        ("\n[rum]\nnice = 5\n", "line 2: unknown section rum", "mean [run]?"),
        ("batch_size = 5\n", "line 1: unknown key batch_size", "batch_size in section ["),
        ("[generate]\nseed = 5\n", "line 2: unknown key generate.seed", "seed in section [run]?"),
        ("[run]\nqqqq = 5\n", "line 2: unknown key run.qqqq", "the keys of [run] are batch_size,"),
        ("zzzz = 5\n", "line 1: unknown key zzzz", "the sections are [storage], [run]"),
        ("run = 5\n", "line 1: run is a section", ""),
        ("[run]\n\nnice = '5'\n", "line 3: run.nice = '5': expected `int`, got `str`", "Niceness"),
        ("[run]\nnice = 20\n", "line 2: run.nice = 20: expected `int` <= 19", "Niceness"),
        ("[run]\nnice = -1\n", "run.nice = -1", "Niceness"),
        ("[run]\nbatch_size = 0\n", "run.batch_size = 0: expected `int` >= 1", "Events"),
        ("[run]\ntimeout = -1\n", "run.timeout = -1", "Wall time"),
        ("[run]\ntimeout = inf\n", "line 2: run.timeout: inf is not a finite number", "Wall"),
        ("[run]\ntimeout = nan\n", "run.timeout = nan", "Wall time"),
        ("[run]\nidle_io = 1\n", "run.idle_io = 1: expected `bool`, got `int`", "disk"),
        ("[storage]\nruns = ''\n", "storage.runs = ''", "Folder"),
        ("[geometry]\nfield = true\n", "geometry.field = True", "Solenoid"),
        ("[geometry]\necal_outer_z = 3.0\n", "line 2: geometry.ecal_outer_z: 3.0 m is not", ""),
        (
            "[reconstruct]\nkeep = ['DAOD']\n",
            "line 2: reconstruct.keep: no step writes DAOD",
            "AOD",
        ),
        ("[reconstruct]\nkeep = ['AOD', 'AOD']\n", "reconstruct.keep: a format is named twice", ""),
        ("[reconstruct]\nkeep = ['../AOD']\n", "reconstruct.keep = ['../AOD']", "Formats"),
        ("[reconstruct]\npatterns = []\n", "reconstruct.patterns = []", "File names"),
        ("[run]\nnice = 1\nnice = 2\n", "not valid TOML", "line 3"),
        ("[run]\nnice =\n", "not valid TOML", "line 2"),
    ],
)
def test_wrong_values_are_named_with_their_line(text, place, hint):
    message = refused(text)
    assert "settings.toml" in message
    assert place in message
    assert hint in message


STEP = (
    "[reconstruct]\nkeep = ['AOD']\n[[reconstruct.steps]]\nname = 'reconstruct'\noutput = 'AOD'\n"
)


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ("acceptance = 0.0\n", "line 6: reconstruct.steps[0].acceptance = 0.0: expected"),
        ("acceptance = 1.01\n", "line 6: reconstruct.steps[0].acceptance = 1.01: expected"),
        ("comand = 'x'\n", "line 6: unknown key reconstruct.steps[0].comand\ndid you mean command"),
        ("error_patterns = ['(']\n", "line 3: reconstruct.steps: step reconstruct: '('"),
        (
            "[[reconstruct.steps]]\nname = 'simulat'\noutput = 'HITS'\n",
            "line 3: reconstruct.steps: no built-in step 'simulat'",
        ),
        ("[[reconstruct.steps]]\nname = 'simulate'\noutput = 'RDO'\n", "simulate writes HITS, not"),
        ("[[reconstruct.steps]]\nname = 'b'\ncommand = 'x'\noutput = 'AOD'\n", "b both write AOD"),
        ("[[reconstruct.steps]]\nname = 'reconstruct'\noutput = 'AOD'\n", "two steps are called"),
        ("[[reconstruct.steps]]\nname = 'b'\n\ncommand = 'x'\n", "missing required field `output`"),
        (
            "[[reconstruct.steps]]\nname = 'b'\n\noutput = 5\n",
            "line 9: reconstruct.steps[1].output",
        ),
    ],
)
def test_wrong_steps(more, expected):
    assert expected in refused(STEP + more)


def test_steps_are_replaced_as_a_whole():
    loaded = load_settings(write(STEP), {}, {})
    assert [step.name for step in loaded.settings.reconstruct.steps] == ["reconstruct"]
    assert loaded.origin["reconstruct.steps"] == "settings.toml line 3"


def test_a_value_is_checked_even_if_another_takes_precedence():
    write("[run]\nnice = 99\n")
    with pytest.raises(UsageError, match="line 2"):
        load_settings(None, {}, {"run.nice": 5})


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("DASK_RUNNER_RUN_BACH_SIZE", "5", "did you mean DASK_RUNNER_RUN_BATCH_SIZE?"),
        ("DASK_RUNNER_RUNS", "x", "environment variable DASK_RUNNER_RUNS: unknown"),
        ("DASK_RUNNER_RUN_NICE", "x", "variable DASK_RUNNER_RUN_NICE: run.nice = 'x' is not"),
        ("DASK_RUNNER_RUN_NICE", "", "variable DASK_RUNNER_RUN_NICE: run.nice = '' is not"),
        ("DASK_RUNNER_RUN_NICE", "1\nb = 2", "is not a value as in settings.toml"),
        ("DASK_RUNNER_RUN_NICE", "20", "variable DASK_RUNNER_RUN_NICE: run.nice = 20: expected"),
    ],
)
def test_wrong_environment(name, value, expected):
    assert expected in refused(environment={name: value})


def test_environment_types():
    loaded = load_settings(
        None,
        {
            "DASK_RUNNER_RUN_TIMEOUT": "60",
            "DASK_RUNNER_RUN_IDLE_IO": "false",
            "DASK_RUNNER_STORAGE_RUNS": "my 'runs' # = \\",
            "DASK_RUNNER_RECONSTRUCT_KEEP": '["RDO", "AOD"]',
        },
        {},
    )
    assert loaded.settings.run.timeout == 60.0
    assert loaded.settings.run.idle_io is False
    assert loaded.settings.storage.runs == "my 'runs' # = \\"
    assert loaded.settings.reconstruct.keep == ("RDO", "AOD")


def test_reserved_variables_are_no_settings():
    names = ["RUN", "BATCH", "ATTEMPT", "SCRATCH", "CLUSTER", "TEST_ANYTHING"]
    environment = {f"DASK_RUNNER_{name}": "x" for name in names} | {"OTHER": "x"}
    assert load_settings(None, environment, {}).settings == Settings()


def test_no_setting_has_a_reserved_variable():
    for name in ("RUN", "BATCH", "ATTEMPT", "SCRATCH", "CLUSTER", "SETTINGS"):
        assert f"DASK_RUNNER_{name}" not in VARIABLES
    assert len(VARIABLES) == len(KEYS)


def test_wrong_command_line():
    assert "command line: run.nice = 20" in refused(overrides={"run.nice": 20})
    assert "did you mean run.nice?" in refused(overrides={"run.nise": 2})


@pytest.mark.parametrize("mode", [0o664, 0o646, 0o666])
def test_a_file_that_others_may_write_is_refused(mode):
    path = write("[run]\n")
    path.chmod(mode)
    with pytest.raises(UsageError, match="others may write") as caught:
        load_settings(path, {}, {})
    assert "chmod go-w settings.toml" in caught.value.hint


def test_a_file_of_another_user_is_refused(monkeypatch):
    path = write("[run]\n")
    me = os.geteuid()
    if me == 0:
        os.chown(path, 12345, -1)
    else:
        monkeypatch.setattr(os, "geteuid", lambda: me + 1)
    with pytest.raises(UsageError, match="belongs to another user"):
        load_settings(path, {}, {})


def test_what_is_not_a_text_file_is_refused():
    Path("folder.toml").mkdir()
    os.mkfifo("pipe.toml", 0o600)
    Path("latin.toml").write_bytes(b"[run]\n# caf\xe9\n")
    for name, message in (
        ("folder.toml", "not a regular file"),
        ("pipe.toml", "not a regular file"),
        ("latin.toml", r"latin\.toml line 2: not UTF-8"),
    ):
        with pytest.raises(UsageError, match=message):
            load_settings(Path(name), {}, {})
    Path("settings.toml").symlink_to("nowhere")
    with pytest.raises(UsageError, match="cannot be read"):
        load_settings(None, {}, {})


def test_the_written_file_gives_the_defaults_and_every_key():
    text = settings_toml()
    document = tomllib.loads(text)
    written = {f"{section}.{key}" for section, table in document.items() for key in table}
    assert written == set(KEYS)
    loaded = load_settings(write(text), {}, {})
    assert loaded.settings == Settings()
    for key, origin in loaded.origin.items():
        line = text.split("\n")[int(origin.removeprefix("settings.toml line ")) - 1]
        assert key.rpartition(".")[2] in line


def test_a_step_is_shown_by_what_differs():
    assert (
        toml_value(Settings().reconstruct.steps[:1]) == '[{ name = "simulate", output = "HITS" }]'
    )


def test_every_key_is_explained():
    for key in (*KEYS.values(), *STEP_KEYS.values()):
        assert len(key.description) > 15, key.name
        assert key.description.endswith((".", "...")), key.name


def test_explained_placeholders_are_those_that_there_are():
    named = re.compile(r"{(\w+)}")
    step, generate = STEP_KEYS["command"], KEYS["generate.command"]
    assert set(named.findall(step.description)) == STEP_PLACEHOLDERS
    assert set(named.findall(generate.description)) == GENERATE_PLACEHOLDERS


def test_generated_files_are_up_to_date():
    hint = "run scripts/update_generated.py"
    assert (TOP / "settings.toml").read_text() == settings_toml(), hint
    assert (TOP / "docs" / "settings.md").read_text() == settings_markdown(), hint


def test_lines_survive_strings_over_several_lines():
    text = '[a]\nx = """\n[b]\ny = 1\n"""\nz = [\n  1,\n]\n[c.d]\n"e f" = 1\nu.v = {w = 2}\n'
    lines = lines_of_keys(text)
    assert lines["a.x"] == 2
    assert lines["a.z"] == 6
    assert lines["c.d.e f"] == 10
    assert lines["c.d.u.v.w"] == 11
    assert "b" not in lines


NAMES = st.from_regex(r"\A[a-z]{1,4}\Z")
VALUES = st.one_of(
    st.integers(-(2**40), 2**40),
    st.booleans(),
    st.text(st.characters(exclude_categories=("Cs",))),
    st.lists(st.text(alphabet="ab\n\"'\\#[]=")),
)


@given(st.dictionaries(NAMES, st.dictionaries(NAMES, VALUES)))
def test_lines_of_any_file(document):
    lines, expected = [], {}
    for section, table in document.items():
        lines.append(f"[{section}]")
        expected[section] = len(lines)
        for key, value in table.items():
            lines += ["", f"{key} = {toml_value(value)}"]
            expected[f"{section}.{key}"] = len(lines)
    text = "\n".join(lines)
    assert tomllib.loads(text) == document
    assert lines_of_keys(text) == expected


@given(st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0")))
def test_any_text_passes_through_the_environment(text):
    environment = {"DASK_RUNNER_STORAGE_OUTPUTS": text}
    assert load_settings(None, environment, {}).settings.storage.outputs == text


def test_a_tilde_is_the_home_folder_for_all_who_read_the_setting(monkeypatch):
    monkeypatch.setenv("HOME", "/home/ada")
    given = {"storage.runs": "~/runs", "generate.evnt_dir": "~/evnt", "storage.outputs": ""}
    settings = load_settings(None, {}, given).settings
    assert settings.storage.runs == "/home/ada/runs"
    assert settings.generate.evnt_dir == "/home/ada/evnt"
    assert not settings.storage.outputs
    with pytest.raises(UsageError, match=r"command line: ~no-such-user/x: there is no such user"):
        load_settings(None, {}, {"storage.runs": "~no-such-user/x"})
