"""Measure a text check on prompts of our own: `python -m benchmarks.guardrail`.

Prints hits and misses by group, then every prompt that came out wrong, word for word. A hit is a flag under the
expected category or a graver one; a flag under a milder category is listed apart, because the policy would let more
through than it should. No threshold, no exit status: the numbers are the result.
"""

from __future__ import annotations

import argparse
import statistics
import time
from dataclasses import dataclass
from pathlib import Path

import yaml

from tasks.config import RunConfig, find_config_file
from tasks.lexicon import Lexicon, check_text, load_lexicon
from tasks.verdicts import Verdict

__all__ = ["PROMPTS", "Case", "main", "measure", "read_cases"]

PROMPTS = Path(__file__).resolve().parent.parent / "tests" / "data" / "guardrail_prompts.yaml"
_GROUPS = ("benign", "violations", "evasions")


@dataclass(frozen=True, slots=True)
class Case:
    """One prompt and what a check should say of it."""

    group: str
    expected: str | None
    """Category; None for a prompt that must pass."""
    text: str


def read_cases(path: Path = PROMPTS) -> list[Case]:
    """All prompts of the file, group by group."""
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert set(content) == set(_GROUPS), f"{path} holds {sorted(content)}"
    cases = [Case("benign", None, text) for text in content["benign"]]
    for group in _GROUPS[1:]:
        cases += [Case(group, category, text) for entry in content[group] for category, text in entry.items()]
    return cases


def measure(case: Case, verdict: Verdict, lexicon: Lexicon) -> str:
    """`right`, `missed` (passed though it should not), `milder` (flagged too mildly) or `false alarm`."""
    if case.expected is None:
        return "right" if verdict.status == "pass" else "false alarm"
    if verdict.status != "flag" or verdict.category is None:
        return "missed"
    order = lexicon.categories
    return "right" if order.index(verdict.category) <= order.index(case.expected) else "milder"


def main(arguments: list[str] | None = None) -> int:
    """Entry point; gives the exit status."""
    parser = argparse.ArgumentParser(prog="benchmarks.guardrail", description=__doc__.split("\n")[0])
    parser.add_argument("--prompts", type=Path, default=PROMPTS, help="YAML file of benign, violations and evasions")
    parser.add_argument("--lexicon", type=Path, default=RunConfig().lexicon, help="lexicon file")
    options = parser.parse_args(arguments)
    lexicon = load_lexicon(find_config_file(options.lexicon))
    outcomes: dict[str, list[tuple[str, Case, Verdict]]] = {group: [] for group in _GROUPS}
    seconds = []
    for case in read_cases(options.prompts):
        started = time.perf_counter()
        verdict = check_text(case.text, lexicon)
        seconds.append(time.perf_counter() - started)
        outcomes[case.group].append((measure(case, verdict, lexicon), case, verdict))
    print(f"lexicon {lexicon.id} version {lexicon.version}, {sum(map(len, outcomes.values()))} prompts")
    for group, entries in outcomes.items():
        counts = {kind: sum(kind == found for found, _, _ in entries) for kind in ("right", "milder", "missed")}
        alarms = sum(found == "false alarm" for found, _, _ in entries)
        print(f"{group:10}  {len(entries):3} prompts  {counts['right']:3} right  {counts['milder']:2} too mild  "
              f"{counts['missed']:2} missed  {alarms:2} false alarms")  # fmt: skip
    for group, entries in outcomes.items():
        for found, case, verdict in entries:
            if found != "right":
                print(f"{group}: {found}: expected {case.expected}, got {verdict.category}: {case.text!r}")
    print(f"time: median {1000 * statistics.median(seconds):.2f} ms, longest {1000 * max(seconds):.2f} ms")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
