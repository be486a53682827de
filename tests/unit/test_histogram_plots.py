"""Pictures of histograms: what is in them, and that nothing global is touched."""

import sys

import numpy as np
import pytest
from histogram_results import ALL, EDGES, ENERGY, SAMPLE, filled, result
from msgspec.structs import replace

from dask_runner.cli import drawing
from dask_runner.errors import UsageError

matplotlib = pytest.importorskip("matplotlib")
pytest.importorskip("mplhep")

from dask_runner.reports import plots  # noqa: E402


@pytest.fixture(autouse=True)
def nothing_global():
    before = dict(matplotlib.rcParams)
    yield
    assert dict(matplotlib.rcParams) == before
    assert not sys.modules["matplotlib.pyplot"].get_fignums()


def draw(one, **options):
    figure = plots.histogram(one, result(one), **options)
    return figure, figure.axes[0]


def legend(axes):
    return [text.get_text() for text in axes.get_legend().get_texts()]


def steps(axes):
    """The outlines of all histograms, with the baselines."""
    return [patch.get_data() for patch in axes.patches if hasattr(patch, "get_data")]


def test_one_axis():
    one = ALL[0]
    _, axes = draw(one)
    total, outside = one.counts.sum(), one.counts.sum() - one.counts[1:-1].sum()
    assert legend(axes)[0] == f"{total:,} entries, {outside} outside, 3 not a number".replace(
        ",", " ", 1
    )
    assert axes.get_xlabel() == "Jet energy [GeV]"
    assert axes.get_ylabel() == "Entries / 10 GeV"
    assert axes.get_title(loc="left") == "met > 20\njet_pt > 25, jet_pt > 25"
    assert axes.get_title(loc="right") == "1 000 events"
    values, edges, _ = steps(axes)[0]
    assert np.array_equal(values, one.values[1:-1])
    assert edges.tolist() == list(range(0, 210, 10))
    # Errors of 14 % are seen.
    assert "Statistical uncertainty" in legend(axes)


@pytest.mark.parametrize("log", [False, True])
def test_nothing_is_behind_the_legend(log):
    # Highest at the right, where the legend is.
    rising = np.r_[0.0, np.arange(1.0, 21.0) ** 2, 0.0]
    figure, axes = draw(replace(ALL[0], values=rising, variances=rising), log=log)
    figure.draw_without_rendering()
    box = axes.get_legend().get_window_extent()
    heights = axes.transData.transform(np.c_[np.arange(5.0, 205.0, 10.0), rising[1:-1]])
    below = heights[(heights[:, 0] > box.x0) & (heights[:, 0] < box.x1), 1]
    assert below.size
    assert below.max() < box.y0


def test_samples_over_each_other():
    one = ALL[1]
    _, axes = draw(one)
    assert [text.partition(" (")[0] for text in legend(axes)] == ["ttbar", "zprime"]
    found = steps(axes)
    for k in range(2):
        assert np.array_equal(found[k].values, one.values[k, 1:-1])
    assert axes.get_ylabel() == "Sum of weights / 10 GeV"
    errors = np.array([path.vertices for path in axes.collections[0].get_paths()])[:, :, 1]
    assert (errors[:, 1] - errors[:, 0]) / 2 == pytest.approx(np.sqrt(one.variances[0, 1:-1]))


def test_samples_upon_each_other():
    one = ALL[1]
    _, axes = draw(one, stack=True)
    top, below = steps(axes)[:2]
    assert legend(axes)[0].startswith("ttbar")
    assert np.allclose(top.values, one.values[:, 1:-1].sum(axis=0))
    assert np.allclose(top.baseline, below.values)
    assert np.allclose(below.values, one.values[1, 1:-1])


def test_shares():
    _, axes = draw(ALL[1], norm=True)
    found = steps(axes)
    assert [one.values.sum() for one in found] == pytest.approx([1, 1])
    assert axes.get_ylabel() == "Share / 10 GeV"
    draw(replace(ALL[1], values=0 * ALL[1].values), norm=True)


def test_logarithmic_scales():
    _, axes = draw(ALL[3], log=True)
    assert axes.get_yscale() == "log"
    assert axes.get_xscale() == "log"
    assert axes.get_ylim()[0] == pytest.approx(0.5 * ALL[3].values[:, 1:-1].min())
    _, axes = draw(ALL[0])
    assert (axes.get_xscale(), axes.get_yscale()) == ("linear", "linear")


def test_two_axes():
    one = ALL[2]
    figure, axes = draw(one)
    (mesh,) = axes.collections
    assert np.array_equal(mesh.get_array(), one.values[1:-1, 1:-1].T)
    assert figure.axes[1].get_ylabel() == "Entries per bin"
    empty = replace(one, values=0 * one.values)
    draw(empty, log=True)
    figure, axes = draw(filled("both", SAMPLE, ENERGY, EDGES, weighted=True), log=True)
    assert figure.axes[1].get_ylabel() == "Sum of weights per bin"


def test_odd_ones(tmp_path):
    # Nothing in it, negative, endless, uncounted, of categories.
    nothing = replace(ALL[0], counts=0 * ALL[0].counts, values=0 * ALL[0].values)
    negative = replace(ALL[1], values=-ALL[1].values, counts=0 * ALL[1].counts)
    endless = filled("endless", replace(EDGES, edges=(-np.inf, 0.0, 1.0, np.inf)))
    lepton = filled("lepton", replace(SAMPLE, name="lepton", categories=("e", "mu")))
    silent = np.array([[1.0], [0.0]])
    half = replace(
        ALL[1],
        values=silent * ALL[1].values,
        variances=silent * ALL[1].variances,
        counts=ALL[1].counts,
    )
    for options in ({"stack": True}, {"log": True}, {"stack": True, "log": True}, {"norm": True}):
        draw(half, **options)
        draw(nothing, **options)
    for one in (nothing, negative, endless, lepton):
        for log in (False, True):
            figure, axes = draw(one, log=log)
            low, high = axes.get_ylim()
            assert low < high
    assert [text.get_text() for text in axes.get_xticklabels()] == ["e", "mu"]
    assert draw(endless)[1].get_xlabel() == "x (first and last bin without end)"
    path = plots.save(figure, tmp_path / "plot.png")
    assert path.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    "edges", [(0.0, np.inf), (-np.inf, 3e20), (-np.inf, 10.0, np.inf), (-np.inf, np.inf)]
)
def test_bins_without_end_and_without_neighbour(edges):
    axis = replace(EDGES, edges=edges)
    _, axes = draw(filled("one", axis))
    low, high = axes.get_xlim()
    assert np.isfinite([low, high]).all()
    assert low < high
    draw(filled("two", axis, axis))


def test_mathematics_that_cannot_be_set_is_text(tmp_path):
    odd = r"$\notacommand$ and $E_T$"
    figure, axes = draw(filled("odd", replace(EDGES, label=odd)))
    assert axes.get_xlabel() == odd.replace("$", r"\$")
    plots.save(figure, tmp_path / "odd.png")
    _, axes = draw(filled("good", replace(EDGES, label=r"$\sqrt{s}$ [GeV]")))
    assert axes.get_xlabel() == r"$\sqrt{s}$ [GeV]"


def test_a_picture_has_two_axes(tmp_path, capsys):
    cube = filled("cube", ENERGY, EDGES, ENERGY)
    with pytest.raises(UsageError, match="a picture has 2 axes, not 3"):
        draw(cube)
    with pytest.raises(UsageError, match="a picture has 2 axes, not 3"):
        drawing.check_histograms(result(cube), [tmp_path / "a.png"])
    # What is beside it is drawn.
    both = result(cube, ALL[0])
    drawing.check_histograms(both, [tmp_path / "a.png"])
    drawing.histograms(both, [tmp_path / "a.png"])
    assert [path.name for path in tmp_path.iterdir()] == ["a.energy.png"]
    assert "no plot of cube: a picture has 2 axes, not 3" in capsys.readouterr().err
