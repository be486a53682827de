"""A user's own workload through the Python API, as docs/python.md shows it, and then the CLI."""

from pathlib import Path

import dask_runner

TEXT = (Path(__file__).parent.parent.parent / "docs" / "python.md").read_text()


def test_the_workload_of_the_documentation_runs_reruns_and_merges(product, monkeypatch):
    code = TEXT.split("## A workload of your own")[1].split("```python\n")[1].split("```")[0]
    modules = product.folder / "modules"
    modules.mkdir()
    (modules / "squares.py").write_text(code)
    monkeypatch.chdir(modules)
    monkeypatch.syspath_prepend(modules)
    from squares import Squares

    run = dask_runner.start(
        Squares(number=6), import_path=["."], runs=product.runs, first=4, slots=2, label="mine"
    )
    assert (run.summary.done, run.summary.pending, run.failed) == (4, 2, [])
    # Another process, elsewhere, that knows nothing of the module but what the manifest says.
    product.run("rerun", "last")
    assert product.check(finished=True).done == set(range(6))
    (merged,) = run.merge().files
    assert Path(merged.path).read_text().split() == ["0", "1", "4", "9", "16", "25"]
    assert [path.name for path in run.outputs()] == [f"{i}.txt" for i in range(6)]
    assert run.verify().good
    assert len(list(run.outcomes())) == 6
