import random
import re

import pytest

from tasks.scenario import ScenarioRow
from tasks.scenario_ids import assign_ids, slug

LEGAL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


def row(**fields):
    return ScenarioRow.model_validate({"input": "cam/a.jpg", "prompt": "x"} | fields)


def named(*output_names):
    return assign_ids([row(output_name=name) for name in output_names])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("collision_01", "collision_01"),
        ("Crash on Main St.", "Crash-on-Main-St"),
        ("Zürich (Süd)", "Zurich-Sud"),
        ("../../etc", "etc"),
        ("-._x", "x"),
        ("交通", "scenario"),
        ("", "scenario"),
        ("a/b\\c", "a-b-c"),
    ],
)
def test_slug(text, expected):
    assert slug(text) == expected


def test_every_slug_is_a_legal_id():
    characters = "aZ09._-/ \\äß文🚗\u0000\u202e"
    draw = random.Random(0)
    for _ in range(500):
        text = "".join(draw.choices(characters, k=draw.randrange(300)))
        assert LEGAL.fullmatch(slug(text))


def test_own_ids_are_kept_and_gaps_stay():
    assert assign_ids([row(scenario_id="My.Id"), None, row(scenario_id="b", output_name="c.mp4")]) == [
        "My.Id",
        None,
        "b",
    ]


def test_output_names_give_their_stem_and_their_path_where_stems_collide():
    assert named("out/collision_01.mp4", "out/pileup_02.mp4") == ["collision_01", "pileup_02"]
    assert named("n/a.mp4", "s/a.mp4", "s/b.mp4") == ["n-a", "s-a", "b"]
    assert named("n/a.mp4", "s/A.mp4") == ["n-a", "s-A"]


def test_names_that_stay_alike_get_a_hash_and_equal_names_stay_equal():
    first, second = named("日.mp4", "月.mp4")
    assert first != second
    assert all(re.fullmatch(r"scenario-[0-9a-f]{8}", name) for name in (first, second))
    assert named("x.mp4", "x.mp4") == ["x", "x"]
    lower, upper = named("a/x.mp4", "A/x.mp4")
    assert lower.lower() != upper.lower()
    long = named("x" * 300 + "1.mp4", "x" * 300 + "2.mp4")
    assert len(set(long)) == 2
    assert all(LEGAL.fullmatch(name) for name in long)


def test_a_derived_name_gives_way_to_an_own_id():
    derived, own = assign_ids([row(output_name="out/a.mp4"), row(scenario_id="A")])
    assert (derived, own) == ("out-a", "A")


def test_a_longer_form_may_meet_a_shorter_one():
    names = named("x/b.mp4", "y/b.mp4", "x-b.mp4")
    assert len({name.lower() for name in names}) == 3


def test_without_a_name_input_and_content_decide():
    (name,) = assign_ids([row(prompt="p", seed=1)])
    assert re.fullmatch(r"a-[0-9a-f]{8}", name)
    assert assign_ids([row(prompt="p", seed=2)]) != [name]
    assert assign_ids([row(prompt="p", seed=1), row(prompt="p", seed=1)]) == [name, name]
    assert assign_ids([row(input="https://host/d/frame.png?at=a/b.c")])[0].startswith("frame-")


def test_equal_short_hashes_are_told_apart(monkeypatch):
    digests = iter(["abcdef00" + "1" * 56, "abcdef00" + "2" * 56])
    monkeypatch.setattr("tasks.scenario_ids.sha256_json", lambda _: next(digests))
    assert assign_ids([row(seed=1), row(seed=2)]) == ["a-abcdef0011111111", "a-abcdef0022222222"]


def test_ids_do_not_depend_on_the_order():
    rows = [row(output_name=f"{folder}/{stem}.mp4") for folder in "abA" for stem in ("x", "y", "日")]
    rows += [row(seed=seed) for seed in range(5)] + [row(scenario_id="x")]
    names = dict(zip(map(id, rows), assign_ids(rows), strict=True))
    assert len({name.lower() for name in names.values()}) == len(rows)
    shuffled = random.Random(1).sample(rows, len(rows))
    assert assign_ids(shuffled) == [names[id(item)] for item in shuffled]
