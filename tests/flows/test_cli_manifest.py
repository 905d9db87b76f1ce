import json
import re

import pytest
from typer.testing import CliRunner

from cosmos_core.errors import BadConfig, BadManifest
from flows.cli.manifest import app
from tasks.manifest import MANIFEST_SCHEMA, read_manifest
from tasks.scenario import ScenarioDefaults

GOOD = [
    {"input_video": "frames/a.jpg", "prompt": "A [red]truck[/red] brakes.", "output_video": "out/one.mp4"},
    {"input_video": "frames/a.jpg", "prompt": "Two\ncars \x1b[31m collide.", "adapters": "night:0.5", "seed": 7},
]
BAD = [{"input_video": "frames/gone.jpg", "prompt": "x", "scenario_id": "lost", "seed": -1}, {"prompt": "no input"}]


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "frames").mkdir()
    (tmp_path / "frames" / "a.jpg").write_bytes(b"x")
    return tmp_path


def write(folder, rows, name="m.json"):
    (folder / name).write_text(json.dumps(rows))
    return str(folder / name)


def invoke(*arguments):
    result = CliRunner().invoke(app, list(map(str, arguments)), catch_exceptions=True)
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def test_validate_says_that_all_is_well(folder):
    result = invoke("validate", write(folder, GOOD))
    assert result.exit_code == 0
    assert "2 rows, 2 valid, 0 invalid" in result.stdout
    assert "Invalid rows" not in result.stdout


def test_validate_lists_every_problem_and_exits_with_3(folder):
    result = invoke("validate", write(folder, [*GOOD, *BAD]))
    assert result.exit_code == 3
    assert "4 rows, 2 valid, 2 invalid" in result.stdout
    lines = result.stdout.splitlines()
    assert any(re.search(r"2 +│ lost +│ seed +│ -1 +│ a whole number from 0 to 4294967295", line) for line in lines)
    assert any(re.search(r"3 +│ +│ input +│ nothing +│ a path or URI", line) for line in lines)


def test_validate_as_json(folder):
    path = write(folder, [*GOOD, *BAD])
    result = invoke("validate", path, "--json")
    report = json.loads(result.stdout)
    assert result.exit_code == 3
    assert (report["manifest"], report["format"]) == (path, "json")
    assert (report["num_rows"], report["num_valid"], report["num_invalid"]) == (4, 2, 2)
    assert report["sha256"] == read_manifest(path, ScenarioDefaults()).sha256
    assert [(row["row_number"], row["scenario_id"], row["field"]) for row in report["invalid"]] == [
        (2, "lost", "seed"),
        (3, None, "input"),
    ]
    assert invoke("validate", write(folder, GOOD), "--json").exit_code == 0


def test_validate_takes_an_input_root(folder):
    path = write(folder, [{"input": "a.jpg", "prompt": "x"}])
    assert invoke("validate", path).exit_code == 3
    assert invoke("validate", path, "--input-root", folder / "frames").exit_code == 0
    with pytest.raises(BadConfig, match="--input-root"):
        invoke("validate", path, "--input-root", folder / "gone")


def test_validate_takes_the_defaults_of_a_configuration(folder):
    path = write(folder, [{"input": "frames/a.jpg", "prompt": "x", "fps": 16}])
    assert invoke("validate", path).exit_code == 3
    (folder / "run.yaml").write_text("defaults: {model: 2B, resolution: '720', fps: 10}\n")
    assert invoke("validate", path, "--config", folder / "run.yaml").exit_code == 0
    with pytest.raises(BadConfig):
        invoke("validate", path, "--config", folder / "gone.yaml")


def test_an_unreadable_manifest_is_the_callers_error(folder):
    for command in (["validate"], ["show"], ["convert"]):
        target = [folder / "x.csv"] if command == ["convert"] else []
        with pytest.raises(BadManifest, match="not found"):
            invoke(*command, folder / "gone.json", *target)
        with pytest.raises(BadManifest, match="has no rows"):
            invoke(*command, write(folder, []), *target)


def test_show_prints_rows_as_they_would_run(folder):
    result = invoke("show", write(folder, [*GOOD, *BAD]))
    assert result.exit_code == 0
    assert "A [red]truck[/red] brakes." in result.stdout
    assert "Two cars" in result.stdout
    assert "\x1b" not in result.stdout
    for part in ("one", "night:0.5", "tiny 112p 10 fps 16:9", "out/one.mp4", "invalid: ", "lost"):
        assert part in result.stdout


def test_show_stops_at_its_limit(folder):
    result = invoke("show", write(folder, [*GOOD, *BAD]), "--limit", 1)
    assert "truck" in result.stdout
    assert "Two cars" not in result.stdout
    assert "3 more rows" in result.stdout
    assert invoke("show", write(folder, GOOD), "--limit", 0).exit_code == 2


@pytest.mark.parametrize("suffix", ["parquet", "json", "jsonl", "csv"])
def test_convert_keeps_the_scenarios(folder, suffix):
    source, target = write(folder, GOOD), folder / f"converted.{suffix}"
    result = invoke("convert", source, target)
    assert result.exit_code == 0
    assert "2 rows" in result.stdout
    assert "--input-root" not in result.stdout
    assert read_manifest(str(target), ScenarioDefaults()).rows == read_manifest(source, ScenarioDefaults()).rows


def test_convert_replaces_only_when_told(folder):
    source, target = write(folder, GOOD), folder / "m.csv"
    target.write_text("mine")
    with pytest.raises(BadConfig, match="--force"):
        invoke("convert", source, target)
    assert target.read_text() == "mine"
    assert invoke("convert", source, target, "--force").exit_code == 0
    assert target.read_text().startswith("input,prompt")


def test_convert_writes_nothing_of_a_manifest_with_invalid_rows(folder):
    result = invoke("convert", write(folder, [*GOOD, {"prompt": "x", "input": "a", "sed": 1}]), folder / "x.csv")
    assert result.exit_code == 3
    assert "'sed'" in result.stdout
    assert "Nothing written: 1 of 3 rows" in result.stdout
    assert not (folder / "x.csv").exists()


def test_convert_needs_no_inputs_and_warns_when_their_start_moves(folder):
    (folder / "else").mkdir()
    result = invoke("convert", write(folder, [{"input": "gone.jpg", "prompt": "x"}]), folder / "else" / "m.csv")
    assert result.exit_code == 0
    assert "--input-root" in result.stdout


def test_convert_refuses_an_unknown_suffix(folder):
    with pytest.raises(BadConfig, match=r"\.parquet"):
        invoke("convert", write(folder, GOOD), folder / "m.xlsx")


def test_schema_names_every_column():
    table = invoke("schema")
    document = json.loads(invoke("schema", "--json").stdout)
    assert table.exit_code == 0
    assert [column["name"] for column in document["columns"]] == MANIFEST_SCHEMA.names
    for name in MANIFEST_SCHEMA.names:
        assert name in table.stdout
