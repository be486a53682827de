"""The whole deployment under fire, as scripts/story_hosts tells it."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent.parent.parent / "scripts" / "story_hosts"


@pytest.mark.usefixtures("_can_build")
def test_the_story_ends_well(tmp_path):
    words = [sys.executable, str(SCRIPT), "--events", "400", "--folder", str(tmp_path / "story")]
    told = subprocess.run(words, capture_output=True, text=True, timeout=240, check=False)
    assert told.returncode == 0, told.stdout[-4000:] + told.stderr[-4000:]
    assert "the same bits as on one machine, and nothing is left on any host" in told.stdout
    assert told.stdout.count(" both times") == 2
