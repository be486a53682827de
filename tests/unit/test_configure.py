"""`init` and `settings`: what they write, what they print where, and how they refuse."""

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from dask_runner.cli import configure
from dask_runner.errors import StorageError, UsageError
from dask_runner.hostfile import HOSTFILE_TEXT, load_hosts
from dask_runner.settings import Settings, load_settings
from dask_runner.settings.keys import KEYS
from dask_runner.settings.text import settings_toml

app = typer.Typer()
app.command("init")(configure.init)
app.command("settings")(configure.settings)


@pytest.fixture(autouse=True)
def _empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def run(*arguments):
    result = CliRunner().invoke(app, arguments)
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result


def printed(capsys, *arguments):
    """What a command prints, past the test runner: the consoles hold the real streams."""
    with pytest.raises(SystemExit) as end:
        app(arguments)
    assert end.value.code == 0
    return capsys.readouterr()


def test_init_writes_two_files_that_load():
    run("init")
    assert sorted(path.name for path in Path().iterdir()) == ["hostfile.txt", "settings.toml"]
    assert load_settings(None, {}, {}).settings == Settings()
    assert [host.address for host in load_hosts(Path("hostfile.txt"))] == ["localhost"]


@pytest.mark.parametrize("present", ["hostfile.txt", "settings.toml"])
def test_init_refuses_to_overwrite_and_writes_nothing(present):
    Path(present).write_text("mine")
    with pytest.raises(UsageError, match=f"{present} would be overwritten") as caught:
        run("init")
    assert "--force" in caught.value.hint
    assert [path.name for path in Path().iterdir()] == [present]
    assert Path(present).read_text() == "mine"


def test_init_force_overwrites():
    Path("settings.toml").write_text("mine")
    Path("hostfile.txt").write_text("mine")
    run("init", "--force")
    assert Path("settings.toml").read_text() == settings_toml()
    assert Path("hostfile.txt").read_text() == HOSTFILE_TEXT


def test_init_where_nothing_can_be_written(tmp_path, monkeypatch):
    folder = tmp_path / "gone"
    folder.mkdir()
    monkeypatch.chdir(folder)
    folder.rmdir()
    with pytest.raises(StorageError, match=r"hostfile\.txt: cannot be written"):
        run("init")


def test_settings_as_json(capsys):
    Path("settings.toml").write_text("[run]\nnice = 7\n")
    Path("settings.toml").chmod(0o600)
    shown = printed(capsys, "settings", "--json", "--runs", "elsewhere")
    assert shown.err == ""
    document = json.loads(shown.out)
    assert set(document) == set(KEYS)
    assert document["run.nice"] == {"value": 7, "origin": "settings.toml line 2"}
    assert document["storage.runs"] == {"value": "elsewhere", "origin": "command line"}
    assert document["run.seed"] == {"value": 1, "origin": "default"}
    assert document["reconstruct.steps"]["value"][0]["name"] == "simulate"


def test_settings_as_a_table():
    table = configure.table({"run.nice": (7, "settings.toml line 2"), "a.b": (("[x]",), "default")})
    assert [column.header for column in table.columns] == ["key", "value", "from"]
    cells = [list(column.cells) for column in table.columns]
    assert cells[0] == ["run.nice", "a.b"]
    assert [cell.plain for cell in cells[1]] == ["7", '["[x]"]']
    assert [cell.plain for cell in cells[2]] == ["settings.toml line 2", "default"]


def test_settings_file_that_is_wrong():
    Path("other.toml").write_text("[run]\nnise = 7\n")
    Path("other.toml").chmod(0o600)
    with pytest.raises(UsageError, match=r"other\.toml line 2: unknown key run\.nise"):
        run("settings", "--settings", "other.toml")
