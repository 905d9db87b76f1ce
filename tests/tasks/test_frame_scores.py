"""Thresholds over frames in a row: one frame is no finding, and a score with a hole is an error."""

from __future__ import annotations

import pytest

from cosmos_core.errors import BadInput
from tasks.frame_scores import ContentOptions, FrameRule, findings, sampled_frames

RULE = ContentOptions(default=FrameRule(min_score=0.6, min_consecutive=3))


def found(values, options=RULE):
    results, measured = findings({"violence": values}, range(len(values)), options)
    return results, measured["violence"]


def test_single_frames_are_measured_and_make_no_finding():
    results, measured = found([0.99, 0.1, 0.99, 0.99, 0.1, 0.99])
    assert results == ()
    assert (measured["largest"], measured["frames_above"], measured["strength"]) == (0.99, 4, 0.1)


def test_a_run_of_frames_is_a_finding_with_its_place_and_its_lowest_score():
    [finding], _ = found([0.1, 0.7, 0.9, 0.8, 0.95, 0.2])
    assert (finding.score, finding.first_frame, finding.last_frame) == (0.8, 2, 4)


@pytest.mark.parametrize("number", [1, 2])
def test_a_clip_shorter_than_the_run_cannot_hide_behind_it(number):
    [finding], measured = found([0.9] * number)
    assert finding.category == "violence"
    assert measured["min_consecutive"] == number


def test_each_category_has_its_rule_and_the_strongest_comes_first():
    options = RULE.model_copy(update={"categories": {"sexual": FrameRule(min_score=0.3, min_consecutive=1)}})
    scores = {"violence": [0.7, 0.7, 0.7], "sexual": [0.0, 0.31, 0.0], "drugs": [0.9, 0.9, 0.99]}
    results, _ = findings(scores, (0, 4, 8), options)
    assert [(finding.category, finding.first_frame) for finding in results] == [
        ("drugs", 0),
        ("violence", 0),
        ("sexual", 4),
    ]


@pytest.mark.parametrize(
    "values", [[0.1, float("nan")], [0.1, float("inf")], [0.1, -0.1], [0.1, 1.1], [0.1], [0.1, None], [0.1, True]]
)
def test_what_is_no_score_is_no_measurement(values):
    with pytest.raises(BadInput, match="are no scores"):
        findings({"violence": values}, (0, 1), RULE)


@pytest.mark.parametrize(("scores", "indices"), [({}, (0,)), ({"violence": []}, ())])
def test_nothing_scored_is_nothing_passed(scores, indices):
    with pytest.raises(BadInput, match="nothing was scored"):
        findings(scores, indices, RULE)


def test_the_first_and_the_last_frame_are_always_looked_at():
    assert sampled_frames(1, ContentOptions(every=5)) == (0,)
    assert sampled_frames(12, ContentOptions(every=5)) == (0, 5, 10, 11)
    with pytest.raises(BadInput, match="no frames"):
        sampled_frames(0, ContentOptions())
