"""The storage seam, over a local folder and over a real S3 endpoint with the same tests."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path

import pytest
import s3fs

from cosmos_core.errors import BadConfig, BadRequest, StorageUnavailable
from tasks.config import parse_config
from tasks.storage import Store, open_store
from tasks.storage_errors import retried
from tasks.uploads import Digest, verify_upload


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


@pytest.mark.parametrize(
    "name", ["../a", "/etc/passwd", "videos/../../a", "videos/..", "a//b", "./a", "", "a\\b", "a\nb", "a\0b"]
)
def test_names_cannot_leave_the_root(store, name):
    for use in (
        lambda: store.publish_bytes(b"x", name, content_type="text/plain"),
        lambda: store.read_bytes(name),
        lambda: store.remove(name),
        lambda: store.uri_of(name),
        lambda: store.list(name),
        lambda: store.below(name),
    ):
        with pytest.raises(BadRequest, match="would leave its store"):
            use()


def test_a_store_below_another_is_its_folder(store):
    store.below("lineage").publish_bytes(b"x", "rows/a", content_type="text/plain")
    assert store.read_bytes("lineage/rows/a") == b"x"
    assert store.below("lineage").uri == store.uri_of("lineage")


class Troubled:
    """A file system that fails some times, or loses bytes of some uploads, before it does what it should."""

    def __init__(self, filesystem, *, failures=0, losses=0, error=ConnectionResetError):
        self._filesystem = filesystem
        self._error = error
        self.failures = failures
        self.losses = losses
        self.calls = 0

    def __getattr__(self, name):
        found = getattr(self._filesystem, name)
        if name not in ("pipe_file", "put_file", "cat_file", "find", "rm_file", "get_file"):
            return found

        def call(*arguments, **options):
            self.calls += 1
            if self.failures:
                self.failures -= 1
                raise self._error("trouble")
            if name == "pipe_file" and self.losses:
                self.losses -= 1
                path, data, *_ = arguments
                return found(path, data[:-1] + b"?", **options)
            if name == "put_file" and self.losses:
                self.losses -= 1
                source, path, *_ = arguments
                return self._filesystem.pipe_file(path, Path(source).read_bytes()[:-1], **options)
            return found(*arguments, **options)

        return call


@pytest.fixture
def no_pause(monkeypatch):
    monkeypatch.setattr("tasks.storage_errors._FIRST_PAUSE_S", 0.0)


@pytest.fixture
def remote(bucket, no_pause) -> Store:
    return open_store(f"{bucket}/some/prefix")


def troubled(store, **trouble) -> tuple[Store, Troubled]:
    filesystem = Troubled(store.filesystem, **trouble)
    return Store(root=store.root, uri=store.uri, filesystem=filesystem), filesystem


def test_what_may_pass_is_tried_again(remote, tmp_path):
    source = tmp_path / "a"
    source.write_bytes(b"data")
    for use in (
        lambda store: store.publish_bytes(b"data", "a", content_type="text/plain"),
        lambda store: store.publish_file(source, "a", content_type="text/plain"),
        lambda store: store.read_bytes("a"),
        lambda store: store.list("x"),
        lambda store: store.fetch_file("a", tmp_path / "copy"),
        lambda store: store.publish_new_bytes(b"new", "new", content_type="text/plain"),
        lambda store: store.remove("a"),
    ):
        store, filesystem = troubled(remote, failures=3)
        use(store)
        assert filesystem.calls == 4
    assert (tmp_path / "copy").read_bytes() == b"data"
    store, filesystem = troubled(remote, failures=4)
    with pytest.raises(StorageUnavailable, match="did not answer: got ConnectionResetError: trouble"):
        store.read_bytes("a")


def test_what_stays_wrong_is_not_tried_again(remote):
    store, filesystem = troubled(remote, failures=9, error=PermissionError)
    with pytest.raises(BadConfig, match="no permission"):
        store.publish_bytes(b"data", "a", content_type="text/plain")
    assert filesystem.calls == 1


def test_pauses_grow_and_are_not_equal(monkeypatch):
    pauses = []
    monkeypatch.setattr("tasks.storage_errors.time.sleep", pauses.append)

    def fail():
        raise ConnectionResetError

    for _ in range(20):
        with pytest.raises(StorageUnavailable):
            retried("s3://bucket", fail)
    first, second, third = pauses[0::3], pauses[1::3], pauses[2::3]
    assert max(first) < 0.4 < min(third)
    assert 0.25 <= min(second) <= max(second) <= 0.75
    assert len(set(first)) > 1


def test_an_upload_that_arrived_damaged_is_made_again(remote, tmp_path):
    source = tmp_path / "a.mp4"
    source.write_bytes(b"video" * 1000)
    for name, publish in (
        ("bytes", lambda store: store.publish_bytes(source.read_bytes(), "bytes", content_type="video/mp4")),
        ("file", lambda store: store.publish_file(source, "file", content_type="video/mp4")),
    ):
        store, filesystem = troubled(remote, losses=1)
        publish(store)
        assert filesystem.calls == 2
        assert remote.read_bytes(name) == source.read_bytes()
        store, _ = troubled(remote, losses=9)
        with pytest.raises(StorageUnavailable, match=r"was cut|was changed on its way"):
            publish(store)


def test_an_upload_in_parts_is_verified_by_reading_it_back(remote, tmp_path, monkeypatch):
    source = tmp_path / "large"
    source.write_bytes(bytes(range(256)) * (11 << 12))
    in_parts = functools.partial(remote.filesystem.put_file, chunksize=5 << 20)
    monkeypatch.setattr(remote.filesystem, "put_file", in_parts, raising=False)
    remote.publish_file(source, "large", content_type="application/octet-stream")
    assert "-3" in remote.filesystem.info(remote.path_of("large"))["ETag"]
    digest = Digest.of_file(source)
    verify_upload(remote.filesystem, remote.path_of("large"), digest)
    with pytest.raises(StorageUnavailable, match="was changed on its way"):
        verify_upload(remote.filesystem, remote.path_of("large"), dataclasses.replace(digest, sha256="0" * 64))


def test_a_local_file_that_is_not_what_was_written_never_appears(tmp_path, monkeypatch, no_pause):
    store = open_store(str(tmp_path / "out"))
    store.publish_bytes(b"old", "a", content_type="text/plain")
    monkeypatch.setattr("tasks.atomic_files.sha256_file", lambda path: "another")
    with pytest.raises(StorageUnavailable, match="was changed on its way"):
        store.publish_bytes(b"new", "a", content_type="text/plain")
    assert store.read_bytes("a") == b"old"
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a"]


def test_addresses_with_credentials_or_several_places_are_refused(tmp_path):
    with pytest.raises(BadConfig, match=r"carries credentials: got s3://\*\*\*@bucket") as caught:
        open_store("s3://key:SECRET@bucket/out")
    assert "SECRET" not in str(caught.value)
    with pytest.raises(BadConfig, match="unsupported output"):
        open_store("s3://bucket/out::file:///etc")
    with pytest.raises(BadConfig, match=r"lineage: got .*\*\*\*@bucket.*without credentials") as caught:
        parse_config({"lineage": "s3://key:SECRET@bucket/x"}, origin="test")
    assert "SECRET" not in str(caught.value)


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
