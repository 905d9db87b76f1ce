"""How long questions to a large lineage dataset take: many runs of made-up records, asked as `crossroads lineage` asks.

    python -m benchmarks.lineage build/lineage --runs 2000 --rows 500
    python -m benchmarks.lineage s3://bucket/lineage --runs 2000 --rows 500 --compact

Runs that are already there are not written again, so the second call measures the same dataset after a compaction. All
hashes are random, prompts and configuration have the size of real ones, every video has up to two of some 100 adapters.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow.dataset as ds

from cosmos_core.hashing import sha256_bytes
from tasks.code_version import code_version, package_versions
from tasks.config import load_config
from tasks.file_versions import FileVersion
from tasks.lineage_compaction import compact
from tasks.lineage_dataset import LineageDataset, open_lineage
from tasks.lineage_query import derived_versions, find_runs, find_versions, rows_of, videos_of
from tasks.lineage_schema import lineage_row
from tasks.records import Output, Prompts, Record, Status
from tasks.scenario import AdapterUse, Scenario
from tasks.storage import open_store
from tasks.verdicts import Decision, Verdict
from tasks.versions import AdapterVersion, ModelVersion, Variant

__all__ = ["main"]

_START = datetime(2026, 1, 1, tzinfo=UTC)
_CHECKS = ("text.lexicon", "input.sanity", "input.redaction", "video.sanity", "video.redaction", "video.content")


def _hash(*parts: object) -> str:
    return sha256_bytes(repr(parts).encode())


def _file(name: str, **facts: Any) -> FileVersion:
    return FileVersion(path=f"checkpoints/{name}", sha256=_hash(name), num_bytes=1 << 30, **facts)


def _run_id(run: int) -> str:
    return f"{run:08d}-0000-4000-8000-000000000000"


def _record(run: int, row: int, draw: random.Random) -> Record:
    """One published video of one night; every twenty runs there is a new adapter, every 400 a new base."""
    base = _file(f"base-{run // 400}", version=f"its-base:v{run // 400 + 1}")
    known = [f"its-{age}" for age in range(max(0, run // 20 - 3), run // 20 + 1)]
    names = draw.sample(known, k=min(len(known), draw.randrange(3)))
    prompt = f"A static traffic CCTV camera captures an intersection. {'A red sedan turns left and stops. ' * 15}{row}"
    scenario = Scenario(
        row_number=row, scenario_id=f"scenario-{row:05d}", input=f"frames/{row % 40}.jpg",
        input_uri=f"s3://bucket/frames/{row % 40}.jpg", prompt=prompt, seed=row, labels={"weather": "rain"},
        adapters=tuple(AdapterUse(name=name) for name in names),
    )  # fmt: skip
    verdicts = tuple(
        Verdict(stage="video", check=check, status="pass", backend="opencv", model="m", revision="0" * 12)
        for check in _CHECKS
    )
    return Record(
        scenario_id=scenario.scenario_id, status=Status.PUBLISHED, reason="", job_id=_hash(run, row), scenario=scenario,
        config=_CONFIG, input_sha256=_hash("input", row % 40),
        prompts=Prompts(original=prompt, refined=prompt, negative=scenario.negative_prompt, refiner="template",
                        refiner_sha256=_hash("template")),
        model=ModelVersion(variant=Variant.of(scenario), base=base, vae=_file("vae"), text_encoder=_file("t5")),
        adapters=tuple(
            AdapterVersion(name=name, file=_file(name), rank=16, alpha=16, version=f"{name}:v1", reference=name,
                           parent_sha256=base.sha256)
            for name in names
        ),
        decision=Decision(action="allow", reasons=(), policy_id="its-accident", policy_version=1,
                          policy_sha256=_hash("policy"), requested_checks=_CHECKS, effective_checks=_CHECKS,
                          verdicts=verdicts),
        output=Output(video=f"videos/{scenario.scenario_id}.mp4", sha256=_hash("video", run, row), num_bytes=9_000_000,
                      width=1280, height=704, num_frames=93, fps=16),
        timings_s={"generate": draw.uniform(200, 300), "check": draw.uniform(5, 10)}, code=code_version(),
        packages=package_versions(), environment={"python": "3.11", "torch": "2.13", "gpu": "H100", "driver": "570"},
        manifest_uri=f"s3://bucket/manifests/{run}.parquet", manifest_sha256=_hash("manifest", run),
        run_id=_run_id(run), finished_at=_START + timedelta(hours=run, seconds=row),
    )  # fmt: skip


_CONFIG = load_config().model_dump(mode="json")


def _write(dataset: LineageDataset, runs: int, rows: int) -> None:
    there = dataset.ask(lambda parts: set(find_runs(parts, "")))
    for run in range(runs):
        if _run_id(run) not in there:
            draw, store = random.Random(run), open_store(f"/nowhere/run-{run}", for_writing=False)
            dataset.append([lineage_row(_record(run, row, draw), store) for row in range(rows)])


def _questions(runs: int) -> dict[str, Callable[[LineageDataset], int]]:
    middle = runs // 2
    adapter, base = _hash(f"its-{middle // 20}"), _hash(f"base-{middle // 400}")
    video = _hash("video", middle, 1)
    return {
        "read all footers": lambda data: data.ask(len),
        "name a version": lambda data: data.ask(lambda parts: len(find_versions(parts, f"its-{middle // 20}:v1"))),
        "videos of one adapter": lambda data: data.ask(lambda parts: len(videos_of(data, parts, [adapter]))),
        "videos of a withdrawn base": lambda data: data.ask(
            lambda parts: len(videos_of(data, parts, [base, *derived_versions(parts, [base])]))
        ),
        "videos of the VAE of all": lambda data: data.ask(lambda parts: len(videos_of(data, parts, [_hash("vae")]))),
        "one video by its hash": lambda data: data.ask(
            lambda parts: len(rows_of(data, parts, ds.field("output_sha256") == video))
        ),
        "one run": lambda data: data.ask(
            lambda parts: len(rows_of(data, parts, ds.field("run_id") == _run_id(middle))), run_id=_run_id(middle)
        ),
    }


def main(argv: list[str] | None = None) -> None:
    """Print one JSON object: files, rows, and the answer, seconds and peak memory of each question."""
    parser = argparse.ArgumentParser(prog="benchmarks.lineage", description=__doc__.split("\n")[0])
    parser.add_argument("place", help="folder or s3:// prefix")
    parser.add_argument("--runs", type=int, default=2000)
    parser.add_argument("--rows", type=int, default=500, help="of each run")
    parser.add_argument("--compact", action="store_true", help="merge the files first")
    arguments = parser.parse_args(argv)
    dataset = open_lineage(arguments.place, create=True)
    report: dict[str, Any] = {"place": arguments.place.split("://")[0] if "://" in arguments.place else "local"}
    started = time.monotonic()
    _write(dataset, arguments.runs, arguments.rows)
    report["written_s"] = round(time.monotonic() - started, 1)
    if arguments.compact:
        started = time.monotonic()
        report["merged"] = compact(dataset)
        report["merged_s"] = round(time.monotonic() - started, 1)
    report["files"], report["rows"] = dataset.ask(lambda parts: (len(parts), sum(part.num_rows for part in parts)))
    for name, ask in _questions(arguments.runs).items():
        started = time.monotonic()
        answer = ask(dataset)
        seconds, peak = time.monotonic() - started, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
        report[name] = {"answer": answer, "seconds": round(seconds, 2), "peak_mib": peak}
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
