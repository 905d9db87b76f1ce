"""`crossroads submit`: check a manifest, upload it once and for all, and start its run on the Prefect server."""

from __future__ import annotations

import json
from pathlib import Path, PurePosixPath
from typing import Annotated, Any

import typer

from cosmos_core.errors import BadConfig
from flows.cli.manifest import EXIT_SOME_INVALID, invalid_table, summary
from flows.cli.tables import make_console
from tasks.inbox import DEPLOYMENT, find_inbox, keep_manifest, results_of
from tasks.manifest import Manifest, read_manifest
from tasks.manifest_inputs import folder_of
from tasks.manifest_source import read_source, scheme_of
from tasks.storage import Store, open_store

__all__ = ["submit"]


def submit(
    manifest: Annotated[str, typer.Argument(metavar="MANIFEST", help="Parquet, JSON, JSON Lines or CSV; path or URI.")],
    inbox: Annotated[
        str | None,
        typer.Option(metavar="URI", help="Folder or s3:// prefix to upload to; default: CROSSROADS_INBOX, or `inbox`."),
    ] = None,
    output: Annotated[
        str | None,
        typer.Option("--output", "-o", metavar="URI", help="Where the results go; default: below INBOX/results."),
    ] = None,
    config: Annotated[
        str | None,
        typer.Option("--config", "-c", help="Run configuration: a YAML file that workers see, or a shipped name."),
    ] = None,
    input_root: Annotated[
        str | None,
        typer.Option(metavar="URI", help="Folder of the inputs as workers see it, if it is not the manifest's own."),
    ] = None,
    deployment: Annotated[str, typer.Option(metavar="FLOW/NAME", help="What to start.")] = DEPLOYMENT,
    param: Annotated[
        list[str] | None, typer.Option("--param", metavar="NAME=JSON", help="Another parameter of the deployment.")
    ] = None,
    allow_invalid: Annotated[
        bool, typer.Option("--allow-invalid", help="Start it although some rows are invalid.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")] = False,
) -> None:
    """Check a manifest, upload it under its hash, and start a run of it; the same order again finds the same run.

    Exit codes: 0 started, or started before; 3 some rows are invalid and nothing was started; 1 refused; 2 wrong usage.
    """
    from tasks.config import load_config
    from tasks.manifest_events import tell_received
    from tasks.run_request import RunRequest, start_once

    extra = _parsed(param or [])
    settings = load_config(Path(config) if config else None)
    checked = read_manifest(manifest, settings.defaults, input_root=input_root)
    console = make_console()
    if checked.invalid and not (allow_invalid and checked.rows):
        console.print(invalid_table(checked.invalid))
        console.print(summary(checked))
        raise typer.Exit(EXIT_SOME_INVALID)
    store = open_store(find_inbox(inbox))
    root = _input_root(checked, input_root, store)
    name = PurePosixPath(manifest.partition("?")[0]).name
    copy = keep_manifest(store, name, read_source(manifest), sha256=checked.sha256)
    parameters = {
        "manifest": copy,
        "output": _absolute(output or results_of(store.uri_of("results"), checked.sha256)),
        "config": str(Path(config).absolute()) if config and Path(config).is_file() else config,
        "input_root": root,
    }
    request = RunRequest(
        manifest_sha256=checked.sha256, deployment=deployment, parameters=parameters | extra, title=name
    )
    run = start_once(store, request)
    if run.is_new:
        told = {"manifest": copy, "sha256": checked.sha256, "run_id": run.run_id, "deployment": deployment}
        num_rows, num_invalid = checked.num_rows, len(checked.invalid)
        tell_received(request.key, name, num_rows=num_rows, num_invalid=num_invalid, **told)
    if as_json:
        facts = {"run_id": run.run_id, "is_new": run.is_new, "key": request.key, "deployment": deployment}
        typer.echo(json.dumps(facts | {"parameters": request.parameters}, indent=2))
        return
    console.print(summary(checked))
    lines = [
        f"Run:      {run.run_id}" + ("" if run.is_new else " (started before for the same order)"),
        f"Manifest: {copy}",
        f"Results:  {request.parameters['output']}",
        f"Follow:   crossroads watch {run.run_id}",
    ]
    if not run.is_new:
        lines.append(f"Again:    crossroads retry {run.run_id}")
    for line in lines:
        console.print(line, soft_wrap=True, markup=False)


def _input_root(checked: Manifest, given: str | None, store: Store) -> str:
    """The copy lies elsewhere, so the run is told where relative inputs begin."""
    local = [row for row in checked.rows if scheme_of(row.input_uri) == ""]
    if local and given is None and not store.is_local:
        raise BadConfig(
            f"{len(local)} inputs lie on this machine, and the manifest goes to {store.uri}",
            got=local[0].input_uri,
            expected="inputs that every worker can read",
            fix="Give s3:// inputs, or with --input-root the folder that workers see them in",
        )
    return _absolute(given if given is not None else folder_of(checked.uri))


def _absolute(place: str) -> str:
    return place if scheme_of(place) else str(Path(place).absolute())


def _parsed(pairs: list[str]) -> dict[str, Any]:
    parsed = {}
    for pair in pairs:
        name, separator, value = pair.partition("=")
        if not separator or not name.isidentifier():
            raise BadConfig("this is no parameter", got=pair, expected="NAME=JSON, such as limit=10")
        try:
            parsed[name] = json.loads(value)
        except ValueError:
            parsed[name] = value
    return parsed
