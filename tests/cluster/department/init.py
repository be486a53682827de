"""The first process of a test host (or of the switch): makes its namespaces, then keeps them alive.

    python -I -S init.py FOLDER NAME      words as JSON lines on stdin, answers on stdout

Everything of a host hangs on this process: when it is killed, the kernel kills all else in its
process namespace and removes its network and its mounts. It ends by itself when its stdin ends,
that is, with whoever built the department. Needs only the standard library.
"""

import ctypes
import json
import os
import signal
import socket
import subprocess
import sys
import time

NEW_MOUNTS, NEW_NAME, NEW_IPC, NEW_PROCESSES, NEW_NETWORK = (
    0x00020000,
    0x04000000,
    0x08000000,
    0x20000000,
    0x40000000,
)
NOSUID, NODEV, BIND, RECURSIVE, PRIVATE = 2, 4, 4096, 16384, 1 << 18
DIE_WITH_PARENT = 1

libc = ctypes.CDLL(None, use_errno=True)


def call(name, *arguments):
    if getattr(libc, name)(*arguments) != 0:
        error = ctypes.get_errno()
        raise OSError(error, f"{name}{arguments}: {os.strerror(error)}")


def mount(source, target, kind="", flags=0, options=""):
    texts = [os.fsencode(text) for text in (source, target, kind)]
    call("mount", *texts, ctypes.c_ulong(flags), os.fsencode(options))


def answer(**words):
    os.write(1, json.dumps(words).encode() + b"\n")


def arrange_mounts(plan):
    """The host's own folders, and in them what it shall see of the machine's."""
    mount("none", "/", flags=RECURSIVE | PRIVATE)
    # Opened before anything hides them.
    folders = [
        (path, os.open(source, os.O_PATH) if source else None, options)
        for path, source, options in plan["folders"]
    ]
    files = [(path, os.open(source, os.O_PATH)) for path, source in plan["files"].items()]
    for path, opened, options in folders:
        os.makedirs(path, exist_ok=True)
        if opened is None:
            mount("tmpfs", path, "tmpfs", NOSUID | NODEV, options)
        else:
            mount(f"/proc/self/fd/{opened}", path, flags=BIND | RECURSIVE)
            os.close(opened)
    for path, opened in files:
        mount(f"/proc/self/fd/{opened}", path, flags=BIND)
        os.close(opened)
    mount("proc", "/proc", "proc", NOSUID | NODEV)
    # Who sits at a terminal of this machine, or of another host, does not sit here.
    mount("devpts", "/dev/pts", "devpts", NOSUID, "newinstance,mode=620,ptmxmode=666")


def arrange_network(ip, lines):
    try:
        # A container's own setting may have come along.
        with open("/proc/sys/net/ipv4/ip_forward", "w") as file:
            file.write("0")
    except OSError:
        pass
    subprocess.run([ip, "-batch", "-"], input="\n".join(lines), text=True, check=True)


def start_sshd(command, pid_file):
    # Where sshd locks up its unprivileged half.
    os.makedirs("/run/sshd", exist_ok=True)
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
    # It is written once sshd listens.
    deadline = time.monotonic() + 10
    while not os.path.exists(pid_file):
        if time.monotonic() > deadline:
            raise SystemExit("sshd does not listen")
        time.sleep(0.002)


def bury(*_):
    """Take leave of every orphan of the host that has ended."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass


def live(plan, talk):
    """Inside the namespaces, as process 1 there."""
    call("prctl", DIE_WITH_PARENT, signal.SIGKILL, 0, 0, 0)
    held = None
    if plan["role"] == "host":
        name = plan["name"].encode()
        call("sethostname", name, len(name))
        arrange_mounts(plan)
    answer(separate=True)
    network = json.loads(talk.readline() or "null")
    if network is None:
        return
    if plan["role"] == "host":
        arrange_network(plan["ip"], network["lines"])
        if plan["silent"]:
            # Accepted by the kernel, read by nobody.
            held = socket.create_server(("", 22), backlog=4096)
        elif plan["sshd"]:
            start_sshd(plan["sshd"], plan["pid_file"])
    answer(ready=True)
    signal.signal(signal.SIGCHLD, bury)
    bury()
    talk.read()
    del held


def main():
    talk = sys.stdin.buffer
    plan = json.loads(talk.readline())
    os.environ.clear()
    os.environ["PATH"] = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    os.umask(0o022)
    os.chdir("/")
    call("unshare", NEW_MOUNTS | NEW_NAME | NEW_IPC | NEW_PROCESSES | NEW_NETWORK)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            live(plan, talk)
            code = 0
        except BaseException:  # noqa: BLE001 - whatever it is, the builder shows it
            sys.excepthook(*sys.exc_info())
        sys.stderr.flush()
        os._exit(code)
    answer(inner=child)
    os.waitpid(child, 0)


if __name__ == "__main__":
    main()
