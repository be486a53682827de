"""Run numbers, branching ratios, and what users give themselves."""

import pytest

from dask_runner.chain import hidden_valley as hv
from dask_runner.errors import BadInputError, UsageError
from dask_runner.settings import GenerateSettings


@pytest.mark.parametrize(
    ("ms", "expected"),
    [
        (25, {5: 0.854, 4: 0.096, 15: 0.050, 13: 0.0002}),
        (5, {4: 0.75, 15: 0.245}),
        (40, {5: 0.869, 4: 0.086, 15: 0.045}),
        (400, {5: 0.878}),
    ],
)
def test_branching_ratios_are_those_of_the_issue(ms, expected):
    ratios = hv.branching_ratios(ms)
    assert sum(ratios.values()) == pytest.approx(1)
    for pdg, value in expected.items():
        assert ratios[pdg] == pytest.approx(value, abs=0.003)
    assert (5 in ratios) == (ms > 9.4)


def test_the_alias_has_the_physics_of_its_original():
    alias, original = hv.make_sample(500000), hv.make_sample(304795)
    assert alias.pythia == original.pythia
    assert alias.run_number != original.run_number


@pytest.mark.parametrize("run_number", hv.TABLE)
def test_every_run_number_has_settings(run_number):
    sample = hv.make_sample(run_number)
    lines = sample.pythia.splitlines()
    assert len([line for line in lines if line.startswith("35:oneChannel")]) == 1
    assert not any(line.startswith("25:oneChannel") for line in lines)
    assert ("25:mWidth = 5." in lines) == (sample.mh > 125)
    assert ("HiggsSM:ffbar2HW = on" in lines) == (sample.process == 3)


def test_parameters_replace_those_of_the_table():
    sample = hv.make_sample(304795, ctau=1000.0)
    assert (sample.mh, sample.ms, sample.ctau, sample.process) == (125, 25, 1000, 3)


def test_half_given_parameters_of_an_own_run_number_are_refused():
    with pytest.raises(UsageError, match="--ctau, --process not given"):
        hv.resolve_sample(GenerateSettings(run_number=700001, mh=125, ms=30))


def test_an_own_run_number_is_told_with_whom_it_shares_seeds():
    sample = hv.make_sample(700001, 125, 30, 500, 1)
    assert "multiple of 8" in sample.notes[0]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ((125, 80, 500, 1), "more than half"),
        ((125, 0.2, 500, 1), "no decay is open"),
        ((125, 25, 500, 2), "process 2 does not exist"),
        ((125, 25, float("nan"), 1), "above zero"),
    ],
)
def test_impossible_parameters_are_refused(values, message):
    with pytest.raises(UsageError, match=message):
        hv.make_sample(304795, *values)


def test_masses_above_two_tops_get_a_warning():
    assert "two top masses" in hv.make_sample(304820).notes[0]
    assert hv.make_sample(304819).notes == ()


def test_a_card_follows_the_common_settings(tmp_path):
    card = tmp_path / "my.cmnd"
    card.write_text("HardQCD:all = on\nPhaseSpace:pTHatMin = 50.\n")
    sample = hv.resolve_sample(GenerateSettings(run_number=700001, pythia_card=str(card)))
    assert sample.pythia.endswith("PhaseSpace:pTHatMin = 50.\n")
    assert "Tune:pp = 21" in sample.pythia


def test_a_card_and_parameters_exclude_each_other(tmp_path):
    with pytest.raises(UsageError, match="exclude"):
        hv.resolve_sample(GenerateSettings(pythia_card=str(tmp_path / "x"), ms=25))


def test_a_missing_card_is_named(tmp_path):
    with pytest.raises(BadInputError, match=r"gone\.cmnd"):
        hv.resolve_sample(GenerateSettings(pythia_card=str(tmp_path / "gone.cmnd")))
