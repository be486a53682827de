"""`hosts check` and `hosts trust` over real hosts: a row for each, and what to do."""

import asyncio
import json
import os
import stat
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from dask_runner.cluster.ssh.connector import Connector
from dask_runner.cluster.ssh.preflight import examine, expecting
from dask_runner.hostfile import Host

CHECKS = {"name", "port", "host-key", "login", "python", "packages", "import path", "scratch"}
CHECKS |= {"memory", "load", "clock", "shared folder", "ports", "users", "home", "linger"}


def checks_of(report: dict[str, Any]) -> dict[str, dict[str, str]]:
    return {check["name"]: check for check in report["checks"]}


def files_below(folder: Path, *, but: str) -> dict[str, tuple[int, int]]:
    """Everything there, with size and time: equal before and after only if nothing changed."""
    found = {}
    for place, _, names in os.walk(folder):
        if but in place:
            continue
        for name in [*names, "."]:
            status = os.lstat(Path(place, name))
            found[f"{place}/{name}"] = (status.st_size, status.st_mtime_ns)
    return found


def test_each_host_has_its_row_and_its_reason(make_department, make_product, tmp_path):
    department = make_department(
        8,
        node02={"shared": False, "scratch_mb": 1},
        node03={"behind": "node01"},
        node04={"sshd": False},
        node05={"silent": True},
        share=[tmp_path],
    )
    product = make_product(department)
    product.environment["DASK_RUNNER_CLUSTER_CONNECT_TIMEOUT"] = "3"
    keys = {
        "node02": {"scratch": "/home/scratch"},
        "node06": {"user": "cleo"},
        "node07": {"python": "/opt/no-such-python"},
        "node08": {"user": "nora"},
    }
    hostfile = department.hostfile(product.folder / "hostfile.txt", per_host=keys)
    hostfile.write_text(hostfile.read_text() + "no-such-host.invalid\nlocalhost\n")
    began = time.monotonic()
    view = product.json("hosts", "check", "--hostfile", str(hostfile), expect=6)
    took = time.monotonic() - began
    rows = {row["host"]: checks_of(row) for row in view["hosts"]}
    rows = {
        next((node.name for node in department.hosts if node.address == name), name): row
        for name, row in rows.items()
    }
    failed = {
        name: {check["name"] for check in row.values() if check["verdict"] == "fail"}
        for name, row in rows.items()
    }
    assert failed == {
        "node01": set(),
        "node02": {"scratch"},
        "node03": set(),
        "node04": {"port"},
        "node05": {"port"},
        "node06": set(),
        "node07": {"python"},
        "node08": set(),
        "no-such-host.invalid": {"name"},
        "localhost": set(),
    }
    assert CHECKS | {"numerics"} <= set(rows["node01"])
    assert rows["node01"]["numerics"]["text"] == "the same bits"
    assert rows["node01"]["ports"]["verdict"] == "ok"
    assert rows["node01"]["shared folder"]["verdict"] == "ok"
    assert rows["node02"]["shared folder"]["verdict"] == "warn"
    assert "tunnelled" in rows["node03"]["ports"]["text"]
    assert "/opt/no-such-python is not there" in rows["node07"]["python"]["text"]
    assert "No such file" in rows["node07"]["python"]["text"]
    assert "python=/PATH" in rows["node07"]["python"]["fix"]
    for row in rows.values():
        assert all(check["fix"] for check in row.values() if check["verdict"] != "ok")
    assert took < 60
    text = product.run("hosts", "check", "--hostfile", str(hostfile), expect=6)
    lines = text.stdout.splitlines()
    assert len([line for line in lines if line.startswith("FAIL ")]) == 5
    assert "5 of 10 hosts" in lines[-1]


def test_nothing_is_changed(make_department, make_product, tmp_path):
    department = make_department(1, share=[tmp_path])
    product = make_product(department)
    department.hostfile(product.folder / "hostfile.txt")
    host = department["node01"]
    places = [host.path(name) for name in ("/tmp", "/root", "/home", "/var/tmp")]
    # In the shared folder the driver has its probe file for a moment.
    before = [files_below(place, but=str(tmp_path)) for place in places]
    listed = sorted(path.name for path in tmp_path.iterdir())
    product.run("hosts", "check")
    after = [files_below(place, but=str(tmp_path)) for place in places]
    assert [
        set(new.items()) ^ set(old.items()) for new, old in zip(after, before, strict=True)
    ] == [set() for _ in places]
    assert sorted(path.name for path in tmp_path.iterdir()) == listed
    assert not host.processes("DASK_RUNNER_CLUSTER")


def test_a_host_under_two_names_is_refused(make_department, make_product):
    department = make_department(1)
    product = make_product(department)
    hostfile = department.hostfile(product.folder / "hostfile.txt")
    # By a name that only the ssh configuration knows.
    hostfile.write_text(hostfile.read_text() + "node01\n")
    view = product.json("hosts", "check", expect=6)
    twin = checks_of(view["hosts"][1])["identity"]
    assert twin["verdict"] == "fail"
    assert f"same machine as {department['node01'].address}" in twin["text"]
    assert view["good"] == 1


def test_the_life_of_a_ticket_is_told_where_there_is_klist(make_department, make_product):
    department = make_department(2)
    product = make_product(department)
    department.hostfile(product.folder / "hostfile.txt")
    # In the PATH that sshd gives; there is no Kerberos server here.
    klist = department["node01"].path("/tmp/klist")
    klist.write_text(
        "#!/bin/sh\nx=$(date -d '+90 minutes' '+%m/%d/%y %H:%M:%S')\n"
        'echo "01/01/26 00:00:00  $x  krbtgt/EXAMPLE.ORG@EXAMPLE.ORG"\n'
    )
    klist.chmod(0o755)
    setup = department["node01"].path("/tmp/setup.sh")
    setup.write_text("export PATH=/tmp:$PATH\n")
    department.hostfile(
        product.folder / "hostfile.txt", per_host={"node01": {"setup": "/tmp/setup.sh"}}
    )
    with_ticket, without = product.json("hosts", "check")["hosts"]
    check = checks_of(with_ticket)["tokens"]
    assert check["verdict"] == "warn"
    assert "1.5 h more" in check["text"]
    assert "tokens" not in checks_of(without)


def test_another_python_and_other_packages_are_refused_with_both_versions(
    make_department, make_product, tmp_path
):
    other = Path("/usr/bin/python3")
    if not other.exists():
        pytest.skip("no other Python")
    fake = tmp_path / "fake" / "python"
    fake.parent.mkdir()
    fake.write_text(
        f"#!/bin/sh\nexec {other} -c 'import sys; sys.version_info = (3, 6, 8)\n"
        'sys.version = "3.6.8 (x)"\nexec(sys.stdin.read())\'\n'
    )
    fake.chmod(0o755)
    department = make_department(2, share=[tmp_path])
    product = make_product(department)
    department.hostfile(
        product.folder / "hostfile.txt",
        per_host={"node01": {"python": str(other)}, "node02": {"python": str(fake)}},
    )
    plain, old = product.json("hosts", "check", expect=6)["hosts"]
    packages = checks_of(plain)["packages"]
    assert packages["verdict"] == "fail"
    assert "has no dask-runner" in packages["text"]
    python = checks_of(old)["python"]
    assert python["verdict"] == "fail"
    assert "3.6.8 there" in python["text"]


def test_a_folder_that_anybody_may_write_to_is_no_import_path(
    make_department, make_product, tmp_path
):
    department = make_department(1, share=[tmp_path])
    open_folder = department["node01"].path("/tmp/open")
    open_folder.mkdir()
    open_folder.chmod(0o777)
    python = tmp_path / "python"
    python.write_text(
        '#!/bin/sh\nexec /usr/bin/python3 -I -B -c \'import sys; sys.path.append("/tmp/open")\n'
        "exec(sys.stdin.read())'\n"
    )
    python.chmod(0o755)
    product = make_product(department)
    department.hostfile(product.folder / "hostfile.txt", python=str(python))
    check = checks_of(product.json("hosts", "check", expect=6)["hosts"][0])["import path"]
    assert check["verdict"] == "fail"
    assert "/tmp/open" in check["text"]


def test_a_host_cut_off_or_hanging_while_it_is_examined_is_bounded(
    make_department, tmp_path, monkeypatch
):
    department = make_department(1, share=[tmp_path])
    for name, value in department.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    monkeypatch.setattr("dask_runner.cluster.ssh.preflight._PATIENCE", 2.0)
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho stuck in NFS >&2\nexec sleep 1000\n")
    python.chmod(0o755)

    async def run():
        connector = Connector()
        async with expecting() as expected:
            host = Host(address=department["node01"].address, python=str(python))
            report, connection = await examine(host, connector, expected)
        connection.abort()
        await connector.close()
        return report

    began = time.monotonic()
    report = asyncio.run(run())
    assert time.monotonic() - began < 20
    assert not report.ok
    assert "did not answer within 2 s" in report.why()
    assert "stuck in NFS" in report.why()


def test_trust_shows_asks_records_and_then_knows(make_department, make_product):
    department = make_department(2, node02={"behind": "node01"})
    product = make_product(department)
    department.hostfile(product.folder / "hostfile.txt")
    known = department.known_hosts
    known.unlink()
    known.parent.chmod(0o700)
    declined = product.run("hosts", "trust", expect=6, stdin=None, input="n\n")
    assert not known.exists()
    fingerprint = subprocess.run(
        ["ssh-keygen", "-lf", "-"],
        input=department["node01"].public_key,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()[1]
    assert fingerprint in declined.stderr
    # Two questions: the host behind the bastion is seen only when the bastion is trusted.
    product.run("hosts", "trust", stdin=None, input="y\ny\n")
    assert stat.S_IMODE(known.stat().st_mode) == 0o600
    for name in ("node01", "node02"):
        node = department[name]
        key = " ".join(node.public_key.split()[:2])
        assert f"{node.address} {key}" in known.read_text()
    again = product.json("hosts", "trust")
    assert [host["result"] for host in again["hosts"]] == ["known", "known"]
    assert len(known.read_text().splitlines()) == 2


def test_trust_never_records_a_changed_key(make_department, make_product):
    department = make_department(2)
    product = make_product(department)
    department.hostfile(product.folder / "hostfile.txt")
    department.write_known_hosts(without=["node02"])
    department["node01"].swap_key()
    line = department.known_hosts.read_text()
    # A file without a line end at its end: the next key must not be glued to it.
    department.known_hosts.write_text(line.rstrip("\n"))
    view = json.loads(product.run("hosts", "trust", "--yes", "--json", expect=6).stdout)
    assert [host["result"] for host in view["hosts"]] == ["changed", "recorded"]
    assert "CHANGED" in view["hosts"][0]["text"]
    lines = department.known_hosts.read_text().splitlines()
    assert lines[0] == line.strip()
    assert len(lines) == 2
    assert lines[1].startswith(department["node02"].address)
