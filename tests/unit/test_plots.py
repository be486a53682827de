"""Pictures: written in both formats, with the legends that a reader needs, and nothing global."""

import sys

import numpy as np
import pytest
from trial_files import gaussian, limits_by_mass, trials_at

from dask_runner import conclusions
from dask_runner.conclusions.bands import Scale
from dask_runner.conclusions.theory import Theory
from dask_runner.errors import UsageError
from dask_runner.reports.numbers import with_error

matplotlib = pytest.importorskip("matplotlib")
pytest.importorskip("mplhep")

from dask_runner.reports import plots  # noqa: E402


@pytest.fixture(autouse=True)
def nothing_global():
    before = dict(matplotlib.rcParams)
    yield
    assert dict(matplotlib.rcParams) == before
    assert not sys.modules["matplotlib.pyplot"].get_fignums()


def legend(figure, panel=0):
    return [text.get_text() for text in figure.axes[panel].get_legend().get_texts()]


def written(figure, folder):
    """Both files, checked for what they are."""
    png, pdf = (plots.save(figure, folder / f"plot.{ending}") for ending in ("png", "pdf"))
    data = png.read_bytes()
    assert data.startswith(b"\x89PNG")
    width, height = (int.from_bytes(data[k : k + 4], "big") for k in (16, 20))
    assert 1200 < width < 2500
    assert 900 < height < 2500
    assert pdf.read_bytes().startswith(b"%PDF")
    assert 5_000 < pdf.stat().st_size < 500_000
    assert [path.name for path in folder.glob(".*")] == []


THEORY = Theory(
    source="theory.csv",
    mass=(1500, 4000, 6000),
    cross_section=tuple(np.exp(-2 * m / 1000 + 3.5) for m in (1500, 4000, 6000)),
    mass_unit="TeV",
    unit="fb",
)


def test_brazil(tmp_path):
    trials = limits_by_mass(tmp_path)
    seen = {value: {"limit": 2 * np.exp(-value / 1000)} for value in trials.values("mass")}
    result = conclusions.limits(
        trials,
        scale=Scale(visible=lambda _: 1.0),
        theory=THEORY,
        observed=seen,
        confidence=0.95,
    )
    figure = plots.brazil(result)
    assert legend(figure) == [
        "Observed",
        "Median expected",
        r"Expected $\pm$ 1 std. deviation",
        r"Expected $\pm$ 2 std. deviations",
        "Theory",
        f"Excluded below {result.mass_limits.expected[2].value:.4g} TeV (expected)",
        f"Excluded below {result.mass_limits.observed.value:.4g} TeV (observed)",
    ]
    (axes,) = figure.axes
    assert axes.get_yscale() == "log"
    assert axes.get_xlabel() == "Resonance mass [TeV]"
    assert axes.get_ylabel() == "95 % CL upper limit on cross section [fb]"
    written(figure, tmp_path)


def test_brazil_without_what_is_not_known(tmp_path):
    figure = plots.brazil(conclusions.limits(limits_by_mass(tmp_path, masses=(3000,))))
    assert legend(figure)[0] == "Median expected"
    assert len(legend(figure)) == 3
    assert figure.axes[0].get_ylabel() == "Upper limit on signal events"
    written(figure, tmp_path)


def test_a_column_with_its_quantiles(tmp_path):
    trials = limits_by_mass(tmp_path, masses=(3000,))
    (found,) = conclusions.distribution(trials, field="limit").points
    figure = plots.column(found, trials.limit, "limit")
    assert legend(figure)[0] == "2000 trials, mass = 3000"
    assert legend(figure)[3].startswith("50 %: 0.0")
    written(figure, tmp_path)


@pytest.mark.parametrize(
    "values", [[3.0] * 4, [0.0, 0.0], [1, 2, 2, 3], np.arange(500.0), [0.5]], ids=str
)
def test_columns_of_all_kinds(tmp_path, values):
    trials = trials_at(tmp_path, [{}], lambda _p, _r: {"x": np.array(values)}, {"x": "<f8"})
    (found,) = conclusions.distribution(trials, qs=[0.5]).points
    assert len(plots.column(found, trials.x, "x").axes) == 1


def test_a_test_statistic_with_its_fit(tmp_path):
    trials = gaussian(tmp_path, strengths=(0,))
    (found,) = conclusions.distribution(trials).points
    figure = plots.background(found, trials.ts)
    above, below = legend(figure), legend(figure, 1)
    assert above[0] == "20000 trials without signal"
    assert above[1].startswith(r"$\eta$ = 0.5")
    assert below[:2] == ["Trials", r"$\chi^2$ fit"]
    assert below[2].endswith("(trials)")
    assert below[3].endswith("(fit)")
    assert [axes.get_yscale() for axes in figure.axes] == ["log", "log"]
    written(figure, tmp_path)


def test_sensitivities(tmp_path):
    trials = gaussian(
        tmp_path, n=1000, strengths=(0, 1, 2, 4, 8, 16), others=[{"width": w} for w in (1, 2)]
    )
    result = conclusions.sensitivity(trials)
    figure = plots.fractions(result, result.strengths[0])
    first, second = legend(figure)
    assert first.startswith("TS > median, 90 %: 1.")
    assert second.startswith(r"TS > 5$\sigma$, 50 %: ")
    assert figure.axes[0].get_legend().get_title().get_text() == "width = 1"
    written(figure, tmp_path)
    figure = plots.against(result)
    assert figure.axes[0].get_xlabel() == "width"
    assert legend(figure) == ["Sensitivity (90 %)", r"5$\sigma$ discovery (50 %)"]
    written(figure, tmp_path)


def test_nothing_to_plot_against(tmp_path):
    result = conclusions.sensitivity(gaussian(tmp_path, n=500))
    assert plots.longest_axis(result) == ""
    with pytest.raises(UsageError, match="no parameter varies"):
        plots.against(result)


def test_cls(tmp_path):
    def make(point, rng):
        return {"q_sb": -rng.poisson(3 + 3 * point["mu"], 2000), "q_b": -rng.poisson(3, 2000)}

    points = [{"mu": mu} for mu in (0, 1, 2, 3, 4)]
    trials = trials_at(tmp_path, points, make, {"q_sb": "<f8", "q_b": "<f8"})
    figure = plots.strength(conclusions.cls(trials, observed=dict.fromkeys(range(5), -4.0)))
    assert legend(figure)[0].startswith("Observed, limit 2.")
    assert legend(figure)[1].startswith("Median expected, limit 1.")
    written(figure, tmp_path)
    with pytest.raises(UsageError, match="one mu only"):
        plots.strength(conclusions.cls(trials.at(mu=1)))


def test_legends_hide_nothing(tmp_path):
    trials = limits_by_mass(tmp_path)
    result = conclusions.limits(trials, scale=Scale(visible=lambda _: 1.0), theory=THEORY)
    figure = plots.brazil(result)
    (axes,) = figure.axes
    box = axes.get_legend().get_window_extent()
    for line in axes.lines:
        path = line.get_transform().transform_path(line.get_path())
        assert not path.intersects_bbox(box, filled=False)


def test_equal_figures_give_equal_files(tmp_path):
    trials = limits_by_mass(tmp_path, n=200)
    for ending in ("png", "pdf"):
        first, second = (
            plots.save(
                plots.brazil(conclusions.limits(trials)), tmp_path / f"{k}.{ending}"
            ).read_bytes()
            for k in range(2)
        )
        assert first == second


def test_other_names_are_refused(tmp_path):
    for name, message in (("plot.jpg", "not a plot"), ("no/plot.png", "there is no folder")):
        with pytest.raises(UsageError, match=message):
            plots.check_path(tmp_path / name)


def test_a_missing_library_is_named_with_what_installs_it(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "mplhep", None)
    with pytest.raises(UsageError, match="mplhep is not installed") as caught:
        plots.brazil(conclusions.limits(limits_by_mass(tmp_path, n=200)))
    assert caught.value.hint == "pip install 'dask-runner[plot]'"


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [
        (198.94, 3.6, "198.9 ± 3.6"),
        (325.4, 12, "325 ± 12"),
        (0.0134912, 0.00025, "0.01349 ± 0.00025"),
        (1.5e-7, 2e-8, "(1.50 ± 0.20)e-7"),
        (3.0, 0.0, "3"),
        (3.0, np.inf, "3"),
        (0.0, 2e-5, "(0.0 ± 2.0)e-5"),
        (2.5e9, 1e7, "(2.500 ± 0.010)e+9"),
    ],
)
def test_numbers_are_rounded_to_their_error(value, error, text):
    assert with_error(value, error) == text
