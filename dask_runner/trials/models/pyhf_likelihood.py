"""The likelihood of a HistFactory model with its derivatives, for fits that take a millisecond.

pyhf's NumPy backend has no gradients, and a call of its likelihood takes longer than a whole
Newton step here. `pyhf_workspace` compares the two when a run is planned, so that a modifier that
is understood differently here cannot give wrong numbers.

Expectation of a bin (Cranmer et al., CERN-OPEN-2012-016; pyhf's documentation of its likelihood):
nu_b = sum over samples of (nominal + sum of histosys shifts) x product of factors, where a factor
is a parameter itself (normfactor, lumi, shapefactor, shapesys, staterror) or a normsys' one.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from msgspec import Struct
from scipy.special import kl_div

from dask_runner.trials.models.pyhf_layout import Layout, Parts

Array = npt.NDArray[np.float64]

# Its square is still far from where numbers end.
_TINY = 1e-100
# Curvature of bins without events, relative to what is expected of them: enough to make a step.
_FLOOR = 1e-3
_NONE: Array = np.empty(0)


class Expansion(Struct, frozen=True):
    """Value, gradient and (approximate, never negative) curvature of -ln L at a point."""

    value: float
    gradient: Array
    curvature: Array


class Likelihood:
    """-ln L of counts and auxiliary measurements, up to terms of the data alone.

    `bins` are the main ones; behind them `counts` has the auxiliary measurements with a Poisson
    constraint, which are counts too. Those with a normal constraint are `normals`.
    """

    def __init__(self, channels: Sequence[Mapping[str, Any]], layout: Layout) -> None:
        """`channels` as in the workspace. Raises UsageError for an unknown kind of modifier."""
        parts = Parts(channels, layout)
        self.parameters = len(layout.start)
        self.bins = layout.bins
        self._nominal = np.array(parts.nominal, dtype=np.float64)
        self._bin = np.array(parts.bin, dtype=np.int64)
        self._set_direct(parts)
        self._set_norms(parts)
        self._set_shifts(parts)
        self._set_constraints(layout)
        self._set_places()

    def expected(self, theta: Array) -> Array:
        """Expected counts, the auxiliary ones behind the main ones."""
        return self._rates(theta)[0]

    def value(self, theta: Array, counts: Array, normals: Array) -> float:
        """-ln L relative to the best that any expectation could do; infinite where it is 0."""
        nu = self._rates(theta)[0]
        return self._value(theta, nu, counts, normals)

    def expand(self, theta: Array, counts: Array, normals: Array) -> Expansion:
        """With derivatives by all parameters, shapes (parameters,) and (parameters, parameters).

        The curvature leaves out second derivatives of the expectation, as Gauss and Newton do.
        """
        nu, jacobian = self._rates(theta, derivatives=True)
        positive = np.maximum(nu, _TINY)
        seen = counts / positive
        weight = seen / positive + _FLOOR / np.maximum(nu, _FLOOR)
        pull = (theta[self.normal_parameters] - normals) / self.sigmas
        gradient = jacobian.T @ (1 - seen)
        gradient[self.normal_parameters] += pull / self.sigmas
        curvature = (jacobian.T * weight) @ jacobian
        place = self.normal_parameters
        curvature[place, place] += self.sigmas**-2
        return Expansion(self._value(theta, nu, counts, normals), gradient, curvature)

    def _value(self, theta: Array, nu: Array, counts: Array, normals: Array) -> float:
        pull = (theta[self.normal_parameters] - normals) / self.sigmas
        # nu - n + n ln(n / nu); infinite below 0, and for a count where nothing is expected.
        return float(kl_div(counts, nu).sum() + pull @ pull / 2)

    def _rates(self, theta: Array, *, derivatives: bool = False) -> tuple[Array, Array]:
        shifts, slopes = self._shifts(theta)
        base = self._nominal
        if len(shifts):
            base = base + _sums(self._shift_cell, shifts, len(base))
        factors = np.append(theta, 1.0)[self._direct]
        norms, dnorms = self._norms(theta)
        scale = factors.prod(axis=0) * norms
        rate = base * scale
        nu = _sums(self._bin, rate, self.bins)
        auxiliary = self._tau * theta[self._poisson_parameters]
        nu = np.concatenate([nu, auxiliary])
        if not derivatives:
            return nu, _NONE
        others = _products_of_others(factors)[self._direct_entries]
        weights = np.concatenate(
            [
                others * (base * norms)[self._direct_cells],
                rate[self._norm_cell] * dnorms[self._norm_pair],
                slopes * scale[self._shift_cell],
                self._tau,
            ]
        )
        size = (len(nu), self.parameters)
        return nu, _sums(self._places, weights, size[0] * size[1]).reshape(size)

    def _norms(self, theta: Array) -> tuple[Array, Array]:
        """The product of all normsys of each cell, and the logarithmic derivative of each."""
        if not len(self._norm_parameter):
            return self._ones, _NONE
        alpha = theta[self._norm_parameter]
        factor, slope = _interpolated(alpha, self._log_low, self._log_high, self._coefficients)
        of_block = np.ones(self._blocks)
        of_block[self._norm_blocks] = np.multiply.reduceat(factor, self._norm_starts)
        return of_block[self._block], slope / factor

    def _shifts(self, theta: Array) -> tuple[Array, Array]:
        """Shift of a cell by each histosys and its derivative: linear outside [-1, 1], a polynomial
        with the same value, slope and bend at the ends inside (pyhf's code 4p).
        """
        if not len(self._shift_parameter):
            return _NONE, _NONE
        alpha = theta[self._shift_parameter]
        up, down = self._shift_up, self._shift_down
        even, odd = (up + down) / 2, (up - down) / 16
        a2 = alpha * alpha
        inside = alpha * even + a2 * odd * (15 + a2 * (3 * a2 - 10))
        slope = even + alpha * odd * (30 + a2 * (18 * a2 - 40))
        side = np.where(alpha > 0, up, down)
        outside = a2 > 1
        return np.where(outside, alpha * side, inside), np.where(outside, side, slope)

    def _set_direct(self, parts: Parts) -> None:
        cells = len(self._nominal)
        rows = max((len(found) for found in parts.direct), default=0)
        # What is left over points behind the last parameter, where there is a 1.
        self._direct = np.full((rows, cells), self.parameters, dtype=np.int64)
        for cell, found in enumerate(parts.direct):
            self._direct[: len(found), cell] = found
        self._direct_entries = self._direct < self.parameters
        self._direct_cells = np.nonzero(self._direct_entries)[1]

    def _set_norms(self, parts: Parts) -> None:
        blocks, parameters, low, high = _table(sorted(parts.norms), 4)
        self._block = np.array(parts.block, dtype=np.int64)
        self._blocks = int(self._block.max(initial=-1)) + 1
        self._ones = np.ones(len(self._nominal))
        self._norm_parameter = parameters.astype(np.int64)
        with np.errstate(divide="ignore", invalid="ignore"):
            self._log_low, self._log_high = np.log(low), np.log(high)
            self._coefficients = _polynomials(low, high)
        self._norm_blocks, self._norm_starts = np.unique(blocks.astype(np.int64), return_index=True)
        self._norm_pair, self._norm_cell = np.nonzero(blocks[:, np.newaxis] == self._block)

    def _set_shifts(self, parts: Parts) -> None:
        cells, parameters, self._shift_up, self._shift_down = _table(parts.shifts, 4)
        self._shift_cell = cells.astype(np.int64)
        self._shift_parameter = parameters.astype(np.int64)

    def _set_constraints(self, layout: Layout) -> None:
        normal, poisson = _table(layout.normals, 3), _table(layout.poissons, 3)
        self.normal_parameters = normal[0].astype(np.int64)
        self.sigmas, self.nominal_normals = normal[1:]
        self._poisson_parameters = poisson[0].astype(np.int64)
        self._tau, self.nominal_counts = poisson[1:]

    def _set_places(self) -> None:
        """Where the contributions to the derivatives belong, in the order of `_rates`."""
        rows = np.concatenate(
            [
                self._bin[self._direct_cells],
                self._bin[self._norm_cell],
                self._bin[self._shift_cell],
                self.bins + np.arange(len(self._tau)),
            ]
        )
        columns = np.concatenate(
            [
                self._direct[self._direct_entries],
                self._norm_parameter[self._norm_pair],
                self._shift_parameter,
                self._poisson_parameters,
            ]
        )
        self._places = rows * self.parameters + columns


def _sums(places: npt.NDArray[np.int64], values: Array, length: int) -> Array:
    return np.bincount(places, values, length).astype(np.float64, copy=False)


def _interpolated(
    alpha: Array, log_low: Array, log_high: Array, coefficients: Array
) -> tuple[Array, Array]:
    """A normsys' factor and its derivative: high^alpha above 1, low^-alpha below -1, between them
    the polynomial (pyhf's code 4).
    """
    side = np.where(alpha > 0, log_high, -log_low)
    outside = np.abs(alpha) >= 1
    # Far outside for those inside would only overflow.
    power = np.exp(side * np.where(outside, alpha, 0.0))
    value, slope = np.zeros_like(alpha), np.zeros_like(alpha)
    for coefficient in coefficients[::-1]:
        slope = slope * alpha + value
        value = value * alpha + coefficient
    return np.where(outside, power, value), np.where(outside, side * power, slope)


def _polynomials(low: Array, high: Array) -> Array:
    """Coefficients of 1 + a_1 x + ... + a_6 x^6, shape (7, modifiers), with the value, slope and
    bend of high^x at 1 and of low^-x at -1.
    """
    powers = np.arange(1, 7)
    rows = [
        sign**order * factor
        for order, factor in ((0, powers**0), (1, powers), (2, powers * (powers - 1)))
        for sign in (1.0, -1.0)
    ]
    signs = np.array([np.ones(6), (-1.0) ** powers] * 3)
    up, down = np.log(high), -np.log(low)
    wanted = [high - 1, low - 1, up * high, down * low, up**2 * high, down**2 * low]
    solved = np.linalg.solve(signs * np.array(rows), np.array(wanted))
    return np.vstack([np.ones_like(low), solved])


def _products_of_others(factors: Array) -> Array:
    """For each row the product of all other rows, without dividing: a factor may be 0."""
    if len(factors) < 2:  # noqa: PLR2004 - nothing to multiply
        return np.ones_like(factors)
    before, after = np.ones_like(factors), np.ones_like(factors)
    np.cumprod(factors[:-1], axis=0, out=before[1:])
    np.cumprod(factors[:0:-1], axis=0, out=after[-2::-1])
    return before * after


def _table(rows: Sequence[tuple[float, ...]], columns: int) -> Array:
    """The columns of some rows; also if there are none."""
    return np.array(rows, dtype=np.float64).reshape(-1, columns).T
