"""A web server that gives ranges of files, or misbehaves on demand."""

import re
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class Server(ThreadingHTTPServer):
    """`mode` is what is wrong: "" (nothing), "whole" (no ranges), "hang" (no answer), "stall" (half
    an answer to all but the first request for a file), "short" (too few bytes), or a status.
    """

    daemon_threads = True

    def __init__(self, folder: Path, address: str) -> None:
        super().__init__((address, 0), Handler)
        self.folder = folder
        self.mode = ""
        self.tag = '"1"'
        self.requests: list[tuple[int, int]] = []
        self.clients: set[str] = set()
        self.over = threading.Event()

    def url(self, name: str) -> str:
        return f"http://{self.server_address[0]}:{self.server_address[1]}/{name}"

    def handle_error(self, *_) -> None:
        """Who asked has gone: nothing to be said."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_) -> None:
        pass

    def do_GET(self) -> None:
        server = self.server
        path = server.folder / self.path.lstrip("/")
        if server.mode.isdecimal() or not path.is_file():
            self.send_error(int(server.mode or 404))
            return
        if server.mode == "hang":
            server.over.wait(30)
            self.close_connection = True
            return
        data = path.read_bytes()
        found = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        if server.mode == "whole" or found is None:
            self.send_response(200)
            part = data
        else:
            first, last = int(found[1]), min(int(found[2]), len(data) - 1)
            server.requests.append((first, last))
            server.clients.add(self.client_address[0])
            part = data[first : last + 1]
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {first}-{last}/{len(data)}")
        if server.tag:
            self.send_header("ETag", server.tag)
        stall = server.mode == "stall" and found is not None and found[1] != "0"
        if server.mode == "short" and found is not None and found[1] != "0":
            part = part[:-1]
        self.send_header("Content-Length", str(len(part)))
        self.end_headers()
        self.wfile.write(part[: len(part) // 2] if stall else part)
        if stall:
            self.wfile.flush()
            server.over.wait(30)
            self.close_connection = True


@contextmanager
def serving(folder: Path, address: str = "127.0.0.1"):
    server = Server(folder, address)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.over.set()
        server.shutdown()
        thread.join()
        server.server_close()
