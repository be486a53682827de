"""Who may log in to a test host: private passwd, shadow and group files, homes, sshd's files.

Users besides root: `ada` (bash), `cleo` (csh, with a ~/.cshrc that talks), `nora` (bash, with a
~/.bashrc that talks). They exist only inside the hosts.
"""

import os
import pwd
import subprocess
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)


@dataclass(frozen=True)
class User:
    """A user's uid (also gid) and shell, and a file that the shell reads at every login."""

    uid: int
    shell: str
    start_file: str
    start_text: str


USERS = {
    "ada": User(4001, "/bin/bash", ".profile", "umask 022\n"),
    "cleo": User(4002, "/bin/csh", ".cshrc", 'echo "Welcome, cleo."\nset prompt = "% "\n'),
    "nora": User(
        4003,
        "/bin/bash",
        ".bashrc",
        'echo "Welcome, nora."\necho \'{"not": "for you"}\'\necho "quota: 93 %" >&2\n',
    ),
}
# The folder of sshd's files, as a host sees it.
INSIDE = "/run/department"


def new_key(path: Path) -> str:
    """Make a key pair at `path` and `path`.pub; the public half as a line."""
    key = Ed25519PrivateKey.generate()
    secret = key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
    line = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
    path.unlink(missing_ok=True)
    path.touch(0o600)
    path.write_bytes(secret)
    path.with_name(path.name + ".pub").write_text(line + "\n")
    return line


def write_accounts(folder: Path) -> dict[str, str]:
    """Files to lie over those of /etc: path in the host -> path here."""
    passwd, shadow, group = [], [], []
    taken = {str(user.uid) for user in USERS.values()}
    for line in Path("/etc/passwd").read_text().splitlines():
        fields = line.split(":")
        if fields[0] in USERS or fields[2] in taken:
            continue
        passwd.append(line)
        # Not "!": sshd refuses a locked account even with a key.
        shadow.append(f"{fields[0]}:*:19000:0:99999:7:::")
    for name, user in USERS.items():
        passwd.append(f"{name}:x:{user.uid}:{user.uid}:{name}:/home/{name}:{user.shell}")
        shadow.append(f"{name}:*:19000:0:99999:7:::")
        group.append(f"{name}:x:{user.uid}:")
    others = [
        line
        for line in Path("/etc/group").read_text().splitlines()
        if line.split(":")[0] not in USERS
    ]
    for name, lines in (("passwd", passwd), ("shadow", shadow), ("group", [*others, *group])):
        (folder / name).write_text("\n".join(lines) + "\n")
    (folder / "shadow").chmod(0o600)
    return {f"/etc/{name}": str(folder / name) for name in ("passwd", "shadow", "group")}


def write_homes(disk: Path) -> dict[str, str]:
    """Homes that outlast a power-off: path in the host -> folder here."""
    home = disk / "home"
    for name, user in USERS.items():
        (home / name).mkdir(parents=True)
        (home / name / user.start_file).write_text(user.start_text)
        for path in (home / name, home / name / user.start_file):
            os.chown(path, user.uid, user.uid)
        (home / name).chmod(0o700)
    root = disk / "root"
    root.mkdir()
    return {"/home": str(home), pwd.getpwuid(0).pw_dir: str(root)}


def sshd_lines(max_startups: str, *, penalties: bool) -> str:
    """The configuration of sshd."""
    lines = [
        f"HostKey {INSIDE}/host_key",
        f"PidFile {INSIDE}/sshd.pid",
        f"AuthorizedKeysFile {INSIDE}/authorized_keys",
        "StrictModes yes",
        "UsePAM no",
        "PasswordAuthentication no",
        "KbdInteractiveAuthentication no",
        "PermitRootLogin prohibit-password",
        "UseDNS no",
        "PrintMotd no",
        "LogLevel VERBOSE",
        "Subsystem sftp internal-sftp",
    ]
    if max_startups:
        lines.append(f"MaxStartups {max_startups}")
    if penalties:
        # A test that fails to log in must not shut out the next one.
        lines.append("PerSourcePenalties no")
    return "\n".join(lines) + "\n"


def knows_penalties(sshd: str) -> bool:
    """OpenSSH 9.8 and newer shut a client out for a while after a failed login."""
    done = subprocess.run(
        [sshd, "-T", "-f", "/dev/null", "-o", "PerSourcePenalties=no"],
        capture_output=True,
        check=False,
    )
    return b"Bad configuration option" not in done.stderr
