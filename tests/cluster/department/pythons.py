"""Another Python than the tests', for a host that differs."""

import subprocess
import sys
from pathlib import Path

PRETEND = """\
import sys
fields = {fields}
class Version(tuple):
    major, minor, micro, releaselevel, serial = fields
sys.version_info = Version(fields)
sys.version = "{text} (pretended)"
"""


def environment(folder: Path, python: str = sys.executable) -> str:
    """A virtual environment with nothing in it, dask-runner neither; its Python."""
    command = [python, "-I", "-m", "venv", "--without-pip", str(folder)]
    subprocess.run(command, check=True, capture_output=True)
    return str(folder / "bin" / "python")


def version(python: str) -> tuple[int, int]:
    script = "import sys; print(*sys.version_info[:2])"
    done = subprocess.run([python, "-I", "-c", script], capture_output=True, text=True, check=True)
    major, minor = done.stdout.split()
    return int(major), int(minor)


def another(folder: Path) -> str:
    """A Python of another version than ours: a real one of this machine, or else one in `folder`
    that says so of itself.
    """
    near = Path(sys.base_prefix).parent
    places = [Path("/usr/bin"), Path("/usr/local/bin"), *sorted(near.glob("3.*/bin"))]
    for minor in range(9, 20):
        for place in places:
            python = place / f"python3.{minor}"
            if minor != sys.version_info.minor and python.exists():
                return str(python)
    python = environment(folder)
    fields = (3, sys.version_info.minor - 1, 0, "final", 0)
    site = folder / "lib" / f"python3.{sys.version_info.minor}" / "site-packages"
    # Not sitecustomize: Debian has one of its own, which comes first.
    (site / "pretend.py").write_text(
        PRETEND.format(fields=fields, text=f"3.{sys.version_info.minor - 1}.0")
    )
    (site / "pretend.pth").write_text("import pretend\n")
    return python
