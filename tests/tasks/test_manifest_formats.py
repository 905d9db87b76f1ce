import json
import random

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cosmos_core.errors import BadManifest
from tasks.manifest_formats import BrokenRow, detect_format, parse_rows
from tasks.manifest_schema import MANIFEST_SCHEMA, VERSION_KEY, schema_document

ROWS = [{"input": "a.jpg", "prompt": "Ein Unfall, nass"}, {"input": "b.jpg", "prompt": "雨 ☔"}]


def parquet_bytes(table):
    sink = pa.BufferOutputStream()
    pq.write_table(table if isinstance(table, pa.Table) else pa.Table.from_pylist(table), sink)
    return sink.getvalue().to_pybytes()


PARQUET = parquet_bytes(ROWS)
JSON = json.dumps(ROWS).encode()
JSONL = "\n".join(json.dumps(row, ensure_ascii=False) for row in ROWS).encode()
CSV = 'input,prompt\na.jpg,"Ein Unfall, nass"\nb.jpg,雨 ☔\n'.encode()


def parse(content, manifest_format):
    return parse_rows(content, manifest_format, uri="m")


@pytest.mark.parametrize(
    ("uri", "content", "expected"),
    [
        ("m.parquet", PARQUET, "parquet"),
        ("m.json", PARQUET, "parquet"),
        ("m", PARQUET, "parquet"),
        ("s3://b/M.PQ?x=.csv", b"", "parquet"),
        ("m.JSON", JSON, "json"),
        ("m.jsonl", JSONL, "jsonl"),
        ("m.ndjson", JSONL, "jsonl"),
        ("m.csv", CSV, "csv"),
        ("m", JSON, "json"),
        ("batch.txt", b"\xef\xbb\xbf \n" + JSON, "json"),
        ("m", JSONL, "jsonl"),
        ("m", JSONL.split(b"\n")[0], "jsonl"),
        ("m", b'{"scenarios": []}', "json"),
    ],
)
def test_the_format_is_found(uri, content, expected):
    assert detect_format(uri, content) == expected


def test_an_unknown_format_is_refused():
    for uri, content in (("m.mp4", b"\0\0\0 ftyp"), ("m.txt", CSV), ("m", b"")):
        with pytest.raises(BadManifest, match=r"\.parquet"):
            detect_format(uri, content)


@pytest.mark.parametrize(
    ("content", "manifest_format"),
    [
        (PARQUET, "parquet"),
        (JSON, "json"),
        (b"\xef\xbb\xbf" + JSON, "json"),
        (json.dumps({"scenarios": ROWS}).encode(), "json"),
        (JSONL, "jsonl"),
        (b"\xef\xbb\xbf" + JSONL.replace(b"\n", b"\r\n\r\n") + b"\r\n", "jsonl"),
        (CSV, "csv"),
        (b"\xef\xbb\xbf" + CSV.replace(b"\n", b"\r\n"), "csv"),
        (CSV.replace(b"\n", b"\n\n"), "csv"),
    ],
)
def test_every_format_gives_the_same_rows(content, manifest_format):
    assert parse(content, manifest_format) == ROWS


def test_line_separators_inside_json_strings_are_no_line_ends():
    assert parse('{"prompt": "a\u2028b\u0085c"}'.encode(), "jsonl") == [{"prompt": "a\u2028b\u0085c"}]


def test_csv_cells_may_hold_lines_and_empty_cells_are_none():
    assert parse(b'input,prompt,seed\na,"x\ny ""z""",\n', "csv") == [{"input": "a", "prompt": 'x\ny "z"', "seed": None}]


@pytest.mark.parametrize(
    ("content", "manifest_format", "match"),
    [
        (b"PAR1 and then nothing PAR1", "parquet", "cannot be read"),
        (PARQUET[:-20], "parquet", "cannot be read"),
        (JSON, "parquet", "a Parquet file"),
        (b"", "parquet", "cannot be read"),
        (JSON[:-3], "json", "cannot be read"),
        (JSONL, "json", "name the file .jsonl"),
        (b"\xff\xfe[]", "json", "cannot be read"),
        (b"[" * 200_000, "json", "cannot be read"),
        (b'[{"seed": ' + b"9" * 5000 + b"}]", "json", "cannot be read"),
        (b'{"input": "a", "prompt": "x"}', "json", "JSON object"),
        (b'{"scenarios": 5}', "json", "JSON number"),
        (b'{"scenarios": [], "seed": 1}', "json", "JSON object"),
        (b'"text"', "json", "JSON string"),
        (b"null", "json", "JSON null"),
        ("input,prompt\na,Stra\xdfe\n".encode("latin-1"), "csv", "UTF-8"),
        (b'input,prompt\na,"open\nb,x\n', "csv", "cannot be read"),
        (b"input;prompt\na;b\n", "csv", "Separate the columns with commas"),
        (b",input,prompt\n0,a,b\n", "csv", "index=False"),
        (b"input,promt\na,b\n", "csv", "expected prompt"),
        (b"input,Prompt\na,b\n", "csv", "expected prompt"),
        (b"input,prompt,wether\na,b,c\n", "csv", "label"),
        (b"input,prompt,label.Weather\na,b,c\n", "csv", "label"),
        (b"input,seed\na,1\n", "csv", "lacks the column 'prompt'"),
        (b"prompt\nx\n", "csv", "lacks the column 'input'"),
        (b"input,prompt,prompt\na,b,c\n", "csv", "twice"),
        (parquet_bytes([{"input": "a", "promt": "x"}]), "parquet", "'promt', expected prompt"),
        (parquet_bytes([{"input": "a"}]), "parquet", "lacks the column 'prompt'"),
        (parquet_bytes(pa.table([["a"], ["b"], ["c"]], ["input", "prompt", "prompt"])), "parquet", "twice"),
    ],
)
def test_what_is_no_manifest_is_refused(content, manifest_format, match):
    with pytest.raises(BadManifest, match=match):
        parse(content, manifest_format)


@pytest.mark.parametrize(
    ("content", "manifest_format"),
    [
        (parquet_bytes(pa.table({"input": pa.array([], pa.string()), "prompt": pa.array([], pa.string())})), "parquet"),
        (b"[]", "json"),
        (b'{"scenarios": []}', "json"),
        (b"\n \n", "jsonl"),
        (b"", "jsonl"),
        (b"input,prompt\n", "csv"),
        (b"", "csv"),
    ],
)
def test_an_empty_manifest_is_refused(content, manifest_format):
    with pytest.raises(BadManifest, match="has no rows"):
        parse(content, manifest_format)


def test_too_many_rows_are_refused(monkeypatch):
    monkeypatch.setattr("tasks.manifest_formats.MAX_ROWS", 1)
    for content, manifest_format in ((PARQUET, "parquet"), (CSV, "csv")):
        with pytest.raises(BadManifest, match="too many rows"):
            parse(content, manifest_format)


def test_a_broken_row_stays_in_its_place():
    lines = [b'{"a": 1}', b"{broken", b"[1]", b"\xff\xfe", b'{"a": 1, "a": 2}', b"[" * 100_000, b'{"b": 2}']
    rows = parse(b"\n".join(lines), "jsonl")
    assert [type(row) for row in rows] == [dict, *[BrokenRow] * 5, dict]
    assert rows[1].got.startswith("line 2: ")
    assert rows[4].got == "the key 'a' twice"
    mixed = parse(b'[{"a": 1}, 5, null, "x", [], true, {"a": {"b": 1, "b": 2}}]', "json")
    assert [row.got for row in mixed[1:6]] == [
        "a JSON number",
        "a JSON null",
        "a JSON string",
        "a JSON list",
        "a JSON boolean",
    ]
    assert isinstance(mixed[6]["a"], BrokenRow)
    short = parse(b"input,prompt\na\na,b,c\na,b\n", "csv")
    assert (short[0].got, short[1].got, short[2]) == ("1 cells", "3 cells", {"input": "a", "prompt": "b"})


def test_the_index_of_a_filtered_pandas_table_is_no_column(tmp_path):
    frame = pd.DataFrame([*ROWS, *ROWS])
    frame.iloc[[1, 2, 3]].sort_values("prompt").head(2).to_parquet(tmp_path / "m.parquet")
    content = (tmp_path / "m.parquet").read_bytes()
    assert "__index_level_0__" in pq.read_schema(pa.BufferReader(content)).names
    assert len(parse(content, "parquet")) == 2


def test_another_version_is_refused():
    table = pa.Table.from_pylist(ROWS).replace_schema_metadata({VERSION_KEY: "2"})
    with pytest.raises(BadManifest, match="another version"):
        parse(parquet_bytes(table), "parquet")


def test_damage_never_ends_in_another_error():
    draw = random.Random(0)
    for content, manifest_format in ((PARQUET, "parquet"), (JSON, "json"), (JSONL, "jsonl"), (CSV, "csv")):
        for _ in range(150):
            damaged = bytearray(content)
            for _ in range(draw.randrange(1, 4)):
                damaged[draw.randrange(len(damaged))] = draw.randrange(256)
            try:
                rows = parse(bytes(damaged), manifest_format)
            except BadManifest:
                continue
            assert rows


def test_the_published_schema():
    assert MANIFEST_SCHEMA.metadata[VERSION_KEY.encode()] == b"1"
    assert MANIFEST_SCHEMA.names == [
        "scenario_id",
        "input",
        "prompt",
        "negative_prompt",
        "adapters",
        "seed",
        "guidance",
        "num_steps",
        "num_conditional_frames",
        "num_chunks",
        "model",
        "resolution",
        "fps",
        "aspect_ratio",
        "output_name",
        "labels",
    ]
    assert [field.name for field in MANIFEST_SCHEMA if not field.nullable] == ["input", "prompt"]
    assert all(field.metadata[b"description"] for field in MANIFEST_SCHEMA)
    document = json.loads(json.dumps(schema_document()))
    assert document["version"] == "1"
    assert [column["name"] for column in document["columns"]] == MANIFEST_SCHEMA.names
    assert {column["name"] for column in document["columns"] if column["required"]} == {"input", "prompt"}
