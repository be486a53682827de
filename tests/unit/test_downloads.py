"""Inputs that are URLs: what is understood, fetched, checked, and kept."""

import datetime as dt
import hashlib
import http.server
import ipaddress
import os
import ssl
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from dask_runner import downloads, rootfiles
from dask_runner.batch import InputFile
from dask_runner.errors import BadInputError, StorageError, UsageError
from dask_runner.files import path_to_text
from dask_runner.rootfiles import Table
from dask_runner.verify import changed_inputs
from dask_runner.workloads import inputs, names
from dask_runner.workloads.reconstruct import Reconstruct

sys.path[:0] = [str(Path(__file__).parent.parent)]
from web import serve  # noqa: E402

CONTENT = b"events of the web"
HASH = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def pages(tmp_path):
    folder = tmp_path / "web"
    folder.mkdir()
    (folder / "e.root").write_bytes(CONTENT)
    return folder


@pytest.fixture
def web(pages, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with serve(pages) as server:
        yield server


def test_what_is_a_url():
    assert downloads.is_url("http://a/b")
    assert downloads.is_url("https://a/b")
    assert not downloads.is_url("/http://a/b")
    assert not downloads.is_url("ftp://a/b")


def test_the_hash_behind_a_url():
    assert downloads.split_hash("http://a/b") == ("http://a/b", "")
    assert downloads.split_hash(f"http://a/b#sha256={HASH.upper()}") == ("http://a/b", HASH)


@pytest.mark.parametrize(
    "text",
    [
        "http://",
        "http:///path",
        "http://a/b#part",
        "http://a/b#sha256=12",
        "http://a/with space",
        "http://a/with\nnewline",
        "http://a/ü",
        "http://a:port/",
        "http://[::1/",
    ],
)
def test_what_is_no_url_is_refused(text):
    with pytest.raises(UsageError):
        downloads.split_hash(text)


def test_a_password_in_a_url_is_refused_and_not_repeated():
    with pytest.raises(UsageError) as caught:
        downloads.split_hash("http://me:secret@a/b")
    assert "secret" not in str(caught.value) + caught.value.hint


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("http://a/x/e.root?download=1", "e.root"),
        ("http://a/x/a%20b.root", "a b.root"),
        ("http://a/x/%FF.root", os.fsdecode(b"\xff.root")),
        ("http://a/x/..%2F..%2Fetc", "download"),
        ("http://a/..", "download"),
        ("http://a", "download"),
        ("http://a/" + 300 * "x", "download"),
    ],
)
def test_the_name_of_a_url(url, name):
    assert downloads.name_of(url) == path_to_text(name)


def test_a_url_is_fetched_once_in_the_life_of_its_copy(web):
    url = f"{web.url}/e.root"
    path, digest = downloads.local_copy(url)
    assert (path.read_bytes(), path.name, digest) == (CONTENT, "e.root", HASH)
    assert downloads.local_copy(url, HASH) == (path, HASH)
    assert web.asked["/e.root"] == 1
    path.unlink()
    assert downloads.local_copy(url, HASH)[0].read_bytes() == CONTENT
    assert web.asked["/e.root"] == 2


def test_redirections_are_followed_but_not_out_of_the_web(web, pages, tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("secret")
    for target in (f"file://{secret}", f"ftp://127.0.0.1{secret}"):
        web.redirect = target
        with pytest.raises(BadInputError):
            downloads.local_copy(f"{web.url}/e.root")
    with serve(pages) as other:
        web.redirect = f"{other.url}/e.root"
        assert downloads.local_copy(f"{web.url}/e.root")[1] == HASH


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("missing", "the server says 404"),
        ("refused", "the server says 503"),
        ("cut", "5 of 17 bytes|IncompleteRead|cannot be fetched"),
        ("gone", "cannot be fetched: .*refused"),
        ("other", "its content has changed"),
    ],
)
def test_what_goes_wrong_is_said_with_the_url_and_leaves_nothing(web, tmp_path, fault, message):
    url, known = f"{web.url}/e.root", ""
    if fault == "missing":
        url = f"{web.url}/nothing.root"
    elif fault == "refused":
        web.refuse = 503
    elif fault == "cut":
        web.cut = 5
    elif fault == "gone":
        url = "http://127.0.0.1:1/e.root"
    else:
        known = "0" * 64
    with pytest.raises(BadInputError, match=message) as caught:
        downloads.local_copy(url, known)
    assert url in caught.value.message
    assert list((tmp_path / "cache" / "dask-runner" / "incoming").iterdir()) == []


def test_a_folder_that_cannot_be_written_is_no_fault_of_the_url(web, tmp_path):
    with pytest.raises(StorageError):
        downloads.fetch(f"{web.url}/e.root", tmp_path / "no" / "such" / "folder")


# As inputs of a run


def write_evnt(path: Path, entries: int) -> None:
    columns = {"event": np.arange(entries, dtype=np.int64)}
    rootfiles.write(path, {"events": Table(entries=entries, columns=columns)}, {})


def plan(*named: str, **more):
    texts = tuple(inputs.resolve(text, Path.cwd()) for text in named)
    return Reconstruct(evnt_dir="/nowhere", batch_size=4, seed=1, inputs=texts, **more).plan()


def test_inputs_by_name_and_url_are_counted_and_split(web, pages, tmp_path):
    write_evnt(pages / "b.EVNT.root", 10)
    write_evnt(tmp_path / "a.EVNT.root", 3)
    url = f"{web.url}/b.EVNT.root"
    digest = hashlib.sha256((pages / "b.EVNT.root").read_bytes()).hexdigest()
    made = plan(f"{url}#sha256={digest}", str(tmp_path / "a.EVNT.root"))
    assert made.problems == ()
    assert [(file.path, file.entries) for file in made.inputs] == [
        (str(tmp_path / "a.EVNT.root"), 3),
        (url, 10),
    ]
    assert [file.sha256 for file in made.inputs] == ["", digest]
    assert [(b.inputs[0].path, b.inputs[0].first, b.count) for b in made.batches] == [
        (str(tmp_path / "a.EVNT.root"), 0, 3),
        (url, 0, 4),
        (url, 4, 4),
        (url, 8, 2),
    ]
    assert made.batches[1].outputs[0].name == "b.0-3.AOD.root"


def test_urls_that_differ_in_the_query_only_have_outputs_of_their_own(web, pages):
    write_evnt(pages / "b.EVNT.root", 2)
    first = plan(f"{web.url}/b.EVNT.root?x=1")
    assert first.batches[0].outputs[0].name == "b.0-1.AOD.root"
    paths = [inputs.stem_path(f"{web.url}/b.EVNT.root?x={k}") for k in (1, 2)]
    stems = names.stems(paths)
    assert len(set(stems)) == 2
    assert all(stem.startswith("b-") for stem in stems)


def test_what_is_wrong_with_named_inputs_is_said_of_each(web, pages, tmp_path):
    write_evnt(tmp_path / "a.EVNT.root", 3)
    same = str(tmp_path / "a.EVNT.root")
    made = plan(same, same, f"{web.url}/e.root", f"{web.url}/no.root", str(tmp_path / "no.root"))
    assert [file.path for file in made.inputs] == [same]
    assert len(made.problems) == 4
    text = "\n".join(made.problems)
    assert f"{same}: is the same file as {same}" in text
    assert f"{web.url}/e.root: " in text
    assert "the server says 404" in text
    assert "no.root: No such file or directory" in text


@pytest.mark.parametrize("text", ["root://eos/x.root", "file:///x.root", "s3://bucket/x"])
def test_other_schemes_are_refused_with_what_to_do(text):
    with pytest.raises(UsageError, match="is not supported yet") as caught:
        inputs.resolve(text, Path("/"))
    assert "https://" in caught.value.hint


def test_named_files_are_resolved_where_the_user_is(tmp_path):
    assert inputs.resolve("a b.root", tmp_path) == str(tmp_path / "a b.root")
    assert inputs.resolve(os.fsdecode(b"\xff.root"), Path("/")) == "/%FF.root"


# Have they changed?


def listed(web, content: bytes = CONTENT) -> InputFile:
    return InputFile(
        path=f"{web.url}/e.root",
        bytes=len(content),
        mtime_ns=0,
        entries=1,
        fingerprint="f",
        sha256=hashlib.sha256(content).hexdigest(),
    )


@pytest.mark.parametrize("thorough", [False, True])
def test_a_url_has_changed_if_its_hash_cannot_be_had_any_more(web, pages, thorough):
    file = listed(web)
    assert changed_inputs([file], thorough=thorough) == ()
    path, _ = downloads.local_copy(file.path, file.sha256)
    (pages / "e.root").write_bytes(b"other")
    assert changed_inputs([file], thorough=thorough) == (), "our copy is what was planned"
    path.unlink()
    (line,) = changed_inputs([file], thorough=thorough)
    assert "its content has changed" in line
    (pages / "e.root").unlink()
    (line,) = changed_inputs([file], thorough=thorough)
    assert "404" in line


# Servers that are not to be waited for


class Drip:
    """What a server sends: `count` times `block`, with a pause before each."""

    def __init__(self, block: bytes, count: int, pause: float) -> None:
        self.block, self.count, self.pause = block, count, pause


@contextmanager
def served(answer: Drip | str, certificate: Path | None = None) -> Iterator[str]:
    """The URL of a server that gives this, or sends to this address."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if isinstance(answer, Drip) else 302)
            if isinstance(answer, str):
                self.send_header("Location", answer)
            self.end_headers()
            with suppress(OSError):
                for _ in range(answer.count if isinstance(answer, Drip) else 0):
                    assert not ended.wait(answer.pause)
                    self.wfile.write(answer.block)

        def log_message(self, *arguments) -> None:
            pass

    ended = threading.Event()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.handle_error = lambda *_: None
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"{'http' if certificate is None else 'https'}://127.0.0.1:{server.server_port}/a"
    finally:
        ended.set()
        server.shutdown()
        server.server_close()
        thread.join()


def test_a_server_that_drips_is_given_up(tmp_path, monkeypatch):
    monkeypatch.setattr(downloads, "_GRACE", 0.5)
    with served(Drip(b"x", 1000, 0.02)) as url:
        began = time.monotonic()
        with pytest.raises(BadInputError, match="which is too slow"):
            downloads.fetch(url, tmp_path / "a")
        assert time.monotonic() - began < 10


@pytest.mark.parametrize(("size", "message"), [(1000, "a: its content has changed: "), (0, "a: ")])
def test_more_than_was_announced_is_not_taken(tmp_path, monkeypatch, size, message):
    monkeypatch.setattr(downloads, "_LARGEST", 1000)
    with (
        served(Drip(b"x" * 100, 100_000, 0.0)) as url,
        pytest.raises(BadInputError, match=f"{message}more than 1000 bytes"),
    ):
        downloads.fetch(url, tmp_path / "a", size)
    assert (tmp_path / "a").stat().st_size <= 1000


def test_https_is_not_left_for_http(tmp_path, monkeypatch, pages):
    certificate = tmp_path / "server.pem"
    certificate.write_bytes(_own_certificate())
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    with serve(pages) as web, served(f"{web.url}/e.root", certificate) as url:
        with pytest.raises(BadInputError, match="is redirected from https to http://"):
            downloads.fetch(url, tmp_path / "a")
        assert not web.asked
        with served(url, certificate) as other, pytest.raises(BadInputError, match="redirected"):
            downloads.fetch(other, tmp_path / "a")


def _own_certificate() -> bytes:
    """Of 127.0.0.1, signed by itself, with its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = dt.datetime.now(dt.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(hours=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]),
            critical=False,
        )
        .sign(key, hashes.SHA256())
    )
    return made.public_bytes(Encoding.PEM) + key.private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
    )
