"""`crossroads prompts` and `crossroads manifest expand` as a user calls them."""

from __future__ import annotations

import json
import re
import shutil

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from cosmos_core.errors import BadConfig, BadManifest
from flows.cli import app
from tasks.manifest import parse_manifest
from tasks.prompt_lint import RULES

GOOD = (
    "A static traffic CCTV camera captures an urban street by day. A red sedan brakes and a white SUV runs into its "
    "rear. Both vehicles come to rest."
)
ROWS = [
    {"input": "a.jpg", "prompt": GOOD, "scenario_id": "good"},
    {"input": "a.jpg", "prompt": "A [red]Toyota[/red] \x1b[31m hits a bus at night.", "scenario_id": "bad"},
    {"input": "a.jpg", "prompt": GOOD, "scenario_id": "label", "labels": {"time_of_day": "night"}},
    {"prompt": "no input"},
]


@pytest.fixture
def manifest(tmp_path, monkeypatch):
    """Writes a manifest, in a folder without models."""
    monkeypatch.chdir(tmp_path)

    def write(rows=ROWS):
        (tmp_path / "m.json").write_text(json.dumps(rows))
        return tmp_path / "m.json"

    return write


def invoke(*arguments):
    result = CliRunner().invoke(app, list(map(str, arguments)))
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def test_lint_shows_row_rule_excerpt_and_remedy(manifest):
    result = invoke("prompts", "lint", manifest())
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert any(re.search(r"1 +│ bad +│ brand +│ Toyota +│ .*│ Name the kind of vehicle", line) for line in lines)
    assert any(re.search(r"2 +│ label +│ label-contradiction +│ day ", line) for line in lines)
    assert any(re.search(r"3 +│ +│ row-invalid ", line) for line in lines)
    assert "4 rows, 1 clean," in result.stdout
    assert "\x1b" not in result.stdout


def test_strict_turns_findings_into_an_exit_code(manifest):
    assert invoke("prompts", "lint", manifest(), "--strict").exit_code == 3
    assert invoke("prompts", "lint", manifest(ROWS[:1]), "--strict").exit_code == 0
    assert invoke("prompts", "lint", manifest(ROWS[3:]), "--strict").exit_code == 3


def test_lint_as_json(manifest):
    report = json.loads(invoke("prompts", "lint", manifest(), "--json").stdout)
    assert (report["num_rows"], report["num_clean"]) == (4, 1)
    assert report["num_errors"] + report["num_warnings"] == len(report["findings"])
    assert report["num_errors"] == sum(finding["severity"] == "error" for finding in report["findings"])
    brand = next(finding for finding in report["findings"] if finding["rule"] == "brand")
    assert (brand["row_number"], brand["scenario_id"], brand["excerpt"]) == (1, "bad", "Toyota")
    assert report["sha256"] == parse_manifest(str(manifest())).sha256
    assert report["tokens"] == {"source": "estimate", "exact": False}


def test_lint_looks_at_what_the_template_would_make(manifest):
    path = manifest([{"input": "a.jpg", "prompt": GOOD.partition(". ")[2] + " The road is wet."}])
    rules = [
        {finding["rule"] for finding in json.loads(invoke("prompts", "lint", path, "--json", *more).stdout)["findings"]}
        for more in ((), ("--refined",))
    ]
    assert rules == [{"camera-missing"}, set()]


def test_lint_counts_with_a_tokenizer(manifest, micro_root, tmp_path):
    [file] = micro_root.rglob("tokenizer.json")
    path = manifest([{"input": "a.jpg", "prompt": f"{GOOD} {'The road is wet. ' * 110}"}])
    report = json.loads(invoke("prompts", "lint", path, "--tokenizer", file.parent, "--json").stdout)
    assert report["tokens"] == {"source": str(file), "exact": True}
    [finding] = [finding for finding in report["findings"] if finding["rule"] == "truncated"]
    assert re.fullmatch(r"\d+ tokens, 512 are read", finding["message"])
    with pytest.raises(BadConfig, match="--tokenizer"):
        invoke("prompts", "lint", path, "--tokenizer", tmp_path)


def test_lint_says_what_it_cannot_read(tmp_path):
    with pytest.raises(BadManifest):
        invoke("prompts", "lint", tmp_path / "none.json")
    with pytest.raises(BadConfig, match="no such configuration file"):
        invoke("prompts", "lint", tmp_path / "none.json", "--words", tmp_path / "none.yaml")


def test_rules_lists_every_rule():
    assert [rule["id"] for rule in json.loads(invoke("prompts", "rules", "--json").stdout)] == list(RULES)
    assert all(rule in invoke("prompts", "rules").stdout for rule in RULES)


def test_build_shows_and_writes_what_the_linter_likes(repository, tmp_path):
    source = repository / "examples/matrix/labels.yaml"
    shown = json.loads(invoke("prompts", "build", source, "--json").stdout)
    assert len(shown) == 3
    assert "pedestrian_near_miss" in invoke("prompts", "build", source).stdout
    target = tmp_path / "labels.parquet"
    assert "3 rows" in invoke("prompts", "build", source, target).stdout
    assert [row.prompt for row in parse_manifest(str(target)).rows] == [item["prompt"] for item in shown]
    assert invoke("prompts", "lint", target, "--strict").exit_code == 0
    with pytest.raises(BadConfig, match="--force"):
        invoke("prompts", "build", source, target)
    assert invoke("prompts", "build", source, target, "--force").exit_code == 0


def test_expand_writes_a_manifest_and_its_coverage(repository, tmp_path):
    source, target = repository / "examples/matrix/its-matrix.yaml", tmp_path / "m.parquet"
    result = invoke("manifest", "expand", source, target)
    coverage = json.loads((tmp_path / "m.parquet.coverage.json").read_text())
    number = coverage["scenarios"]
    assert pq.read_table(target).num_rows == number
    assert f"{number} scenarios; coverage in" in result.stdout.replace("\n", "")
    assert re.search(r"288 +│ in all", result.stdout)
    assert re.search(r"camera +│ intersection +│ +\d+ │", result.stdout)
    assert coverage["matrix"] == "its"
    assert (len(coverage["sha256"]), coverage["source"]) == (64, "its-matrix.yaml")
    assert invoke("prompts", "lint", target, "--strict").exit_code == 0
    frames = repository / "examples/demo/frames"
    assert invoke("manifest", "validate", target, "--input-root", frames).exit_code == 0


def test_expanding_again_changes_not_one_byte(repository, tmp_path):
    shutil.copy(repository / "examples/matrix/its-matrix.yaml", tmp_path / "its-matrix.yaml")
    for name in ("a.parquet", "b.parquet"):
        invoke("manifest", "expand", tmp_path / "its-matrix.yaml", tmp_path / name)
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()
    first, second = ((tmp_path / f"{name}.parquet.coverage.json").read_bytes() for name in "ab")
    assert first == second


def test_expand_reduces_and_limits(repository, tmp_path):
    source = repository / "examples/matrix/its-matrix.yaml"
    arguments = ("manifest", "expand", source)
    few = json.loads(invoke(*arguments, tmp_path / "a.jsonl", "--reduce", "pairwise", "--json").stdout)
    assert few["scenarios"] == len((tmp_path / "a.jsonl").read_text().splitlines()) < 40
    assert few["pairs_taken"] == few["pairs_possible"]
    some = json.loads(invoke(*arguments, tmp_path / "b.csv", "--limit", 5, "--json").stdout)
    assert some["scenarios"] == 5
    assert some["pairs_taken"] < some["pairs_possible"]


def test_expand_replaces_nothing_unasked(repository, tmp_path):
    source, target = repository / "examples/matrix/its-matrix.yaml", tmp_path / "m.csv"
    (tmp_path / "m.csv.coverage.json").write_text("mine")
    with pytest.raises(BadConfig, match="--force"):
        invoke("manifest", "expand", source, target)
    assert not target.exists()
    invoke("manifest", "expand", source, target, "--force")
    assert target.exists()
