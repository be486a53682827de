"""Which process a run number stands for, as Pythia settings.

Owns the table of run numbers, the branching ratios of the scalar, and the check of what users give
themselves. Knows no Pythia: the settings are text.
"""

import math
from pathlib import Path

from msgspec import Struct

from dask_runner import seeds
from dask_runner.errors import BadInputError, UsageError
from dask_runner.settings import GenerateSettings

GLUON_FUSION = 1
ASSOCIATED = 3

# run number: mH / GeV, mS / GeV, c tau / mm, process. From MadGraphControl_HSS.py of AtlasWHHV.
TABLE: dict[int, tuple[float, float, float, int]] = {
    304794: (125, 8, 200, 1),
    303680: (125, 15, 580, 1),
    304795: (125, 25, 760, 3),
    303681: (125, 40, 1180, 1),
    304796: (125, 55, 1540, 1),
    305588: (125, 5, 127, 1),
    305589: (125, 5, 228, 1),
    304797: (125, 8, 375, 1),
    304798: (125, 15, 710, 1),
    304799: (125, 25, 1210, 1),
    304800: (125, 40, 1900, 1),
    304801: (125, 55, 2730, 1),
    304802: (100, 8, 240, 1),
    304803: (100, 25, 740, 1),
    304804: (200, 8, 170, 1),
    304805: (200, 25, 540, 1),
    304806: (200, 50, 1070, 1),
    304807: (200, 8, 290, 1),
    304808: (200, 25, 950, 1),
    304809: (200, 50, 1900, 1),
    304810: (400, 50, 700, 1),
    304811: (400, 100, 1460, 1),
    304812: (400, 50, 1260, 1),
    304813: (400, 100, 2640, 1),
    304814: (600, 50, 520, 1),
    304815: (600, 150, 1720, 1),
    304816: (600, 50, 960, 1),
    304817: (600, 150, 3140, 1),
    304818: (1000, 50, 380, 1),
    304819: (1000, 150, 1170, 1),
    304820: (1000, 400, 3960, 1),
    304821: (1000, 50, 670, 1),
    304822: (1000, 150, 2110, 1),
    304823: (1000, 400, 7200, 1),
    305812: (125, 40, 1180, 1),
    305813: (600, 50, 520, 1),
    500000: (125, 25, 760, 3),  # the physics of 304795, with events of its own
}

# PDG id, mass / GeV and colours of what the scalar decays to, as in HAHM_variableMW_v3: no Yukawa
# couplings of light quarks, and top left out as in the original card.
_FERMIONS = ((5, 4.7, 3), (4, 1.42, 3), (15, 1.777, 1), (13, 0.1057, 1))
_TWO_TOPS = 2 * 172.5
_SM_HIGGS = 125.0

# Valid for every sample, also for those from a card, which comes after and may change them.
COMMON = """\
Beams:eCM = 13000.
Tune:pp = 21
6:m0 = 172.5
23:m0 = 91.1876
23:mWidth = 2.4952
24:m0 = 80.399
24:mWidth = 2.085
StandardModel:sin2thetaW = 0.23113
StandardModel:sin2thetaWbar = 0.23146
SpaceShower:rapidityOrder = on
SpaceShower:rapidityOrderMPI = off
ParticleDecays:limitTau0 = on
ParticleDecays:tau0Max = 10.
Main:timesAllowErrors = 500
"""

_PROCESS = {
    GLUON_FUSION: "HiggsSM:gg2H = on\n",
    ASSOCIATED: "HiggsSM:ffbar2HW = on\n24:onMode = off\n24:onIfAny = 11 13 15\n",
}


class Sample(Struct, frozen=True, kw_only=True):
    """What is generated: the Pythia settings, and for hidden-valley samples the parameters they
    come from (zeros for a card). `notes` are for the user's eyes.
    """

    run_number: int
    pythia: str
    mh: float = 0.0
    ms: float = 0.0
    ctau: float = 0.0
    process: int = 0
    notes: tuple[str, ...] = ()


def resolve_sample(settings: GenerateSettings) -> Sample:
    """The sample that the settings ask for. Raises UsageError, BadInputError for a missing card."""
    if not settings.pythia_card:
        return make_sample(
            settings.run_number, settings.mh, settings.ms, settings.ctau, settings.process
        )
    _refuse_both(settings)
    path = Path(settings.pythia_card).expanduser()
    try:
        card = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise BadInputError(f"{path}: the Pythia card cannot be read: {error}") from error
    return card_sample(settings.run_number, card)


def card_sample(run_number: int, card: str) -> Sample:
    """The sample of a Pythia command file, given as text."""
    return Sample(run_number=run_number, pythia=COMMON + card, notes=_seed_notes(run_number))


def make_sample(
    run_number: int, mh: float = 0.0, ms: float = 0.0, ctau: float = 0.0, process: int = 0
) -> Sample:
    """The hidden-valley sample of a run number; parameters other than zero replace the table's."""
    known = TABLE.get(run_number)
    given = {"--mh": mh, "--ms": ms, "--ctau": ctau, "--process": process}
    missing = [name for name, value in given.items() if not value]
    if known is None and missing:
        raise UsageError(
            f"run number {run_number} is not in the table, and {', '.join(missing)} not given",
            hint="give all of --mh, --ms, --ctau and --process, or a run number of docs/chain.md",
        )
    if known is not None:
        mh, ms, ctau = mh or known[0], ms or known[1], ctau or known[2]
        process = process or known[3]
    _check(mh, ms, ctau, process)
    notes = list(_seed_notes(run_number))
    if ms > _TWO_TOPS:
        notes.append(
            f"mS = {ms:g} GeV is above two top masses: s -> t tbar is left out, as in the original"
        )
    return Sample(
        run_number=run_number,
        pythia=COMMON + _PROCESS[process] + _scalar_settings(mh, ms, ctau),
        mh=float(mh),
        ms=float(ms),
        ctau=float(ctau),
        process=process,
        notes=tuple(notes),
    )


def branching_ratios(ms: float) -> dict[int, float]:
    """PDG id -> share of s -> f fbar: colours * mass^2 * (1 - 4 m^2 / mS^2)^(3/2)."""
    widths = {
        pdg: colours * mass**2 * (1 - 4 * mass**2 / ms**2) ** 1.5
        for pdg, mass, colours in _FERMIONS
        if ms > 2 * mass
    }
    total = sum(widths.values())
    return {pdg: width / total for pdg, width in widths.items()}


def _scalar_settings(mh: float, ms: float, ctau: float) -> str:
    lines = [f"25:m0 = {mh!r}"]
    if mh > _SM_HIGGS:
        lines += ["25:doForceWidth = on", "25:mWidth = 5."]
    lines += [
        f"35:new = hs hs 1 0 0 {ms!r} 0. 0. 0. {ctau!r}",
        # As a non-resonance Pythia's next() hangs; with a width of zero the scalar stays stable.
        "35:isResonance = true",
        "35:mayDecay = on",
        "35:tauCalc = off",
        "35:doForceWidth = on",
        "35:mWidth = 1e-10",
        # Not oneChannel: that removes the gluon channel, by which the Higgs boson is made.
        "25:onMode = off",
        "25:addChannel = 1 0.1 100 35 35",
    ]
    verb = "oneChannel"
    for pdg, ratio in branching_ratios(ms).items():
        lines.append(f"35:{verb} = 1 {ratio:.12f} 100 {pdg} -{pdg}")
        verb = "addChannel"
    return "\n".join(lines) + "\n"


def _check(mh: float, ms: float, ctau: float, process: int) -> None:
    if process not in _PROCESS:
        raise UsageError(
            f"process {process} does not exist", hint="1: gg -> h -> ss, 3: W(-> l nu) h, h -> ss"
        )
    if not all(math.isfinite(value) and value > 0 for value in (mh, ms, ctau)):
        raise UsageError(f"mh {mh}, ms {ms} and ctau {ctau} must be numbers above zero")
    if 2 * ms >= mh:
        raise UsageError(f"mS = {ms:g} GeV is more than half of mH = {mh:g} GeV: h -> ss is closed")
    lightest = 2 * min(mass for _, mass, _ in _FERMIONS)
    if ms <= lightest:
        raise UsageError(f"mS = {ms:g} GeV is below {lightest:g} GeV: no decay is open")


def _refuse_both(settings: GenerateSettings) -> None:
    given = [name for name in ("mh", "ms", "ctau", "process") if getattr(settings, name)]
    if given:
        raise UsageError(
            f"a Pythia card and {', '.join('--' + name for name in given)} exclude each other"
        )


def _seed_notes(run_number: int) -> tuple[str, ...]:
    if seeds.own_block(run_number):
        return ()
    note = (
        f"run number {run_number} is not in the table: it shares its random seeds with numbers "
        f"that differ by a multiple of {seeds.OTHER_SLOTS}"
    )
    return (note,)
