#!/usr/bin/env python3
"""Write the files that follow from the code: settings.toml, hostfile.txt, docs/settings.md.

A test compares them; run this (with the Python of the environment) when it fails.
"""

from pathlib import Path

from dask_runner.hostfile import HOSTFILE_TEXT
from dask_runner.settings.text import settings_markdown, settings_toml

TOP = Path(__file__).resolve().parent.parent

for name, text in (
    ("settings.toml", settings_toml()),
    ("hostfile.txt", HOSTFILE_TEXT),
    ("docs/settings.md", settings_markdown()),
):
    (TOP / name).write_text(text)
    print(f"wrote {name}")
