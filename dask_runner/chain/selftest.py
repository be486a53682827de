"""A hash that is equal on two machines only if they compute the same bits.

Covers NumPy's functions, a fit, Pythia's events. What is not installed is left out by name, so that
hosts with other components are told apart rather than compared.
"""

import hashlib
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import curve_fit

from dask_runner.chain import generate, hidden_valley
from dask_runner.errors import UsageError

_EVENTS = 20
_RUN_NUMBER = 304795
_UFUNCS = (np.exp, np.log, np.sin, np.cos, np.tanh, np.arcsinh, np.arctan, np.sqrt, np.log1p)


def selftest_numbers() -> str:
    """`<parts> <sha256>`, where parts are joined by plus signs."""
    parts = [("numpy", _ufuncs()), ("fit", _fit())]
    try:
        parts.append((f"pythia{_EVENTS}", _events()))
    except UsageError:
        # Not installed: this host cannot run the embedded generator, and says so by its name.
        parts.append(("no-pythia", b""))
    digest = hashlib.sha256()
    for name, content in parts:
        digest.update(name.encode() + b"\0" + hashlib.sha256(content).digest())
    return "+".join(name for name, _ in parts) + " " + digest.hexdigest()


def _ufuncs() -> bytes:
    stream = np.random.Generator(np.random.Philox(key=[1, 2]))
    values = stream.random(4096) * 20.0 + 1e-3
    results: list[Any] = [function(values) for function in _UFUNCS]
    results += [np.power(values, 1.7), np.arctan2(values, 3.0), stream.standard_normal(4096)]
    results += [
        np.sum(values, keepdims=True),
        values[:64].reshape(8, 8) @ values[64:128].reshape(8, 8),
    ]
    return b"".join(np.ascontiguousarray(result).tobytes() for result in results)


def _fit() -> bytes:
    x = np.linspace(0.0, 5.0, 50)
    noise = np.random.Generator(np.random.Philox(key=[3, 4])).standard_normal(50)
    y = 3.0 * np.exp(-x / 1.3) + 0.05 * noise

    def curve(at: NDArray[np.float64], height: float, length: float) -> NDArray[np.float64]:
        return np.asarray(height * np.exp(-at / length))

    found, covariance = curve_fit(curve, x, y, p0=(1.0, 1.0))
    return np.asarray(found).tobytes() + np.asarray(covariance).tobytes()


def _events() -> bytes:
    data = generate.generate(
        hidden_valley.make_sample(_RUN_NUMBER),
        first_event=0,
        count=_EVENTS,
        seed=0,
        run_number=_RUN_NUMBER,
    )
    columns = data.jagged("particle").columns
    return b"".join(columns[name].tobytes() for name in sorted(columns))
