"""What `up` tells after the start, and how a host that was left out is told more."""

import sys

from product import wait_for

KLIST = """\
#!/bin/sh
x=$(date -d '+90 minutes' '+%m/%d/%y %H:%M:%S')
echo "01/01/26 00:00:00  $x  krbtgt/EXAMPLE.ORG@EXAMPLE.ORG"
"""
LOGINCTL = """\
#!/bin/sh
case "$*" in *KillUserProcesses*) echo KillUserProcesses=yes;; *) echo Linger=no;; esac
"""


def program(path, text: str) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


def test_what_will_end_a_cluster_in_the_background_is_said_of_this_machine_and_of_hosts(make_rig):
    rig = make_rig(2)
    program(rig.folder / "here" / "loginctl", LOGINCTL)
    program(rig.folder / "there" / "klist", KLIST)
    (rig.folder / "setup-there.sh").write_text(f"export PATH={rig.folder}/there:$PATH\n")
    rig.environment["PATH"] = f"{rig.folder}/here:{rig.environment['PATH']}"
    rig.write_hostfile(node01={"setup": str(rig.folder / "setup-there.sh")})
    said = rig.run("up", "--detach").stderr
    assert "warning: this machine: systemd ends your processes here at logout" in said
    assert "loginctl enable-linger" in said
    (ticket,) = wait_for(lambda: rig.look("node01").get("warnings"), "the ticket's warning")
    assert "its Kerberos ticket lives 1.5 h more" in ticket
    assert not rig.look("node02").get("warnings")
    (here,) = rig.status()["warnings"]
    assert here.startswith("this machine: systemd ends")
    assert here in rig.run("status").stdout
    rig.down()


def test_a_host_that_was_left_out_is_added_again_with_what_is_said_now(make_rig):
    rig = make_rig(3)
    nowhere = {"python": "/nowhere/python"}
    rig.up(node01=nowhere, node02=nowhere)
    first, second, third = (host.address for host in rig.department.hosts)
    rig.wait_phase("node01", "left out")
    assert f"then `dask-runner hosts add {first}`" in " ".join(rig.run("status").stdout.split())
    rig.run("hosts", "add", f"{first} python={sys.executable}")
    rig.wait_phase("node01", "up")
    rig.write_hostfile(slots=1)
    rig.run("hosts", "add", second)
    assert rig.wait_phase("node02", "up")["slots"] == 1
    refused = rig.run("hosts", "add", f"{third} slots=7", expect=6)
    assert "drain" in refused.stderr
    rig.down()
