#!/usr/bin/env python3
"""From the merged histograms to all that the trial model `spectrum` needs.

    search.py MERGED.root FOLDER

writes into the new folder

    dijet.toml   the search: luminosity, acceptances, the background as a fit to the QCD events
    dijet.root   qstar_3000 ...: templates, events; qcd: events expected; data: pseudo-data, drawn
                 from the background alone
    theory.csv   cross sections of excited quarks, all decays

A limit is on the same quantity as the theory: the cross section of pp -> q*, all decays and masses.
The acceptance is the share of all generated events that are in the template: selection, hadronic
decay and mass range. Everything is of leading order, without trigger or pile-up.
"""

import sys
from pathlib import Path
from typing import Any

import boost_histogram as bh
import numpy as np
import uproot
from numpy.typing import NDArray
from scipy.optimize import least_squares
from scipy.special import chdtrc, xlogy

from dask_runner.stats.spectrum import Shape

Array = NDArray[np.float64]

SQRT_S = 13000
LUMINOSITY = 37  # 1/fb
PB = 1000  # fb
SEED = 20261127

TOML = """\
# Search for excited quarks in the dijet mass, made by examples/dijet/search.py.
sqrt_s = {sqrt_s}
data = "dijet.root:data"       # pseudo-data
method = "profile"

[signal]
histogram = "dijet.root:qstar_{{mass}}"
smoothing = 0.02               # half the resolution of the dijet mass

[background]
# A fit to dijet.root:qcd with the errors of its weighted events:
# deviance {deviance:.1f} for {degrees} degrees of freedom, p = {p_value:.2g}.
parameters = [{parameters}]

[cross_section]                # of pp -> q*, all decays, in fb
luminosity = {luminosity}
luminosity_uncertainty = 0.032
generated = {{ {generated} }}
"""


class Merged:
    """A sample of the merged file: contents and variances of its bins, and its normalisation."""

    def __init__(self, file: Any, name: str) -> None:
        histogram = file[f"mjj_{name}"]
        self.contents, self.edges = histogram.to_numpy()
        self.variances = histogram.variances()
        self.events, self.weight, self.tries, sigma_sum = file[f"sums_{name}"].values()
        self.fb = PB * sigma_sum / self.tries if self.tries else 0.0


def fit_background(qcd: Merged, scale: float) -> tuple[Array, float, int]:
    """The shape's (ln p1, p2, p3, p4), deviance and degrees of freedom.

    A bin with the sum of weights W and of their squares V has as much information as n = W^2 / V
    events of weight V / W: n is compared with mu W / V by the Poisson likelihood. A bin without
    events takes its weight from the nearest one that has some.
    """
    shape = Shape(qcd.edges, SQRT_S)
    filled = np.flatnonzero(qcd.contents)
    bins = np.arange(len(qcd.contents))
    nearest = filled[np.abs(bins[:, None] - filled).argmin(axis=1)]
    weight = scale * qcd.variances[nearest] / qcd.contents[nearest]
    n = scale * qcd.contents / weight
    # Four numbers that are nearly independent: ln f at four masses decide for its parameters.
    u = np.geomspace(qcd.edges[0], 0.8 * qcd.edges[-1], 4) / SQRT_S
    features = np.stack([np.ones(4), np.log1p(-u), np.log(u), np.log(u) ** 2], axis=1)

    def residuals(heights: Array) -> Array:
        mu = shape.integrals(np.linalg.solve(features, heights)) / weight
        return np.sign(n - mu) * np.sqrt(np.maximum(2 * (mu - n + xlogy(n, n) - xlogy(n, mu)), 0))

    start = features @ (0.0, 9.5, -5.0, -0.15)
    start += np.log((scale * qcd.contents).sum() / shape.integrals((0.0, 9.5, -5.0, -0.15)).sum())
    heights = least_squares(residuals, start, method="lm").x
    # That is good to six digits. Fisher scoring gives the others, so that the order in which
    # histograms were added up makes no difference.
    for _ in range(10):
        theta = np.linalg.solve(features, heights)
        mu = shape.integrals(theta) / weight
        slopes = np.linalg.solve(features.T, shape.gradients(theta) / weight)
        heights = heights + np.linalg.solve((slopes / mu) @ slopes.T, slopes @ (n / mu - 1))
    deviance = float((residuals(heights) ** 2).sum())
    return np.linalg.solve(features, heights), deviance, len(n) - 4


def write(folder: Any, name: str, edges: Array, contents: Array) -> None:
    histogram = bh.Histogram(bh.axis.Variable(edges), storage=bh.storage.Double())
    histogram[:] = contents
    folder[name] = histogram


def main(source: Path, folder: Path) -> None:
    with uproot.open(source) as file:
        names = [key.partition("_")[2] for key in file.keys(cycle=False) if key[:4] == "mjj_"]
        samples = {name: Merged(file, name) for name in names}
    qcd = samples.pop("qcd")
    signals = {int(name.partition("_")[2]): one for name, one in samples.items() if one.events}
    scale = LUMINOSITY * qcd.fb / qcd.weight
    theta, deviance, degrees = fit_background(qcd, scale)
    expected = Shape(qcd.edges, SQRT_S).integrals(theta)
    data = np.random.default_rng(SEED).poisson(expected)
    folder.mkdir()
    with uproot.recreate(folder / "dijet.root") as file:
        for mass, sample in signals.items():
            write(file, f"qstar_{mass}", sample.edges, sample.contents)
        write(file, "qcd", qcd.edges, scale * qcd.contents)
        write(file, "data", qcd.edges, data)
    parameters = [float(np.exp(theta[0])), *theta[1:].tolist()]
    p_value = chdtrc(degrees, deviance)
    text = TOML.format(
        sqrt_s=SQRT_S,
        luminosity=LUMINOSITY,
        deviance=deviance,
        degrees=degrees,
        p_value=p_value,
        parameters=", ".join(f"{value:.7g}" for value in parameters),
        generated=", ".join(f"{mass} = {sample.events:.0f}" for mass, sample in signals.items()),
    )
    (folder / "dijet.toml").write_text(text)
    lines = [f"{mass},{sample.fb:.6g}\n" for mass, sample in signals.items()]
    (folder / "theory.csv").write_text("mass [GeV],cross_section [fb]\n" + "".join(lines))
    filled = np.count_nonzero(qcd.contents)
    print(
        f"QCD: {qcd.events:.0f} events, {filled} of {len(data)} bins filled\n"
        f"  {expected.sum():.4g} expected; fit: deviance {deviance:.1f} for {degrees} degrees of "
        f"freedom, p = {p_value:.2g}"
    )
    for mass, sample in signals.items():
        share = sample.contents.sum() / sample.events
        print(
            f"q* of {mass} GeV: {sample.events:.0f} events, {sample.fb:.4g} fb, acceptance "
            f"{share:.3f}, {LUMINOSITY * sample.fb * share:.3g} expected"
        )


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
