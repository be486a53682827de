"""examples/histograms, small: from events to the pictures of docs/histograms.md."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import uproot

from dask_runner import histogram_runs
from dask_runner.histogram_runs import HistogramRequest
from dask_runner.histograms.drafting import Asked
from dask_runner.opening import Target
from dask_runner.settings import Settings

pytest.importorskip("pythia8mc")
pytest.importorskip("fastjet")

EXAMPLE = Path(__file__).parent.parent.parent / "examples" / "histograms"


def test_the_example_of_jets(product, monkeypatch):
    for name in ("jets.toml", "dijets.py", "qcd.cmnd"):
        shutil.copy(EXAMPLE / name, product.folder)
    evnt = ["--evnt-dir", "evnt", "-n", "1", "-b", "12", "-q"]
    product.run("generate", "--pythia-card", "qcd.cmnd", "--run-number", "500010", *evnt)
    product.run("generate", "--run-number", "304814", *evnt)
    product.run("run", "--evnt-dir", "evnt", "--keep", "AOD", "-b", "12", "-o", "aod", "-q")
    samples = ["--sample", "QCD=aod/500010.*.root", "--sample", "S50=aod/304814.*.root"]
    product.run("histogram", "--config", "jets.toml", *samples, "-q")
    product.check(finished=True)
    said = product.json("merge", "last", "--to", "jets.root", "--plot", "jets.png", "--norm")
    assert said["events_read"] == 24
    assert [one["name"] for one in said["histograms"]] == ["cal_ratio", "pt", "leading", "shape"]
    assert sorted(path.name for path in product.folder.glob("jets.*.png")) == [
        f"jets.{name}.png" for name in ("cal_ratio", "leading", "pt", "shape")
    ]
    with uproot.open(product.folder / "jets.root") as file:
        samples = [file[f"{name}/cal_ratio"].values(flow=True) for name in ("QCD", "S50")]
        assert np.allclose(sum(samples), file["cal_ratio"].values(flow=True))
        assert all(one.sum() > 0 for one in samples)
    # The function is tried as the command tries it.
    monkeypatch.chdir(product.folder)
    asked = Asked(files=("aod/*.root",), tree="events", function="./dijets.py:dijets")
    planned = histogram_runs.plan(HistogramRequest(asked=asked), Settings(), Target())
    assert [spec.name for spec in planned.workload.job.histograms] == ["mjj", "gap"]
