"""Real Pythia events: independence of batches, failures, the programs."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from dask_runner import chain, rootfiles
from dask_runner.chain import formats, generate, hidden_valley
from dask_runner.chain.formats import EventData
from dask_runner.errors import UsageError
from dask_runner.rootfiles import concatenated
from dask_runner.settings import Geometry

RUN = 304795
SAMPLE = hidden_valley.make_sample(RUN)


def made(first: int, count: int, sample: hidden_valley.Sample = SAMPLE) -> EventData:
    return generate.generate(
        sample, first_event=first, count=count, seed=1, run_number=sample.run_number
    )


def content(data: EventData) -> dict[str, bytes]:
    columns = {name: values.tobytes() for name, values in data.events.columns.items()}
    for group, jagged in data.events.jagged.items():
        columns[group] = jagged.counts.tobytes()
        columns |= {f"{group}_{k}": values.tobytes() for k, values in jagged.columns.items()}
    return columns


def test_events_are_the_same_alone_after_others_and_in_small_batches():
    alone = content(made(30, 30))
    together = made(0, 60)
    after = EventData(format="EVNT", events=together.events.slice(30, 60))
    small = [made(first, min(7, 60 - first)).events for first in range(30, 60, 7)]
    assert content(after) == alone
    assert content(EventData(format="EVNT", events=concatenated(small))) == alone


def test_samples_with_the_same_physics_have_different_events():
    alias = made(0, 5, hidden_valley.make_sample(500000))
    assert content(alias)["particle_px"] != content(made(0, 5))["particle_px"]


def test_the_cross_section_is_pythias():
    sums = formats.normalisation(made(100, 40).events.columns)
    generate._machine.cache_clear()
    made(100, 40)
    pythia = generate._machine(SAMPLE)._pythia
    assert sums["cross_section_pb"] == pytest.approx(pythia.infoPython().sigmaGen() * 1e9, rel=1e-9)
    assert sums["tries"] == pythia.infoPython().nTried()


def test_the_cross_section_of_several_processes_is_their_sum():
    """Pythia tries one of them at a point, by no means as often as its cross section says."""
    card = "HardQCD:all = on\nPhaseSpace:pTHatMin = 450.\nPartonLevel:all = off\n"
    for more in ("", "PhaseSpace:bias2Selection = on\nPhaseSpace:bias2SelectionRef = 450.\n"):
        sample = hidden_valley.card_sample(700001, card + more)
        sums = formats.normalisation(made(0, 1000, sample).events.columns)
        generate._machine.cache_clear()
        made(0, 1000, sample)
        info = generate._machine(sample)._pythia.infoPython()
        assert sums["tries"] == info.nTried()
        # The same points, but Pythia adds the mean of each process.
        assert sums["cross_section_pb"] == pytest.approx(info.sigmaGen() * 1e9, rel=0.03)


# So tight that Pythia repeats parts of most events, and gives up on some, which are made again
# further on in their stream.
FAILING = SAMPLE.pythia + "Check:epTolErr = 1e-12\nCheck:epTolWarn = 1e-12\nCheck:nErrList = 0\n"


def test_an_event_that_fails_is_made_again_and_shifts_no_other():
    sample = hidden_valley.Sample(run_number=RUN, pythia=FAILING)
    first, usual = made(0, 50, sample), made(0, 50)
    machine = generate._machine(sample)
    assert first.entries == 50
    same = first.events.jagged["particle"].counts == usual.events.jagged["particle"].counts
    # Some events had no failure, and are what they are without failures around them.
    assert 5 < same.sum() < 45
    assert (first.events["tries"] > usual.events["tries"])[~same].sum() > 1
    small = [made(k, 10, sample).events for k in range(0, 50, 10)]
    assert content(EventData(format="EVNT", events=concatenated(small))) == content(first)
    assert machine is generate._machine(sample)


def test_processes_without_phase_space_points_have_a_cross_section():
    sample = hidden_valley.card_sample(700001, "SoftQCD:nonDiffractive = on\n")
    sums = formats.normalisation(made(0, 10, sample).events.columns)
    assert sums["cross_section_pb"] == pytest.approx(57e9, rel=0.15)


@pytest.mark.parametrize(
    ("card", "message"),
    [
        ("HardQCD:all = off\n", "cannot be initialised"),
        ("HardQCD:nonsense = on\n", "does not understand line"),
        ("Beams:frameType = 4\nBeams:LHEF = x.lhe\n", "reads events from a file"),
    ],
)
def test_cards_that_cannot_work_are_refused(card, message):
    with pytest.raises(UsageError, match=message):
        made(0, 1, hidden_valley.card_sample(RUN, card))


def test_without_the_component_it_is_said_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "pythia8mc", None)
    generate._machine.cache_clear()
    with pytest.raises(UsageError) as caught:
        made(0, 1)
    assert 'pip install "dask-runner[chain]"' in caught.value.hint


def test_the_self_test_is_stable_and_says_what_it_covers():
    parts, digest = chain.selftest_numbers().split()
    assert parts == "numpy+fit+pythia20"
    assert chain.selftest_numbers() == f"{parts} {digest}"


def run_program(step: str, folder: Path, *options: str) -> dict:
    command = [sys.executable, "-m", f"dask_runner.chain.{step}", *options]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads((folder / "jobReport.json").read_text())


def test_five_programs_give_what_one_process_gives(tmp_path):
    run_program(
        "generate", tmp_path, "--outputEVNTFile=EVNT.root", "--maxEvents=20", "--firstEvent=5",
        "--randomSeed=1", f"--runNumber={RUN}",
    )  # fmt: skip
    data = made(5, 20)
    source = "EVNT.root"
    for name, step in chain.STEPS.items():
        options = [f"--input{step.input}File={source}", f"--output{step.output}File={name}.root"]
        if name == "simulate":
            options += ["--skipEvents=8", "--maxEvents=9"]
        assert run_program(name, tmp_path, *options)["nentries"] == 9
        source = f"{name}.root"
    data = EventData(format="EVNT", events=data.events.slice(8, 17), metadata=data.metadata)
    for name in chain.STEPS:
        data = chain.run_step(name, data, Geometry(), 1)
    formats.write(tmp_path / "expected.root", data)
    assert rootfiles.content_hash(tmp_path / "ntuple.root") == rootfiles.content_hash(
        tmp_path / "expected.root"
    )


def test_files_of_few_events_cost_little_space(tmp_path):
    path = tmp_path / "e.root"
    counters = generate.generate_file(path, SAMPLE, first_event=0, count=20, seed=1, run_number=RUN)
    assert counters["accepted"] == 20
    assert path.stat().st_size < 20 * 15_000
    assert np.array_equal(formats.read(path, first=3, count=1).events["event"], [3])
