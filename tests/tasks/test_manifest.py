import json
import pickle
import random
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cosmos_core.errors import BadConfig, BadManifest, StorageUnavailable
from cosmos_core.hashing import canonical_json, sha256_file
from tasks.manifest import MANIFEST_SCHEMA, parse_manifest, read_manifest, write_manifest
from tasks.scenario import DEFAULT_NEGATIVE_PROMPT, AdapterUse, ScenarioDefaults

SEED_BATCH = """[
    {
        "input_video": "frames/intersection_01.jpg",
        "prompt": "A traffic CCTV camera captures a T-bone collision...",
        "output_video": "output/collision_01.mp4"
    },
    {
        "input_video": "frames/highway_02.jpg",
        "prompt": "A static camera shows a multi-vehicle pileup...",
        "output_video": "output/pileup_02.mp4"
    }
]
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "frames").mkdir()
    for name in ("a.jpg", "b.jpg", "intersection_01.jpg", "highway_02.jpg"):
        (tmp_path / "frames" / name).write_bytes(b"x")
    return tmp_path


def write(folder, rows, name="m.json"):
    path = folder / name
    path.write_text("\n".join(map(json.dumps, rows)) if name.endswith(".jsonl") else json.dumps(rows))
    return str(path)


def read(folder, rows, defaults=None, **options):
    return read_manifest(write(folder, rows), defaults or ScenarioDefaults(), **options)


def good(**fields):
    return {"input": "frames/a.jpg", "prompt": "A crash."} | fields


def content(manifest):
    return [row.model_dump() for row in manifest.rows], [(row.row_number, row.message) for row in manifest.invalid]


def test_the_documents_batch_file_is_read_unchanged(folder):
    (folder / "batch_scenarios.json").write_text(SEED_BATCH)
    manifest = read_manifest(str(folder / "batch_scenarios.json"), ScenarioDefaults())
    assert (manifest.format, manifest.num_rows, manifest.invalid) == ("json", 2, ())
    assert manifest.sha256 == sha256_file(folder / "batch_scenarios.json")
    first, second = manifest.rows
    assert (first.row_number, first.scenario_id, first.output_name) == (0, "collision_01", "output/collision_01.mp4")
    assert (first.input, first.input_uri) == (
        "frames/intersection_01.jpg",
        str(folder / "frames" / "intersection_01.jpg"),
    )
    assert first.prompt == "A traffic CCTV camera captures a T-bone collision..."
    assert first.negative_prompt == DEFAULT_NEGATIVE_PROMPT
    assert (second.row_number, second.scenario_id) == (1, "pileup_02")


@pytest.mark.parametrize("suffix", ["parquet", "json", "jsonl", "csv"])
def test_every_format_gives_the_same_scenarios_as_the_batch_file(folder, suffix):
    (folder / "batch.json").write_text(SEED_BATCH)
    expected = read_manifest(str(folder / "batch.json"), ScenarioDefaults())
    frame = pd.DataFrame(json.loads(SEED_BATCH)).rename(columns={"input_video": "input", "output_video": "output_name"})
    path = folder / f"m.{suffix}"
    match suffix:
        case "parquet":
            frame.to_parquet(path)
        case "csv":
            frame.to_csv(path, index=False)
        case _:
            frame.to_json(path, orient="records", lines=suffix == "jsonl")
    manifest = read_manifest(str(path), ScenarioDefaults())
    assert manifest.format == suffix
    assert content(manifest) == content(expected)


def test_what_pandas_makes_of_missing_values_means_not_given(folder):
    frame = pd.DataFrame(
        {
            "input": ["frames/a.jpg"] * 4,
            "prompt": list("abcd"),
            "negative_prompt": ["", None, "ugly", np.nan],
            "seed": [5, None, 0, 7],
            "num_steps": pd.array([10, None, None, None], dtype="Int64"),
            "guidance": [np.nan, 3, 4.5, np.nan],
            "num_conditional_frames": [1.0, 5.0, np.nan, np.nan],
            "model": pd.Categorical(["tiny", None, "tiny", None]),
            "resolution": [112.0, np.nan, np.nan, np.nan],
            "scenario_id": ["", None, "third", ""],
            "label.weather": ["rain", None, "", "fog"],
            "label.actors": [2.0, np.nan, np.nan, np.nan],
        }
    )
    assert frame["seed"].dtype == float
    frame.to_parquet(folder / "m.parquet")
    manifest = read_manifest(str(folder / "m.parquet"), ScenarioDefaults(seed=99, num_steps=3))
    assert manifest.invalid == ()
    assert [row.seed for row in manifest.rows] == [5, 99, 0, 7]
    assert [row.num_steps for row in manifest.rows] == [10, 3, 3, 3]
    assert [row.guidance for row in manifest.rows] == [7.0, 3.0, 4.5, 7.0]
    assert [row.num_conditional_frames for row in manifest.rows] == [1, 5, 1, 1]
    assert [row.negative_prompt for row in manifest.rows] == [
        "",
        DEFAULT_NEGATIVE_PROMPT,
        "ugly",
        DEFAULT_NEGATIVE_PROMPT,
    ]
    assert [row.labels for row in manifest.rows] == [{"actors": "2", "weather": "rain"}, {}, {}, {"weather": "fog"}]
    assert manifest.rows[2].scenario_id == "third"


def test_nested_parquet_types(folder):
    rows = [
        good(adapters=[{"name": "night", "strength": 0.5}], labels=[("weather", "rain")]),
        good(adapters=[], labels=None, prompt="b"),
        good(adapters=None, labels=[], prompt="c"),
    ]
    pq.write_table(pa.Table.from_pylist(rows, schema=MANIFEST_SCHEMA), folder / "map.parquet")
    struct = [dict(row, labels=dict(row["labels"] or {}) or None) for row in rows]
    pq.write_table(pa.Table.from_pylist(struct), folder / "struct.parquet")
    defaults = ScenarioDefaults(adapters="base-adapter")
    as_map = read_manifest(str(folder / "map.parquet"), defaults)
    assert [row.adapters for row in as_map.rows] == [
        (AdapterUse(name="night", strength=0.5),),
        (),
        (AdapterUse(name="base-adapter"),),
    ]
    assert as_map.rows[0].labels == {"weather": "rain"}
    assert content(read_manifest(str(folder / "struct.parquet"), defaults)) == content(as_map)


def test_flat_cells_hold_labels_adapters_and_explicit_nothing(folder):
    (folder / "m.csv").write_text(
        "input,prompt,negative_prompt,adapters,seed,labels,label.weather\n"
        'frames/a.jpg,a,<none>,"night:0.5,rain",5.0,,fog\n'
        'frames/a.jpg,b,,<none>,,"{""weather"": ""snow""}",\n'
        "frames/a.jpg,c,,,,,\n",
        encoding="utf-8-sig",
    )
    manifest = read_manifest(str(folder / "m.csv"), ScenarioDefaults(adapters="x"))
    assert manifest.invalid == ()
    assert [row.negative_prompt for row in manifest.rows] == ["", DEFAULT_NEGATIVE_PROMPT, DEFAULT_NEGATIVE_PROMPT]
    assert [[use.name for use in row.adapters] for row in manifest.rows] == [["night", "rain"], [], ["x"]]
    assert [row.labels for row in manifest.rows] == [{"weather": "fog"}, {"weather": "snow"}, {}]


@pytest.mark.parametrize(
    ("row", "field", "got", "expected"),
    [
        ({"prompt": "x"}, "input", "nothing", "a path or URI"),
        ({"input": "frames/a.jpg", "prompt": ""}, "prompt", "nothing", "text"),
        ({"input": "frames/a.jpg", "prompt": None}, "prompt", "nothing", "text"),
        ({"input": "frames/a.jpg", "prompt": float("nan")}, "prompt", "nothing", "text"),
        (good(prompt="  "), "prompt", "'  '", "non-empty text"),
        (good(seed="x"), "seed", "'x'", "a whole number from 0 to 4294967295"),
        (good(seed=True), "seed", "True", "a whole number"),
        (good(seed=5.5), "seed", "5.5", "a whole number"),
        (good(guidance=float("inf")), "guidance", "'inf'", "a number from 0 to 50"),
        (good(num_conditional_frames=3), "num_conditional_frames", "3", "1 | 5"),
        (good(promt="y"), "'promt'", "an unknown field", "prompt"),
        (good(zzz="y"), "'zzz'", "an unknown field", "label.<name>"),
        (good(input_video="frames/b.jpg"), "input", "two values", "not both"),
        (good(**{"labels": {"a": "x"}, "label.b": "y"}), "labels", "both", "not both"),
        (good(labels={"Weather": "x"}), "labels", "'Weather'", "a mapping"),
        (good(adapters="a:99"), "adapters", "'a:99'", "from -10 to 10 as strength"),
        (good(adapters=[{"name": "a", "alpha": 3}]), "adapters", "alpha", "as alpha"),
        (good(scenario_id="../x"), "scenario_id", "'../x'", "1 to 128 of"),
        (good(output_name="../x.mp4"), "output_name", "'../x.mp4'", "a relative path"),
        (good(model="3B"), "model", "'3B'", "2B | 14B"),
        (good(model="2B"), "resolution", "'112'", "480 | 720"),
        (good(fps=16), "fps", "16", "10"),
        (good(aspect_ratio="2:1"), "aspect_ratio", "'2:1'", "16:9"),
        (good(input="frames/c.jpg"), "input", "frames/c.jpg", "an image or video file"),
        (good(input="../x.jpg"), "input", "'../x.jpg'", "a path below"),
        (good(input="ftp://host/x.jpg"), "input", "'ftp://host/x.jpg'", "s3://"),
        (5, "row", "a JSON number", "a JSON object"),
        (None, "row", "a JSON null", "a JSON object"),
    ],
)
def test_a_bad_row_is_set_aside_and_the_others_go_on(folder, row, field, got, expected):
    manifest = read(folder, [good(prompt="first"), row, good(prompt="last")])
    assert [scenario.row_number for scenario in manifest.rows] == [0, 2]
    (invalid,) = manifest.invalid
    assert (invalid.row_number, invalid.field) == (1, field)
    assert got in invalid.got
    assert expected in invalid.expected
    assert invalid.field in invalid.message
    assert expected in invalid.message


def test_all_problems_of_a_row_are_told(folder):
    (row,) = read(folder, [good(seed=-1, guidance=99, prompt="", fps=16)]).invalid
    assert [problem.field for problem in row.problems] == ["prompt", "seed", "guidance"]
    assert all(part in row.message for part in ("prompt: got nothing", "seed: got -1", "guidance: got 99"))
    (row,) = read(folder, [good(fps=16, input="gone.jpg")]).invalid
    assert [problem.field for problem in row.problems] == ["fps", "input"]


def test_a_wrong_default_is_told_as_such(folder):
    (row,) = read(folder, [good(model="2B", fps=10)]).invalid
    assert "resolution comes from the run's defaults" in row.message
    (row,) = read(folder, [good(resolution="720")]).invalid
    assert "defaults" not in row.message


def test_defaults_fill_what_is_left_open(folder):
    defaults = ScenarioDefaults(model="2B", resolution="720", fps=16, seed=4, adapters="night", negative_prompt="")
    bare, own = read(folder, [good(), good(fps=10, seed=0, adapters="day", negative_prompt="n")], defaults).rows
    assert (bare.model, bare.resolution, bare.fps, bare.seed, bare.negative_prompt) == ("2B", "720", 16, 4, "")
    assert bare.adapters == (AdapterUse(name="night"),)
    assert (own.fps, own.seed, own.negative_prompt, own.adapters) == (10, 0, "n", (AdapterUse(name="day"),))


def test_one_broken_line_spoils_only_itself(folder):
    path = folder / "m.jsonl"
    path.write_bytes(
        json.dumps(good()).encode() + b'\n{"input": \n\n\xff\n' + json.dumps(good(seed=1)).encode() + b"\n"
    )
    manifest = read_manifest(str(path), ScenarioDefaults())
    assert [row.row_number for row in manifest.rows] == [0, 3]
    assert [(row.row_number, row.field) for row in manifest.invalid] == [(1, "row"), (2, "row")]
    assert "line 2" in manifest.invalid[0].message
    assert manifest.invalid[0].raw == {"row": '{"input": '}


def test_the_first_of_equal_ids_wins(folder):
    rows = [good(scenario_id="Crash"), good(scenario_id="crash", prompt="b"), good(scenario_id="other", prompt="c")]
    manifest = read(folder, rows)
    assert [row.scenario_id for row in manifest.rows] == ["Crash", "other"]
    (row,) = manifest.invalid
    assert (row.row_number, row.scenario_id, row.field) == (1, "crash", "scenario_id")
    assert "already the id of row 0" in row.message


def test_an_invalid_row_keeps_its_id(folder):
    rows = [good(scenario_id="a", input="gone.jpg"), good(scenario_id="a")]
    assert [row.row_number for row in read(folder, rows).invalid] == [0, 1]
    (folder / "gone.jpg").write_bytes(b"x")
    assert [row.input for row in read(folder, rows).rows] == ["gone.jpg"]


def test_equal_rows_are_duplicates_and_equal_output_names_too(folder):
    manifest = read(folder, [good(), good(), good(output_name="x.mp4"), good(output_name="x.mp4", seed=1)])
    assert [row.row_number for row in manifest.rows] == [0, 2]
    assert [row.row_number for row in manifest.invalid] == [1, 3]
    assert "row 0 is the same" in manifest.invalid[0].message
    assert "row 2 has the same id or output name" in manifest.invalid[1].message


def test_ids_do_not_depend_on_order_format_or_place(folder):
    rows = [good(seed=seed, labels={"b": "1", "a": "2"}) for seed in range(6)] + [good(output_name="o/x.mp4")]
    ids = {canonical_json(row.model_dump(exclude={"row_number"})) for row in read(folder, rows).rows}
    assert len(ids) == 7
    shuffled = random.Random(0).sample(rows, len(rows))
    assert {canonical_json(row.model_dump(exclude={"row_number"})) for row in read(folder, shuffled).rows} == ids
    parsed = parse_manifest(write(folder, shuffled))
    for suffix in ("parquet", "csv", "jsonl"):
        write_manifest(parsed.rows, folder / f"m.{suffix}")
        again = read_manifest(str(folder / f"m.{suffix}"), ScenarioDefaults())
        assert {canonical_json(row.model_dump(exclude={"row_number"})) for row in again.rows} == ids


def test_every_row_comes_out_once(folder):
    draw = random.Random(3)
    values = [None, "", "x", 5, 5.5, -1, True, [], {}, "\ud800", "a\0b", float("nan"), "../x", 10**30, [1], {"a": [1]}]
    names = [*MANIFEST_SCHEMA.names, "input_video", "output_video", "label.x", "label.X", "unknown", "\ud800"]
    rows = []
    for _ in range(400):
        row = good(seed=draw.randrange(1000))
        for name in draw.sample(names, draw.randrange(4)):
            row[name] = draw.choice(values)
        rows.append(draw.choice([row, row, row, row, draw.choice(values)]))
    for name in ("m.json", "m.jsonl"):
        manifest = read_manifest(write(folder, rows, name), ScenarioDefaults())
        assert manifest.num_rows == 400
        numbers = [row.row_number for row in (*manifest.rows, *manifest.invalid)]
        assert sorted(numbers) == list(range(400))
        assert 50 < len(manifest.rows) < 350
        assert len({row.scenario_id.lower() for row in manifest.rows}) == len(manifest.rows)
        for row in manifest.invalid:
            assert row.field
            assert row.got
            assert row.expected
            canonical_json(row.raw).encode()
            row.message.encode()
            assert "\n" not in row.message


def test_raw_content_has_the_fields_own_names_and_no_credentials(folder):
    (row,) = read(
        folder, [{"input_video": "https://user:geheim@host/a.jpg", "prompt": "x", "output_video": "o.mp4"}]
    ).invalid
    assert row.raw == {"input": "https://***@host/a.jpg", "prompt": "x", "output_name": "o.mp4"}
    assert "geheim" not in repr(row)


def test_long_values_are_shortened_in_messages(folder):
    (row,) = read(folder, [good(prompt="x" * 30_000, **{f"k{number}": 1 for number in range(50)})]).invalid
    assert len(row.message) < 2_000
    assert "and 43 more" in row.message


def test_a_manifest_can_be_pickled(folder):
    manifest = read(folder, [good(), 5, good(seed=-1)])
    assert pickle.loads(pickle.dumps(manifest)) == manifest


@pytest.mark.parametrize("uri", ["", "gone.json", "ftp://host/m.json", "s3://key:geheim@bucket/m.json", "a\0b.json"])
def test_a_manifest_that_is_not_there(folder, monkeypatch, uri):
    monkeypatch.chdir(folder)
    with pytest.raises(BadManifest) as caught:
        read_manifest(uri, ScenarioDefaults())
    assert "geheim" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_folder_is_no_manifest(folder):
    with pytest.raises(BadManifest, match="not a file"):
        read_manifest(str(folder), ScenarioDefaults())


def test_an_unreadable_manifest(folder, monkeypatch):
    def denied(_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.read_bytes", denied)
    with pytest.raises(BadManifest, match="Permission denied"):
        read(folder, [good()])


def test_a_video_is_no_manifest(folder, monkeypatch):
    monkeypatch.setattr("tasks.manifest_source.MAX_MANIFEST_BYTES", 10)
    with pytest.raises(BadManifest, match="too large"):
        read(folder, [good()])


def test_a_file_uri_is_a_path(folder):
    path = Path(write(folder, [good()]))
    assert read_manifest(path.as_uri(), ScenarioDefaults()).rows == read_manifest(str(path), ScenarioDefaults()).rows


def test_the_input_root_is_checked_before_any_row(folder):
    with pytest.raises(BadConfig, match="input root"):
        read(folder, [good()], input_root=str(folder / "gone"))
    assert len(read(folder, [good(input="a.jpg")], input_root=str(folder / "frames")).rows) == 1


def test_ten_thousand_rows_take_seconds(folder):
    rows = [
        good(prompt=f"A camera sees crash {number}.", seed=number, labels={"weather": "rain"}, adapters="night:0.5")
        for number in range(10_000)
    ]
    write_manifest(parse_manifest(write(folder, rows)).rows, folder / "m.parquet")
    start = time.perf_counter()
    manifest = read_manifest(str(folder / "m.parquet"), ScenarioDefaults())
    assert time.perf_counter() - start < 15  # about 1.5 s on two cores
    assert (len(manifest.rows), len(manifest.invalid)) == (10_000, 0)


@pytest.fixture
def site(s3_endpoint):
    """A client of the S3 endpoint, which has an empty bucket `site`."""
    boto3 = pytest.importorskip("boto3")
    client = boto3.client("s3", endpoint_url=s3_endpoint)
    client.create_bucket(Bucket="site")
    return client


@pytest.mark.e2e
def test_a_manifest_in_a_bucket(site):
    site.put_object(Bucket="site", Key="in/m.json", Body=json.dumps([good(), good(input="../../other/a.jpg")]).encode())
    manifest = read_manifest("s3://site/in/m.json", ScenarioDefaults())
    assert [row.input_uri for row in manifest.rows] == ["s3://site/in/frames/a.jpg"]
    assert [row.field for row in manifest.invalid] == ["input"]
    site.put_object(Bucket="site", Key="in/m.json", Body=json.dumps([good(seed=5)]).encode())
    assert read_manifest("s3://site/in/m.json", ScenarioDefaults()).rows[0].seed == 5
    for uri in ("s3://site/in/gone.json", "s3://gone/m.json"):
        with pytest.raises(BadManifest, match="not found"):
            read_manifest(uri, ScenarioDefaults())


def test_a_store_that_does_not_answer(monkeypatch):
    class Silent:
        def info(self, path):
            raise TimeoutError("no answer from https://user:geheim@host")

    monkeypatch.setattr("fsspec.core.url_to_fs", lambda uri, **_: (Silent(), uri))
    with pytest.raises(StorageUnavailable) as caught:
        read_manifest("s3://site/m.json", ScenarioDefaults())
    assert "geheim" not in str(caught.value)
