"""The command `histogram`: what it takes. What becomes of it is in `histogram_runs`; `merge` writes
and draws.
"""

from pathlib import Path
from typing import Annotated

import typer

from dask_runner.cli import driving, options
from dask_runner.cli.manners import How, dispatching

Files = Annotated[
    list[str] | None,
    typer.Option("--files", metavar="GLOB", help="Input files, quoted: 'data/*.root'; repeat."),
]
Fill = Annotated[
    list[str] | None,
    typer.Option(
        "--fill",
        metavar="EXPRESSION",
        help="What is filled: 'jet_E / 1000', or two axes as 'x : y'; repeat.",
    ),
]
Bins = Annotated[
    list[str] | None,
    typer.Option(
        "--bins",
        metavar="BINS",
        help="N,low,high; N,low,high,log; '[0,1,5,10]' are edges; two axes as 'BINS : BINS'. One "
        "for each --fill, or one for all.",
    ),
]
Names = Annotated[
    list[str] | None, typer.Option("--name", help="Name of the histogram of each --fill.")
]
WhereEvent = Annotated[
    list[str] | None,
    typer.Option("--where-event", help="Cut on events, as 'count(jet_pt > 25) > 1'; repeat."),
]
Samples = Annotated[
    list[str] | None,
    typer.Option("--sample", metavar="NAME=GLOB", help="Files of a sample; repeat."),
]
Skim = Annotated[
    list[str] | None,
    typer.Option(
        "--skim",
        metavar="BRANCH",
        help="Write the selected events instead: branches, globs, '!GLOB', 'name = expression'; "
        "repeat.",
    ),
]


@dispatching
def histogram(
    *,
    files: Files = None,
    tree: Annotated[str, typer.Option("--tree", help="As in TTbar/mytree.")] = "",
    fill: Fill = None,
    bins: Bins = None,
    names: Names = None,
    weight: Annotated[str, typer.Option("--weight", help="Weight of what is filled.")] = "",
    where: Annotated[
        str, typer.Option("--where", help="Cut on objects, as 'jet_pt > 25000'.")
    ] = "",
    where_event: WhereEvent = None,
    sample: Samples = None,
    by_sample: Annotated[
        bool, typer.Option("--by-sample", help="Histograms have a row for each sample.")
    ] = False,
    config: Annotated[
        Path | None, typer.Option("--config", help="TOML file that says all this.")
    ] = None,
    function: Annotated[
        str,
        typer.Option(
            "--function",
            help="Yours, of a chunk of events, that gives histograms: ./FILE.py:NAME or "
            "package.module:NAME.",
        ),
    ] = "",
    branches: Annotated[
        str, typer.Option("--branches", metavar="NAME,...", help="What the function reads.")
    ] = "",
    chunk: Annotated[
        int, typer.Option("--chunk", min=1, help="Entries that the function sees at once.")
    ] = 50_000,
    skim: Skim = None,
    batch_size: Annotated[
        int,
        typer.Option(
            "-b",
            "--batch-size",
            "--batch_size",
            min=0,
            help="Entries in a batch (0: by time, about 30 s).",
        ),
    ] = 0,
    output_dir: options.Output = None,
    skip_bad_inputs: Annotated[
        bool, typer.Option("--skip-bad-inputs", help="Leave out inputs that cannot be read.")
    ] = False,
    ship: options.Ship = None,
    how: How,
) -> None:
    """Fill histograms from trees in ROOT files, in ranges of -b entries; `merge` adds them up."""
    loaded = how.load()
    from dask_runner import histogram_runs
    from dask_runner.histograms.drafting import Asked

    asked = Asked(
        config=config,
        files=tuple(files or ()),
        tree=tree,
        fill=tuple(fill or ()),
        bins=tuple(bins or ()),
        names=tuple(names or ()),
        weight=weight,
        where=where,
        where_event=tuple(where_event or ()),
        samples=tuple(sample or ()),
        by_sample=by_sample,
        function=function,
        branches=tuple(name.strip() for name in branches.split(",") if name.strip()),
        skim=tuple(skim or ()),
    )
    request = histogram_runs.HistogramRequest(
        asked=asked, batch_size=batch_size, chunk=chunk, ship=tuple(ship or ())
    )
    manner = how.manner(loaded)
    planned = histogram_runs.plan(request, loaded.settings, manner.target)
    driving.dispatch(
        planned.workload,
        loaded,
        manner,
        outputs=output_dir,
        ship=[*planned.ship],
        skip_bad_inputs=skip_bad_inputs,
    )
