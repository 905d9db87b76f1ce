"""`crossroads registry`: name checkpoints and adapters, version by version, and say which one is in production."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from cosmos_core.errors import BadConfig, BadRequest
from tasks.registration import GivenFacts, describe_file
from tasks.registry import DEFAULT_FOLDER, Registry, find_registry, open_registry
from tasks.registry_documents import AliasMove, Kind, RegisteredVersion, parse_reference

__all__ = ["app"]

_PIPED_WIDTH = 200
"""Columns of a table that goes to a file or another program, which has no width of its own."""

app = typer.Typer(no_args_is_help=True, help="Name checkpoints and adapters, version by version.")

Place = Annotated[
    str | None,
    typer.Option(
        "--registry", metavar="DIR", help="Folder or s3:// prefix; default: CROSSROADS_REGISTRY, else --config."
    ),
]
Config = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Run configuration whose `registry` is used if none is named.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
Ref = Annotated[str, typer.Argument(metavar="REF", help="NAME, NAME@ALIAS, NAME:v3, or NAME:<start of the SHA-256>.")]


@app.command()
def add(
    name: Annotated[str, typer.Argument(metavar="NAME", help="a-z 0-9 . _ - beginning with a letter or digit.")],
    file: Annotated[str, typer.Argument(metavar="FILE", help="Local file or folder, or one s3:// object.")],
    kind: Annotated[Kind, typer.Option(help="What the file is for.")],
    rank: Annotated[int | None, typer.Option(min=1, help="Of an adapter, unless its file says it.")] = None,
    alpha: Annotated[float | None, typer.Option(help="Of an adapter, unless its file says it.")] = None,
    target_modules: Annotated[str, typer.Option(metavar="A,B", help="Of an adapter; default: the usual six.")] = "",
    base: Annotated[
        str | None, typer.Option(metavar="REF|SHA256", help="Base checkpoint that an adapter was trained on.")
    ] = None,
    iteration: Annotated[int | None, typer.Option(min=0, help="Default: from the name iter_000001000.")] = None,
    resolution: Annotated[str | None, typer.Option(help="Lines that it was trained for: 480, 720.")] = None,
    fps: Annotated[int | None, typer.Option(min=1, help="Frames per second that it was trained for.")] = None,
    ema: Annotated[bool | None, typer.Option("--ema/--no-ema", help="Whether these are averaged weights.")] = None,
    note: Annotated[str | None, typer.Option(help="Anything worth knowing.")] = None,
    alias: Annotated[str | None, typer.Option(metavar="ALIAS", help="Alias to move to this version.")] = None,
    place: Place = None,
    config: Config = None,
) -> None:
    """Register a file as the next version of a name; the same content only once. The file stays where it is."""
    from tasks.run import home_folder

    if alias is not None:
        _require_alias(name, alias)
    registry = open_registry(find_registry(place, _configured(config)) or DEFAULT_FOLDER, create=True)
    given = GivenFacts(
        rank=rank,
        alpha=alpha,
        target_modules=tuple(part.strip() for part in target_modules.split(",") if part.strip()),
        parent_sha256=_parent(registry, base) if base else None,
        iteration=iteration,
        resolution=resolution.removesuffix("p") if resolution else None,
        fps=fps,
        ema=ema,
        note=note,
    )
    version, is_new = registry.register(describe_file(name, file, kind, given, home=home_folder()))
    _say(f"{version.id} {'registered' if is_new else 'was registered before'}: sha256 {version.sha256}")
    if alias is not None:
        _say_move(registry.move_alias(name, alias, version))


@app.command(name="list")
def list_versions(
    kind: Annotated[Kind | None, typer.Option(help="Show only these.")] = None,
    as_json: AsJson = False,
    place: Place = None,
    config: Config = None,
) -> None:
    """List all versions, with the aliases that mean them."""
    registry = _open(place, config)
    names = registry.names()
    versions = [version for name in names for version in registry.versions(name) if kind in (None, version.kind)]
    aliases = {name: registry.aliases(name) for name in dict.fromkeys(version.name for version in versions)}
    if as_json:
        typer.echo(json.dumps([_row(version, aliases[version.name]) for version in versions], indent=2))
        return
    _console().print(_table(versions, aliases))


@app.command()
def show(ref: Ref, as_json: AsJson = False, place: Place = None, config: Config = None) -> None:
    """Show all versions of a name, its aliases and where they pointed before; with NAME@ALIAS or NAME:v3 that one."""
    registry = _open(place, config)
    name = parse_reference(ref).name
    versions = registry.versions(name) if ref == name else (registry.resolve(ref),)
    if not versions:
        registry.resolve(ref)
    aliases = registry.aliases(name)
    history = [move for alias in aliases for move in registry.history(name, alias.alias)]
    if as_json:
        rows = [_row(version, aliases) for version in versions]
        moves = [move.model_dump(mode="json") for move in history]
        typer.echo(json.dumps({"name": name, "versions": rows, "alias_history": moves}, indent=2))
        return
    console = _console()
    for version in versions:
        console.print(_card(version, aliases))
    for move in history:
        console.print(Text(_sentence(move)))


@app.command()
def alias(
    target: Annotated[str, typer.Argument(metavar="NAME@ALIAS", help="The alias to make or move.")],
    ref: Ref,
    place: Place = None,
    config: Config = None,
) -> None:
    """Let an alias mean a version from now on. Runs that have begun keep theirs."""
    parsed = parse_reference(target)
    if parsed.alias is None:
        raise BadRequest("not an alias", got=target, expected="NAME@ALIAS, such as its-collision@production")
    registry = _open(place, config)
    _say_move(registry.move_alias(parsed.name, parsed.alias, registry.resolve(ref)))


def _open(place: str | None, config: Path | None) -> Registry:
    found = find_registry(place, _configured(config))
    if found is None:
        raise BadConfig(
            "no registry is named, and there is no folder `registry` here",
            fix="Give --registry, or set CROSSROADS_REGISTRY",
        )
    return open_registry(found)


def _configured(config: Path | None) -> str | None:
    from tasks.config import load_config

    return load_config(config).registry if config else None


def _require_alias(name: str, alias: str) -> None:
    """Refuse a wrong alias before a large file is hashed."""
    if parse_reference(f"{name}@{alias}").alias is None:
        raise BadRequest("not a name for an alias", got=alias, expected="one that cannot be taken for a version")


def _parent(registry: Registry, base: str) -> str:
    if re.fullmatch(r"[0-9a-f]{64}", base):
        return base
    version = registry.resolve(base)
    if version.kind is not Kind.CHECKPOINT:
        raise BadRequest("the base of an adapter is a checkpoint", got=f"{version.id} of kind {version.kind}")
    return version.sha256


def _row(version: RegisteredVersion, aliases: tuple[AliasMove, ...]) -> dict[str, Any]:
    return {"id": version.id, "aliases": _aliases_of(version, aliases), **version.model_dump(mode="json")}


def _aliases_of(version: RegisteredVersion, aliases: tuple[AliasMove, ...]) -> list[str]:
    return [move.alias for move in aliases if move.to_version == version.number]


def _table(versions: list[RegisteredVersion], aliases: dict[str, tuple[AliasMove, ...]]) -> Table:
    table = Table("version", "kind", "aliases", "iteration", "rank", "alpha", "sha256", "MB", "where")
    for version in versions:
        cells = (
            version.id,
            str(version.kind),
            ", ".join(_aliases_of(version, aliases[version.name])),
            _text(version.iteration),
            _text(version.rank),
            _text(version.alpha),
            version.sha256[:12],
            f"{version.num_bytes / 1e6:,.1f}",
            version.location,
        )
        table.add_row(*(Text(_printable(cell), overflow="fold") for cell in cells))
    return table


def _card(version: RegisteredVersion, aliases: tuple[AliasMove, ...]) -> Table:
    table = Table(show_header=False, title=Text(version.id), title_justify="left")
    facts = version.model_dump(mode="json", exclude={"name", "number", "document_version"}, exclude_none=True)
    facts["target_modules"] = ", ".join(version.target_modules) or None
    facts["aliases"] = ", ".join(_aliases_of(version, aliases)) or None
    for field, value in facts.items():
        if value is not None:
            table.add_row(field, Text(_printable(_text(value)), overflow="fold"))
    return table


def _sentence(move: AliasMove) -> str:
    before = f"v{move.from_version}" if move.from_version else "nothing"
    when = f"{move.moved_at:%Y-%m-%d %H:%M:%S} UTC"
    return _printable(f"{move.name}@{move.alias}: {before} -> v{move.to_version}, {when}, by {move.moved_by}")


def _say_move(move: AliasMove) -> None:
    _say(f"{move.name}@{move.alias} is {move.name}:v{move.to_version}")


def _say(text: str) -> None:
    _console().print(Text(_printable(text)), soft_wrap=True)


def _console() -> Console:
    # Made when a command runs, so that it writes to the standard output of that moment.
    return Console(width=None if sys.stdout.isatty() else _PIPED_WIDTH, highlight=False)


def _text(value: object) -> str:
    return "" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def _printable(text: str) -> str:
    """Foreign text without characters that would move the terminal's cursor."""
    return "".join(char if char.isprintable() else " " for char in text)
