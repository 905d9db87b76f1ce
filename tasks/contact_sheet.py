"""The contact sheet of a run: one page on which a person sees every scenario and how it ended.

A static page without scripts from elsewhere; it links to videos and records by relative names, so that it works from a
folder, a bucket behind a web server, or an archive.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from tasks.quarantine import quarantine_folder
from tasks.records import Status, record_name, thumbnail_name, video_name
from tasks.verdicts import Decision

__all__ = ["contact_sheet"]


def contact_sheet(rows: Sequence[dict[str, Any]], *, title: str, facts: dict[str, str]) -> bytes:
    """The page as HTML.

    Args:
        rows: the results rows of the run.
        title: heading of the page.
        facts: what holds for the whole run, shown below the heading.
    """
    environment = Environment(loader=PackageLoader("tasks"), autoescape=True, undefined=StrictUndefined)
    template = environment.get_template("contact_sheet.html")
    counts = Counter(row["status"] for row in rows)
    page = template.render(
        title=title,
        facts=facts,
        counts={str(status): counts[str(status)] for status in Status if counts[str(status)]},
        cards=[_card(row) for row in sorted(rows, key=lambda row: row["row_number"])],
    )
    return page.encode()


def _card(row: dict[str, Any]) -> dict[str, Any]:
    scenario_id = row["scenario_id"]
    adapters = ", ".join(f"{use['name']} × {use['strength']:g}" for use in row["adapters"] or ())
    checks = _checks(row["decision"])
    tally = Counter(check["status"] for check in checks)
    parameters = {
        "model": f"{row['model']} {row['resolution']}p {row['fps']} fps" if row["model"] else None,
        "adapters": (adapters or "none (base model)") if row["model"] else None,
        "seed": row["seed"],
        "steps": row["num_steps"],
        "guidance": f"{row['guidance']:g}" if row["guidance"] is not None else None,
        "output name": row["output_name"],
    }
    review = json.loads(row["review"]) if row["review"] else None
    return {
        "row_number": row["row_number"],
        "heading": scenario_id or row["output_name"] or f"row {row['row_number']}",
        "status": row["status"],
        "reason": row["reason"],
        "prompt": row["prompt"] or "",
        "refined_prompt": row["refined_prompt"] if row["refined_prompt"] != row["prompt"] else None,
        "labels": dict(row["labels"] or ()),
        "parameters": {name: value for name, value in parameters.items() if value is not None},
        "video": video_name(scenario_id) if row["video_uri"] else None,
        "thumbnail": thumbnail_name(scenario_id) if row["video_uri"] else None,
        "evidence": _evidence(scenario_id, row["evidence_uris"] or ()) if not row["video_uri"] else [],
        "redactions": _redactions(row["num_redacted"] or ()),
        "review": f"{review['verdict']} by {review['by']}: {review['reason']}" if review else None,
        "held_for": _held_for(row["decision"]) if review and row["decision"] else None,
        "record": record_name(scenario_id) if row["record_uri"] else None,
        "input": PurePosixPath(row["input"]).name if row["input"] else None,
        "checks": checks,
        "check_counts": ", ".join(f"{number} {status}" for status, number in tally.most_common()),
        "reused": row["reused"],
    }


def _evidence(scenario_id: str, uris: Sequence[str]) -> list[dict[str, str]]:
    """Pictures of a held clip, by names relative to the page, and the frame that each shows."""
    names = [PurePosixPath(uri).name for uri in uris]
    return [
        {"picture": f"{quarantine_folder(scenario_id)}/{name}", "caption": _frame_of(name)} for name in sorted(names)
    ]


def _held_for(decision: str) -> str:
    return "; ".join(Decision.model_validate_json(decision).findings)


def _frame_of(name: str) -> str:
    number = PurePosixPath(name).stem.removeprefix("frame-")
    return f"frame {int(number)}" if number.isdigit() else name


def _redactions(counts: Sequence[tuple[str, int]]) -> list[str]:
    """What was covered, in words: `1 face covered in the input`."""
    found = []
    for name, number in counts:
        stage, kind = name.split(" ", 1)
        found.append(f"{number} {kind}{'s' if number != 1 else ''} covered in the {stage}")
    return found


def _checks(decision: str | None) -> list[dict[str, str]]:
    verdicts = json.loads(decision)["verdicts"] if decision else []
    return [
        {
            "name": f"{verdict['stage']}: {verdict['check']}",
            "status": verdict["status"],
            "category": verdict["category"] or "",
        }
        for verdict in verdicts
    ]
