"""What all plots share: the look of particle physics, and files.

matplotlib and mplhep are imported when a plot is asked for. Nothing global is touched: figures are
made without pyplot, and the style holds only while one is drawn or written.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dask_runner.errors import StorageError, UsageError
from dask_runner.files import beside, current_umask
from dask_runner.optional import imported

ENDINGS = (".png", ".pdf")
# The bands of one and two standard deviations, and colours that differ in grey too
# (Petroff, arXiv:2107.02270).
GREEN, YELLOW = "#00cc00", "#ffcc00"
COLORS = ("#3f90da", "#bd1f01", "#94a4a2", "#832db6", "#ffa90e", "#a96b59", "#e76300", "#717581")
BLUE, RED = COLORS[:2]
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")

_SIZE = (8.0, 6.2)
_DPI = 200
# Room around a legend in pixels, and how often it is looked for.
_MARGIN = 6
_STEPS = 36
_SETTINGS = {
    "figure.figsize": _SIZE,
    "font.size": 17,
    "legend.fontsize": 13.5,
    "axes.labelsize": 18,
    "axes.linewidth": 1.2,
    "xtick.labelsize": 15,
    "ytick.labelsize": 15,
    "xtick.major.size": 8,
    "xtick.minor.size": 4,
    "ytick.major.size": 8,
    "ytick.minor.size": 4,
    "lines.linewidth": 1.8,
    "legend.frameon": False,
    "legend.handlelength": 1.9,
    "legend.borderaxespad": 0.8,
    "axes.unicode_minus": True,
}


@contextmanager
def particle_style() -> Iterator[None]:
    """Draw in the style of ROOT. Raises UsageError if matplotlib or mplhep is not installed."""
    matplotlib = imported("matplotlib", "plot")
    hep = imported("mplhep", "plot")
    with matplotlib.rc_context({**hep.style.ROOT, **_SETTINGS}):
        yield


def new_figure(rows: int = 1, *, ratios: tuple[float, ...] = ()) -> tuple[Any, list[Any]]:
    """A figure and its panels, one below the other, with a common x axis."""
    figure_module = imported("matplotlib.figure", "plot")
    width, height = _SIZE
    figure = figure_module.Figure(
        figsize=(width, height * (1.0 if rows == 1 else 1.35)), layout="constrained"
    )
    options = {"height_ratios": ratios} if ratios else {}
    axes = figure.subplots(rows, 1, sharex=True, squeeze=False, gridspec_kw=options)
    return figure, list(axes[:, 0])


def check_path(path: Path) -> None:
    """Raises UsageError unless the name ends in .png or .pdf, in a folder that is there."""
    if path.suffix not in ENDINGS:
        raise UsageError(f"--plot {path}: not a plot", hint=f"a name in {' or '.join(ENDINGS)}")
    if not path.absolute().parent.is_dir():
        raise UsageError(f"--plot {path}: there is no folder {path.parent}")


def save(figure: Any, path: Path) -> Path:
    """Write a figure; an older plot of that name is replaced. Equal figures give equal files.

    Raises UsageError for another ending, StorageError if it cannot be written.
    """
    check_path(path)
    metadata: dict[str, Any] = {"CreationDate": None} if path.suffix == ".pdf" else {}
    try:
        with particle_style(), beside(path) as temporary:
            figure.savefig(temporary, format=path.suffix[1:], dpi=_DPI, metadata=metadata)
            temporary.chmod(0o666 & ~current_umask())
            temporary.replace(path)
    except OSError as error:
        raise StorageError(f"cannot write {path}: {error.strerror}") from error
    return path


def with_unit(name: str, unit: str) -> str:
    """The text of an axis."""
    return f"{name} [{unit}]" if unit else name


def point_text(point: dict[str, Any]) -> str:
    """A point as a line of a legend."""
    return ", ".join(f"{name} = {value}" for name, value in point.items())


def add_legend(figure: Any, axes: Any, *, corner: str = "upper right", **options: Any) -> Any:
    """A legend in a corner, with as much room made above that nothing is behind it."""
    handles, labels = axes.get_legend_handles_labels()
    # Data first: matplotlib puts points with error bars behind all curves.
    order = sorted(range(len(handles)), key=lambda k: not hasattr(handles[k], "has_yerr"))
    handles, labels = [handles[k] for k in order], [labels[k] for k in order]
    legend = axes.legend(
        handles, labels, loc=corner, alignment="left", title_fontsize="medium", **options
    )
    figure.draw_without_rendering()
    box = legend.get_window_extent().padded(_MARGIN)
    low, high = axes.get_ylim()
    logarithmic = axes.get_yscale() == "log"
    for step in range(_STEPS):
        share = 0.02 * step
        if logarithmic:
            axes.set_ylim(low, low * (high / low) ** (1 / (1 - share)))
        else:
            axes.set_ylim(low, low + (high - low) / (1 - share))
        if not _behind(axes, box):
            break
    return legend


def _behind(axes: Any, box: Any) -> bool:
    """Whether a curve, a marker or an area is behind the box (in pixels)."""
    outlines = [line.get_transform().transform_path(line.get_path()) for line in axes.lines]
    outlines += [
        axes.transData.transform_path(path)
        for collection in axes.collections
        for path in collection.get_paths()
    ]
    steps = imported("matplotlib.patches", "plot").StepPatch
    areas = [one for one in axes.patches if isinstance(one, steps)]
    if any(
        one.get_transform().transform_path(one.get_path()).intersects_bbox(box, one.get_fill())
        for one in areas
    ):
        return True
    return any(
        path.intersects_bbox(box, filled=False) or box.count_contains(path.vertices)
        for path in outlines
        if len(path.vertices)
    )
