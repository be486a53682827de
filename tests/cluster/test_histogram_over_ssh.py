"""Histograms on hosts that see nothing of the user's: files go there, sums come back."""

import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent.parent)]
import histogram_files  # noqa: E402

FUNCTION = """\
import hist

def fill(chunk):
    return hist.Hist.new.Reg(50, 0, 200, name="met").Weight().fill(chunk["met"], weight=chunk["w"])

fill.branches = ["met", "w"]
"""


def test_histograms_on_hosts_without_the_folder(make_rig):
    """The same bits as here, with a host lost on the way, with a function that hosts never had."""
    rig = make_rig(3, node02={"shared": False}, node03={"shared": False})
    mine = rig.folder / "mine"
    mine.mkdir()
    for number in (1, 2, 3, 4):
        histogram_files.write(mine / f"{number}.root", 2000, seed=number)
    (mine / "own_met.py").write_text(FUNCTION)
    words = [
        "histogram", "--files", f"{mine}/*.root", "--tree", histogram_files.TREE, "-q",
        "--function", f"{mine}/own_met.py:fill", "--chunk", "100",
        "--fill", "jet_E / 1000", "--bins", "100,0,2000", "--name", "energy",
        "--where", "jet_pt > 25e3", "--weight", "w",
    ]  # fmt: skip
    rig.run(*words, "-b", "2000", "--cluster", "local")
    reference = content(rig, "here")
    rig.check(finished=True)
    rig.up()
    rig.run(*words, "-b", "300")
    used = {line["host"] for line in rig.lines("outcome")}
    assert len(used) == 3
    assert content(rig, "there") == reference
    rig.department["node02"].kill()
    rig.run(*words, "-b", "700")
    assert content(rig, "after") == reference
    rig.check_while_up(finished=True)


def content(rig, name):
    target = str(rig.folder / name)
    return rig.json("merge", "last", "-o", target)["files"][0]["content_hash"]
