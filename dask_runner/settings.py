"""settings.toml -> frozen Settings. All defaults of the product are in this file.

Owns the schema, the order of precedence (command line, environment, file, default) and the record
of where each value came from. Refuses unknown keys and wrong types with file, key and nearest name.
"""

from msgspec import Struct, field


class Storage(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Folders. `runs` holds a folder per run; an empty `outputs` means inside the run folder;
    an empty `scratch` is the host's own temporary folder.
    """

    runs: str = "runs"
    outputs: str = ""
    scratch: str = ""


class RunDefaults(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How batches are run. Times in s, memory in MB, log cap in kB; 0 means no limit
    (slots: one for each core).
    """

    batch_size: int = 500
    attempts: int = 3
    timeout: float = 0.0
    timeout_factor: float = 20.0
    memory: int = 4000
    nice: int = 19
    idle_io: bool = True
    slots: int = 0
    log_cap: int = 10_000
    seed: int = 1


class GenerateSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`mh`, `ms` in GeV, `ctau` in mm; zeros mean: from the table of run numbers. With a
    `command`, events come from an external program (see docs/external-steps.md).
    """

    run_number: int = 304795
    batch_size: int = 500
    files: int = 4
    evnt_dir: str = "evnt"
    mh: float = 0.0
    ms: float = 0.0
    ctau: float = 0.0
    process: int = 0
    pythia_card: str = ""
    setup: str = ""
    command: str = ""


class StepSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One step of the chain. An empty `command` is the built-in step of that name. `output` is
    the format the step writes (HITS, RDO, AOD, NTUP ...), `tree` the tree whose entries are
    events, empty if they are not to be counted. `acceptance` is the least accepted share.
    """

    name: str
    output: str
    command: str = ""
    setup: str = ""
    tree: str = ""
    acceptance: float = 1.0
    error_patterns: tuple[str, ...] = ()
    ignore_patterns: tuple[str, ...] = ()


DEFAULT_STEPS = (
    StepSettings(name="simulate", output="HITS"),
    StepSettings(name="digitize", output="RDO"),
    StepSettings(name="reconstruct", output="AOD"),
    StepSettings(name="ntuple", output="NTUP"),
)


class ReconstructSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`patterns` select the input files of a folder; `keep` names the formats to publish."""

    patterns: tuple[str, ...] = ("*.EVNT.root", "*.evnt.pool.root")
    keep: tuple[str, ...] = ("AOD", "NTUP")
    steps: tuple[StepSettings, ...] = DEFAULT_STEPS


class Geometry(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The parametrised detector, lengths in m, field in T (Delphes ATLAS card; the calorimeter
    shells are round numbers of our own).
    """

    field: float = 2.0
    tracker_radius: float = 1.15
    tracker_half_length: float = 3.51
    ecal_inner_radius: float = 1.50
    ecal_outer_radius: float = 1.97
    hcal_outer_radius: float = 3.87
    ecal_inner_z: float = 3.70
    ecal_outer_z: float = 4.30
    hcal_outer_z: float = 6.05


class Settings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything that settings.toml may say."""

    storage: Storage = field(default_factory=Storage)
    run: RunDefaults = field(default_factory=RunDefaults)
    generate: GenerateSettings = field(default_factory=GenerateSettings)
    reconstruct: ReconstructSettings = field(default_factory=ReconstructSettings)
    geometry: Geometry = field(default_factory=Geometry)
