"""`crossroads review`: a person looks at held clips and decides."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from cosmos_core.errors import CrossroadsError
from tasks.config import find_config_file, load_config
from tasks.policy import Policy, load_policy
from tasks.quarantine import read_evidence
from tasks.release import release_key
from tasks.results import refresh_results
from tasks.review import HeldClip, approve, barred_by, held_clips, reject, require_held, reviews_of
from tasks.run import home_folder
from tasks.storage import Store, open_store

__all__ = ["app"]

_PIPED_WIDTH = 200

app = typer.Typer(no_args_is_help=True, help="Look at held clips, approve or reject them.")

Output = Annotated[str, typer.Argument(metavar="OUTPUT", help="Output of a run: folder or s3:// prefix.")]
Scenario = Annotated[str, typer.Argument(metavar="SCENARIO", help="Id of the scenario.")]
By = Annotated[str, typer.Option("--by", metavar="NAME", help="Who decides.")]
Reason = Annotated[str, typer.Option("--reason", metavar="TEXT", help="Why.")]
Config = Annotated[
    str | None, typer.Option("--config", "-c", help="Configuration of the run: a YAML file or a shipped name.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]


@app.command("list")
def list_(output: Output, config: Config = None, as_json: AsJson = False) -> None:
    """Print every clip in quarantine, and what was decided on it."""
    policy, clips = _policy(config), list(held_clips(open_store(output, for_writing=False)))
    if as_json:
        typer.echo(json.dumps([_summary(clip, policy) for clip in clips], indent=2))
        return
    table = Table("scenario", "action", "review", "held for")
    for clip in clips:
        summary = _summary(clip, policy)
        cells = (summary["scenario_id"], summary["action"], summary["review"], "; ".join(summary["reasons"]))
        table.add_row(*(Text(_printable(cell), overflow="fold") for cell in cells))
    _console().print(table)
    open_ones = sum(clip.record.review is None and clip.decision.action != "block" for clip in clips)
    typer.echo(f"{len(clips)} held, {open_ones} to be reviewed")


@app.command()
def show(output: Output, scenario: Scenario, config: Config = None, as_json: AsJson = False) -> None:
    """Print why a clip is held, where it and its pictures lie, and what was decided on it."""
    store, policy = open_store(output, for_writing=False), _policy(config)
    held = require_held(store, scenario)
    evidence, reviews = read_evidence(store, scenario), reviews_of(store, scenario)
    pictures = evidence.pictures if evidence else ()
    if as_json:
        details = {
            "clip": store.uri_of(held.output.video),
            "pictures": [picture.model_dump() | {"uri": store.uri_of(picture.name)} for picture in pictures],
            "reviews": [review.model_dump(mode="json") for review in reviews],
            "decision": held.decision.model_dump(mode="json"),
        }
        typer.echo(json.dumps(_summary(held, policy) | details, indent=2))
        return
    lines = [f"{scenario}: {held.record.status} ({held.decision.action})", f"prompt: {held.record.scenario.prompt}"]
    lines += [f"held for: {reason}" for reason in held.decision.findings]
    lines += [f"clip: {store.uri_of(held.output.video)}"]
    lines += [
        f"picture: {store.uri_of(picture.name)} (frame {picture.frame}, {picture.caption})" for picture in pictures
    ]
    lines += [f"{review.verdict} by {review.by} at {review.at:%Y-%m-%d %H:%M}: {review.reason}" for review in reviews]
    lines += [_summary(held, policy)["review"]] if not reviews else []
    typer.echo("\n".join(_printable(line) for line in lines))


@app.command("approve")
def approve_(output: Output, scenario: Scenario, by: By, reason: Reason, config: Config = None) -> None:
    """Publish a held clip on a person's responsibility; what the policy blocks or locks cannot be approved."""
    store = open_store(output)
    record = approve(store, scenario, by=by, reason=reason, policy=_policy(config), key=release_key(home_folder()))
    _report(store)
    assert record.output is not None, "an approved clip has a file"
    typer.echo(f"{scenario} is published: {store.uri_of(record.output.video)}")


@app.command("reject")
def reject_(output: Output, scenario: Scenario, by: By, reason: Reason) -> None:
    """Record that a held clip is not to be published; it stays in quarantine."""
    store = open_store(output)
    reject(store, scenario, by=by, reason=reason)
    _report(store)
    typer.echo(f"{scenario} stays in quarantine, rejected")


def _policy(config: str | None) -> Policy:
    return load_policy(find_config_file(load_config(Path(config) if config else None).policy))


def _summary(held: HeldClip, policy: Policy) -> dict[str, Any]:
    barred = barred_by(policy, held.decision)
    review = held.record.review
    if review is not None:
        state = f"{review.verdict} by {review.by}"
    elif held.decision.action == "block" or barred:
        state = f"cannot be approved ({', '.join(barred) or 'blocked'})"
    elif held.decision.policy_sha256 != policy.sha256:
        state = f"open, under policy {held.decision.policy_id} v{held.decision.policy_version}: give --config"
    else:
        state = "open"
    return {
        "scenario_id": held.scenario_id,
        "status": str(held.record.status),
        "action": held.decision.action,
        "review": state,
        "reasons": list(held.decision.findings),
    }


def _report(store: Store) -> None:
    """Bring the results table, the contact sheet and, if there is a Prefect server, its page up to date."""
    rows = refresh_results(store)
    if rows is None:
        typer.echo("The run has not come to its end; its results will show the review.")
    elif os.environ.get("PREFECT_API_URL"):
        from tasks.artifacts import publish_results_artifacts

        try:
            publish_results_artifacts(rows, output_uri=store.uri)
        except CrossroadsError:
            raise
        except Exception as error:  # whatever the server's client raises: the review itself is done
            typer.echo(f"The Prefect page could not be updated: {type(error).__name__}: {error}", err=True)


def _console() -> Console:
    return Console(width=None if sys.stdout.isatty() else _PIPED_WIDTH, highlight=False)


def _printable(text: str) -> str:
    """Foreign text without characters that would move the terminal's cursor."""
    return "".join(char if char.isprintable() else " " for char in text)
