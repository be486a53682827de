"""The search for excited quarks: under fire, as scripts/story_trials tells it, and as shipped."""

import subprocess
import sys
from pathlib import Path

import invariants
import numpy as np
import pytest

from dask_runner.conclusions.theory import read_theory
from dask_runner.stats.spectrum import Shape
from dask_runner.trials.models.spectrum import Spectrum, read_observed

TOP = Path(__file__).parent.parent.parent
MASSES = (3000, 4000, 5000, 6000, 7000)


def test_the_story_ends_well(tmp_path):
    pytest.importorskip("matplotlib")
    folder = tmp_path / "story"
    words = [str(TOP / "scripts" / "story_trials"), "--small", "--folder", str(folder)]
    told = subprocess.run(
        [sys.executable, *words], capture_output=True, text=True, timeout=280, check=False
    )
    assert told.returncode == 0, told.stdout[-4000:] + told.stderr[-4000:]
    assert "both times" in told.stdout
    assert "excited quarks below" in told.stdout
    assert (folder / "brazil.png").stat().st_size > 20_000
    assert (folder / "brazil.pdf").read_bytes().startswith(b"%PDF")
    # Whatever happened to them: nothing lost, nothing twice, nothing left.
    runs = sorted(folder.glob("runs/*/manifest.jsonl"))
    results = [
        # The events of all samples are in one folder.
        invariants.check(
            path.parent, finished=True, shared_outputs=b'"generate"' in path.read_bytes()
        )
        for path in runs
    ]
    assert [len(result.failed) for result in results] == [0] * 6 + [1, 0, 0]
    assert results[-1].events_done == results[-2].events_done == 660


def test_the_search_that_is_shipped():
    """examples/dijet/search is what its scripts make of the sizes in docs/dijet.md."""
    folder = TOP / "examples" / "dijet" / "search"
    model = Spectrum.from_options(
        config=folder / "dijet.toml", points=[{"mass": mass} for mass in MASSES]
    )
    theory = read_theory(folder / "theory.csv")
    assert theory.mass == MASSES
    assert len(model.edges) == 117
    for template, cross_section in zip(model.templates, theory.cross_section, strict=True):
        assert 0.5 < template.acceptance < 0.6
        # Pythia says 28.9 pb at 2 TeV; each TeV more costs a factor of 8 to 13.
        steps = (template.mass - 2000) / 1000
        assert 28_900 / 13**steps < cross_section < 28_900 / 7.5**steps
    shape = Shape(model.edges, model.sqrt_s)
    counts = read_observed(model)
    expected = shape.integrals(model.background.theta).sum()
    assert counts.sum() == pytest.approx(expected, abs=5 * np.sqrt(expected))
