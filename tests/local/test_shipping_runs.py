"""Whole runs with `--ship` and with inputs that are URLs, on this machine."""

import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from product import wait_for

from dask_runner import rootfiles
from dask_runner.rootfiles import Table

sys.path[:0] = [str(Path(__file__).parent.parent)]
from web import serve  # noqa: E402

TOOL = """\
#!/bin/sh
echo "$1 $$" >> "$TEST_FOLDER/executions"
touch "$TEST_FOLDER/waiting"
until test -e "$TEST_FOLDER/go"; do sleep 0.02; done
test "$1" = 1 -a ! -e "$TEST_FOLDER/repaired" && exit 3
cat "$DASK_RUNNER_SHIPPED/table of data.txt" > "$2"
"""


def test_a_shipped_program_is_the_same_for_the_whole_run_and_its_rerun(jobs):
    tool, table = jobs.folder / "tool.sh", jobs.folder / "table of data.txt"
    tool.write_text(TOOL)
    tool.chmod(0o755)
    table.write_text("as shipped\n")
    words = ["command", "-n", "4", "--slots", "1", "--setup", "setup.sh", "--attempts", "1", "-q"]
    words += ["--ship", "tool.sh", "--ship", table.name]
    driver = jobs.start(*words, "--", "{shipped}/tool.sh", "{index}", "{output}")
    wait_for((jobs.folder / "waiting").exists, "a job runs")
    tool.write_text("#!/bin/sh\nexit 9\n")
    table.write_text("edited\n")
    jobs.go()
    output, _ = driver.communicate(timeout=60)
    assert driver.returncode == 3, output
    assert jobs.check().failed == {1}
    tool.unlink()
    table.unlink()
    (jobs.folder / "repaired").touch()
    jobs.run("rerun", "last", "-q")
    assert jobs.check(finished=True).done == {0, 1, 2, 3}
    outputs = [path.read_text() for path in (jobs.last / "outputs").iterdir()]
    assert outputs == ["as shipped\n"] * 4
    assert sorted(jobs.executions()) == [0, 1, 1, 2, 3]
    (header,) = jobs.lines("header")
    assert [item["name"] for item in header["shipped"]["items"]] == [table.name, "tool.sh"]


def test_a_damaged_copy_is_refused_by_a_rerun(jobs):
    (jobs.folder / "data.txt").write_text("x")
    jobs.run(
        *("command", "-n", "2", "--first", "1", "--ship", "data.txt", "-q", "--"),
        *("cp", "{shipped}/data.txt", "{output}"),
    )
    (copy,) = jobs.last.glob("shipped/*/data.txt")
    copy.chmod(0o644)
    copy.write_text("y")
    done = jobs.run("rerun", "last", "-q", expect=4)
    assert f"{copy}: has changed" in done.stderr
    copy.write_text("x")
    copy.chmod(0o444)
    jobs.run("rerun", "last", "-q")
    assert jobs.check(finished=True).done == {0, 1}


def test_the_placeholder_is_refused_where_nothing_is_shipped(jobs):
    done = jobs.run("command", "-n", "1", "--", "cp", "{shipped}/x", "{output}", expect=2)
    assert "unknown placeholder {shipped}" in done.stderr
    assert not jobs.runs.exists()


def test_what_cannot_be_shipped_is_said_before_anything(jobs):
    done = jobs.run("command", "-n", "1", "--ship", "nothing", "--", "true", expect=2)
    assert "--ship nothing: no such file or folder" in done.stderr
    assert jobs.timestamps == []
    assert not jobs.runs.exists() or not os.listdir(jobs.runs)


@pytest.fixture
def web(product, tmp_path):
    pages = tmp_path / "pages"
    pages.mkdir()
    product.environment["XDG_CACHE_HOME"] = str(tmp_path / "cache")
    columns = {"event": np.arange(6, dtype=np.int64)}
    table = Table(entries=6, columns=columns)
    rootfiles.write(pages / "far away.evnt.pool.root", {"CollectionTree": table}, {})
    # A program that copies its input is enough: what the steps do is not the question here.
    (product.folder / "settings.toml").write_text(
        '[reconstruct]\nkeep = ["AOD"]\n[[reconstruct.steps]]\nname = "copy"\noutput = "AOD"\n'
        "command = '''bash -c 'test -e \"$$0\" && echo \"$$2 $$3\" > $$1' {input} {output} {first} "
        "{max_events}'''\n"
    )
    with serve(pages) as server:
        server.pages = pages
        yield server


def test_a_run_on_a_url_fetches_it_once_and_knows_it_again(product, web, tmp_path):
    url = f"{web.url}/far%20away.evnt.pool.root"
    product.run("run", "-b", "2", "--input", url, "--first", "1", "-q")
    product.run("rerun", "last", "-q")
    assert product.check(finished=True).done == {0, 1, 2}
    assert sum(web.asked.values()) == 1
    (listed,) = product.lines("input")
    assert listed["path"] == url
    assert len(listed["sha256"]) == 64
    assert product.json("verify", "last")["changed_inputs"] == []
    product.run("replay", "last", "1")
    assert sum(web.asked.values()) == 1
    # Our copy is gone: it is fetched again; and what comes has to be the same.
    shutil.rmtree(tmp_path / "cache")
    assert product.json("verify", "last")["changed_inputs"] == []
    assert sum(web.asked.values()) == 2
    shutil.rmtree(tmp_path / "cache")
    page = web.pages / "far away.evnt.pool.root"
    page.write_bytes(page.read_bytes() + b"more")
    done = product.run("rerun", "last", "-q", expect=4)
    assert f"{url}: its content has changed" in done.stderr


def test_a_url_that_is_not_what_it_should_be_is_refused_before_anything(product, web):
    url = f"{web.url}/far%20away.evnt.pool.root#sha256={'0' * 64}"
    done = product.run("run", "--input", url, expect=4)
    assert "its content has changed" in done.stderr
    done = product.run("run", "--input", "root://eos.example/x.root", expect=2)
    assert "not supported yet" in done.stderr
    done = product.run("run", "--input", url, "--evnt-dir", ".", expect=2)
    assert "without --evnt-dir" in done.stderr
    assert product.timestamps == []
