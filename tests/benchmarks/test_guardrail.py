"""The benchmark of the lexicon prints what the documents say of it."""

from __future__ import annotations

import re
from pathlib import Path

from benchmarks.guardrail import main, read_cases
from tests.tasks.test_lexicon import UNSEEN_NEUTRAL, UNSEEN_VIOLATIONS

DOCUMENT = Path(__file__).parents[2] / "docs/guardrails.md"


def test_the_documented_numbers_are_the_measured_ones(capsys):
    assert main([]) == 0
    printed = capsys.readouterr().out
    measured = re.findall(
        r"^(\w+) +(\d+) prompts +(\d+) right +(\d+) too mild +(\d+) missed +(\d+) false", printed, re.M
    )
    assert measured == [
        ("benign", "34", "34", "0", "0", "0"),
        ("violations", "27", "7", "0", "20", "0"),
        ("evasions", "29", "22", "0", "7", "0"),
    ]
    text = DOCUMENT.read_text()
    assert "| benign crash descriptions | 34 | 34 | | 0 |" in text
    assert "| violations in plain prose | 27 | 7 | 20 | |" in text
    assert "| evasions (hidden words) | 29 | 22 | 7 | |" in text
    assert printed.count(": missed: ") == 27


def test_no_prompt_was_used_before():
    texts = [case.text for case in read_cases()]
    assert len(set(texts)) == len(texts) >= 60
    assert not set(texts) & {*UNSEEN_NEUTRAL, *UNSEEN_VIOLATIONS}
