"""A run whose prompts a model refines: what it wrote is generated from and recorded, what it spoiled is not lost."""

from __future__ import annotations

import json

import pytest
import yaml

from tests.tasks.chat_server import Reply, chat_server, completion

GOOD_PROMPT = "A static traffic CCTV camera captures a highway. A red sedan brakes hard and comes to rest."
BAD_PROMPT = "A static traffic CCTV camera captures a highway. A blue van brakes hard and comes to rest."
PARTS = {
    "camera": "A static traffic CCTV camera",
    "scene": "a straight highway with marked lanes",
    "incident": "A red sedan brakes hard and its front dips.",
    "aftermath": "The red sedan comes to rest in its lane.",
}


def answer(body):
    """The same words to every question: right for one prompt, wrong for the other."""
    text = body["messages"][1]["content"][-1]["text"]
    return completion(json.dumps(PARTS)) if "caption" in text else Reply(status=400)


@pytest.mark.e2e
@pytest.mark.slow
def test_a_refined_run_from_manifest_to_records(workspace):
    config = yaml.safe_load((workspace.folder / "run.yaml").read_text())
    with chat_server() as server:
        server.answer = answer
        endpoint = {"url": server.url, "model": "its-vl", "max_attempts": 1, "api_key_env": "ITS_KEY"}
        config["refiner"] = {"kind": "endpoint", "endpoint": endpoint}
        (workspace.folder / "run.yaml").write_text(yaml.safe_dump(config))
        workspace.environment["ITS_KEY"] = "sk-very-secret"
        workspace.write_manifest(
            [
                {"input": "frames/a.png", "prompt": GOOD_PROMPT, "scenario_id": "refined"},
                {"input": "frames/b.png", "prompt": BAD_PROMPT, "scenario_id": "spoiled"},
            ]
        )
        first = workspace.generate()
        assert first.returncode == 0, first.stdout + first.stderr
        asked = len(server.requests)
        assert asked == 3  # one question, and one with its correction
        jobs = [workspace.record(name)["job_id"] for name in ("refined", "spoiled")]
        again = workspace.generate()
        assert again.returncode == 0
        assert len(server.requests) == asked
    refined, spoiled = (workspace.record(name)["prompts"] for name in ("refined", "spoiled"))
    assert refined["refined"] == (
        "A static traffic CCTV camera captures a straight highway with marked lanes. A red sedan brakes hard and its "
        "front dips. The red sedan comes to rest in its lane."
    )
    assert (refined["original"], refined["refiner"], refined["refiner_requested"]) == (
        GOOD_PROMPT,
        "endpoint",
        "endpoint",
    )
    assert refined["refiner_model"].startswith("its-vl @ 127.0.0.1:")
    assert (spoiled["refined"], spoiled["refiner"], spoiled["refiner_requested"]) == (
        BAD_PROMPT,
        "template",
        "endpoint",
    )
    assert "it lost the colour 'blue'" in spoiled["notes"][0]
    assert [row["status"] for row in workspace.results()] == ["published", "published"]
    assert all(row["reused"] for row in workspace.results())
    assert [workspace.record(name)["job_id"] for name in ("refined", "spoiled")] == jobs
    everything = first.stdout + first.stderr + json.dumps([workspace.record(name) for name in ("refined", "spoiled")])
    assert "sk-very-secret" not in everything
