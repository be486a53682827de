"""What docs/manifest.md tells people to do works."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from manifest_runs import bad, create, done, good, output, started

from dask_runner.manifest import NoteKind
from dask_runner.manifest.encoding import KINDS

PAGE = Path(__file__).parents[2] / "docs" / "manifest.md"


@pytest.fixture
def folder(tmp_path):
    with create(tmp_path) as manifest:
        manifest.record(started(0, 1), good(0, outputs=[output()]), bad(1), done(0))
    return manifest.folder.path


def test_the_check_in_the_documentation_passes_a_good_file_and_finds_damage(folder):
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    (check,) = [block for block in blocks if "zlib" in block]
    command = [sys.executable, "-c", check]
    subprocess.run(command, cwd=folder, check=True)
    path = folder / "manifest.jsonl"
    content = path.read_bytes()
    path.write_bytes(content.replace(b'"batch":1,"attempt":1', b'"batch":2,"attempt":1'))
    found = subprocess.run(command, cwd=folder, check=False, capture_output=True, text=True)
    assert "line 8 is damaged" in found.stderr
    lines = content.splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:6] + lines[7:]))
    found = subprocess.run(command, cwd=folder, check=False, capture_output=True, text=True)
    assert "a line before line 7 is missing" in found.stderr


def test_every_kind_of_line_and_of_note_is_documented():
    page = PAGE.read_text()
    for word in [*KINDS, *NoteKind]:
        assert f"`{word}`" in page, word
