"""Inputs from a bucket and over HTTP: bounded, from allowed hosts only, and under a name that is their content."""

from __future__ import annotations

import http.server
import threading
from pathlib import Path

import pytest

from cosmos_core.errors import BadInput, StorageUnavailable
from cosmos_core.hashing import sha256_bytes
from tasks.input_files import fetch_input
from tasks.storage import open_store


@pytest.fixture(autouse=True)
def no_pause(monkeypatch):
    monkeypatch.setattr("tasks.storage_errors._FIRST_PAUSE_S", 0.0)


class Site:
    """A web server on this machine that answers each path as it is told: a status, headers and a body."""

    def __init__(self) -> None:
        self.pages: dict[str, tuple[int, dict[str, str], bytes]] = {"/a.jpg": (200, {}, b"picture")}
        self.asked: list[str] = []
        self.failures = 0
        site = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                site.asked.append(f"{self.headers['Host'].split(':')[0]}{self.path}")
                status, headers, body = site.pages[self.path.split("?")[0]]
                if site.failures:
                    site.failures -= 1
                    status = 503
                self.send_response(status)
                for name, value in ({"Content-Length": str(len(body))} | headers).items():
                    if value:
                        self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *arguments):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def uri(self, path: str, host: str = "127.0.0.1") -> str:
        return f"http://{host}:{self.server.server_port}{path}"


@pytest.fixture
def site():
    site = Site()
    yield site
    site.server.shutdown()
    site.server.server_close()


def fetch(site, folder, path="/a.jpg", *, hosts=("127.0.0.1",), limit_bytes=100):
    return fetch_input(site.uri(path), folder, limit_bytes=limit_bytes, hosts=hosts)


def test_inputs_are_fetched_from_s3_and_bounded(bucket, tmp_path):
    store = open_store(bucket)
    store.publish_bytes(b"picture", "frames/a.jpg", content_type="image/jpeg")
    path = fetch_input(f"{bucket}/frames/a.jpg", tmp_path / "inputs", limit_bytes=100)
    assert path.read_bytes() == b"picture"
    assert path.suffix == ".jpg"
    with pytest.raises(BadInput, match="too large"):
        fetch_input(f"{bucket}/frames/a.jpg", tmp_path / "inputs", limit_bytes=3)
    with pytest.raises(BadInput, match="no such input"):
        fetch_input(f"{bucket}/frames/none.jpg", tmp_path / "inputs", limit_bytes=100)


def test_a_local_input_is_used_where_it_lies(tmp_path):
    path = Path(tmp_path / "a.jpg")
    path.write_bytes(b"x")
    assert fetch_input(str(path), tmp_path / "inputs", limit_bytes=100) == path
    with pytest.raises(BadInput, match="no such input"):
        fetch_input(str(tmp_path / "none.jpg"), tmp_path / "inputs", limit_bytes=100)


def test_a_copy_is_named_by_its_content_and_nothing_else_is_left(bucket, tmp_path):
    store = open_store(bucket)
    store.publish_bytes(b"one", "a.jpg", content_type="image/jpeg")
    first = fetch_input(f"{bucket}/a.jpg", tmp_path / "inputs", limit_bytes=100)
    store.publish_bytes(b"two", "a.jpg", content_type="image/jpeg")
    second = fetch_input(f"{bucket}/a.jpg", tmp_path / "inputs", limit_bytes=100)
    assert (first.read_bytes(), second.read_bytes()) == (b"one", b"two")
    assert first.name == f"{sha256_bytes(b'one')[:32]}.jpg"
    with pytest.raises(BadInput):
        fetch_input(f"{bucket}/none.jpg", tmp_path / "inputs", limit_bytes=100)
    assert sorted((tmp_path / "inputs").iterdir()) == sorted([first, second])


def test_http_inputs_come_from_allowed_hosts_only(site, tmp_path):
    with pytest.raises(BadInput, match=r"may not be asked.*127\.0\.0\.1, expected no host.*input_hosts"):
        fetch(site, tmp_path, "/a.jpg?size=1", hosts=())
    assert site.asked == []
    path = fetch(site, tmp_path, "/a.jpg?size=1", hosts=("127.0.0.1",))
    assert (path.read_bytes(), path.suffix) == (b"picture", ".jpg")


def test_a_redirect_stays_among_the_allowed_hosts(site, tmp_path):
    site.pages["/moved.jpg"] = (302, {"Location": "/a.jpg"}, b"")
    assert fetch(site, tmp_path, "/moved.jpg").read_bytes() == b"picture"
    # The same server under another name is another host.
    site.pages["/away.jpg"] = (301, {"Location": site.uri("/a.jpg", "localhost")}, b"")
    site.asked.clear()
    with pytest.raises(BadInput, match=r"may not be asked for inputs: got http://localhost, where .*away\.jpg leads"):
        fetch(site, tmp_path, "/away.jpg")
    assert site.asked == ["127.0.0.1/away.jpg"]
    assert fetch(site, tmp_path, "/away.jpg", hosts=("127.0.0.1", "LOCALHOST")).read_bytes() == b"picture"


@pytest.mark.parametrize(
    "location",
    [
        "file:///etc/passwd",
        "ftp://127.0.0.1/a",
        "http://169.254.169.254/latest/meta-data",
        "http://user:pw@127.0.0.1/a.jpg",
    ],
)
def test_a_redirect_to_anything_else_is_refused(site, tmp_path, location):
    site.pages["/away.jpg"] = (302, {"Location": location}, b"")
    with pytest.raises(BadInput, match="may not be asked") as caught:
        fetch(site, tmp_path, "/away.jpg")
    assert "pw" not in str(caught.value)
    assert len(site.asked) == 1


def test_redirects_in_a_circle_end(site, tmp_path):
    site.pages["/loop.jpg"] = (302, {"Location": "/loop.jpg"}, b"")
    with pytest.raises(BadInput, match="redirects too often"):
        fetch(site, tmp_path, "/loop.jpg")
    assert len(site.asked) == 6


def test_a_large_file_is_refused_whether_or_not_it_says_its_size(site, tmp_path):
    site.pages["/large.jpg"] = (200, {}, b"x" * 500)
    with pytest.raises(BadInput, match="too large: got 500 bytes"):
        fetch(site, tmp_path, "/large.jpg")
    site.pages["/large.jpg"] = (200, {"Content-Length": ""}, b"x" * (1 << 20))
    with pytest.raises(BadInput, match="too large"):
        fetch(site, tmp_path, "/large.jpg")
    assert list(tmp_path.iterdir()) == []


def test_what_may_pass_is_asked_again_and_what_is_wrong_is_not(site, tmp_path):
    site.failures = 3
    assert fetch(site, tmp_path).read_bytes() == b"picture"
    assert len(site.asked) == 4
    site.failures = 4
    with pytest.raises(StorageUnavailable, match="HTTP 503"):
        fetch(site, tmp_path)
    for status, message in ((404, "no such input"), (403, "refused.*HTTP 403")):
        site.pages["/wrong.jpg"] = (status, {}, b"")
        site.asked.clear()
        with pytest.raises(BadInput, match=message):
            fetch(site, tmp_path, "/wrong.jpg")
        assert len(site.asked) == 1


def test_a_file_that_is_cut_short_is_not_taken_for_whole(site, tmp_path):
    site.pages["/cut.jpg"] = (200, {"Content-Length": "50"}, b"x" * 20)
    with pytest.raises(StorageUnavailable, match="did not answer"):
        fetch(site, tmp_path, "/cut.jpg")
    assert list(tmp_path.iterdir()) == []
