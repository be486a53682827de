"""Maximum likelihood fits of a binned spectrum: mu_i = b_i(z) + N s_i against counts n_i.

Owns the Newton iteration and what is told of a fit. Refuses to conclude from it: see `limits`.
"""

import numpy as np
import numpy.typing as npt
from msgspec import Struct
from scipy.linalg.lapack import dposv
from scipy.special import chdtrc, gammaln

from dask_runner.errors import UsageError
from dask_runner.stats.spectrum.shape import PARAMETERS, Array, Scaled, Shape, scaled

_SIGNAL = PARAMETERS
# Half the squared distance to the minimum, in standard deviations, as Newton's step predicts it;
# the step is still taken, and what is left after it is of the order of this number's square.
_CLOSE = 1e-9
_MOST_STEPS = 60
_MOST_HALVINGS = 40
# The largest step in one parameter, in its standard deviations at the reference.
_LONGEST = 10.0
_SLACK = 1e-12
# Negative signals end where they would leave this share of the background in some bin.
_LEAST_LEFT = 0.1


class Counts(Struct, frozen=True, kw_only=True):
    """The counts of a spectrum, and what the likelihood needs of them again and again."""

    n: Array
    inverse: Array
    total: float
    constant: float

    @classmethod
    def of(cls, counts: npt.ArrayLike) -> "Counts":
        n = np.asarray(counts, float)
        filled = n > 0
        inverse = 1 / np.where(filled, n, 1.0)
        # -ln of the Poisson probabilities for mu = n: nll = constant + deviance / 2.
        constant = float((n + n * np.log(inverse) + gammaln(n + 1)).sum())
        return cls(n=n, inverse=inverse, total=float(n.sum()), constant=constant)


class Minimum(Struct, frozen=True, kw_only=True):
    """Where an iteration ended: signal, background parameters z, expectations (bins,), deviance,
    second derivatives of -ln L by (z, N) and Fisher's information (5, 5), slope of -ln L by N.
    """

    signal: float
    z: Array
    background: Array
    expected: Array
    deviance: float
    curvature: Array
    information: Array
    slope: float
    converged: bool
    steps: int

    def tangent(self) -> Array:
        """dz/dN along the profile: -H_zz^-1 H_zN, shape (4,)."""
        return _solve(
            self.curvature[:PARAMETERS, :PARAMETERS], self.curvature[:PARAMETERS, _SIGNAL]
        )

    def signal_error(self) -> float:
        """The standard deviation of N from Fisher's information, z profiled: the second derivatives
        are none without counts at the signal.
        """
        shape = self.information[:PARAMETERS, :PARAMETERS]
        mixed = self.information[:PARAMETERS, _SIGNAL]
        left = float(self.information[_SIGNAL, _SIGNAL] + mixed @ _solve(shape, mixed))
        return left**-0.5 if left > 0 else np.inf


class SpectrumFit(Struct, frozen=True, kw_only=True):
    """The fits of one spectrum. `n_hat` is the best signal with the background free, `n_error` its
    standard deviation from Fisher's information; `nll` = -ln of the Poisson probability there;
    `ts` = 2 ln [L(best N >= 0) / L(N = 0)]; `deviance`, `p_value` are of the background alone.
    """

    n_hat: float
    n_error: float
    nll: float
    ts: float
    deviance: float
    degrees: int
    p_value: float
    converged: bool
    counts: Counts
    alone: Minimum
    best: Minimum


class Fitter:
    """Fits of spectra with one background and one signal template, prepared once.

    `template`, shape (bins,), is the signal's share in each bin: not negative, sum 1. Raises
    UsageError for any other.
    """

    def __init__(self, background: Scaled, template: npt.ArrayLike) -> None:
        self.background = background
        self.template = checked_template(template, len(background.expected))
        self._signal_bins = np.flatnonzero(self.template)
        self._signal_shares = self.template[self._signal_bins]
        self._flat = background.features.reshape(PARAMETERS, -1)
        self._rows = np.empty((PARAMETERS + 1, len(self.template)))
        self._rows[_SIGNAL] = self.template

    def fit(self, counts: npt.ArrayLike) -> SpectrumFit:
        """Fit the background alone (N = 0), then with the signal: minima of
        -ln L = sum_i [mu_i - n_i ln mu_i + ln n_i!], mu_i = b_i + N s_i.

        N may be negative, as far as a tenth of the background fitted alone would be left in
        every bin; `n_hat` is at that edge where the likelihood still rises towards it. `counts`,
        shape (bins,), may be expectations that are not whole. Goodness of fit: the deviance
        2 sum_i [mu_i - n_i + n_i ln(n_i / mu_i)], in the limit of large counts chi2 with
        bins - 4 degrees (S. Baker and R. Cousins, Nucl. Instrum. Meth. 221 (1984) 437).
        """
        data = Counts.of(counts)
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            alone = self.minimum(data, 0.0, np.zeros(PARAMETERS))
            best = self.minimum(data, 0.0, alone.z, lowest=self._lowest(alone.background))
        degrees = len(data.n) - PARAMETERS
        gain = alone.deviance - best.deviance
        return SpectrumFit(
            n_hat=best.signal,
            n_error=best.signal_error(),
            nll=data.constant + best.deviance / 2,
            ts=max(gain, 0.0) if best.signal > 0 else 0.0,
            deviance=alone.deviance,
            degrees=degrees,
            p_value=float(chdtrc(degrees, alone.deviance)),
            converged=alone.converged and best.converged,
            counts=data,
            alone=alone,
            best=best,
        )

    def minimum(
        self, data: Counts, signal: float, z: Array, *, lowest: float | None = None
    ) -> Minimum:
        """Newton's iteration from (z, signal), with step halving. The signal stays as it is, or is
        free from `lowest` on.
        """
        values, background, expected, deviance = self._evaluate(data, signal, z)
        converged = False
        curvature, slope = np.eye(PARAMETERS + 1), 0.0
        step_count = 0
        while not converged and step_count < _MOST_STEPS:
            step_count += 1
            gradient, curvature = self._derivatives(data, values, background, expected)
            slope = float(gradient[_SIGNAL])
            free = lowest is not None
            step, predicted = self._direction(gradient, curvature, expected, free=free)
            edge = signal if lowest is None else lowest
            if free and signal <= edge and step[_SIGNAL] < 0:
                step, predicted = self._direction(gradient, curvature, expected, free=False)
            length = _longest(step, signal, edge)
            converged = predicted < _CLOSE and length == 1.0
            for _ in range(_MOST_HALVINGS):
                trial = max(signal + length * float(step[_SIGNAL]), edge)
                moved = z + length * step[:PARAMETERS]
                found = self._evaluate(data, trial, moved)
                # Near the minimum the change is below the rounding of the deviance.
                if found[3] <= deviance + _SLACK * (1 + data.total) or (
                    converged and np.isfinite(found[3])
                ):
                    break
                length /= 2
            else:
                break
            signal, z = trial, moved
            values, background, expected, deviance = found
        return Minimum(
            signal=signal,
            z=z,
            background=background,
            expected=expected,
            deviance=deviance,
            curvature=curvature,
            information=(self._rows / expected) @ self._rows.T,
            slope=slope,
            converged=converged,
            steps=step_count,
        )

    def _evaluate(self, data: Counts, signal: float, z: Array) -> tuple[Array, Array, Array, float]:
        """Values of f at the nodes (nodes, bins), b and mu (bins,), and the deviance."""
        shape = self.background.features.shape[1:]
        values = np.exp(self.background.base + z @ self._flat).reshape(shape)
        background = np.add.reduce(values, axis=0)
        expected = background + signal * self.template if signal else background
        # Differences first: n ln mu alone would lose nine digits for a million events.
        terms = expected - data.n - data.n * np.log(expected * data.inverse)
        deviance = 2 * float(np.add.reduce(terms))
        if not deviance < np.inf or not np.minimum.reduce(expected) > 0:
            deviance = np.inf
        return values, background, expected, deviance

    def _derivatives(
        self, data: Counts, values: Array, background: Array, expected: Array
    ) -> tuple[Array, Array]:
        """Gradient (5,) and second derivatives (5, 5) of -ln L by (z, N).

        H_ab = sum_i n_i / mu_i^2 d_a mu_i d_b mu_i + (1 - n_i / mu_i) d_a d_b mu_i. For the last
        factor, integrals of f phi_a phi_b, the value for narrow bins J_ia J_ib / b_i is taken: it
        only steers the steps, and without signal it makes them Fisher's.
        """
        rows = self._rows
        np.add.reduce(values * self.background.features, axis=1, out=rows[:PARAMETERS])
        ratio = data.n / expected
        rest = 1 - ratio
        curvature: Array = (rows * (ratio / expected)) @ rows.T
        slopes = rows[:PARAMETERS]
        curvature[:PARAMETERS, :PARAMETERS] += (slopes * (rest / background)) @ slopes.T
        return rows @ rest, curvature

    def _direction(
        self, gradient: Array, curvature: Array, expected: Array, *, free: bool
    ) -> tuple[Array, float]:
        """A step downhill, shape (5,), and half of what Newton expects of it. With the second
        derivatives where they are positive definite, else with Fisher's sum_i d_a mu d_b mu / mu.
        """
        count = PARAMETERS + 1 if free else PARAMETERS
        part = gradient[:count]
        _, found, failed = dposv(curvature[:count, :count], part)
        if failed:
            rows = self._rows[:count]
            found = np.linalg.lstsq((rows / expected) @ rows.T, part)[0]
        step = np.zeros(PARAMETERS + 1)
        step[:count] = -found
        return step, -float(part @ step[:count]) / 2

    def _lowest(self, background: Array) -> float:
        return -(1 - _LEAST_LEFT) * float(
            np.minimum.reduce(background[self._signal_bins] / self._signal_shares)
        )


class BackgroundFit(Struct, frozen=True, kw_only=True):
    """The background fitted to a spectrum: theta = (ln p1, p2, p3, p4), expectations (bins,)."""

    theta: Array
    expected: Array
    deviance: float
    degrees: int
    p_value: float
    converged: bool


def fit_background(edges: npt.ArrayLike, counts: npt.ArrayLike, sqrt_s: float) -> BackgroundFit:
    """The background without signal fitted to `counts`, shape (bins,), from no idea of it.

    Starts from a weighted straight-line fit of ln(n_i / width_i) in the four features; then two
    rounds of the Poisson fit, the second scaled at the result of the first. `degrees`, `p_value`
    as in `Fitter.fit`. Raises UsageError for counts that are negative, or filled in fewer bins
    than there are parameters, and as `Shape` and `scaled`.
    """
    n = checked_counts(counts, len(np.asarray(edges)) - 1)
    theta = _first_guess(edges, n, sqrt_s)
    for _ in range(2):
        background = scaled(edges, sqrt_s, theta)
        fitter = Fitter(background, np.full(len(n), 1 / len(n)))
        data = Counts.of(n)
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            found = fitter.minimum(data, 0.0, np.zeros(PARAMETERS))
        theta = background.theta(found.z)
    degrees = len(n) - PARAMETERS
    return BackgroundFit(
        theta=theta,
        expected=found.expected,
        deviance=found.deviance,
        degrees=degrees,
        p_value=float(chdtrc(degrees, found.deviance)),
        converged=found.converged,
    )


def checked_template(template: npt.ArrayLike, bins: int) -> Array:
    """A template that sums to 1. Raises UsageError for one that does not, or with other bins."""
    shares = np.asarray(template, float)
    if shares.shape != (bins,):
        raise UsageError(f"a template of {shares.size} bins does not fit a spectrum of {bins}")
    if not np.all(shares >= 0):
        raise UsageError("the template has bins that are negative or no numbers")
    if not abs(float(shares.sum()) - 1) < 1e-9:  # noqa: PLR2004 - rounding only
        raise UsageError(f"the template sums to {shares.sum():g}, not to 1")
    return shares


def checked_counts(counts: npt.ArrayLike, bins: int) -> Array:
    """Counts of a spectrum. Raises UsageError for negative ones and for another number of bins."""
    n = np.asarray(counts, float)
    if n.shape != (bins,):
        raise UsageError(f"{n.size} counts do not fit a spectrum of {bins} bins")
    if not np.all((n >= 0) & (n < np.inf)):
        raise UsageError("the spectrum has bins that are negative or no numbers")
    return n


def _first_guess(edges: npt.ArrayLike, n: Array, sqrt_s: float) -> Array:
    filled = n > 0
    if np.count_nonzero(filled) < PARAMETERS:
        raise UsageError(f"events in fewer than {PARAMETERS} bins say nothing about the background")
    # One node: the centre of the bin times its width, good enough to start from.
    middle = Shape(edges, sqrt_s, nodes=1)
    weight = np.sqrt(n[filled])
    rows = middle.features[:, 0, filled] * weight
    target = (np.log(n[filled]) - middle.log_weights[0, filled]) * weight
    solution: Array = np.linalg.lstsq(rows.T, target)[0]
    return solution


def _longest(step: Array, signal: float, lowest: float) -> float:
    """The share of a step that may be tried: not far, and no further than the lowest signal."""
    length = min(1.0, _LONGEST / max(float(np.abs(step[:PARAMETERS]).max()), _LONGEST))
    change = float(step[_SIGNAL])
    if signal + change < lowest:
        length = min(length, max((lowest - signal) / change, 0.0))
    return length


def _solve(matrix: Array, vector: Array) -> Array:
    """-matrix^-1 vector, zero where the matrix is not positive definite."""
    _, solution, failed = dposv(matrix, vector)
    return np.zeros_like(vector) if failed else np.negative(solution)
