"""The spectrum search against a straightforward version of it with iminuit, in one run.

    OMP_NUM_THREADS=1 python scripts/bench/spectrum.py [--toys 2000] [--mass 3000] [--plain 60]

116 bins, 4 background parameters, through the trial model as a run uses it. Prints both sides of
each ratio and exits with 1 if a target is missed:
    generation + fits + frozen limit    <= 1.5 ms a toy, and at least 15 times as fast as iminuit
    the same with the profile limit     <= 10 ms a toy
Both make the toy, fit the background, then background and signal, and set the limit. The plain
version fits the background in stages (p1, p2; then p3; then all), as MIGRAD needs, from the same
start values, with numerical gradients; it scans the likelihood at 1000 points, and the profile at
30. Its likelihood is the deviance: with sum(mu - n ln mu), which is 1e7, MIGRAD calls minima valid
that are off by half a unit. The two sides take turns, and must agree on the limits.
"""

import argparse
import os
import sys
import time
from collections.abc import Callable

import numpy as np
from iminuit import Minuit
from scipy.integrate import cumulative_trapezoid
from scipy.interpolate import CubicSpline
from scipy.special import ndtr

from dask_runner.seeds import TrialStreams
from dask_runner.stats.spectrum import Shape
from dask_runner.trials.models.spectrum import Spectrum
from dask_runner.trials.models.spectrum_plan import Background, Template

SQRT_S = 13000.0
EDGES = np.geomspace(1100.0, 8000.0, 117)
EVENTS = 1e6
ROUNDS = 10
MOST_FROZEN, MOST_PROFILE, LEAST_RATIO = 1.5e-3, 10e-3, 15.0


def make_model(method: str, mass: float) -> Spectrum:
    theta = np.array([0.0, 9.5, -5.0, -0.15])
    theta[0] = np.log(EVENTS / Shape(EDGES, SQRT_S).integrals(theta).sum())
    shares = np.diff(ndtr((EDGES - mass) / (0.05 * mass)))
    return Spectrum(
        sqrt_s=SQRT_S,
        edges=tuple(EDGES.tolist()),
        background=Background(theta=tuple(theta.tolist()), origin="the bench"),
        templates=(Template(mass=mass, shares=tuple((shares / shares.sum()).tolist())),),
        method=method,
    )


class Plain:
    """What one writes first: a function of four parameters, MIGRAD, a scan."""

    def __init__(self, model: Spectrum) -> None:
        self.shape = Shape(model.edges, SQRT_S, nodes=3)
        self.start = model.background.theta
        self.template = np.array(model.templates[0].shares)
        self.expected = self.shape.integrals(self.start)

    def fit(self, counts: np.ndarray, start: tuple, stages: tuple) -> Minuit:
        inverse = 1 / np.where(counts > 0, counts, 1)

        def half_deviance(log_p1: float, p2: float, p3: float, p4: float, signal: float) -> float:
            mu = self.shape.integrals((log_p1, p2, p3, p4)) + signal * self.template
            if mu.min() <= 0:
                return 1e9
            return float((mu - counts - counts * np.log(mu * inverse)).sum())

        minuit = Minuit(half_deviance, *start)
        minuit.errordef = Minuit.LIKELIHOOD
        for fixed in stages:
            for place in range(5):
                minuit.fixed[place] = place in fixed
            minuit.migrad()
        return minuit

    def background(self, counts: np.ndarray) -> tuple:
        alone = tuple(self.fit(counts, (*self.start, 0.0), ((2, 3, 4), (3, 4), (4,))).values)
        self.best = self.fit(counts, alone, ((),))
        return alone

    def frozen(self, counts: np.ndarray, theta: tuple, high: float) -> float:
        signals = np.linspace(0, high, 1001)
        mu = self.shape.integrals(theta[:4]) + signals[:, None] * self.template
        return quantile(signals, (counts * np.log(mu) - mu).sum(axis=1))

    def profile(self, counts: np.ndarray, theta: tuple, high: float) -> float:
        signals = np.linspace(0, high, 30)
        logs = []
        for signal in signals:
            minuit = self.fit(counts, (*theta[:4], signal), ((4,),))
            theta = tuple(minuit.values)
            logs.append(-minuit.fval)
        fine = np.linspace(0, high, 1001)
        return quantile(fine, CubicSpline(signals, logs)(fine))


def quantile(signals: np.ndarray, logs: np.ndarray) -> float:
    cumulative = cumulative_trapezoid(np.exp(logs - logs.max()), signals, initial=0)
    return float(np.interp(0.95, cumulative / cumulative[-1], signals))


def run_ours(trial: Callable, streams: TrialStreams, indices: range) -> tuple[float, list]:
    start = time.perf_counter()
    rows = [trial(streams.at(index)) for index in indices]
    return time.perf_counter() - start, rows


def run_plain(
    plain: Plain, streams: TrialStreams, rows: list, first: int, method: str
) -> tuple[float, list]:
    limits = []
    start = time.perf_counter()
    for index, row in enumerate(rows, first):
        counts = streams.at(index).rng().poisson(plain.expected)
        theta = plain.background(counts)
        # It is told where to scan: a kindness.
        limits.append(getattr(plain, method)(counts, theta, 3 * row["limit"]))
    return time.perf_counter() - start, limits


def compare(method: str, mass: float, toys: int, plain_toys: int) -> tuple[float, float]:
    model, point = make_model(method, mass), {"mass": mass}
    trial, plain = model.sampler(point), Plain(model)
    streams = TrialStreams(seed=1, model="spectrum", point=point)
    ours = theirs = 0.0
    converged, away = [], []
    size, plain_size = max(toys // ROUNDS, 1), max(plain_toys // ROUNDS, 1)
    run_ours(trial, streams, range(10))
    for first in range(0, ROUNDS * size, size):
        seconds, rows = run_ours(trial, streams, range(first, first + size))
        ours += seconds / (size * ROUNDS)
        converged += [row["converged"] for row in rows]
        seconds, limits = run_plain(plain, streams, rows[:plain_size], first, method)
        theirs += seconds / (plain_size * ROUNDS)
        away += [abs(limit / row["limit"] - 1) for limit, row in zip(limits, rows, strict=False)]
    print(
        f"{method:8}{ours * 1e3:9.3f} ms{theirs * 1e3:9.1f} ms{theirs / ours:9.1f}"
        f"     limits apart: median {np.median(away):.1e}, worst {max(away):.1e};"
        f" converged {np.mean(converged):.4f}"
    )
    return ours, theirs / ours


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--toys", type=int, default=2000)
    parser.add_argument("--plain", type=int, default=60)
    parser.add_argument("--mass", type=float, default=3000.0)
    options = parser.parse_args()
    blas = {name: os.environ.get(name) for name in ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")}
    print(f"116 bins, mass {options.mass:g}, {EVENTS:g} events; {blas}")
    print("per toy      ours      iminuit    ratio")
    frozen, ratio = compare("frozen", options.mass, options.toys, options.plain)
    profile, _ = compare("profile", options.mass, options.toys, options.plain // 3)
    good = frozen <= MOST_FROZEN and profile <= MOST_PROFILE and ratio >= LEAST_RATIO
    print(
        f"targets: frozen <= {MOST_FROZEN * 1e3:g} ms, ratio >= {LEAST_RATIO:g}, "
        f"profile <= {MOST_PROFILE * 1e3:g} ms: {'met' if good else 'MISSED'}"
    )
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
