"""The lineage benchmark asks what it says, and a compaction changes no answer."""

from __future__ import annotations

import json

from benchmarks.lineage import main


def answers(capsys, *arguments):
    main([*map(str, arguments)])
    report = json.loads(capsys.readouterr().out)
    return report, {name: fact["answer"] for name, fact in report.items() if isinstance(fact, dict)}


def test_questions_have_the_same_answers_after_a_compaction(tmp_path, capsys):
    report, before = answers(capsys, tmp_path, "--runs", 4, "--rows", 6)
    assert (report["files"], report["rows"]) == (4, 24)
    assert (before["videos of the VAE of all"], before["one video by its hash"], before["one run"]) == (24, 1, 6)
    assert 0 < before["videos of one adapter"] < 24
    report, after = answers(capsys, tmp_path, "--runs", 4, "--rows", 6, "--compact")
    assert (report["files"], report["rows"], report["merged"]) == (1, 24, [4, 1])
    assert after | {"read all footers": 4} == before
