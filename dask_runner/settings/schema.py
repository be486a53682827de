"""The schema of settings.toml: every key with its default, its limits and its explanation.

The one source for the loader, the commented settings.toml that `init` writes, and
docs/settings.md. Refuses to know where values come from.
"""

from typing import Annotated, Literal

from msgspec import Meta, Struct, field


class Storage(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Folders."""

    runs: Annotated[
        str, Meta(min_length=1, description="Folder that holds one folder for every run.")
    ] = "runs"
    outputs: Annotated[
        str, Meta(description="Folder for published outputs; empty: inside the run's folder.")
    ] = ""
    scratch: Annotated[
        str,
        Meta(
            description="Folder on each host for private temporary files; "
            "empty: the host's own temporary folder."
        ),
    ] = ""


class RunDefaults(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How batches are run."""

    batch_size: Annotated[int, Meta(ge=1, description="Events in a batch (-b).")] = 500
    attempts: Annotated[
        int,
        Meta(
            ge=1,
            description="How often a batch is tried in all, if its failure may pass elsewhere.",
        ),
    ] = 3
    timeout: Annotated[
        float, Meta(ge=0, description="Wall time that a batch may take, in s; 0: no limit.")
    ] = 0.0
    timeout_factor: Annotated[
        float,
        Meta(
            ge=0,
            description="A batch may take this many times the median of the batches done so far; "
            "0: no limit.",
        ),
    ] = 20.0
    memory: Annotated[
        int,
        Meta(ge=0, description="Memory of a batch with all its processes, in MB; 0: no limit."),
    ] = 4000
    nice: Annotated[
        int,
        Meta(ge=0, le=19, description="Niceness of the batches; 19 gives way to everybody else."),
    ] = 19
    idle_io: Annotated[
        bool, Meta(description="Whether batches use the disk only when nobody else does.")
    ] = True
    slots: Annotated[
        int,
        Meta(
            ge=0,
            description="Batches at a time on a host; 0: on this machine one for each core, on "
            "the hosts of a cluster as many as cores (but one) and memory allow.",
        ),
    ] = 0
    group: Annotated[
        int,
        Meta(
            ge=0,
            description="Short batches that may share one process, one after the other; "
            "1: a process for each batch, 0: as many as take about half a second.",
        ),
    ] = 0
    log_cap: Annotated[
        int,
        Meta(
            ge=0,
            description="Size of a batch's log in kB, of which the beginning and the end are kept; "
            "0: no limit.",
        ),
    ] = 10_000
    seed: Annotated[
        int,
        Meta(
            ge=0,
            description="Seed of the whole run; the random numbers of an event follow from it and "
            "the event's number alone.",
        ),
    ] = 1


class ClusterSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`dask-runner up`: the hosts of a hostfile as a cluster."""

    name: Annotated[
        str,
        Meta(
            pattern=r"\A([A-Za-z0-9][A-Za-z0-9_.-]*)?\Z",
            max_length=40,
            description="Cluster that is started, or dispatched to (`local`: none but this "
            "machine); empty: the one that is up.",
        ),
    ] = ""
    hostfile: Annotated[str, Meta(min_length=1, description="The hosts (--hostfile).")] = (
        "hostfile.txt"
    )
    scheduler: Annotated[
        str, Meta(description="Host of the scheduler; empty: the machine where `up` runs.")
    ] = ""
    min_hosts: Annotated[
        int, Meta(ge=1, description="Hosts that must be up before `up` is content.")
    ] = 1
    connect_timeout: Annotated[
        float, Meta(gt=0, description="How long a host may take to answer, in s.")
    ] = 10.0
    handshakes: Annotated[
        int, Meta(ge=1, description="SSH logins at the same time; sshd refuses many at once.")
    ] = 8
    lease: Annotated[
        float,
        Meta(
            ge=2,
            description="How long a host that hears nothing from us goes on working, in s; after "
            "it its batches are ended there and sent elsewhere.",
        ),
    ] = 30.0
    staging: Annotated[
        Literal["auto", "shared", "sftp"],
        Meta(
            description="How files come to the hosts. shared: the same folders are there; sftp: "
            "inputs are copied to them and outputs back; auto: looked at for each host."
        ),
    ] = "auto"
    cache: Annotated[
        str,
        Meta(
            description="Folder on the hosts for copied inputs; empty: dask-runner in the user's "
            "cache folder there."
        ),
    ] = ""
    cache_limit: Annotated[
        float, Meta(gt=0, description="Size of that folder in GB; the oldest are removed first.")
    ] = 50.0
    memory_ceiling: Annotated[
        float,
        Meta(gt=0, le=1, description="Share of a host's memory above which no new batch starts."),
    ] = 0.9
    scratch_floor: Annotated[
        int,
        Meta(ge=0, description="Free space in MB of a host's scratch below which none starts."),
    ] = 200
    quiet_hours: Annotated[
        str,
        Meta(
            pattern=r"\A(|([01][0-9]|2[0-3]):[0-5][0-9]-([01][0-9]|2[0-3]):[0-5][0-9])\Z",
            description="Batches stand still in these hours of the host's clock, such as "
            "09:00-17:30; empty: never.",
        ),
    ] = ""
    user_idle: Annotated[
        float,
        Meta(
            ge=0,
            description="Batches stand still while somebody logged in has typed in the last so "
            "many minutes; 0: users are not looked at.",
        ),
    ] = 0.0
    load: Annotated[
        float,
        Meta(
            ge=0,
            description="Batches stand still while the load of all other processes is above this; "
            "0: it is not looked at.",
        ),
    ] = 0.0
    dashboard: Annotated[
        bool, Meta(description="Dask's dashboard, on the scheduler's loopback interface only.")
    ] = False


class GenerateSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`dask-runner generate`. `mh`, `ms`, `ctau` and `process` of zero come from the table of run
    numbers. With a `command`, events come from an external program.
    """

    run_number: Annotated[
        int, Meta(ge=1, description="Run number of the sample; fixes masses and lifetime.")
    ] = 304795
    batch_size: Annotated[int, Meta(ge=1, description="Events in a file (-b).")] = 500
    files: Annotated[int, Meta(ge=1, description="Number of files (-n).")] = 4
    evnt_dir: Annotated[
        str, Meta(min_length=1, description="Folder for the EVNT files, read again by `run`.")
    ] = "evnt"
    mh: Annotated[
        float, Meta(ge=0, description="Mass of the Higgs boson in GeV; 0: from the run number.")
    ] = 0.0
    ms: Annotated[
        float,
        Meta(ge=0, description="Mass of the long-lived scalar in GeV; 0: from the run number."),
    ] = 0.0
    ctau: Annotated[
        float,
        Meta(ge=0, description="Proper decay length of the scalar in mm; 0: from the run number."),
    ] = 0.0
    process: Annotated[
        int,
        Meta(
            ge=0,
            description="1: gluon fusion to the Higgs boson, 3: W and Higgs boson; "
            "0: from the run number.",
        ),
    ] = 0
    pythia_card: Annotated[
        str,
        Meta(description="Pythia command file, instead of the hidden-valley process."),
    ] = ""
    setup: Annotated[
        str,
        Meta(
            description="Shell lines, or a file of them, run before an external command in a "
            "clean shell."
        ),
    ] = ""
    command: Annotated[
        str,
        Meta(
            description="External program that generates a file; placeholders {output} "
            "{first_event} {max_events} {seed} {run_seed} {run_number} {job_number} {python}; "
            "empty: built in (Pythia 8)."
        ),
    ] = ""
    tree: Annotated[
        str,
        Meta(
            description="Tree whose entries are the events that an external command wrote; "
            "empty: events are not counted."
        ),
    ] = "CollectionTree"


# Part of a file name, so nothing that a path or a shell would read otherwise.
FormatName = Annotated[str, Meta(pattern=r"\A[A-Za-z0-9_]+\Z", max_length=24)]


class StepSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One step of the chain. An empty `command` is the built-in step of that name."""

    name: Annotated[
        str,
        Meta(
            pattern=r"\A[A-Za-z0-9_.-]+\Z",
            description="Name of the step; without a command one of the built-in steps simulate, "
            "digitize, reconstruct, ntuple.",
        ),
    ]
    output: Annotated[
        FormatName, Meta(description="Format that the step writes: HITS, RDO, AOD, NTUP ...")
    ]
    command: Annotated[
        str,
        Meta(
            description="External program; placeholders {input} {output} {first} {max_events} "
            "{seed} {run_seed} {run_number} {job_number} {python}; empty: built in."
        ),
    ] = ""
    setup: Annotated[
        str,
        Meta(
            description="Shell lines, or a file of them, run before the command in a clean shell."
        ),
    ] = ""
    tree: Annotated[
        str,
        Meta(description="Tree whose entries are the events; empty: events are not counted."),
    ] = ""
    acceptance: Annotated[
        float,
        Meta(gt=0, le=1, description="Least share of the events that the output must hold."),
    ] = 1.0
    error_patterns: Annotated[
        tuple[str, ...],
        Meta(description="Regular expressions of log lines that fail the step, besides the usual."),
    ] = ()
    ignore_patterns: Annotated[
        tuple[str, ...],
        Meta(description="Regular expressions of log lines that are counted but do no harm."),
    ] = ()


DEFAULT_STEPS = (
    StepSettings(name="simulate", output="HITS"),
    StepSettings(name="digitize", output="RDO"),
    StepSettings(name="reconstruct", output="AOD"),
    StepSettings(name="ntuple", output="NTUP"),
)


class ReconstructSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`dask-runner run`: the steps of the chain, applied to every batch in this order."""

    patterns: Annotated[
        tuple[str, ...],
        Meta(min_length=1, description="File names that are taken as input (--pattern)."),
    ] = ("*.EVNT.root", "*.evnt.pool.root")
    keep: Annotated[
        tuple[FormatName, ...],
        Meta(min_length=1, description="Formats that are published; the others are removed."),
    ] = ("AOD", "NTUP")
    steps: Annotated[
        tuple[StepSettings, ...],
        Meta(
            min_length=1,
            description="The steps, each a table of its own. Those given here replace the default "
            "steps as a whole.",
        ),
    ] = DEFAULT_STEPS


class TrialSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Statistical trials: `dask-runner trials`."""

    batch_seconds: Annotated[
        float,
        Meta(
            gt=0,
            description="What a batch of trials should take, in s; batches that turn out to take "
            "much longer are divided.",
        ),
    ] = 30.0
    trial_timeout: Annotated[
        float,
        Meta(
            ge=0,
            description="Wall time of one trial of a model that is no vectorised one, in s; longer "
            "ones are failed trials. 0: no limit.",
        ),
    ] = 0.0
    max_failed_share: Annotated[
        float,
        Meta(ge=0, le=1, description="Share of failed trials with which a batch is still done."),
    ] = 0.1


class HistogramSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Histograms from ROOT files: `dask-runner histogram`."""

    batch_seconds: Annotated[
        float,
        Meta(gt=0, description="What a batch should take, in s of CPU, if -b does not say it."),
    ] = 30.0
    remote_timeout: Annotated[
        float,
        Meta(
            gt=0,
            description="How long a server may take for one request of a remote input, in s; "
            "besides, its bytes may come at 20 kB/s.",
        ),
    ] = 60.0


class Geometry(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The parametrised detector (Delphes ATLAS card; the calorimeter shells are round numbers of
    our own). Lengths in m.
    """

    field: Annotated[float, Meta(gt=0, description="Solenoid field in T.")] = 2.0
    tracker_radius: Annotated[float, Meta(gt=0, description="Radius of the tracker in m.")] = 1.15
    tracker_half_length: Annotated[
        float, Meta(gt=0, description="Half length of the tracker in m.")
    ] = 3.51
    ecal_inner_radius: Annotated[
        float, Meta(gt=0, description="Barrel: where the electromagnetic calorimeter begins, in m.")
    ] = 1.50
    ecal_outer_radius: Annotated[
        float, Meta(gt=0, description="Barrel: where the hadronic calorimeter begins, in m.")
    ] = 1.97
    hcal_outer_radius: Annotated[
        float, Meta(gt=0, description="Barrel: where the hadronic calorimeter ends, in m.")
    ] = 3.87
    ecal_inner_z: Annotated[
        float,
        Meta(gt=0, description="End-cap: where the electromagnetic calorimeter begins, in m."),
    ] = 3.70
    ecal_outer_z: Annotated[
        float, Meta(gt=0, description="End-cap: where the hadronic calorimeter begins, in m.")
    ] = 4.30
    hcal_outer_z: Annotated[
        float, Meta(gt=0, description="End-cap: where the hadronic calorimeter ends, in m.")
    ] = 6.05


class Settings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything that settings.toml may say, a section for each field."""

    storage: Storage = field(default_factory=Storage)
    run: RunDefaults = field(default_factory=RunDefaults)
    cluster: ClusterSettings = field(default_factory=ClusterSettings)
    generate: GenerateSettings = field(default_factory=GenerateSettings)
    reconstruct: ReconstructSettings = field(default_factory=ReconstructSettings)
    trials: TrialSettings = field(default_factory=TrialSettings)
    histogram: HistogramSettings = field(default_factory=HistogramSettings)
    geometry: Geometry = field(default_factory=Geometry)
