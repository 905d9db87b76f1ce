"""The command `crossroads`. Every error of ours ends as one line that says how to fix it, and a non-zero exit code."""

from __future__ import annotations

import sys

import typer

from cosmos_core.errors import CrossroadsError
from flows.cli import adapter, audit, checkpoint, manifest, prompts, registry, review, runs, server
from flows.cli import generate as generating
from flows.cli import lineage as tracing
from flows.cli import plan as planning
from flows.cli import reproduce as repeating
from flows.cli import submit as submitting

__all__ = ["app", "main"]

app = typer.Typer(
    name="crossroads",
    help="A table of traffic scenarios in, verified and traceable synthetic accident videos out.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(generating.generate)
app.command()(planning.plan)
app.command()(generating.demo)
app.command()(generating.tiny)
app.command()(tracing.lineage)
app.command()(repeating.reproduce)
app.command()(submitting.submit)
app.command()(runs.status)
app.command()(runs.watch)
app.command()(runs.cancel)
app.command()(runs.retry)
app.command()(server.ui)
app.add_typer(adapter.app, name="adapter", help="Extract, inspect, export and import LoRA adapters.")
app.add_typer(audit.app, name="audit", help="Read and verify the log of guardrail decisions.")
app.add_typer(checkpoint.app, name="checkpoint", help="Say what checkpoints are, and which files are needed.")
app.add_typer(manifest.app, name="manifest", help="Check, show, convert and expand scenario manifests.")
app.add_typer(prompts.app, name="prompts", help="Build prompts from labels and lint those of a manifest.")
app.add_typer(registry.app, name="registry", help="Name checkpoints and adapters, version by version.")
app.add_typer(review.app, name="review", help="Look at held clips, approve or reject them.")

# typer carries its own copy of click in some releases, so the class is found through typer's own name for a part of it.
_UsageError: type[typer.BadParameter] = next(c for c in typer.BadParameter.__mro__ if c.__name__ == "UsageError")


def main(arguments: list[str] | None = None) -> None:
    """Entry point of the console script."""
    try:
        code = app(args=arguments, prog_name="crossroads", standalone_mode=False)
    except _UsageError as error:
        command = error.ctx.command_path if error.ctx else "crossroads"
        _fail(f"{error.format_message()} See `{command} --help`.", 2)
    except CrossroadsError as error:
        _fail(str(error), 1)
    except (KeyboardInterrupt, typer.Abort):
        _fail("stopped; run the same command again to go on", 130)
    sys.exit(code if isinstance(code, int) else 0)


def _fail(message: str, code: int) -> None:
    print(f"crossroads: {message}", file=sys.stderr)
    sys.exit(code)
