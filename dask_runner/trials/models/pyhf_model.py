"""The trial model `pyhf`: toys of a workspace, tested as pyhf tests them.

Owns what a toy is: which parameters it is drawn with, what is drawn from which stream, and which
numbers it leaves. p-values and CLs are computed from those afterwards. Observed data enter no toy
unless that is asked for (`nuisance = "observed"`).
"""

import zlib
from collections.abc import Mapping, Sequence
from math import isfinite
from pathlib import Path
from typing import Any, Literal, Self, get_args

import numpy as np
from msgspec import Struct

from dask_runner.errors import UsageError
from dask_runner.seeds import Value
from dask_runner.trials.model import Number, Parameters, ScalarTrial, Streams
from dask_runner.trials.models import pyhf_workspace as workspaces
from dask_runner.trials.models.pyhf_fit import Bounds, Data, Fit, minimise
from dask_runner.trials.models.pyhf_layout import Layout
from dask_runner.trials.models.pyhf_likelihood import Array, Likelihood

TestStatistic = Literal["qtilde", "q", "q0"]
Nuisance = Literal["expected", "observed"]

AUXILIARY = "auxiliary"
# Equal data must give equal numbers on all machines, or p-values of discrete data go wrong: fits
# end within 1e-10 of each other.
_DIGITS = 8


class Pyhf(Struct, frozen=True, kw_only=True):
    """A workspace and how it is tested. Parameter of a point: `mu`, the signal strength.

    `test_stat` is qtilde (signal strengths below 0 are unphysical) or q, both of the hypothesis mu;
    or q0, of the hypothesis 0 (Cowan et al., Eur. Phys. J. C 71 (2011) 1554, sections 2.3 to 2.5).

    Toys with signal are drawn at mu, those without at 0, each with the other parameters fitted at
    that strength: with `nuisance = "expected"` to what is expected without signal at nominal
    values of all others (the Asimov data), with "observed" to the observed data, as ATLAS and CMS
    agreed for published limits (ATL-PHYS-PUB-2011-11).
    """

    workspace: dict[str, Any]
    layout: Layout
    measurement: str
    test_stat: TestStatistic = "qtilde"
    nuisance: Nuisance = "expected"

    @classmethod
    def from_options(
        cls,
        *,
        workspace: Path | None = None,
        patches: Sequence[Path] = (),
        measurement: str = "",
        test_stat: str = "qtilde",
        nuisance: str = "expected",
        points: Sequence[Mapping[str, Value]] = (),
        **given: Any,
    ) -> Self:
        """Read and check everything. Raises UsageError and BadInputError."""
        if given:
            raise UsageError(f"model pyhf takes no --{next(iter(given))}")
        if workspace is None:
            raise UsageError("model pyhf needs --workspace FILE.json")
        read = workspaces.read_workspace(workspace, patches)
        chosen = workspaces.choose_measurement(read, measurement)
        layout = workspaces.make_layout(read, chosen, str(workspace))
        model = cls(
            workspace=read,
            layout=layout,
            measurement=chosen,
            test_stat=_one_of(test_stat, TestStatistic, "--test-stat"),
            nuisance=_one_of(nuisance, Nuisance, "nuisance"),
        )
        for point in points:
            model.strength(point)
        return model

    @property
    def notes(self) -> tuple[str, ...]:
        """What a plan and a summary should say."""
        layout = self.layout
        others = len(self.workspace["measurements"]) - 1
        fitted = "the observed data" if self.nuisance == "observed" else "what is expected at mu=0"
        return (
            f"measurement {self.measurement!r}" + (f" of {others + 1}" if others else ""),
            f"{layout.bins} bins, {len(layout.start)} parameters, mu is {layout.names[layout.poi]}",
            f"test statistic {self.test_stat}; toys with parameters fitted to {fitted}",
        )

    def parameters(self) -> Parameters:
        return Parameters(required=("mu",))

    def fields(self) -> dict[str, str]:
        """`q_sb` and `q_b` are the test statistic of the toy with and without signal, `mu_hat_...`
        the best signal strengths, `data_crc` a checksum of all counts.
        """
        numbers = ("q_sb", "q_b", "mu_hat_sb", "mu_hat_b")
        return {**dict.fromkeys(numbers, "f8"), "converged": "?", "data_crc": "u4"}

    def strength(self, point: Mapping[str, Value]) -> float:
        """The point's mu. Raises UsageError if it is below 0 or beyond what fits may reach."""
        mu = point.get("mu")
        if mu is None or isinstance(mu, str) or not isfinite(mu):
            raise UsageError(f"model pyhf: mu={mu!r} is not a number", hint="--grid mu=0:3:0.25")
        name, high = self.layout.names[self.layout.poi], self.layout.high[self.layout.poi]
        if not 0 <= mu <= high:
            raise UsageError(
                f"model pyhf: mu={mu:g} is outside 0 to {high:g}, the bounds of {name}",
                hint=f"the workspace's measurement may give {name} other bounds",
            )
        return float(mu)

    def sampler(self, point: Mapping[str, Value]) -> ScalarTrial:
        """Prepare for a signal strength. Raises UsageError: see `strength`."""
        return _Toys(self, self.strength(point)).trial


class _Tested(Struct, frozen=True):
    q: float
    mu_hat: float
    converged: bool


class _Toys:
    """The toys of one signal strength."""

    def __init__(self, model: Pyhf, mu: float) -> None:
        layout = model.layout
        self._poi = layout.poi
        self._kind = model.test_stat
        self._likelihood = Likelihood(model.workspace["channels"], layout)
        self._tested = 0.0 if model.test_stat == "q0" else mu
        free = ~np.array(layout.fixed)
        low, high = np.array(layout.low), np.array(layout.high)
        others = free & (np.arange(len(free)) != self._poi)
        self._conditional = Bounds(low, high, others)
        nominal = np.array(layout.start)
        low = low.copy()
        low[self._poi] = self._lowest(nominal, low[self._poi], high[self._poi])
        free[self._poi] = True
        self._unconditional = Bounds(low, high, free)
        reference = self._reference(model, nominal)
        self._signal = self._fitted(reference, nominal, mu)
        self._background = self._fitted(reference, nominal, 0.0)
        # One start for all data of this strength, observed ones too: equal data, equal numbers.
        self._start = (self._signal if self._tested else self._background).copy()
        self._start[self._poi] = self._tested or nominal[self._poi]
        self._rates = [self._likelihood.expected(t) for t in (self._signal, self._background)]

    def trial(self, streams: Streams) -> dict[str, Number]:
        """Draw a toy with and one without signal, and test both."""
        rng = streams.rng()
        main = [rng.poisson(rates[: self._likelihood.bins]) for rates in self._rates]
        rng = streams.rng(AUXILIARY)
        with_signal = self._auxiliary(rng, main[0], self._signal, self._rates[0])
        without = self._auxiliary(rng, main[1], self._background, self._rates[1])
        sb, b = self.test(with_signal), self.test(without)
        counts = np.concatenate([with_signal.counts, without.counts])
        return {
            "q_sb": sb.q,
            "q_b": b.q,
            "mu_hat_sb": sb.mu_hat,
            "mu_hat_b": b.mu_hat,
            "converged": sb.converged and b.converged,
            # Small-endian, so that it is the same everywhere.
            "data_crc": zlib.crc32(counts.astype("<i8").tobytes()),
        }

    def test(self, data: Data) -> _Tested:
        """The test statistic: -2 ln of the ratio of the largest likelihood at the tested strength
        to the largest of all; 0 where the best strength is on the side that does not count.

        Raises ArithmeticError if the data are impossible.
        """
        best = minimise(self._likelihood, data, self._start, self._unconditional)
        if not isfinite(best.value):
            # A signal that takes events away may leave fewer than none.
            best = minimise(self._likelihood, data, self._background, self._unconditional)
        if not isfinite(best.value):
            raise ArithmeticError("these data are impossible where the fit would start")
        if self._is_beyond(best):
            return _Tested(0.0, float(best.theta[self._poi]), best.converged)
        theta = best.theta.copy()
        theta[self._poi] = self._tested
        if not isfinite(self._likelihood.value(theta, data.counts, data.normals)):
            # Counts where the hypothesis expects none.
            return _Tested(np.inf, float(best.theta[self._poi]), best.converged)
        there = minimise(self._likelihood, data, theta, self._conditional)
        if there.value < best.value:
            # The first fit ended in a valley that is not the deepest, or just short of the bottom.
            best = minimise(self._likelihood, data, there.theta, self._unconditional)
        q = 0.0 if self._is_beyond(best) else 2 * (there.value - best.value)
        q = max(0.0, round(q, _DIGITS))
        return _Tested(q, float(best.theta[self._poi]), best.converged and there.converged)

    def data(self, counts: Array) -> Data:
        """These main counts with the auxiliary measurements that were made."""
        whole = np.concatenate([counts, self._likelihood.nominal_counts])
        return Data(whole, self._likelihood.nominal_normals)

    def _is_beyond(self, best: Fit) -> bool:
        mu_hat = best.theta[self._poi]
        return bool(mu_hat < 0 if self._kind == "q0" else mu_hat > self._tested)

    def _auxiliary(
        self, rng: np.random.Generator, main: np.ndarray[Any, Any], theta: Array, rates: Array
    ) -> Data:
        own = self._likelihood
        counts = rng.poisson(rates[own.bins :])
        normals = rng.normal(theta[own.normal_parameters], own.sigmas)
        return Data(np.concatenate([main, counts]).astype(np.float64), normals)

    def _reference(self, model: Pyhf, nominal: Array) -> Data:
        """What the other parameters are fitted to before toys are drawn."""
        if model.nuisance == "observed":
            return self.data(workspaces.observed_counts(model.workspace, model.layout))
        theta = nominal.copy()
        theta[self._poi] = 0.0
        return self.data(self._likelihood.expected(theta)[: self._likelihood.bins])

    def _fitted(self, reference: Data, nominal: Array, mu: float) -> Array:
        """The parameters of toys. Raises UsageError if there are none, or a bin expects less than
        nothing with them.
        """
        theta = nominal.copy()
        theta[self._poi] = mu
        fit = minimise(self._likelihood, reference, theta, self._conditional)
        rates = self._likelihood.expected(fit.theta)
        if not fit.converged or not np.all(rates >= 0):
            raise UsageError(
                f"model pyhf: the parameters of toys at mu={mu:g} cannot be fitted: "
                + ("a bin expects a negative number" if rates.min() < 0 else "no convergence")
            )
        # Without the digits in which machines differ.
        return np.where(self._conditional.free, np.round(fit.theta, _DIGITS), fit.theta)

    def _lowest(self, nominal: Array, low: float, high: float) -> float:
        """The lowest signal strength of a fit: 0, or with q as low as the workspace says; if that
        is 0, as low as no bin expects less than nothing at nominal values.
        """
        if self._kind != "q":
            return max(0.0, low)
        if low < 0:
            return low
        theta = nominal.copy()
        theta[self._poi] = 0.0
        without = self._likelihood.expected(theta)
        theta[self._poi] = 1.0
        signal = self._likelihood.expected(theta) - without
        bins = signal > 0
        return -min(high, float(np.min(without[bins] / signal[bins], initial=high)))


def observed(model: Pyhf, mu: float) -> dict[str, float]:
    """`q`, `mu_hat` and `converged` of the observed data, tested like the toys of the point `mu`.
    Only for those who unblind. Raises UsageError for a strength out of bounds.
    """
    toys = _Toys(model, model.strength({"mu": mu}))
    counts = workspaces.observed_counts(model.workspace, model.layout)
    tested = toys.test(toys.data(counts))
    return {"q": tested.q, "mu_hat": tested.mu_hat, "converged": tested.converged}


def _one_of(value: str, kind: Any, name: str) -> Any:
    known = get_args(kind)
    if value not in known:
        raise UsageError(f"model pyhf: {name} {value!r}", hint=f"one of {', '.join(known)}")
    return value
