"""The background of a dijet mass spectrum: expected counts in bins, and what scales its parameters.

Owns the integrals over bins and their derivatives. Refuses bins in which the shape is not defined.
"""

import functools

import numpy as np
import numpy.typing as npt
from msgspec import Struct

from dask_runner.errors import UsageError

Array = npt.NDArray[np.float64]

PARAMETERS = 4
# Gauss-Legendre nodes in each bin. The smallest number is taken that gives every bin to _EXACT;
# three do for bins of 2 %.
_CHOICES = (2, 3, 4, 6, 8, 12, 16, 24)
_REFERENCE = 48
_EXACT = 1e-8


class Shape:
    """f(m) = p1 (1 - u)^p2 u^(p3 + p4 ln u) with u = m / sqrt(s), integrated over bins.

    The count expected in bin i is the integral over m from edges[i] to edges[i + 1]: p1 is counts
    per unit of m, so it keeps its value when bins are split (f at the centre of a bin, without its
    width, does not). The parameters are theta = (ln p1, p2, p3, p4): ln f = theta . phi(u) with
    phi = (1, ln(1 - u), ln u, ln(u)^2), so the derivatives are integrals of f phi. Integrals are
    Gauss-Legendre sums with `nodes` nodes a bin, shapes (nodes, bins). Source: CDF, Phys. Rev. D 79
    (2009) 112002; the form with four parameters as ATLAS and CMS use it.

    `edges`, shape (bins + 1,), and `sqrt_s` have one unit, GeV as a rule. Raises UsageError for
    edges that do not rise, and for bins at or below 0 or beyond sqrt(s).
    """

    def __init__(self, edges: npt.ArrayLike, sqrt_s: float, *, nodes: int = 8) -> None:
        self.edges = checked_edges(edges, sqrt_s)
        self.sqrt_s = float(sqrt_s)
        self.nodes = nodes
        places, weights = np.polynomial.legendre.leggauss(nodes)
        half = np.diff(self.edges) / 2
        u = (self.edges[:-1] + half + half * places[:, None]) / self.sqrt_s
        log = np.log(u)
        self.features: Array = np.stack([np.ones_like(u), np.log1p(-u), log, log**2])
        self.log_weights: Array = np.log(half * weights[:, None])

    def integrals(self, theta: npt.ArrayLike) -> Array:
        """The expected counts, shape (bins,), for theta = (ln p1, p2, p3, p4)."""
        total: Array = np.exp(self._exponents(theta)).sum(axis=0)
        return total

    def gradients(self, theta: npt.ArrayLike) -> Array:
        """Their derivatives by theta, shape (4, bins)."""
        slopes: Array = (np.exp(self._exponents(theta)) * self.features).sum(axis=1)
        return slopes

    def _exponents(self, theta: npt.ArrayLike) -> Array:
        return self.log_weights + np.tensordot(np.asarray(theta, float), self.features, axes=1)


class Scaled(Struct, frozen=True, kw_only=True):
    """The shape in parameters z that a Poisson fit measures independently, each with error 1.

    theta = reference + transform z, with the Fisher information J^T diag(1 / mu) J at the reference
    equal to the identity in z. (In theta its condition number is 1e7 and more: plain MIGRAD does
    not converge.) ln f = base + z . features, shapes (nodes * bins,) and (4, nodes, bins).
    """

    shape: Shape
    reference: Array
    transform: Array
    base: Array
    features: Array
    expected: Array

    def theta(self, z: npt.ArrayLike) -> Array:
        """(ln p1, p2, p3, p4) for z."""
        moved: Array = self.reference + self.transform @ np.asarray(z, float)
        return moved


def scaled(edges: npt.ArrayLike, sqrt_s: float, theta: npt.ArrayLike) -> Scaled:
    """The shape scaled at `theta` = (ln p1, p2, p3, p4), with as many nodes as its bins need.

    Raises UsageError as `Shape`, and if a bin's expectation is zero or not finite there.
    """
    reference = np.asarray(theta, float)
    shape = _accurate_shape(checked_edges(edges, sqrt_s), sqrt_s, reference)
    expected = shape.integrals(reference)
    # J / sqrt(mu) as averages of phi: safe where mu is tiny.
    rows = shape.gradients(reference) / expected * np.sqrt(expected)
    # Columns of equal length first: QR then works with what is left of the condition number.
    length = np.sqrt((rows**2).sum(axis=1))
    triangle = np.linalg.qr((rows / length[:, None]).T, mode="r")
    transform = np.linalg.inv(triangle) / length[:, None]
    features = np.tensordot(transform.T, shape.features, axes=1)
    base = shape.log_weights + np.tensordot(reference, shape.features, axes=1)
    return Scaled(
        shape=shape,
        reference=reference,
        transform=transform,
        base=base.ravel(),
        features=features,
        expected=expected,
    )


def checked_edges(edges: npt.ArrayLike, sqrt_s: float) -> Array:
    """The edges as an array. Raises UsageError where the shape has no integral over them."""
    array = np.asarray(edges, float)
    if array.ndim != 1 or len(array) <= PARAMETERS + 1:
        raise UsageError(f"a background of {PARAMETERS} parameters needs more than as many bins")
    if not np.all(np.diff(array) > 0):
        raise UsageError("the edges of the bins do not rise")
    if not array[0] > 0:
        raise UsageError(f"a bin begins at {array[0]:g}: masses are above 0")
    if not array[-1] <= sqrt_s:
        raise UsageError(
            f"bins up to {array[-1]:g} go beyond sqrt(s) = {sqrt_s:g}",
            hint="the edges and sqrt_s have one unit; a range leaves out bins",
        )
    return array


def _accurate_shape(edges: Array, sqrt_s: float, theta: Array) -> Shape:
    # Overflow and empty bins are named below.
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        exact = _shape(tuple(edges.tolist()), sqrt_s, _REFERENCE).integrals(theta)
        wrong = np.flatnonzero(~(np.isfinite(exact) & (exact > 0)))
    if len(wrong):
        first, last = edges[wrong[0] : wrong[0] + 2]
        raise UsageError(
            f"the background is {exact[wrong[0]]:g} in the bin from {first:g} to {last:g}",
            hint="look at its parameters, or leave such bins out by a range",
        )
    for nodes in _CHOICES:
        shape = _shape(tuple(edges.tolist()), sqrt_s, nodes)
        if np.all(np.abs(shape.integrals(theta) - exact) <= _EXACT * exact):
            break
    return shape


@functools.lru_cache(maxsize=32)
def _shape(edges: tuple[float, ...], sqrt_s: float, nodes: int) -> Shape:
    return Shape(edges, sqrt_s, nodes=nodes)
