"""Skims of files on a server, by hosts that see nothing of the user's: each reads what it needs."""

import sys
from pathlib import Path

import pytest

sys.path[:0] = [str(Path(__file__).parent.parent)]
import histogram_files  # noqa: E402
from range_server import serving  # noqa: E402


def test_hosts_read_from_the_server_and_send_their_skims_home(make_rig):
    pytest.importorskip("aiohttp")
    rig = make_rig(3, node02={"shared": False}, node03={"shared": False})
    pages = rig.folder / "pages"
    pages.mkdir()
    for number in (1, 2):
        histogram_files.write(pages / f"{number}.root", 12_000, seed=number, basket=2000)
    rig.up()
    with serving(pages, rig.department.network.desk) as server:
        words = ["histogram", "--tree", histogram_files.TREE, "-q", "--where", "jet_pt > 25e3"]
        for number in (1, 2):
            words += ["--files", server.url(f"{number}.root")]
        for column in ("run", "jet_pt", "ratio = jet_pt / jet_E"):
            words += ["--skim", column]
        rig.run(*words, "-b", "2000")
        used = {line["host"] for line in rig.lines("outcome")}
        assert len(used) == 3
        # The hosts themselves have asked, and nobody for a whole file.
        assert len(server.clients) >= 3
        size = (pages / "1.root").stat().st_size
        assert max(last - first for first, last in server.requests) < size / 2
        rig.check_while_up(finished=True)
        there = hashes(rig, "there")
        rig.run(*words, "-b", "12000", "--cluster", "local")
        assert hashes(rig, "here") == there


def hashes(rig, name):
    names = [f"--to={rig.folder}/{name}.{ending}" for ending in ("root", "json")]
    return [file["content_hash"] for file in rig.json("merge", "last", *names)["files"]]
