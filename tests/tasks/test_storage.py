"""The storage seam, over a local folder and over a real S3 endpoint with the same tests."""

from __future__ import annotations

import http.server
import threading
from pathlib import Path

import pytest
import s3fs

from cosmos_core.errors import BadConfig, BadInput, StorageUnavailable
from tasks.storage import Store, fetch_input, open_store


@pytest.fixture(params=["local", "s3"])
def store(request, tmp_path) -> Store:
    if request.param == "local":
        return open_store(str(tmp_path / "out"))
    return open_store(request.getfixturevalue("bucket") + "/some/prefix")


def test_bytes_come_back_as_they_went_in(store):
    store.publish_bytes(b"first", "records/a.json", content_type="application/json")
    store.publish_bytes(b"second", "records/a.json", content_type="application/json")
    assert store.read_bytes("records/a.json") == b"second"
    assert store.size("records/a.json") == 6


def test_files_come_back_as_they_went_in(store, tmp_path):
    source = tmp_path / "video.mp4"
    source.write_bytes(bytes(range(256)) * 40_000)
    store.publish_file(source, "videos/a.mp4", content_type="video/mp4")
    assert store.read_bytes("videos/a.mp4") == source.read_bytes()


def test_what_is_not_there_is_none(store):
    assert store.read_bytes("records/none.json") is None
    assert store.size("records/none.json") is None
    store.remove("records/none.json")


def test_removed_is_gone(store):
    store.publish_bytes(b"x", "a", content_type="text/plain")
    store.remove("a")
    assert store.read_bytes("a") is None


def test_names_cannot_leave_the_root(store):
    for name in ("../a", "/etc/passwd", "videos/../../a"):
        with pytest.raises(AssertionError):
            store.publish_bytes(b"x", name, content_type="text/plain")


def test_nothing_but_whole_files_lies_in_a_local_store(tmp_path):
    store = open_store(str(tmp_path / "out"))
    store.publish_bytes(b"x", "videos/a.mp4", content_type="video/mp4")
    assert [path.name for path in (tmp_path / "out" / "videos").iterdir()] == ["a.mp4"]


def test_an_interrupted_upload_leaves_the_old_file(tmp_path):
    store = open_store(str(tmp_path / "out"))
    store.publish_bytes(b"old", "videos/a.mp4", content_type="video/mp4")
    with pytest.raises(FileNotFoundError):
        store.publish_file(tmp_path / "missing.mp4", "videos/a.mp4", content_type="video/mp4")
    assert store.read_bytes("videos/a.mp4") == b"old"


def test_content_type_is_kept_on_s3(bucket):
    store = open_store(bucket)
    store.publish_bytes(b"x", "index.html", content_type="text/html")
    assert store.filesystem.info(f"{store.root}/index.html", refresh=True)["ContentType"] == "text/html"


def test_a_wrong_output_is_refused_by_name(tmp_path, s3_endpoint):
    (tmp_path / "file").write_text("")
    with pytest.raises(BadConfig, match="cannot be made"):
        open_store(str(tmp_path / "file" / "out"))
    with pytest.raises(BadConfig, match="unsupported output"):
        open_store("ftp://host/out")
    with pytest.raises(BadConfig, match="no such bucket"):
        open_store("s3://there-is-no-such-bucket/out")


def test_an_endpoint_that_does_not_answer_is_transient(monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "x")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    s3fs.S3FileSystem.clear_instance_cache()
    with pytest.raises(StorageUnavailable):
        open_store("s3://some-bucket/out")
    s3fs.S3FileSystem.clear_instance_cache()


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


def test_http_inputs_come_from_allowed_hosts_only(tmp_path):
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Length", "7")
            self.end_headers()
            self.wfile.write(b"picture")

        do_HEAD = do_GET

        def log_message(self, *arguments):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        uri = f"http://127.0.0.1:{server.server_port}/a.jpg?size=1"
        with pytest.raises(BadInput, match=r"may not be asked.*input_hosts"):
            fetch_input(uri, tmp_path, limit_bytes=100)
        path = fetch_input(uri, tmp_path, limit_bytes=100, hosts=("127.0.0.1",))
        server.shutdown()
    assert path.read_bytes() == b"picture"
    assert path.suffix == ".jpg"
