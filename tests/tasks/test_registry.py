"""The registry: what is registered stays, two writers lose nothing, and a run keeps what it began with."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from botocore.exceptions import ClientError
from prefect.logging import disable_run_logger

from cosmos_core.adapter_manifest import AdapterManifest
from cosmos_core.errors import AdapterMismatch, BadConfig, BadRequest, CheckpointMismatch, CheckpointMissing
from cosmos_core.hashing import sha256_bytes, sha256_file
from tasks.config import load_config, parse_config
from tasks.guards import Guards
from tasks.manifest import read_manifest
from tasks.model_files import bring_model
from tasks.preparation import resolve_versions
from tasks.progress import Progress
from tasks.records import RESULTS_NAME
from tasks.registration import GivenFacts, describe_file
from tasks.registry import Registry, find_registry, open_registry
from tasks.registry_documents import Kind, VersionFacts, parse_reference
from tasks.run import Run
from tasks.run_plan import plan_run
from tasks.storage import Store, open_store
from tasks.versions import AdapterVersion, FileVersion

NUM_PROCESSES = 3
NUM_EACH = 4


@pytest.fixture(params=["local", "s3"])
def place(request, tmp_path) -> str:
    if request.param == "local":
        return str(tmp_path / "registry")
    return request.getfixturevalue("bucket") + "/models/registry"


@pytest.fixture
def registry(tmp_path) -> Registry:
    return open_registry(str(tmp_path / "registry"), create=True)


def facts(content: str, *, name="its-collision", kind=Kind.ADAPTER, **more) -> VersionFacts:
    more = {"rank": 16, "alpha": 16} | more if kind is Kind.ADAPTER else more
    sha256 = sha256_bytes(content.encode())
    return VersionFacts(
        name=name, kind=kind, sha256=sha256, num_bytes=len(content), location=f"/models/{content}", **more
    )


def add(registry: Registry, content: str, **more):
    return registry.register(facts(content, **more))[0]


class TestVersions:
    def test_versions_are_numbered_in_order_and_read_back_as_written(self, place):
        registry = open_registry(place, create=True)
        first = add(registry, "one", iteration=1000, target_modules=("q_proj",), note="überholt")
        second = add(registry, "two")
        other = add(registry, "one", name="its")
        assert (first.id, second.id, other.id) == ("its-collision:v1", "its-collision:v2", "its:v1")
        again = open_registry(place)
        assert again.versions("its-collision") == (first, second)
        assert again.names() == ("its", "its-collision")
        assert "@" in first.registered_by

    def test_the_same_content_is_registered_once(self, registry):
        first = add(registry, "one", iteration=1000)
        assert registry.register(facts("one")) == (first, False)
        assert len(registry.versions("its-collision")) == 1

    @pytest.mark.parametrize("other", [{"alpha": 32}, {"iteration": 5}, {"target_modules": ("q_proj",)}])
    def test_other_facts_about_the_same_content_are_refused(self, registry, other):
        add(registry, "one", iteration=1000)
        with pytest.raises(BadRequest, match=r"registered as its-collision:v1 with another .*Versions never change"):
            registry.register(facts("one", **other))

    def test_an_adapter_without_its_alpha_is_no_version(self):
        with pytest.raises(ValueError, match="rank and alpha"):
            facts("one", alpha=None)

    def test_a_damaged_document_is_named(self, registry):
        add(registry, "one")
        document = Path(registry.store.root, "versions/its-collision/v1.json")
        document.write_text(document.read_text().replace('"rank": 16', '"rank": "many"'))
        with pytest.raises(BadConfig, match=r"v1\.json is not a document of this registry: got rank"):
            registry.resolve("its-collision")


class TestReferences:
    @pytest.mark.parametrize(
        ("text", "canonical"),
        [
            ("its", "its"),
            ("its@production", "its@production"),
            ("its:v3", "its:v3"),
            ("its@v3", "its:v3"),
            ("its:0123abcd", "its:0123abcd"),
            ("its@0123abcd", "its:0123abcd"),
        ],
    )
    def test_forms(self, text, canonical):
        assert str(parse_reference(text)) == canonical

    @pytest.mark.parametrize(
        "text", ["", "Its", "../its", "its/1", "its@", "its:", "its:production", "its:v0", "its:abc", "its@a@b", "a\nb"]
    )
    def test_others_are_refused(self, text):
        with pytest.raises(BadRequest):
            parse_reference(text)

    def test_each_form_finds_its_version(self, registry):
        first, second = add(registry, "one"), add(registry, "two")
        registry.move_alias("its-collision", "production", first)
        assert registry.resolve("its-collision@production") == first
        assert registry.resolve("its-collision:v2") == second
        assert registry.resolve(f"its-collision:{second.sha256[:8]}") == second

    def test_a_bare_name_is_the_default_or_the_only_version_and_never_a_guess(self, registry):
        first = add(registry, "one")
        assert registry.resolve("its-collision") == first
        second = add(registry, "two")
        with pytest.raises(BadRequest, match=r"several versions.*its-collision:v1.*its-collision:v2"):
            registry.resolve("its-collision")
        registry.move_alias("its-collision", "default", second)
        assert registry.resolve("its-collision") == second

    def test_a_start_that_two_hashes_share_is_refused(self, registry):
        shared = "0123abcd"
        for end in "01":
            registry.register(facts("x").model_copy(update={"sha256": shared + end * 56}))
        with pytest.raises(BadRequest, match="several versions"):
            registry.resolve(f"its-collision:{shared}")
        assert registry.resolve(f"its-collision:{shared}1").number == 2

    def test_what_leads_nowhere_is_refused_with_the_choices(self, registry):
        registry.move_alias("its-collision", "production", add(registry, "one"))
        with pytest.raises(CheckpointMissing, match=r"no such name.*got its-colision.*its-collision"):
            registry.resolve("its-colision")
        for reference in ("its-collision@staging", "its-collision:v2", "its-collision:00000000"):
            with pytest.raises(CheckpointMissing, match=r"no such version.*its-collision@production, its-collision:v1"):
                registry.resolve(reference)


class TestAliases:
    def test_every_move_is_kept(self, place):
        registry = open_registry(place, create=True)
        first, second = add(registry, "one"), add(registry, "two")
        for version in (first, second, second, first):
            registry.move_alias("its-collision", "production", version)
        history = registry.history("its-collision", "production")
        assert [(move.from_version, move.to_version) for move in history] == [(None, 1), (1, 2), (2, 1)]
        assert history[-1].to_sha256 == first.sha256
        assert registry.resolve("its-collision@production") == first

    @pytest.mark.parametrize("alias", ["v3", "0123abcd", "a/b", "Production", ""])
    def test_an_alias_cannot_be_taken_for_a_version(self, registry, alias):
        with pytest.raises(BadRequest):
            registry.move_alias("its-collision", alias, add(registry, "one"))

    def test_an_alias_stays_with_its_name(self, registry):
        with pytest.raises(BadRequest, match="another name"):
            registry.move_alias("its-collision", "production", add(registry, "one", name="other"))


def write_much(place: str, worker: int, start) -> None:
    """What each of several writers does: versions of its own, a version that all have, and moves of one alias."""
    registry = open_registry(place)
    start.wait()
    for index in range(NUM_EACH):
        registry.register(facts("shared"))
        version = add(registry, f"content {worker} {index}")
        registry.move_alias("its-collision", "production", version)


@pytest.mark.e2e
def test_several_writers_lose_nothing(place):
    open_registry(place, create=True)
    context = multiprocessing.get_context("spawn")
    start = context.Barrier(NUM_PROCESSES)
    writers = [context.Process(target=write_much, args=(place, worker, start)) for worker in range(NUM_PROCESSES)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(120)
    assert [writer.exitcode for writer in writers] == [0] * NUM_PROCESSES

    registry = open_registry(place)
    versions = registry.versions("its-collision")
    num_versions = NUM_PROCESSES * NUM_EACH + 1
    assert [version.number for version in versions] == list(range(1, num_versions + 1))
    assert len({version.sha256 for version in versions}) == num_versions
    history = registry.history("its-collision", "production")
    assert [move.sequence for move in history] == list(range(1, num_versions))
    assert [move.from_version for move in history] == [None, *(move.to_version for move in history[:-1])]
    assert {move.to_version for move in history} == {v.number for v in versions if v.sha256 != facts("shared").sha256}


class TestStore:
    @pytest.fixture(params=["local", "s3"])
    def store(self, request, tmp_path) -> Store:
        if request.param == "local":
            return open_store(str(tmp_path / "out"))
        return open_store(request.getfixturevalue("bucket") + "/some/prefix")

    def test_new_bytes_never_replace_others(self, store):
        assert store.publish_new_bytes(b"mine", "a/x.json", content_type="application/json")
        assert not store.publish_new_bytes(b"yours", "a/x.json", content_type="application/json")
        assert store.read_bytes("a/x.json") == b"mine"
        assert store.publish_new_bytes(b"mine", "a/x.json", content_type="application/json")

    def test_a_list_holds_one_folder_with_its_folders(self, store):
        for name in ("a/x", "a/b/y", "ab/z", "c"):
            store.publish_bytes(b"", name, content_type="text/plain")
        assert store.list("a") == ("a/b/y", "a/x")
        assert store.list("none") == ()

    def test_a_file_is_fetched_whole_or_not_at_all(self, store, tmp_path):
        store.publish_bytes(b"weights", "m.pt", content_type="application/octet-stream")
        store.fetch_file("m.pt", tmp_path / "here" / "m.pt")
        assert (tmp_path / "here" / "m.pt").read_bytes() == b"weights"
        with pytest.raises(FileNotFoundError):
            store.fetch_file("none.pt", tmp_path / "here" / "none.pt")
        assert os.listdir(tmp_path / "here") == ["m.pt"]

    def test_unfinished_files_are_not_listed(self, tmp_path):
        store = open_store(str(tmp_path))
        (tmp_path / "a").mkdir()
        (tmp_path / "a" / ".x.json.0123.tmp").write_bytes(b"")
        assert store.list("a") == ()

    def test_an_undecided_conditional_write_is_repeated(self, bucket, monkeypatch):
        store = open_store(bucket)
        put, calls = store.filesystem.pipe_file, []

        def contested(*arguments, **options):
            calls.append(arguments)
            if len(calls) == 1:
                raise OSError(errno.EIO, "conflict") from ClientError(
                    {"Error": {"Code": "ConditionalRequestConflict"}}, "PutObject"
                )
            return put(*arguments, **options)

        monkeypatch.setattr(store.filesystem, "pipe_file", contested)
        assert store.publish_new_bytes(b"x", "a", content_type="text/plain")
        assert len(calls) == 2


class TestPlace:
    def test_option_then_environment_then_configuration_then_a_folder_that_is_there(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        monkeypatch.delenv("CROSSROADS_REGISTRY", raising=False)
        assert find_registry() is None
        (tmp_path / "registry").mkdir()
        assert find_registry() == "registry"
        assert find_registry(None, "configured") == "configured"
        monkeypatch.setenv("CROSSROADS_REGISTRY", "s3://environment")
        assert find_registry(None, "configured") == "s3://environment"
        assert find_registry("option", "configured") == "option"

    def test_reading_makes_no_folder(self, tmp_path):
        with pytest.raises(BadConfig, match=r"there is no registry.*registry add"):
            open_registry(str(tmp_path / "none"))
        assert not (tmp_path / "none").exists()


def safetensors(path: Path, manifest: AdapterManifest | None) -> Path:
    header = json.dumps({"__metadata__": manifest.to_metadata() if manifest else {}}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header)
    return path


class TestDescription:
    MANIFEST = AdapterManifest(
        rank=8,
        alpha=12.5,
        target_modules=("q_proj", "k_proj"),
        base_sha256="a" * 64,
        base_sha256_of="file",
        resolution="720",
        fps=16,
        iteration=900,
        ema=False,
    )

    def describe(self, path, tmp_path, kind=Kind.ADAPTER, **given):
        return describe_file("its", str(path), kind, GivenFacts(**given), home=tmp_path / "home")

    def test_the_scale_of_an_adapter_is_never_guessed(self, tmp_path):
        path = tmp_path / "iter_000001000.pt"
        path.write_bytes(b"weights")
        for given in ({}, {"rank": 16}, {"alpha": 16.0}):
            with pytest.raises(BadRequest, match="needs its rank and alpha"):
                self.describe(path, tmp_path, **given)
        described = self.describe(path, tmp_path, rank=16, alpha=16.0)
        assert described.sha256 == sha256_file(path)
        assert (described.iteration, described.location, described.num_bytes) == (1000, str(path), 7)

    @pytest.mark.parametrize(
        ("name", "iteration"),
        [("iter_000001000/model.pt", 1000), ("iter_1000.pt", None), ("xiter_000001000.pt", None), ("final.pt", None)],
    )
    def test_the_iteration_comes_from_the_name_of_file_or_folder(self, tmp_path, name, iteration):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"x")
        assert self.describe(path, tmp_path, kind=Kind.CHECKPOINT).iteration == iteration
        assert self.describe(path, tmp_path, kind=Kind.CHECKPOINT, iteration=0).iteration == 0

    def test_an_extracted_adapter_speaks_for_itself(self, tmp_path):
        path = safetensors(tmp_path / "iter_000000001.safetensors", self.MANIFEST)
        described = self.describe(path, tmp_path, rank=8, note="night")
        assert (described.rank, described.alpha, described.iteration) == (8, 12.5, 900)
        assert (described.parent_sha256, described.resolution, described.fps) == ("a" * 64, "720", 16)
        assert described.target_modules == ("q_proj", "k_proj")
        assert (described.ema, described.note) == (False, "night")

    def test_a_hash_over_weights_is_no_parent(self, tmp_path):
        manifest = self.MANIFEST.model_copy(update={"base_sha256_of": "weights"})
        path = safetensors(tmp_path / "a.safetensors", manifest)
        assert self.describe(path, tmp_path).parent_sha256 is None
        assert self.describe(path, tmp_path, parent_sha256="b" * 64).parent_sha256 == "b" * 64

    @pytest.mark.parametrize(
        "given", [{"alpha": 16.0}, {"rank": 16}, {"iteration": 1}, {"parent_sha256": "b" * 64}, {"ema": True}]
    )
    def test_a_disagreement_with_the_file_is_refused(self, tmp_path, given):
        path = safetensors(tmp_path / "a.safetensors", self.MANIFEST)
        with pytest.raises(AdapterMismatch, match="the file declares another"):
            self.describe(path, tmp_path, **given)

    def test_a_peft_folder_says_rank_and_alpha(self, tmp_path):
        folder = tmp_path / "peft"
        folder.mkdir()
        config = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj"]}
        (folder / "adapter_config.json").write_text(json.dumps(config))
        described = self.describe(folder, tmp_path)
        assert (described.rank, described.alpha, described.target_modules) == (4, 8.0, ("q_proj",))

    def test_safetensors_without_a_manifest_need_the_scale(self, tmp_path):
        path = safetensors(tmp_path / "a.safetensors", None)
        with pytest.raises(BadRequest, match="needs its rank and alpha"):
            self.describe(path, tmp_path)


class TestFiles:
    def registered(self, registry, location, content: bytes, **more):
        given = facts("x", **more).model_copy(
            update={"sha256": sha256_bytes(content), "num_bytes": len(content), "location": str(location)}
        )
        return registry.register(given)[0]

    def test_a_changed_or_lost_file_is_refused(self, registry, tmp_path):
        path = tmp_path / "a.pt"
        path.write_bytes(b"good")
        version = self.registered(registry, path, b"good")
        file = bring_model(version, "its-collision", home=tmp_path / "home")
        assert (file.path, file.sha256, file.version) == (str(path), version.sha256, "its-collision:v1")
        path.write_bytes(b"evil")
        with pytest.raises(AdapterMismatch, match="was changed since it was registered as its-collision:v1"):
            bring_model(version, "its-collision", home=tmp_path / "home")
        path.unlink()
        with pytest.raises(CheckpointMissing, match="not where it was registered"):
            bring_model(version, "its-collision", home=tmp_path / "home")

    def test_a_file_in_a_bucket_is_fetched_once_and_verified(self, registry, bucket, tmp_path):
        store = open_store(bucket)
        store.publish_bytes(b"good", "m/base.pt", content_type="application/octet-stream")
        version = self.registered(registry, f"{bucket}/m/base.pt", b"good", kind=Kind.CHECKPOINT)
        home = tmp_path / "home"
        file = bring_model(version, "its-collision", home=home)
        assert file.path == str(home / "models" / version.sha256 / "base.pt")
        assert Path(file.path).read_bytes() == b"good"

        store.publish_bytes(b"evil", "m/base.pt", content_type="application/octet-stream")
        assert bring_model(version, "its-collision", home=home) == file
        Path(file.path).write_bytes(b"damaged here")
        with pytest.raises(CheckpointMismatch, match="was changed since"):
            bring_model(version, "its-collision", home=home)
        store.publish_bytes(b"good", "m/base.pt", content_type="application/octet-stream")
        assert bring_model(version, "its-collision", home=home) == file
        store.remove("m/base.pt")
        shutil.rmtree(home / "models")
        with pytest.raises(CheckpointMissing, match="no such model file"):
            bring_model(version, "its-collision", home=home)
        assert not list((home / "models").iterdir())

    def test_a_file_in_a_bucket_can_be_described(self, bucket, tmp_path):
        open_store(bucket).publish_bytes(b"good", "iter_000000500.pt", content_type="application/octet-stream")
        location = f"{bucket}/iter_000000500.pt"
        described = describe_file("its", location, Kind.CHECKPOINT, GivenFacts(), home=tmp_path)
        assert (described.location, described.sha256) == (location, sha256_bytes(b"good"))
        assert described.iteration == 500


class Workplace:
    """A tiny model's files, a registry with two versions of an adapter, and runs over manifests."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        model = folder / "checkpoints" / "crossroads" / "tiny"
        for name in ("model-112p-10fps.safetensors", "tokenizer/tokenizer.safetensors", "text_encoder/config.json"):
            (model / name).parent.mkdir(parents=True, exist_ok=True)
            (model / name).write_bytes(name.encode())
        self.base = model / "model-112p-10fps.safetensors"
        (folder / "a.png").write_bytes(b"png")
        (folder / "own.pt").write_bytes(b"own")
        self.registry = open_registry(str(folder / "registry"), create=True)
        self.runs = 0
        for content in ("one", "two"):
            self.add(content)
        self.registry.move_alias("its", "production", self.registry.resolve("its:v1"))

    def add(self, content: str, name: str = "its", **given):
        path = self.folder / f"{name}-{content}.pt"
        path.write_bytes(content.encode())
        described = describe_file(
            name, str(path), Kind.ADAPTER, GivenFacts(rank=16, alpha=16.0, **given), home=self.folder / "home"
        )
        return self.registry.register(described)[0]

    def prepare(self, *adapters: str, manifest: str = "m", **config) -> tuple[Run, dict[str, str]]:
        """One run up to the point where its versions are settled."""
        rows = [
            {"input": "a.png", "prompt": "x", "scenario_id": f"s{index}", "adapters": [{"name": name}] if name else []}
            for index, name in enumerate(adapters)
        ]
        path = self.folder / f"{manifest}.json"
        path.write_text(json.dumps(rows))
        config = {
            "checkpoints": {"root": str(self.folder / "checkpoints")} | config.pop("checkpoints", {}),
            "adapters": {"own": {"path": str(self.folder / "own.pt")}},
            "registry": str(self.folder / "registry"),
        } | config
        settings = parse_config(config, origin="test")
        self.runs += 1
        read = read_manifest(str(path), settings.defaults)
        run = Run(
            run_id=f"run-{self.runs}",
            config=settings,
            manifest=read,
            store=open_store(str(self.folder / "out")),
            plan=plan_run(read, settings, ()),
            guards=Guards(),
            progress=Progress(),
            home=self.folder / "home",
        )
        with disable_run_logger():
            return run, resolve_versions.fn(run)

    def finish(self, run: Run) -> None:
        """What a run does last."""
        sink = pa.BufferOutputStream()
        pq.write_table(pa.table({"run_id": [run.run_id]}), sink)
        run.store.publish_bytes(sink.getvalue().to_pybytes(), RESULTS_NAME, content_type="application/octet-stream")

    def move(self, version: str) -> None:
        self.registry.move_alias("its", "production", self.registry.resolve(version))


@pytest.fixture
def workplace(tmp_path, monkeypatch) -> Workplace:
    monkeypatch.delenv("CROSSROADS_REGISTRY", raising=False)
    return Workplace(tmp_path)


class TestRuns:
    def test_references_and_configured_names_are_resolved(self, workplace):
        run, problems = workplace.prepare("its@production", "its@v2", "own", "")
        assert problems == {}
        adapter = run.adapters["its@production"]
        assert (adapter.name, adapter.reference, adapter.version) == ("its@production", "its@production", "its:v1")
        assert adapter.file.sha256 == sha256_bytes(b"one")
        assert run.adapters["its@v2"].version == "its:v2"
        assert (run.adapters["own"].version, run.adapters["own"].reference) == (None, None)

    def test_the_names_of_the_configuration_win(self, workplace):
        run, problems = workplace.prepare("its", adapters={"its": {"path": str(workplace.folder / "own.pt")}})
        assert problems == {}
        assert run.adapters["its"].file.sha256 == sha256_bytes(b"own")

    def test_what_cannot_be_resolved_sets_only_its_rows_aside(self, workplace):
        changed = workplace.add("changed", name="changed")
        Path(changed.location).write_bytes(b"evil")
        run, problems = workplace.prepare("its@production", "its", "gone", "Its", "changed", "its@staging")
        assert "several versions" in problems["s1"]
        assert "no such name in the registry: got gone, expected changed, its" in problems["s2"]
        assert "not a name" in problems["s3"]
        assert f"got sha256 {sha256_bytes(b'evil')}, expected {changed.sha256}" in problems["s4"]
        assert "no such version" in problems["s5"]
        assert set(run.adapters) == {"its@production"}

    def test_without_a_registry_nothing_changes(self, workplace, monkeypatch):
        monkeypatch.chdir(workplace.folder / "out" if (workplace.folder / "out").exists() else workplace.base.parent)
        _, problems = workplace.prepare("own", "gone", registry=None)
        assert list(problems) == ["s1"]
        assert "got 'gone', expected one of the configuration's adapters (own)" in problems["s1"]
        assert not (workplace.folder / "out" / "versions").exists()

    def test_a_run_without_references_writes_nothing_and_needs_no_registry(self, workplace):
        _, problems = workplace.prepare("own", registry=str(workplace.folder / "no-such-folder"))
        assert problems == {}
        assert list((workplace.folder / "out").iterdir()) == []

    def test_an_adapter_of_another_base_is_set_aside(self, workplace):
        base_sha256 = sha256_file(workplace.base)
        workplace.add("fits", name="fits", parent_sha256=base_sha256)
        workplace.add("alien", name="alien", parent_sha256="b" * 64)
        run, problems = workplace.prepare("fits", "alien", "own")
        assert list(problems) == ["s1"]
        assert f"sha256 {base_sha256}, expected sha256 {'b' * 64}" in problems["s1"]
        assert run.adapters["fits"].parent_sha256 == base_sha256

    def test_the_base_can_come_from_the_registry(self, workplace):
        base = workplace.folder / "iter_000002000.pt"
        base.write_bytes(b"tuned base")
        given = GivenFacts(resolution="112", fps=10)
        described = describe_file("base", str(base), Kind.CHECKPOINT, given, home=workplace.folder / "home")
        workplace.registry.register(described)
        run, problems = workplace.prepare("", checkpoints={"base": "registry:base"})
        (model,) = run.models.values()
        assert problems == {}
        assert (model.base.sha256, model.base.version, model.base.reference) == (described.sha256, "base:v1", "base")
        assert model.vae.version is None

        _, problems = workplace.prepare("", checkpoints={"base": "registry:its@production"})
        assert "its:v1 is of another kind: got adapter, expected checkpoint" in problems["s0"]
        _, problems = workplace.prepare("", checkpoints={"base": "registry:none"})
        assert "no such name" in problems["s0"]

    def test_a_base_of_another_variant_is_refused_unless_forced(self, workplace):
        given = GivenFacts(resolution="720", fps=16)
        workplace.registry.register(
            describe_file("big", str(workplace.base), Kind.CHECKPOINT, given, home=workplace.folder / "home")
        )
        _, problems = workplace.prepare("", checkpoints={"base": "registry:big"})
        assert "big:v1 is registered for another variant: got 720 lines, 16 fps" in problems["s0"]
        _, problems = workplace.prepare("", checkpoints={"base": "registry:big", "force_variant": True})
        assert problems == {}

    def test_an_unfinished_run_keeps_its_versions_and_a_finished_one_starts_anew(self, workplace):
        first, _ = workplace.prepare("its@production")
        workplace.move("its:v2")
        again, _ = workplace.prepare("its@production")
        assert again.adapters == first.adapters
        assert again.adapters["its@production"].version == "its:v1"
        workplace.finish(again)
        fresh, _ = workplace.prepare("its@production")
        assert fresh.adapters["its@production"].version == "its:v2"

        workplace.move("its:v1")
        resumed, _ = workplace.prepare("its@production")
        assert resumed.adapters["its@production"].version == "its:v2", "the results of the earlier run do not count"

    def test_only_the_same_manifest_and_configuration_go_on(self, workplace):
        workplace.prepare("its@production")
        workplace.move("its:v2")
        other, _ = workplace.prepare("its@production", "own", manifest="other")
        assert other.adapters["its@production"].version == "its:v2"
        changed, _ = workplace.prepare("its@production", video_crf=20)
        assert changed.adapters["its@production"].version == "its:v2"
        workplace.finish(other)
        again, _ = workplace.prepare("its@production")
        assert again.adapters["its@production"].version == "its:v1", "another manifest's results do not end this run"

    def test_a_reference_that_failed_can_be_put_right_without_moving_the_others(self, workplace):
        _, problems = workplace.prepare("its@production", "late")
        assert list(problems) == ["s1"]
        workplace.move("its:v2")
        workplace.add("late", name="late")
        run, problems = workplace.prepare("its@production", "late")
        assert problems == {}
        assert (run.adapters["its@production"].version, run.adapters["late"].version) == ("its:v1", "late:v1")

    def test_of_two_that_begin_at_once_the_second_takes_the_versions_of_the_first(self, workplace, monkeypatch):
        resolve = Registry.resolve
        slow = SimpleNamespace(seen=False)

        def overtaken(registry, reference):
            version = resolve(registry, reference)
            if not slow.seen:
                slow.seen = True
                workplace.move("its:v2")
                workplace.prepare("its@production")
            return version

        monkeypatch.setattr(Registry, "resolve", overtaken)
        run, _ = workplace.prepare("its@production")
        assert run.adapters["its@production"].version == "its:v2"

    def test_another_registry_in_the_middle_of_a_run_is_noticed(self, workplace):
        workplace.prepare("its@production")
        shutil.rmtree(workplace.folder / "registry")
        workplace.registry = open_registry(str(workplace.folder / "registry"), create=True)
        workplace.add("impostor")
        _, problems = workplace.prepare("its@production")
        assert "another its:v1 than when this run began" in problems["s0"]


def test_records_of_before_the_registry_stay_readable():
    old = {"name": "a", "file": {"path": "p", "sha256": "0", "num_bytes": 1}, "rank": 16, "alpha": 16.0}
    assert AdapterVersion.model_validate(old).version is None
    assert FileVersion.model_validate(old["file"]).reference is None


def test_the_shipped_configurations_name_no_registry():
    assert load_config().registry is None
