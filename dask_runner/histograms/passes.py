"""One pass over events: everything that a job makes of the chunks it is shown.

Owns the order: cuts, histograms of expressions, those of the function.
"""

from collections.abc import Mapping

from dask_runner.errors import BadInputError
from dask_runner.histograms.expressions import Expression
from dask_runner.histograms.filling import Filler
from dask_runner.histograms.functions import FunctionFiller
from dask_runner.histograms.selection import Selected, Selector, branches_of
from dask_runner.histograms.spec import HistogramSpec, Job
from dask_runner.histograms.sums import Sums
from dask_runner.rootfiles.chunks import Reader
from dask_runner.rootfiles.columns import Chunk


class Pass:
    """Shown chunks of one sample's events, it has their sums."""

    def __init__(self, job: Job) -> None:
        """Raises UsageError for what is no expression, or a function that cannot be imported."""
        self._job = job
        self._selector = Selector(job)
        self._fillers = {
            spec.name: Filler(spec, job) for spec in job.histograms if not is_of_function(spec)
        }
        self._function = None
        if job.function is not None:
            own = [spec for spec in job.histograms if is_of_function(spec)]
            self._function = FunctionFiller(job.function, own)
        self.events = 0
        self.filled = 0

    @property
    def branches(self) -> tuple[str, ...]:
        """What must be read, each once."""
        return branches_of_job(self._job)

    def add(self, path: str, chunk: Chunk) -> Selected:
        """Take a chunk of the file `path`. Raises BadInputError for weights that are not finite and
        for objects that do not fit together, UsageError for what makes no sense with these types.
        """
        selected = self._selector.select(path, chunk)
        for filler in self._fillers.values():
            self.filled += filler.add(selected)
        if self._function is not None:
            self.filled += self._function.add(selected, chunk)
        self.events += chunk.entries
        return selected

    @property
    def sums(self) -> Sums:
        """What was made so far."""
        own = {} if self._function is None else self._function.sums
        histograms = [
            self._fillers[spec.name].sum if spec.name in self._fillers else own[spec.name]
            for spec in self._job.histograms
        ]
        sums = Sums(histograms, self._selector.cuts)
        sums.events = self.events
        return sums


def is_of_function(spec: HistogramSpec) -> bool:
    """True if the job's function fills it."""
    return not spec.fill


def branches_of_job(job: Job) -> tuple[str, ...]:
    """The branches that expressions and the function read, each once; those of a skim are not
    among them. Raises UsageError for what is no expression.
    """
    own = () if job.function is None else job.function.branches
    return tuple(dict.fromkeys([*branches_of(_expressions(job)), *own]))


def check_branches(job: Job, tree: Reader, places: Mapping[str, str]) -> None:
    """Raises BadInputError that names the expression for a branch that is not there, and its place
    in the user's file.
    """
    for expression in _expressions(job):
        try:
            tree.resolve(expression.branches)
        except BadInputError as error:
            what = f"{places.get(expression.place, expression.place)}: {expression.text!r}"
            raise BadInputError(f"{what}: {error.message}", hint=error.hint) from error


def _expressions(job: Job) -> list[Expression]:
    own = [spec for spec in job.histograms if not is_of_function(spec)]
    return [
        *Selector(job).expressions,
        *(expression for spec in own for expression in Filler(spec, job).expressions),
    ]
