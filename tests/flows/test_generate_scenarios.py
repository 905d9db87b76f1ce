"""The main job from end to end, as a user runs it: the command line, real workers, a real server, a real bucket."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from cosmos_core.hashing import sha256_file, sha256_json
from cosmos_core.video_file import read_video
from tests.flows.conftest import Workspace, wait_until, worker_processes

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

PROMPT = "A static traffic CCTV camera captures an intersection. A red sedan turns left and stops."


def mixed_rows() -> list[dict[str, Any]]:
    return [
        {"input": "frames/a.png", "prompt": PROMPT, "output_name": "clips/first.mp4", "labels": {"weather": "clear"}},
        {"input": "frames/b.png", "prompt": PROMPT, "scenario_id": "with-adapter", "seed": 3,
         "adapters": [{"name": "collision", "strength": 1.0}]},
        {"input": "frames/a.png", "prompt": PROMPT, "scenario_id": "bad-fps", "fps": 12},
        {"input": "frames/corrupt.png", "prompt": PROMPT, "scenario_id": "corrupt"},
        {"input": "frames/a.png", "prompt": PROMPT, "scenario_id": "unknown-adapter", "adapters": ["none-such"]},
        {"input": "frames/a.png", "prompt": "A driver rams pedestrians on purpose, a terror attack.",
         "scenario_id": "forbidden"},
        {"input": "frames/none.png", "prompt": PROMPT, "scenario_id": "missing"},
        {"input": "frames/a.png", "prompt": PROMPT, "scenario_id": "wrong-rank", "adapters": ["wrong-rank"]},
    ]  # fmt: skip


async def _read_run(api: str, manifest: str) -> tuple[Any, list[Any], list[Any]]:
    import httpx

    async with httpx.AsyncClient(base_url=api) as client:
        runs = (await client.post("/flow_runs/filter", json={"sort": "START_TIME_DESC"})).json()
        run = next(run for run in runs if run["parameters"].get("manifest") == manifest)
        selection = {"flow_runs": {"id": {"any_": [run["id"]]}}}
        tasks = (await client.post("/task_runs/filter", json=selection)).json()
        artifacts = (await client.post("/artifacts/filter", json=selection)).json()
    return run, tasks, artifacts


def test_every_row_ends_in_one_row(workspace: Workspace, prefect_server: str) -> None:
    manifest = workspace.write_manifest(mixed_rows())
    done = workspace.generate(str(manifest))
    assert done.returncode == 3, done.stdout + done.stderr
    rows = workspace.results()
    assert [row["row_number"] for row in rows] == list(range(8))
    assert [row["status"] for row in rows] == [
        "published",
        "published",
        "invalid",
        "invalid",
        "invalid",
        "blocked",
        "invalid",
        "failed",
    ]
    assert "got" in rows[2]["reason"]
    assert "12" in rows[2]["reason"]
    assert "none-such" in rows[4]["reason"]
    assert "size mismatch for blocks.0" in rows[7]["reason"]
    assert "contact sheet" in done.stdout.lower()
    assert re.search(r"Device time: +[\d.]+ s for 2 videos, planned [\d.]+ s \([+-]\d+%\)", done.stdout)

    # The files are what the rows say they are.
    video = workspace.folder / "out" / "videos" / "first.mp4"
    assert sha256_file(video) == rows[0]["video_sha256"]
    assert read_video(video).shape == (61, 112, 192, 3)
    assert sorted(path.stem for path in (workspace.folder / "out" / "videos").iterdir()) == ["first", "with-adapter"]
    assert rows[0]["output_name"] == "clips/first.mp4"

    # The record leads from the video to everything that made it.
    record = workspace.record("with-adapter")
    assert record["output"]["sha256"] == rows[1]["video_sha256"]
    assert record["input_sha256"] == sha256_file(workspace.folder / "frames" / "b.png")
    assert record["model"]["base"]["sha256"] == sha256_file(Path(record["model"]["base"]["path"]))
    assert record["adapters"][0]["file"]["sha256"] == sha256_file(Path(record["adapters"][0]["file"]["path"]))
    assert record["scenario"]["seed"] == 3
    assert record["prompts"]["original"] == PROMPT
    assert record["timings_s"]["generate"] > 0
    assert rows[1]["device_seconds"] == record["device_s"] > record["timings_s"]["generate"]
    assert rows[1]["planned_device_seconds"] == record["planned_device_s"] > 0
    assert "device time: " in (workspace.folder / "out" / "index.html").read_text()
    assert record["proof"]["adapter_norms"]["collision"]["mean"] > 0
    statuses = {verdict["check"]: verdict["status"] for verdict in record["decision"]["verdicts"]}
    assert statuses["video.content"] == "unavailable"
    assert (statuses["input.sanity"], statuses["input.redaction"]) == ("pass", "pass")
    assert workspace.record("forbidden")["status"] == "blocked"
    assert sha256_json(record["identity"]) == record["job_id"]
    assert record["config"]["worker"]["num_threads"] == 1
    assert record["packages"]["prefect"]
    assert record["environment"]["device"] == "cpu"

    # And so does the lineage, which has a row for each scenario that came to its end.
    lineage = {row["scenario_id"]: row for row in workspace.lineage()}
    assert {name: row["status"] for name, row in lineage.items()} == {
        "first": "published", "with-adapter": "published", "forbidden": "blocked",
    }  # fmt: skip
    row = lineage["with-adapter"]
    assert row["output_sha256"] == record["output"]["sha256"]
    assert record["adapters"][0]["file"]["sha256"] in row["uses"]
    assert row["run_id"] == rows[1]["run_id"]

    # Every decision is in the log, the refused one as well, and nobody has touched it.
    verified = workspace.run("audit", "verify", "out")
    assert verified.returncode == 0, verified.stdout
    assert "in 3 files, 4 scenarios: whole" in verified.stdout
    shown = workspace.run("audit", "show", "out", "--scenario", "forbidden", "--kind", "decision")
    assert "block" in shown.stdout

    # The run page shows it: tasks that carry the scenario's id, a progress bar, a table.
    run, tasks, artifacts = asyncio.run(_read_run(prefect_server, str(manifest)))
    wanted = {f"{stage} {name}" for stage in ("fetch", "refine", "check input", "generate", "check", "publish")
              for name in ("first", "with-adapter")}  # fmt: skip

    def recorded() -> bool:
        nonlocal tasks
        _, tasks, _ = asyncio.run(_read_run(prefect_server, str(manifest)))
        states = {task["name"]: task["state_type"] for task in tasks}
        return all(states.get(name) == "COMPLETED" for name in wanted)

    wait_until(recorded, timeout_s=60, interval_s=1)
    assert run["state_name"] == "CompletedWithFailures"
    ran = {task["name"]: task["id"] for task in tasks}
    assert {stage["stage"]: stage["task_run_id"] for stage in row["stages"]} == {
        stage: ran[f"{stage.replace('_', ' ')} with-adapter"]
        for stage in ("fetch", "refine", "check_input", "generate", "check", "publish")
    }
    assert dict(row["generated_by"]) == {
        "lane": "cpu", "flow_run_id": run["id"], "task_run_id": ran["generate with-adapter"],
    }  # fmt: skip
    by_key = {artifact["key"]: artifact for artifact in artifacts}
    assert by_key["progress"]["data"] == 100.0
    table = json.loads(by_key["results"]["data"])
    assert [row["status"] for row in table] == [row["status"] for row in rows]
    assert "[video](file://" in by_key["results-page"]["data"]

    # Run again: nothing is made a second time, and the table is the same.
    times = {path: path.stat().st_mtime_ns for path in (workspace.folder / "out" / "videos").iterdir()}
    again = workspace.generate(str(manifest))
    assert again.returncode == 3, again.stdout + again.stderr
    assert {path: path.stat().st_mtime_ns for path in times} == times
    assert len(workspace.lineage()) == 3
    repeated = workspace.results()
    assert [row["reused"] for row in repeated] == [True, True, False, False, False, True, False, False]
    ignored = {"reused", "run_id"}
    assert [{k: v for k, v in row.items() if k not in ignored} for row in repeated[:2]] == [
        {k: v for k, v in row.items() if k not in ignored} for row in rows[:2]
    ]


def test_two_processes_render_each_video_together(workspace: Workspace) -> None:
    """As placed by `context:2` on two CPU slots, in a memory mode; pixels are those of one process, up to rounding."""
    config = yaml.safe_load((workspace.folder / "run.yaml").read_text())
    rows = [{"input": "frames/a.png", "prompt": PROMPT, "scenario_id": "a", "num_steps": 1}]
    manifest = str(workspace.write_manifest(rows))
    frames = {}
    for name, changes in {
        "one": {},
        "two": {"cpu_workers": 2, "parallelism": "context:2", "memory_mode": ["strips"]},
    }.items():
        config["worker"] |= changes
        (workspace.folder / "run.yaml").write_text(yaml.safe_dump(config))
        done = workspace.generate(manifest, name)
        assert done.returncode == 0, done.stdout + done.stderr
        frames[name] = read_video(workspace.folder / name / "videos" / "a.mp4").astype(int)
    one, two = (workspace.record("a", name) for name in ("one", "two"))
    assert (two["generation"]["layout"], two["generation"]["savings"]) == ("cfg 2 x ulysses 1", ["strips"])
    assert (one["generation"]["layout"], one["generation"]["savings"]) == ("cfg 1 x ulysses 1", [])
    assert two["device_s"] == pytest.approx(2 * sum(two["timings_s"][lap] for lap in ("prepare", "generate", "write")))
    assert one["device_s"] == pytest.approx(sum(one["timings_s"][lap] for lap in ("prepare", "generate", "write")))
    assert abs(frames["one"] - frames["two"]).max() <= 2


def test_a_changed_scenario_is_made_again(workspace: Workspace) -> None:
    rows = [{"input": "frames/a.png", "prompt": PROMPT, "scenario_id": name, "num_steps": 1} for name in ("a", "b")]
    manifest = str(workspace.write_manifest(rows))
    assert workspace.generate(manifest).returncode == 0
    before = workspace.results()
    rows[1]["seed"] = 5
    workspace.write_manifest(rows)
    assert workspace.generate(manifest).returncode == 0
    after = workspace.results()
    assert [row["reused"] for row in after] == [True, False]
    assert after[0]["video_sha256"] == before[0]["video_sha256"]
    assert after[1]["video_sha256"] != before[1]["video_sha256"]


def test_the_json_batch_form_gives_the_same_results_table(offline_workspace: Workspace) -> None:
    """Also without a Prefect server: the command starts a temporary one."""
    workspace = offline_workspace
    batch = [
        {"input_video": "frames/a.png", "prompt": PROMPT, "output_video": "output/one.mp4"},
        {"input_video": "frames/none.png", "prompt": PROMPT, "output_video": "output/two.mp4"},
    ]
    workspace.write_manifest(batch, "batch.json")
    converted = workspace.run("manifest", "convert", "batch.json", "batch.parquet")
    assert converted.returncode == 0, converted.stderr
    tables = []
    for manifest, output in (("batch.json", "json"), ("batch.parquet", "parquet")):
        done = workspace.generate(manifest, output)
        assert done.returncode == 3, done.stdout + done.stderr
        tables.append(workspace.results(output))
    ignored = {"video_uri", "record_uri", "seconds", "device_seconds", "finished_at", "run_id", "decision"}
    first, second = ([{k: v for k, v in row.items() if k not in ignored} for row in table] for table in tables)
    assert first == second
    assert [row["status"] for row in first] == ["published", "invalid"]


def test_kill_9_in_the_middle_loses_nothing_and_repeats_nothing(workspace: Workspace) -> None:
    names = ["one", "two", "three"]
    manifest = workspace.write_manifest(
        [{"input": "frames/a.png", "prompt": PROMPT, "scenario_id": name, "num_steps": 6} for name in names]
    )
    home = Path(workspace.environment["CROSSROADS_HOME"])
    process = workspace.start("generate", str(manifest), "--output", "out", "--config", "run.yaml")
    first = workspace.folder / "out" / "records" / "one.json"
    try:
        wait_until(lambda: first.exists() or process.poll() is not None, timeout_s=180, interval_s=0.05)
        assert process.poll() is None, (workspace.folder / "started.log").read_text()
        assert worker_processes(home)
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    wait_until(lambda: not worker_processes(home), timeout_s=15)
    assert not (workspace.folder / "out" / "results.parquet").exists()
    published = {path: path.stat().st_mtime_ns for path in (workspace.folder / "out" / "records").iterdir()}
    assert len(published) < len(names)

    again = workspace.generate(str(manifest))
    assert again.returncode == 0, again.stdout + again.stderr
    assert {path: path.stat().st_mtime_ns for path in published} == published
    rows = workspace.results()
    assert [row["status"] for row in rows] == ["published"] * 3
    assert rows[0]["reused"] is True
    assert sorted(row["scenario_id"] for row in workspace.lineage()) == sorted(names)
    assert not worker_processes(home)


def test_a_killed_worker_costs_one_retry_and_no_scenario(workspace: Workspace) -> None:
    manifest = workspace.write_manifest(
        [{"input": "frames/a.png", "prompt": PROMPT, "scenario_id": name, "num_steps": 20} for name in ("one", "two")]
    )
    home = Path(workspace.environment["CROSSROADS_HOME"])
    process = workspace.start("generate", str(manifest), "--output", "out", "--config", "run.yaml")
    wait_until(lambda: list(home.glob("work/*")) or process.poll() is not None, timeout_s=180, interval_s=0.05)
    victims = worker_processes(home)
    for pid in victims:
        os.kill(pid, signal.SIGKILL)
    assert victims
    assert process.wait(180) == 0, (workspace.folder / "started.log").read_text()
    assert [row["status"] for row in workspace.results()] == ["published", "published"]


def test_inputs_and_results_on_s3(workspace: Workspace, bucket: str) -> None:
    import s3fs

    filesystem = s3fs.S3FileSystem(skip_instance_cache=True, use_listings_cache=False)
    filesystem.put_file(str(workspace.folder / "frames" / "a.png"), f"{bucket}/in/frames/a.png")
    rows = [{"input": "frames/a.png", "prompt": PROMPT, "scenario_id": "remote", "num_steps": 1}]
    filesystem.pipe_file(f"{bucket}/in/manifest.json", json.dumps(rows).encode())
    workspace.environment |= {name: os.environ[name] for name in os.environ if name.startswith("AWS_")}
    done = workspace.generate(f"{bucket}/in/manifest.json", f"{bucket}/out")
    assert done.returncode == 0, done.stdout + done.stderr
    names = {path.split("/", 2)[2] for path in filesystem.find(f"{bucket}/out")}
    [lineage] = [name for name in names if name.startswith("lineage/rows/run_id=")]
    [events] = [name for name in names if name.startswith("openlineage/")]
    told = [json.loads(line) for line in filesystem.cat_file(f"{bucket}/out/{events}").splitlines()]
    assert [event["eventType"] for event in told] == ["START", "COMPLETE"]
    assert {data["name"].split("/")[0] for data in told[1]["inputs"]} == {"in", "base", "vae", "text_encoder"}
    assert names == {
        "audit/000000001.parquet",
        "index.html",
        lineage,
        events,
        "results.parquet",
        "records/remote.json",
        "thumbnails/remote.jpg",
        "videos/remote.mp4",
    }
    record = json.loads(filesystem.cat_file(f"{bucket}/out/records/remote.json"))
    assert filesystem.info(f"{bucket}/out/videos/remote.mp4")["size"] == record["output"]["num_bytes"]
    assert workspace.generate(f"{bucket}/in/manifest.json", f"{bucket}/out").returncode == 0
    assert json.loads(filesystem.cat_file(f"{bucket}/out/records/remote.json")) == record


def test_the_deployment_runs_on_a_process_work_pool(workspace: Workspace, repository: Path) -> None:
    manifest = workspace.write_manifest(
        [{"input": "frames/a.png", "prompt": PROMPT, "scenario_id": "x", "num_steps": 1}]
    )

    def prefect(*arguments: str, folder: Path = repository) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "prefect", "--no-prompt", *arguments],
            cwd=folder,
            env=workspace.environment,
            capture_output=True,
            text=True,
            timeout=180,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    prefect("work-pool", "create", "crossroads", "--type", "process")
    prefect("deploy", "--all")
    prefect(
        "deployment", "run", "generate-scenarios/generate",
        "--param", f"manifest={manifest}",
        "--param", f"output={workspace.folder / 'out'}",
        "--param", f"config={workspace.folder / 'run.yaml'}",
    )  # fmt: skip
    worker = subprocess.run(
        [sys.executable, "-m", "prefect", "worker", "start", "--pool", "crossroads", "--run-once"],
        cwd=workspace.folder,
        env=workspace.environment,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert (workspace.folder / "out" / "results.parquet").exists(), worker.stdout + worker.stderr
    assert [row["status"] for row in workspace.results()] == ["published"]


def test_guard_models_and_a_redacted_input(offline_workspace: Workspace) -> None:
    """A classifier in its own process looks at every clip; a face in an input never reaches the model."""
    from PIL import Image

    from tests.tasks.tiny_guards import save_classifier

    skimage = pytest.importorskip("skimage.data")
    workspace = offline_workspace
    Image.fromarray(skimage.astronaut()).save(workspace.folder / "frames" / "face.png")
    head, encoder = save_classifier(workspace.folder / "guards", prefers="Safe")
    config = yaml.safe_load((workspace.folder / "run.yaml").read_text())
    config["guards"] = {"content": {"kind": "siglip", "head": str(head), "encoder": str(encoder)}}
    (workspace.folder / "run.yaml").write_text(yaml.safe_dump(config))
    rows = [
        {"input": "frames/face.png", "prompt": PROMPT, "scenario_id": "face", "num_steps": 1},
        {"input": "frames/a.png", "prompt": f"{PROMPT} Its driver is injured.", "scenario_id": "hurt", "num_steps": 1},
    ]
    manifest = str(workspace.write_manifest(rows))
    done = workspace.generate(manifest)
    assert done.returncode == 0, done.stdout + done.stderr
    assert [row["status"] for row in workspace.results()] == ["published", "quarantined"]
    record = workspace.record("face")
    verdicts = {f"{verdict['stage']}/{verdict['check']}": verdict for verdict in record["decision"]["verdicts"]}
    assert record["decision"]["action"] == "redact"
    assert verdicts["input/input.redaction"]["category"] == "face_redacted"
    content = verdicts["video/video.content"]
    assert (content["status"], content["backend"], content["evidence"]["num_frames"]) == ("pass", "siglip", 31)
    assert verdicts["input/input.content"]["status"] == "pass"
    # What waits for a person is there to be looked at, and its decision is in the log like the other.
    assert (workspace.folder / "out" / "quarantine" / "hurt.mp4").exists()
    assert workspace.run("audit", "verify", "out").returncode == 0
    assert not [entry for entry in Path("/proc").glob("[0-9]*/cmdline") if str(head) in _text(entry)]


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
