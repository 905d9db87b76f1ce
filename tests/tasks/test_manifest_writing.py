import json

import pyarrow.parquet as pq
import pytest

from cosmos_core.errors import BadConfig
from tasks.manifest import MANIFEST_SCHEMA, encode_manifest, parse_manifest, write_manifest
from tasks.scenario import ScenarioRow

ROWS = [
    ScenarioRow.model_validate(fields)
    for fields in (
        {"input": "a.jpg", "prompt": "x"},
        {
            "scenario_id": "full",
            "input": "s3://b/ü 文.mp4",
            "prompt": 'Lines\r\n and "quotes", commas; ☔',
            "negative_prompt": "blurry",
            "adapters": "night:0.1,its-collision@production:-2",
            "seed": 2**32 - 1,
            "guidance": 0.1,
            "num_steps": 1,
            "num_conditional_frames": 5,
            "model": "14B",
            "resolution": "480",
            "fps": 16,
            "aspect_ratio": "9:16",
            "output_name": "o/ü.mp4",
            "labels": {"weather": "rain, heavy", "note": " two\nlines "},
        },
        {
            "input": "b.jpg",
            "prompt": " y ",
            "negative_prompt": "",
            "adapters": [],
            "labels": {"weather": "dry"},
            "seed": 0,
        },
    )
]


@pytest.mark.parametrize("suffix", ["parquet", "pq", "json", "jsonl", "ndjson", "csv"])
def test_what_is_written_is_read_back(tmp_path, suffix):
    path = tmp_path / f"m.{suffix}"
    write_manifest(ROWS, path)
    assert list(parse_manifest(str(path)).rows) == ROWS
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("first", ["parquet", "json", "jsonl", "csv"])
@pytest.mark.parametrize("second", ["parquet", "json", "jsonl", "csv"])
def test_a_second_conversion_changes_no_byte(tmp_path, first, second):
    write_manifest(ROWS, tmp_path / f"a.{first}")
    write_manifest(parse_manifest(str(tmp_path / f"a.{first}")).rows, tmp_path / f"b.{second}")
    assert (tmp_path / f"b.{second}").read_bytes() == encode_manifest(ROWS, second)


def test_parquet_carries_the_published_schema(tmp_path):
    write_manifest(ROWS, tmp_path / "m.parquet")
    table = pq.read_table(tmp_path / "m.parquet")
    assert table.schema.equals(MANIFEST_SCHEMA)
    assert table.schema.metadata == MANIFEST_SCHEMA.metadata
    assert [field.metadata for field in table.schema] == [field.metadata for field in MANIFEST_SCHEMA]
    assert table.column("seed").to_pylist() == [None, 2**32 - 1, 0]
    assert table.column("adapters").to_pylist()[0] is None
    assert table.column("adapters").to_pylist()[2] == []


def test_nothing_but_what_was_given_is_written():
    assert json.loads(encode_manifest(ROWS[:1], "json")) == [{"input": "a.jpg", "prompt": "x"}]
    assert encode_manifest(ROWS[:1], "csv") == b"input,prompt\na.jpg,x\n"


def test_csv_tells_nothing_from_not_given():
    header, *_, last = encode_manifest([ROWS[0], ROWS[2]], "csv").decode().splitlines()
    assert dict(zip(header.split(","), last.split(","), strict=True)) == {
        "input": "b.jpg",
        "prompt": " y ",
        "negative_prompt": "<none>",
        "adapters": "<none>",
        "seed": "0",
        "label.weather": "dry",
    }


def test_places_that_cannot_be_written(tmp_path):
    (tmp_path / "folder.csv").mkdir()
    (tmp_path / "file").write_text("x")
    for path in ("m.txt", "m", "folder.csv", "none/m.csv", "file/m.csv"):
        with pytest.raises(BadConfig):
            write_manifest(ROWS, tmp_path / path)
    with pytest.raises(BadConfig):
        write_manifest(ROWS, "s3://bucket/m.csv")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["file", "folder.csv"]


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "m.json"
    write_manifest(ROWS[:1], path)
    before = path.read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.replace", full)
    with pytest.raises(BadConfig, match="No space left"):
        write_manifest(ROWS, path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
