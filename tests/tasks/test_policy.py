"""The policy: what is missing, failed, unknown or locked never turns into `allow`."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from cosmos_core.errors import BadConfig
from tasks.guard_checks import CLASS_CATEGORIES
from tasks.lexicon import load_lexicon
from tasks.policy import HARD_BLOCKED, Policy, decide, gravest, load_policy, may_generate
from tasks.redaction import content_unavailable
from tasks.verdicts import STAGES, CheckUnavailable, Verdict, run_check, unavailable

CONFIGS = Path(__file__).parents[2] / "configs/guardrail"
POLICIES = sorted(path for path in CONFIGS.glob("*.yaml") if path.stem not in ("lexicon", "off"))
REQUIRED = (
    ("prompt", "text.lexicon"),
    ("refined_prompt", "text.lexicon"),
    ("negative_prompt", "text.lexicon"),
    ("input", "input.sanity"),
    ("input", "input.redaction"),
    ("video", "video.sanity"),
    ("video", "video.redaction"),
)


def passed(stage, check):
    return Verdict(stage=stage, check=check, status="pass", backend="test")


def flagged(category, *others, stage="video", check="video.extra"):
    return Verdict(stage=stage, check=check, status="flag", category=category, other_categories=others, backend="test")


@pytest.fixture(scope="module")
def policy():
    return load_policy(CONFIGS / "its-accident.yaml")


@pytest.fixture
def clean():
    return [passed(stage, check) for stage, check in REQUIRED]


# --- the shipped files


@pytest.mark.parametrize("path", POLICIES, ids=lambda path: path.stem)
def test_every_shipped_policy_loads_and_names_every_category_of_the_checks(path):
    policy = load_policy(path)
    assert policy.id == path.stem
    emitted = {*load_lexicon(CONFIGS / "lexicon.yaml").categories, "face_redacted", "face_residual"}
    emitted |= {*CLASS_CATEGORIES.values(), "controversial", "crime", "privacy"}
    assert emitted | {"black", "uniform", "frozen"} <= policy.categories.keys()
    assert set(policy.stages) == set(STAGES)


@pytest.mark.parametrize("path", POLICIES, ids=lambda path: path.stem)
def test_no_shipped_policy_publishes_on_nothing(path):
    policy = load_policy(path)
    assert not decide(policy, []).publishes
    assert all(not decide(policy, [], stages=[stage]).publishes for stage in STAGES)


# --- combination


def test_a_clean_scenario_is_allowed_with_its_gaps_recorded(policy, clean):
    decision = decide(policy, [*clean, content_unavailable()])
    assert decision.action == "allow"
    assert decision.publishes
    assert "video/video.content unavailable" in decision.reasons
    assert "prompt/text.guard_model left no verdict" in decision.reasons
    assert "video/video.content" in decision.requested_checks
    assert set(decision.effective_checks) == {f"{stage}/{check}" for stage, check in REQUIRED}
    assert {"video/video.content", "prompt/text.guard_model"} <= set(decision.missing_checks)
    assert (decision.policy_id, decision.policy_sha256) == (policy.id, policy.sha256)


def test_the_gravest_action_wins_and_its_reason_comes_first(policy, clean):
    findings = [flagged("vehicle_collision"), flagged("casualty_nongraphic"), flagged("graphic_gore")]
    decision = decide(policy, [*clean, *findings])
    assert decision.action == "quarantine"
    assert decision.reasons[0] == "video/video.extra flagged graphic_gore"
    assert gravest(["review", "allow", "redact"]) == "review"


@pytest.mark.parametrize(
    ("category", "action"),
    [
        ("vehicle_collision", "allow"),
        ("face_redacted", "redact"),
        ("casualty_nongraphic", "review"),
        ("controversial", "review"),
        ("graphic_gore", "quarantine"),
        ("face_residual", "quarantine"),
        ("violent_intent", "block"),
        ("minors_harm", "block"),
        ("sexual", "block"),
        ("a category that nobody knows", "review"),
    ],
)
def test_each_category_leads_to_its_action(policy, clean, category, action):
    assert decide(policy, [*clean, flagged(category)]).action == action


def test_a_milder_category_in_front_hides_no_graver_one(policy, clean):
    assert decide(policy, [*clean, flagged("graphic_gore", "violent_intent")]).action == "block"


def test_the_text_stages_alone_can_be_decided_before_generation(policy, clean):
    decision = decide(policy, clean[:3], stages=("prompt", "refined_prompt", "negative_prompt"))
    assert decision.action == "allow"
    assert decide(policy, clean[:3]).action == "quarantine"


def test_a_flag_outside_the_decided_stages_still_counts(policy, clean):
    assert decide(policy, [*clean[:1], flagged("hate")], stages=["prompt"]).action == "block"


# --- nothing fails open


def test_no_verdicts_at_all(policy):
    assert decide(policy, []).action == "quarantine"
    assert decide(policy, [], stages=[]).action == "quarantine"


@pytest.mark.parametrize("missing", range(len(REQUIRED)))
def test_one_required_check_without_a_verdict(policy, clean, missing):
    del clean[missing]
    assert decide(policy, clean).action == "quarantine"


def test_a_check_of_one_stage_does_not_stand_for_another(policy, clean):
    clean[1] = passed("prompt", "text.lexicon")
    assert decide(policy, clean).action == "quarantine"


def test_a_check_that_raises(policy, clean):
    def explode():
        raise RuntimeError("cuda is gone")

    verdict = run_check("prompt", "text.lexicon", explode, backend="test")
    assert verdict.status == "error"
    assert verdict.evidence == {"exception": "RuntimeError", "message": "cuda is gone"}
    assert decide(policy, [verdict, *clean[1:]]).action == "quarantine"


def test_an_optional_check_that_raises_is_no_mere_gap(policy, clean):
    verdict = run_check("video", "video.content", lambda: 1 / 0, backend="test")
    assert decide(policy, [*clean, verdict]).action == "quarantine"


@pytest.mark.parametrize("answer", [None, True, "safe", {"status": "pass"}, []])
def test_an_answer_that_is_no_verdict(policy, clean, answer):
    verdict = run_check("prompt", "text.lexicon", lambda: answer, backend="test")
    assert verdict.status == "error"
    assert not decide(policy, [verdict, *clean[1:]]).publishes


def test_a_verdict_about_something_else(policy):
    verdict = run_check("video", "video.redaction", lambda: passed("prompt", "text.lexicon"), backend="test")
    assert (verdict.status, verdict.name) == ("error", "video/video.redaction")


def test_missing_weights_of_a_required_check(policy, clean):
    def no_weights():
        raise CheckUnavailable("weights are missing")

    verdict = run_check("video", "video.redaction", no_weights, backend="test")
    assert verdict.status == "unavailable"
    assert decide(policy, [*clean[:-1], verdict]).action == "quarantine"


def test_a_pass_does_not_outvote_an_error_of_the_same_check(policy, clean):
    failed = Verdict(stage="prompt", check="text.lexicon", status="error", backend="test")
    decision = decide(policy, [*clean, failed])
    assert decision.action == "quarantine"
    assert "prompt/text.lexicon" not in decision.effective_checks


def test_a_flag_without_a_category(policy, clean):
    assert decide(policy, [*clean, flagged(None)]).action == "review"


def test_a_pass_cannot_carry_a_finding():
    with pytest.raises(ValidationError, match="carries no category"):
        Verdict(stage="video", check="video.content", status="pass", category="sexual", backend="test")


def test_the_strict_policy_holds_a_clip_for_a_gap(clean):
    decision = decide(load_policy(CONFIGS / "strict.yaml"), [*clean, content_unavailable()])
    assert decision.action == "review"


# --- switched off


def test_guardrails_are_off_only_under_a_name_that_every_decision_carries(clean):
    policy = load_policy(CONFIGS / "off.yaml")
    for verdicts in ([], clean, [flagged("hate")]):
        decision = decide(policy, verdicts)
        assert (decision.action, decision.enforced, decision.policy_id) == ("allow", False, "off")
        assert decision.reasons == ("guardrails are switched off by policy off: nothing was checked",)
        assert decision.policy_sha256 == policy.sha256
    assert may_generate(policy, decide(policy, []))


# --- before generation


@pytest.mark.parametrize(
    ("extra", "generates"),
    [
        ([], True),
        ([flagged("casualty_nongraphic", stage="prompt")], True),
        ([flagged("graphic_gore", stage="prompt")], True),
        ([flagged("violent_intent", stage="prompt")], False),
        ([Verdict(stage="prompt", check="text.guard_model", status="error", backend="test")], False),
        ([unavailable("prompt", "text.lexicon", "none")], False),
    ],
)
def test_only_what_a_person_can_judge_is_generated(policy, clean, extra, generates):
    early = [verdict for verdict in clean if verdict.stage != "video"]
    stages = ("prompt", "refined_prompt", "negative_prompt", "input")
    decision = decide(policy, [*early, *extra], stages=stages)
    assert may_generate(policy, decision) is generates


def test_a_required_check_without_an_answer_is_not_generated_from(policy, clean):
    decision = decide(policy, clean[1:3], stages=("prompt", "refined_prompt", "negative_prompt"))
    assert not may_generate(policy, decision)


# --- the file


def test_the_hash_covers_every_value_and_no_layout(tmp_path, policy):
    data = yaml.safe_load((CONFIGS / "its-accident.yaml").read_text())
    path = tmp_path / "policy.yaml"
    path.write_text(yaml.safe_dump(data, sort_keys=True))
    assert load_policy(path).sha256 == policy.sha256
    data["redaction"] = {"stride": 1}
    path.write_text(yaml.safe_dump(data))
    assert load_policy(path).sha256 != policy.sha256


def test_an_override_may_tighten_and_is_hashed(policy):
    stricter = load_policy(CONFIGS / "its-accident.yaml", overrides={"casualty_nongraphic": "block", "new": "block"})
    assert stricter.categories["casualty_nongraphic"].action == "block"
    assert stricter.sha256 != policy.sha256
    assert policy.with_overrides({"face_residual": "block"}).categories["face_residual"].locked


@pytest.mark.parametrize("category", [*sorted(HARD_BLOCKED), "self_harm", "face_residual"])
@pytest.mark.parametrize("action", ["allow", "redact", "review"])
def test_a_locked_category_cannot_be_relaxed(policy, category, action):
    with pytest.raises(BadConfig, match="is locked"):
        policy.with_overrides({category: action})


def test_an_override_needs_an_action_that_exists(policy):
    with pytest.raises(BadConfig, match="got ignore"):
        policy.with_overrides({"frozen": "ignore"})


def drop_hate(data):
    del data["categories"]["hate"]


def relax_sexual(data):
    data["categories"]["sexual"] = {"action": "review", "locked": True}


def unlock_child_abuse(data):
    data["categories"]["child_abuse"] = {"action": "block"}


def hollow_video(data):
    data["stages"]["video"] = {"optional": ["video.redaction"]}


def no_prompt_stage(data):
    del data["stages"]["prompt"]


def allow_errors(data):
    data["on_error"] = "allow"


def allow_gaps(data):
    data["on_unavailable_required"] = "mark"


def allow_unknown(data):
    data["unknown_category"] = "allow"


def redact_gore(data):
    data["categories"]["graphic_gore"] = {"action": "redact"}


def misspell(data):
    data["on_eror"] = "block"


def name_twice(data):
    data["stages"]["video"]["optional"] = ["video.redaction"]


def unreachable_threshold(data):
    data["content"]["categories"]["sexual"] = {"min_score": 0.99}


def endless_threshold(data):
    data["content"]["default"] = {"min_consecutive": 40}


def off_in_all_but_name(data):
    data["enforced"] = False


def off_by_name_alone(data):
    data["id"] = "off-for-the-demo"


def off_that_looks_on(data):
    data |= {"enforced": False, "id": "off"}


@pytest.mark.parametrize(
    "spoil",
    [
        drop_hate,
        relax_sexual,
        unlock_child_abuse,
        hollow_video,
        no_prompt_stage,
        allow_errors,
        allow_gaps,
        allow_unknown,
        redact_gore,
        misspell,
        name_twice,
        unreachable_threshold,
        endless_threshold,
        off_in_all_but_name,
        off_by_name_alone,
        off_that_looks_on,
    ],
)
def test_a_policy_file_cannot_open_the_gate(tmp_path, spoil):
    data = yaml.safe_load((CONFIGS / "its-accident.yaml").read_text())
    spoil(data)
    path = tmp_path / "policy.yaml"
    path.write_text(yaml.safe_dump(data))
    with pytest.raises(BadConfig, match="is wrong at"):
        load_policy(path)


@pytest.mark.parametrize("content", ["", "[", "just text"])
def test_what_is_no_policy_is_refused(tmp_path, content):
    path = tmp_path / "policy.yaml"
    path.write_text(content)
    with pytest.raises(BadConfig, match="guardrail policy"):
        load_policy(path)
    with pytest.raises(BadConfig, match="cannot be read"):
        load_policy(tmp_path / "none.yaml")


def test_records_survive_json(policy, clean):
    decision = decide(policy, [*clean, unavailable("video", "video.content", "none"), flagged("face_redacted")])
    assert type(decision).model_validate_json(decision.model_dump_json()) == decision
    assert Policy.model_validate_json(policy.model_dump_json()).sha256 == policy.sha256


def test_a_held_decision_names_what_was_found_before_what_optional_check_is_missing():
    policy = load_policy("configs/guardrail/its-accident.yaml")
    flagged = Verdict(
        stage="prompt", check="text.lexicon", status="flag", category="casualty_nongraphic", backend="test"
    )
    decision = decide(policy, [flagged], stages=["prompt"])
    assert decision.findings == ("prompt/text.lexicon flagged casualty_nongraphic",)
    assert len(decision.reasons) == 2
    only_a_gap = decide(policy, [flagged.model_copy(update={"status": "pass", "category": None})], stages=["prompt"])
    assert only_a_gap.findings == only_a_gap.reasons
    required = decide(policy, [], stages=["prompt"])
    assert "prompt/text.lexicon left no verdict (required)" in required.findings
