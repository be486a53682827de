"""examples/point-source, small: the source that is hidden in its samples is found."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import healpy
import numpy as np

EXAMPLE = Path(__file__).parents[2] / "examples" / "point-source"
SMALL = {
    "BACKGROUND": "400",
    "SIGNAL": "100",
    "NSIDE": "8",
    "SKIES": "12",
    "DECS": "-60,0,60",
    "SIGNAL_DECS": "0,30",
}


def test_the_hidden_source_is_found(product):
    for path in EXAMPLE.iterdir():
        if path.is_file():
            shutil.copy(path, product.folder)
    environment = {
        **product.environment,
        **SMALL,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "DASK_RUNNER": f"{sys.executable} -m dask_runner",
    }
    for command in (
        [sys.executable, "make_samples.py", ".", "--events", "4000", "--simulated", "30000"],
        ["./search.sh"],
    ):
        done = subprocess.run(
            command,
            cwd=product.folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=280,
            check=False,
        )
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    mlog10p, _, _, _ = healpy.read_map(product.folder / "skymap.fits", field=None)
    theta, phi = healpy.pix2ang(8, int(np.argmax(mlog10p)))
    source = healpy.ang2vec(np.pi / 2 - np.radians(5.7), np.radians(77.4))
    angle = np.arccos(healpy.ang2vec(theta, phi) @ source)
    assert np.degrees(angle) < 8
    for name in ("parameters", "sensitivity", "flux", "skymap", "ts_p", "hottest"):
        assert (product.folder / f"{name}.png").stat().st_size > 10_000
    assert "unblinded, as the manifest says" in done.stdout
    assert "E^2 dN/dE at 100000 GeV in TeV cm^-2 s^-1" in done.stdout
    product.check(finished=True)
