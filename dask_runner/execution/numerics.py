"""The same bits on another machine: the environment that pins NumPy and BLAS.

NumPy picks its loops by the CPU, and those for AVX-512 round differently; BLAS picks its kernels,
and sums in another order for each number of threads. Both read the environment when they are
loaded, so it must be set before the interpreter starts: a running one cannot be pinned.
"""

import contextlib
import hashlib
import importlib
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

from dask_runner.errors import ClusterError, RunnerError
from dask_runner.files import write_atomic
from dask_runner.versions import versions

# Also stops libraries from starting threads: a process with threads must not fork.
_ONE_THREAD = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "NUMBA_NUM_THREADS",
)
_NUMPY = "NPY_DISABLE_CPU_FEATURES"
# What changes how the C library computes, or which one is taken.
_C_LIBRARY = ("GLIBC_TUNABLES", "LD_PRELOAD", "LD_LIBRARY_PATH")
_SELFTEST = "from dask_runner.chain import selftest_numbers; print(selftest_numbers())"
# The environment must be set before the interpreter starts; it takes NumPy to know it.
_PINNED_SELFTEST = f"""
import os, sys
from dask_runner.execution.numerics import pinned_environment
os.environ.update(pinned_environment())
os.execv(sys.executable, [sys.executable, "-I", "-c", {_SELFTEST!r}])
"""


def pinned_environment() -> dict[str, str]:
    """The variables to add to the environment of an interpreter that runs batches."""
    # Not at the top: numpy is heavy. By name: its stubs do not show it.
    umath: Any = importlib.import_module("numpy._core._multiarray_umath")

    pinned = dict.fromkeys(_ONE_THREAD, "1")
    # Arrow's allocator (awkward and pandas load Arrow where it is installed) starts a thread.
    pinned["JE_ARROW_MALLOC_CONF"] = "background_thread:false"
    # The order of sets of strings, and of all that is derived from it.
    pinned["PYTHONHASHSEED"] = "0"
    baseline = set(umath.__cpu_baseline__)
    # Naming a feature that this CPU lacks is silent; one that this build does not know warns.
    above = [name for name in umath.__cpu_dispatch__ if _above_v3(name) and name not in baseline]
    if above:
        pinned[_NUMPY] = " ".join(above)
    if platform.machine() == "x86_64" and umath.__cpu_features__.get("AVX2"):
        pinned["OPENBLAS_CORETYPE"] = "Haswell"
    return pinned


def _above_v3(feature: str) -> bool:
    return feature == "X86_V4" or feature.startswith("AVX512")


def pinned_selftest(*, patience: float = 120.0) -> str:
    """The hash of `chain.selftest_numbers` as batches on this host would compute it: equal on two
    hosts only if they compute the same bits. Imports nothing heavy here. Raises ClusterError.
    """
    known = "numpy" in sys.modules
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-c", _SELFTEST if known else _PINNED_SELFTEST],
            env={**os.environ, **(pinned_environment() if known else {})},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=patience,
            check=True,
            cwd="/",
        )
    except subprocess.TimeoutExpired as error:
        raise ClusterError(f"the numerics self-test took longer than {patience:g} s") from error
    except subprocess.CalledProcessError as error:
        words = error.stderr.decode(errors="replace").strip().splitlines()[-1:]
        raise ClusterError(f"the numerics self-test failed: {' '.join(words)}") from error
    return str(done.stdout.decode().strip())


def cached_selftest() -> str:
    """As `pinned_selftest`, computed once for each start of the host and installed code: neither
    the processor nor the C library changes while a host is up, unless the environment says so.
    """
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    installed = " ".join(f"{name}={version}" for name, version in versions().items())
    library = "".join(f" {name}={os.environ[name]}" for name in _C_LIBRARY if name in os.environ)
    source = f"{boot} {sys.executable} {installed}{library}"
    key = hashlib.sha256(os.fsencode(source)).hexdigest()[:32]
    try:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError:  # nobody, in a container: without a home it is computed each time
        return pinned_selftest()
    cache = base / "dask-runner" / f"selftest-{platform.node()}"
    with contextlib.suppress(OSError, ValueError):
        known, found = cache.read_text().split("\n", 1)
        if known == key:
            return found
    found = pinned_selftest()
    # Nor can it be kept in a home that cannot be written to.
    with contextlib.suppress(OSError, RunnerError):
        cache.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_atomic(cache, f"{key}\n{found}".encode(), mode=0o600)
    return found


def short(numerics: str) -> str:
    """A self-test's hash as people compare it: what was tested stands before it."""
    return numerics.rpartition(" ")[2][:12]


def is_pinned() -> bool:
    """True if this interpreter was started with the pinned environment."""
    return all(os.environ.get(name) == value for name, value in pinned_environment().items())
