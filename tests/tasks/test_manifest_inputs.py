import os
import time

import pytest

from cosmos_core.errors import BadConfig, BadScenario
from tasks.manifest_inputs import check_input_root, resolve_input


@pytest.fixture
def site(tmp_path):
    """A manifest's folder with frames, and files beside it that must stay out of reach."""
    folder = tmp_path / "site"
    (folder / "frames").mkdir(parents=True)
    (folder / "frames" / "ü 文.jpg").write_bytes(b"x")
    (folder / "frames" / "a.jpg").write_bytes(b"x")
    (tmp_path / "secret.jpg").write_bytes(b"x")
    (tmp_path / "site-other").mkdir()
    (tmp_path / "site-other" / "a.jpg").write_bytes(b"x")
    return folder


def resolve(site, scenario_input, **options):
    return resolve_input(scenario_input, manifest_uri=str(site / "m.parquet"), **options)


@pytest.mark.parametrize(
    "scenario_input", ["frames/a.jpg", "./frames/../frames/a.jpg", "frames//a.jpg", "frames/ü 文.jpg"]
)
def test_relative_inputs_begin_at_the_manifests_folder(site, scenario_input):
    resolved = resolve(site, scenario_input)
    assert os.path.isabs(resolved)
    assert os.path.samefile(resolved, site / scenario_input)
    assert resolve_input(scenario_input, manifest_uri=(site / "m.parquet").as_uri()) == resolved


def test_a_relative_manifest_path_works(site, monkeypatch):
    monkeypatch.chdir(site)
    assert resolve_input("frames/a.jpg", manifest_uri="m.json") == str(site / "frames" / "a.jpg")


def test_absolute_inputs_must_lie_inside(site):
    inside = site / "frames" / "a.jpg"
    assert resolve(site, str(inside)) == str(inside)
    assert resolve(site, inside.as_uri()) == str(inside)
    assert resolve(site, (site / "frames" / "ü 文.jpg").as_uri()) == str(site / "frames" / "ü 文.jpg")


@pytest.mark.parametrize(
    "scenario_input",
    [
        "../secret.jpg",
        "frames/../../secret.jpg",
        "../site-other/a.jpg",
        "/etc/passwd",
        "file:///etc/passwd",
        "file://localhost/etc/passwd",
        "file:///%2e%2e/etc/passwd",
        "link.jpg",
        "linked/secret.jpg",
        "..",
        "/",
    ],
)
def test_nothing_outside_is_reached(site, scenario_input):
    (site / "link.jpg").symlink_to(site.parent / "secret.jpg")
    (site / "linked").symlink_to(site.parent)
    with pytest.raises(BadScenario, match="outside") as caught:
        resolve(site, scenario_input)
    assert "--input-root" in caught.value.fix


def test_links_inside_are_followed(site):
    (site / "link.jpg").symlink_to(site / "frames" / "a.jpg")
    assert resolve(site, "link.jpg") == str(site / "frames" / "a.jpg")


def test_an_input_root_widens_and_moves_the_start(site):
    root = str(site.parent)
    assert resolve(site, "secret.jpg", input_root=root) == str(site.parent / "secret.jpg")
    assert resolve(site, str(site / "frames" / "a.jpg"), input_root=root) == str(site / "frames" / "a.jpg")
    with pytest.raises(BadScenario, match="does not exist"):
        resolve(site, "frames/a.jpg", input_root=root)
    assert resolve(site, "a.jpg", input_root=(site / "frames").as_uri()) == str(site / "frames" / "a.jpg")


def test_a_missing_input_says_where_it_was_looked_for(site):
    with pytest.raises(BadScenario, match="does not exist") as caught:
        resolve(site, "frames/b.jpg")
    assert caught.value.got == str(site / "frames" / "b.jpg")


def test_what_is_no_file_is_refused(site):
    os.mkfifo(site / "pipe.jpg")
    with pytest.raises(BadScenario, match="folder"):
        resolve(site, "frames")
    for scenario_input in ("pipe.jpg", "frames/a.jpg/b", "x" * 400, "C:\\a.jpg"):
        with pytest.raises(BadScenario, match="does not exist"):
            resolve(site, scenario_input)


def test_a_link_to_itself_ends(site):
    (site / "loop.jpg").symlink_to("loop.jpg")
    with pytest.raises(BadScenario):
        resolve(site, "loop.jpg")


@pytest.mark.parametrize(
    "scenario_input",
    ["s3://bucket/a b.jpg", "https://host/a.jpg?size=x@y", "http://host:8080/d/a.mp4", "s3://b/../a.jpg"],
)
def test_remote_addresses_pass(site, scenario_input):
    assert resolve(site, scenario_input) == scenario_input
    assert resolve_input(scenario_input, manifest_uri="s3://other/m.csv") == scenario_input


@pytest.mark.parametrize(
    "scenario_input",
    [
        "https://user:pw@host/a.jpg",
        "https://bucket.s3.amazonaws.com/a.jpg?X-Amz-Credential=AKIA%2F&X-Amz-Signature=SECRET",
        "https://host/a.jpg?sv=1&sig=SECRET",
        "https://host/a.jpg?token=SECRET#x",
    ],
)
def test_addresses_that_carry_credentials_are_refused_and_not_repeated(site, scenario_input):
    with pytest.raises(BadScenario, match="carries credentials") as caught:
        resolve(site, scenario_input)
    assert not any(secret in str(caught.value) for secret in ("pw", "AKIA", "SECRET"))


@pytest.mark.parametrize(
    "scenario_input", ["s3://bucket/a.jpg::file:///etc/passwd", "https://host/a.jpg::/etc/passwd", "http://h/::a"]
)
def test_addresses_cannot_be_chained(site, scenario_input):
    with pytest.raises(BadScenario, match="names several places"):
        resolve(site, scenario_input)


def test_a_scheme_is_written_small(site):
    assert resolve(site, "S3://Bucket/A.jpg") == "s3://Bucket/A.jpg"


@pytest.mark.parametrize(
    "scenario_input",
    ["ftp://host/a.jpg", "gs://b/a.jpg", "memory://a.jpg", "simplecache://a", "file://host/a.jpg", "file://a.jpg"],
)
def test_other_addresses_are_refused(site, scenario_input):
    with pytest.raises(BadScenario):
        resolve(site, scenario_input)


@pytest.mark.parametrize("scenario_input", ["s3://", "s3://bucket", "s3://bucket/", "https://host", "https://host/d/"])
def test_addresses_of_no_file_are_refused(site, scenario_input):
    with pytest.raises(BadScenario, match="names no file"):
        resolve(site, scenario_input)


def test_credentials_are_refused_and_not_repeated(site):
    with pytest.raises(BadScenario) as caught:
        resolve(site, "https://user:geheim@host/a.jpg")
    assert "geheim" not in str(caught.value)


@pytest.mark.parametrize(
    ("manifest_uri", "scenario_input", "expected"),
    [
        ("s3://bucket/in/m.parquet", "frames/a.jpg", "s3://bucket/in/frames/a.jpg"),
        ("s3://bucket/in/m.parquet", "frames/../b.jpg", "s3://bucket/in/b.jpg"),
        ("s3://bucket/m.parquet", "a b.jpg", "s3://bucket/a b.jpg"),
        ("https://host/in/m.json?v=1/2", "a b?.jpg", "https://host/in/a%20b%3F.jpg"),
    ],
)
def test_relative_inputs_of_remote_manifests(manifest_uri, scenario_input, expected):
    assert resolve_input(scenario_input, manifest_uri=manifest_uri) == expected


@pytest.mark.parametrize(
    "scenario_input",
    ["../a.jpg", "frames/../../a.jpg", "/in/a.jpg", "..", ".", "simplecache::s3://other/a.jpg", "file:///etc/passwd"],
)
def test_relative_inputs_stay_below_remote_manifests(scenario_input):
    with pytest.raises(BadScenario, match="outside"):
        resolve_input(scenario_input, manifest_uri="s3://bucket/in/m.parquet")


def test_a_remote_input_root_serves_a_local_manifest(site):
    assert resolve(site, "a.jpg", input_root="s3://bucket/frames/") == "s3://bucket/frames/a.jpg"


def test_input_roots_are_checked(site):
    for good in (None, str(site), site.as_uri(), "s3://bucket/x", "https://host"):
        check_input_root(good)
    for bad in ("", str(site / "nope"), str(site / "frames" / "a.jpg"), "ftp://host", "file://host/x"):
        with pytest.raises(BadConfig, match="--input-root"):
            check_input_root(bad)


def test_resolving_is_quick(site):
    start = time.perf_counter()
    for _ in range(2_000):
        resolve(site, "frames/a.jpg")
    assert time.perf_counter() - start < 2
