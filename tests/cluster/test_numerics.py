"""A host whose C library computes other bits, as one without AVX2 and FMA does."""

import json

from product import wait_for

# What such a processor makes of the C library; the self-test and Pythia differ with it for real.
SETUP = "export GLIBC_TUNABLES=glibc.cpu.hwcaps=-AVX2_Usable,-FMA_Usable,-AVX2,-FMA,-FMA4\n"


def test_a_host_with_other_bits_is_refused_unless_accepted_and_a_rerun_remembers(make_rig):
    rig = make_rig(2)
    setup = rig.folder / "old_processor.sh"
    setup.write_text(SETUP)
    odd = rig.department["node02"].address
    rig.up(node02={"setup": str(setup)})
    rig.go()
    numerics = {host["name"]: host["numerics"] for host in rig.status()["hosts"]}
    assert len({*numerics.values()}) == 2, "or there is nothing to test"
    wait_for(
        lambda: [text for text in rig.look("node02").get("warnings", ()) if "other bits" in text],
        "status to show it",
    )
    assert not any("other bits" in text for text in rig.look("node01").get("warnings", ()))

    said = rig.run(*rig.words(8)).stderr
    assert "other bits" in said
    assert {host for _, host in rig.hosts_of_executions()} == {"node01"}
    assert [note["data"]["host"] for note in rig.notes("host-refused")] == [odd]
    rig.check_while_up(finished=True)

    dry = json.loads(rig.run(*rig.words(8, "-t", "--json"), expect=None).stdout)
    assert {room["host"]: room["slots"] for room in dry["prospect"]["hosts"]}[odd] == 0

    refused = rig.run(*rig.words(2, "--hosts", odd), expect=6)
    assert numerics[odd].split()[1][:12] in refused.stderr
    assert "--accept-numerics" in refused.stderr

    rig.run(*rig.words(2, "--first", "1", "--hosts", odd, "--accept-numerics"))
    (note,) = rig.notes("cluster")
    assert note["data"]["reference"] == {"host": odd, "numerics": numerics[odd]}
    refused = rig.run("rerun", "last", "--hosts", rig.department["node01"].address, expect=6)
    assert f"than {odd}" in refused.stderr
    rig.run("rerun", "last", "--hosts", odd)
    rig.check_while_up(finished=True)
    rig.down()
