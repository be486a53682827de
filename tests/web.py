"""A web server of a folder that counts who asks for what."""

import http.server
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


class Web:
    """`asked` counts requests by path; `refuse` answers them with an error, `cut` ends each answer
    after so many bytes, `redirect` sends them elsewhere.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.asked: Counter[str] = Counter()
        self.refuse = 0
        self.cut = 0
        self.redirect = ""


@contextmanager
def serve(folder: Path, address: str = "127.0.0.1") -> Iterator[Web]:
    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, directory=str(folder), **options)

        def do_GET(self) -> None:
            web.asked[self.path] += 1
            if web.refuse:
                self.send_error(web.refuse)
            elif web.redirect:
                self.send_response(302)
                self.send_header("Location", web.redirect)
                self.end_headers()
            else:
                super().do_GET()

        def copyfile(self, source: Any, outputfile: Any) -> None:
            outputfile.write(source.read(web.cut) if web.cut else source.read())

        def log_message(self, *arguments: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer((address, 0), Handler)
    server.block_on_close = True
    web = Web(f"http://{address}:{server.server_address[1]}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield web
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
