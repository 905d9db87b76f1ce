"""A job is run again only as it was: whatever decides about pixels is verified before anything is generated."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from prefect.logging import disable_run_logger

from cosmos_core.errors import AdapterMismatch, BadInput, BadRequest, CheckpointMismatch, CheckpointMissing
from cosmos_core.hashing import sha256_file, sha256_json
from cosmos_core.video_file import write_video
from tasks import job_identity as identities
from tasks.config import load_config, parse_config
from tasks.guards import Guards
from tasks.job import FetchedInput, Job
from tasks.manifest import read_manifest
from tasks.outcomes import make_record
from tasks.policy import decide
from tasks.preparation import resolve_versions
from tasks.progress import Progress
from tasks.prompts import RefinedPrompt
from tasks.records import Output, Prompts, Record, Status, invalid_row, record_name, results_parquet, write_record
from tasks.registration import GivenFacts, describe_file
from tasks.registry import open_registry
from tasks.registry_documents import Kind
from tasks.reproduction import compare_with_record, open_record
from tasks.rerun import prepare_rerun
from tasks.run import Run
from tasks.run_plan import plan_run
from tasks.storage import open_store


class Workplace:
    """Model files of a few bytes, and the record of a video that a run would have written with them."""

    def __init__(self, folder: Path, repository: Path) -> None:
        self.folder = folder
        self.model = folder / "checkpoints" / "crossroads" / "tiny"
        for name in ("model-112p-10fps.safetensors", "tokenizer/tokenizer.safetensors", "text_encoder/config.json"):
            (self.model / name).parent.mkdir(parents=True, exist_ok=True)
            (self.model / name).write_bytes(name.encode())
        self.input = folder / "a.png"
        Image.fromarray(np.zeros((90, 160, 3), np.uint8)).save(self.input)
        self.adapter = folder / "own.pt"
        self.adapter.write_bytes(b"own")
        self.registered = folder / "registered.pt"
        self.registered.write_bytes(b"registered")
        self.registry = open_registry(str(folder / "registry"), create=True)
        facts = GivenFacts(rank=16, alpha=16.0)
        self.registry.register(describe_file("its", str(self.registered), Kind.ADAPTER, facts, home=folder / "home"))
        self.policy = folder / "policy.yaml"
        shutil.copy(repository / "configs/guardrail/its-accident.yaml", self.policy)
        self.config = parse_config(
            {
                "checkpoints": {"root": str(folder / "checkpoints")},
                "adapters": {"own": {"path": str(self.adapter), "rank": 16, "alpha": 8.0}},
                "registry": str(folder / "registry"),
                "policy": str(self.policy),
                "worker": {"gpus": ["3"], "num_threads": 1},
            },
            origin="test",
        )
        self.store = open_store(str(folder / "out"))
        self.record = self._record()

    def _record(self) -> Record:
        row = {"input": "a.png", "prompt": "A car.", "scenario_id": "a", "seed": 3, "negative_prompt": "blur",
               "guidance": 2.5, "adapters": [{"name": "own", "strength": 0.5}, {"name": "its"}]}  # fmt: skip
        manifest = self.folder / "manifest.json"
        manifest.write_text(json.dumps([row]))
        home = self.folder / "home"
        read = read_manifest(str(manifest), self.config.defaults)
        with Guards() as guards:
            run = Run(
                run_id="run-1", config=self.config, manifest=read, plan=plan_run(read, self.config, ()),
                store=self.store, guards=guards, progress=Progress(), home=home,
            )  # fmt: skip
            with disable_run_logger():
                assert resolve_versions.fn(run) == {}
        [scenario] = run.manifest.rows
        refined = RefinedPrompt(text="Camera: a car.", source="A car.", refiner="template", changed=True)
        decision = decide(run.policy, ())
        fetched = FetchedInput(path=self.input, sha256=sha256_file(self.input))
        prompts = Prompts(original="A car.", refined=refined.text, negative="blur", refiner="template",
                          refiner_sha256=None)  # fmt: skip
        job = Job(scenario=scenario, input=fetched, prompts=prompts, decision=decision,
                  job_id=run.job_id(scenario, input_sha256=fetched.sha256, refined=refined))  # fmt: skip
        output = self.publish(self.store, np.zeros((3, 32, 48, 3), np.uint8))
        record = make_record(run, scenario, Status.PUBLISHED, "", job=job, decision=decision, output=output)
        write_record(self.store, record)
        return record

    def publish(self, store, frames, name="videos/a.mp4") -> Output:
        path = self.folder / "clip.mp4"
        write_video(frames, path, fps=10, crf=0)
        store.publish_file(path, name, content_type="video/mp4")
        return Output(video=name, sha256=sha256_file(path), num_bytes=path.stat().st_size, width=48, height=32,
                      num_frames=len(frames), fps=10)  # fmt: skip

    def prepare(self, record=None, into="again", **options):
        return prepare_rerun(record or self.record, self.folder / into, **options)

    def changed(self, **fields) -> Record:
        return self.record.model_copy(update=fields)


@pytest.fixture
def workplace(tmp_path, repository, monkeypatch) -> Workplace:
    monkeypatch.delenv("CROSSROADS_REGISTRY", raising=False)
    monkeypatch.delenv("CROSSROADS_LINEAGE", raising=False)
    return Workplace(tmp_path, repository)


def test_the_same_job_is_written_down_as_a_run_of_one_row(workplace):
    rerun = workplace.prepare()
    settings = load_config(rerun.config)
    [scenario] = read_manifest(str(rerun.manifest), settings.defaults).rows
    then = workplace.record.scenario
    assert scenario.model_dump(exclude={"input", "input_uri", "prompt", "row_number"}) == then.model_dump(
        exclude={"input", "input_uri", "prompt", "row_number"}
    )
    assert scenario.prompt == "Camera: a car."
    assert sha256_file(scenario.input_uri) == workplace.record.input_sha256
    assert Path(scenario.input_uri).parent == rerun.folder
    assert settings.refiner.kind == "none"
    assert settings.worker.gpus is None
    assert settings.adapters["its"].path == workplace.registered
    assert workplace.folder / "home" not in rerun.home.parents


def test_the_numbers_must_be_those_of_the_job(workplace):
    scenario = workplace.record.scenario.model_copy(update={"seed": 5})
    with pytest.raises(BadRequest, match="the job of a is not what it was: got seed 5 instead of 3"):
        workplace.prepare(workplace.changed(scenario=scenario))


def test_the_facts_of_the_job_must_give_its_id(workplace):
    identity = workplace.record.identity | {"seed": 5}
    with pytest.raises(BadRequest, match="the record of a was changed"):
        workplace.prepare(workplace.changed(identity=identity))


def test_a_changed_input_is_refused(workplace):
    Image.fromarray(np.ones((90, 160, 3), np.uint8)).save(workplace.input)
    changed = sha256_file(workplace.input)
    with pytest.raises(BadInput, match=f"is not the one of the record: got sha256 {changed}"):
        workplace.prepare()
    workplace.input.unlink()
    with pytest.raises(BadInput, match="no such input file"):
        workplace.prepare(into="second")


def test_an_input_may_lie_elsewhere(workplace):
    shutil.move(workplace.input, workplace.folder / "moved.png")
    assert workplace.prepare(input_uri=str(workplace.folder / "moved.png")).manifest.exists()


def test_a_changed_adapter_is_refused_also_if_an_old_hash_is_remembered(workplace):
    workplace.adapter.write_bytes(b"OWN")
    with pytest.raises(AdapterMismatch, match=r"own\.pt is not the adapter own of the record: got sha256"):
        workplace.prepare()


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("model-112p-10fps.safetensors", "the base"),
        ("tokenizer/tokenizer.safetensors", "the vae"),
        ("text_encoder/config.json", "the text encoder"),
    ],
)
def test_a_changed_model_file_is_refused(workplace, name, what):
    (workplace.model / name).write_bytes(b"other")
    with pytest.raises(CheckpointMismatch, match=f"is not {what} of the record"):
        workplace.prepare()


def test_a_file_that_is_gone_is_fetched_again_where_the_registry_knows_it(workplace):
    moved = workplace.folder / "elsewhere.pt"
    shutil.move(workplace.registered, moved)
    with pytest.raises(CheckpointMissing, match="its:v1 is not where it was registered"):
        workplace.prepare()
    shutil.move(moved, workplace.registered)
    adapters = tuple(
        adapter.model_copy(update={"file": adapter.file.model_copy(update={"path": "/gone.pt"})})
        if adapter.name == "its"
        else adapter
        for adapter in workplace.record.adapters
    )
    rerun = workplace.prepare(workplace.changed(adapters=adapters), into="second")
    assert load_config(rerun.config).adapters["its"].path == workplace.registered


def test_files_may_lie_where_another_configuration_says(workplace):
    shutil.move(workplace.folder / "checkpoints", workplace.folder / "moved")
    with pytest.raises(CheckpointMissing):
        workplace.prepare()
    places = {
        "checkpoints": {"root": str(workplace.folder / "moved")},
        "adapters": {
            "own": {"path": str(workplace.adapter), "rank": 16, "alpha": 8.0},
            "its": {"path": str(workplace.registered), "rank": 16, "alpha": 16.0},
        },
    }
    elsewhere = parse_config(places, origin="test")
    rerun = workplace.prepare(into="second", elsewhere=elsewhere)
    assert load_config(rerun.config).checkpoints.root == workplace.folder / "moved"
    places["adapters"]["own"]["alpha"] = 16.0
    with pytest.raises(BadRequest, match=r"adapters .*16\.0.* instead of .*8\.0"):
        workplace.prepare(into="third", elsewhere=parse_config(places, origin="test"))
    del places["adapters"]["its"]
    with pytest.raises(CheckpointMissing, match="adapter 'its' is not in the configuration"):
        workplace.prepare(into="fourth", elsewhere=parse_config(places, origin="test"))


def test_policy_and_code_must_be_those_of_then(workplace, monkeypatch):
    text = workplace.policy.read_text()
    policy = yaml.safe_load(text)
    workplace.policy.write_text(yaml.safe_dump(policy | {"version": policy["version"] + 1}))
    with pytest.raises(BadRequest, match=r"policy .* instead of .*Run it with the code and the files of then"):
        workplace.prepare()
    workplace.policy.write_text(text)
    monkeypatch.setattr(identities, "CORE_VERSION", "999")
    with pytest.raises(BadRequest, match=r'core "999" instead of'):
        workplace.prepare(into="second")


@pytest.mark.parametrize("field", ["output", "prompts", "model", "input_sha256", "config", "identity"])
def test_a_record_that_does_not_say_enough_is_refused(workplace, field):
    empty = {} if field in ("config", "identity") else None
    with pytest.raises(BadRequest, match="does not say enough to run its job again"):
        workplace.prepare(workplace.changed(**{field: empty}))


def test_nothing_that_lies_in_the_folder_is_touched(workplace):
    (workplace.folder / "again").mkdir()
    (workplace.folder / "again" / "mine").write_text("x")
    with pytest.raises(BadRequest, match="the folder is not empty"):
        workplace.prepare()


def test_a_record_is_opened_by_path_and_by_address(workplace, bucket, monkeypatch):
    store, record = open_record(str(workplace.folder / "out" / "records" / "a.json"))
    assert (store.uri, record) == (workplace.store.uri, workplace.record)
    monkeypatch.chdir(workplace.folder / "out" / "records")
    assert open_record("a.json")[0].uri == workplace.store.uri
    write_record(open_store(f"{bucket}/x/out"), workplace.record)
    store, record = open_record(f"{bucket}/x/out/records/a.json")
    assert (store.uri, record) == (f"{bucket}/x/out", workplace.record)
    for target, message in (("b.json", "no such record"), ("../videos/a.mp4", "this is no record")):
        with pytest.raises(BadRequest, match=message):
            open_record(target)
    Path("b.json").write_text("{}")
    with pytest.raises(BadRequest, match="cannot be read as a record"):
        open_record("b.json")


class TestComparison:
    @staticmethod
    def run(workplace, frames, **changes):
        """What a rerun would leave behind."""
        rerun = workplace.prepare()
        store = open_store(str(rerun.output))
        output = workplace.publish(store, frames)
        write_record(store, workplace.changed(output=output, **changes))
        return rerun

    def test_equal_files_are_identical(self, workplace):
        rerun = self.run(workplace, np.zeros((3, 32, 48, 3), np.uint8), environment={"gpu": "H200"})
        found = compare_with_record(workplace.store, workplace.record, rerun)
        assert (found.identical, found.difference, found.note) == (True, None, None)
        assert found.environment == {"gpu": (None, "H200")}
        assert found.video == str(rerun.output / "videos" / "a.mp4")

    def test_where_they_differ_first_is_said(self, workplace):
        frames = np.zeros((3, 32, 48, 3), np.uint8)
        frames[1:, 8:, 10:] = 255
        found = compare_with_record(workplace.store, workplace.record, self.run(workplace, frames))
        assert not found.identical
        assert found.difference.num_different_frames == 2
        assert found.difference.first_frame == 1
        assert found.difference.max_error > 200
        assert 0 < found.difference.psnr_db < 10

    def test_without_the_original_it_is_said_why_nothing_can_be_compared(self, workplace):
        rerun = self.run(workplace, np.ones((3, 32, 48, 3), np.uint8))
        workplace.store.publish_bytes(b"forged", "videos/a.mp4", content_type="video/mp4")
        found = compare_with_record(workplace.store, workplace.record, rerun)
        assert (found.identical, found.difference) == (False, None)
        assert found.note.endswith("is not the one that the record names")
        workplace.store.remove("videos/a.mp4")
        assert compare_with_record(workplace.store, workplace.record, rerun).note.endswith("is gone")

    def test_another_job_is_no_reproduction(self, workplace):
        identity = workplace.record.identity | {"seed": 4}
        frames = np.zeros((3, 32, 48, 3), np.uint8)
        rerun = self.run(workplace, frames, identity=identity, job_id=sha256_json(identity))
        with pytest.raises(BadRequest, match="another job was run: got seed 4 instead of 3"):
            compare_with_record(workplace.store, workplace.record, rerun)

    def test_a_run_without_a_video_says_why(self, workplace):
        rerun = workplace.prepare()
        store = open_store(str(rerun.output))
        rows = [invalid_row(0, "a", "the adapter is wrong", {}, run_id="r")]
        store.publish_bytes(results_parquet(rows), "results.parquet", content_type="application/octet-stream")
        with pytest.raises(BadRequest, match="a is invalid this time: got the adapter is wrong"):
            compare_with_record(workplace.store, workplace.record, rerun)
        assert store.read_bytes(record_name("a")) is None
