"""`python -m cosmos_core.adapter_tool`: extract, inspect, export and import LoRA adapter files.

`crossroads adapter` runs this in a process of its own, because its own process never imports torch.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cosmos_core.adapter_export import ExportFormat, export_adapter
from cosmos_core.adapter_extract import extract_adapter, import_adapter
from cosmos_core.adapter_file import StoredAdapter, read_adapter
from cosmos_core.adapter_merge import update_norms
from cosmos_core.errors import CrossroadsError
from cosmos_core.hashing import sha256_file

__all__ = ["adapter_report", "main"]


def adapter_report(stored: StoredAdapter, *, alpha: float | None = None) -> dict[str, Any]:
    """A JSON-ready description of an adapter file.

    Args:
        stored: the adapter.
        alpha: for files without a manifest; without it norms are those of B A alone.
    """
    manifest = stored.manifest
    alpha = manifest.alpha if manifest else alpha
    scale = alpha / stored.rank if alpha else 1.0
    norms = update_norms(
        (module, scale, stored.tensors[f"{module}.lora_A"], stored.tensors[f"{module}.lora_B"])
        for module in stored.modules
        if {f"{module}.lora_A", f"{module}.lora_B"} <= stored.tensors.keys()
    )
    return {
        "path": str(stored.path),
        "kind": str(stored.kind),
        "num_bytes": stored.path.stat().st_size if stored.path.is_file() else None,
        "sha256": sha256_file(stored.path) if stored.path.is_file() else None,
        "rank": stored.rank,
        "alpha": alpha,
        "num_modules": len(stored.modules),
        "num_parameters": stored.num_parameters,
        "dtypes": sorted({str(tensor.dtype).removeprefix("torch.") for tensor in stored.tensors.values()}),
        "norm_mean": statistics.fmean(norms.values()) if norms else 0.0,
        "norm_max": max(norms.values(), default=0.0),
        "manifest": manifest.model_dump() if manifest else None,
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    options = _parser().parse_args(arguments)
    try:
        lines = options.run(options)
    except (CrossroadsError, OSError) as error:
        sys.stderr.write(f"crossroads: {' '.join(str(error).split())}\n")
        return 1
    sys.stdout.write("".join(f"{line}\n" for line in lines))
    return 0


def _extract(options: argparse.Namespace) -> list[str]:
    extract_adapter(
        options.source,
        options.out,
        alpha=options.alpha,
        rank=options.rank,
        target_modules=options.target_modules or (),
        base=options.base,
        ema=options.ema,
        source_adapter=options.source_adapter,
        resolution=options.resolution,
        fps=options.fps,
        overwrite=options.overwrite,
    )
    return _lines(adapter_report(read_adapter(options.out)))


def _import(options: argparse.Namespace) -> list[str]:
    import_adapter(
        options.source,
        options.out,
        rank=options.rank,
        alpha=options.alpha,
        base_sha256=options.base_sha256,
        source_adapter=options.source_adapter,
        overwrite=options.overwrite,
    )
    return _lines(adapter_report(read_adapter(options.out)))


def _export(options: argparse.Namespace) -> list[str]:
    stored = read_adapter(options.source, ema=options.ema, source_adapter=options.source_adapter)
    written = export_adapter(
        stored,
        options.out,
        ExportFormat(options.format),
        rank=options.rank,
        alpha=options.alpha,
        target_modules=options.target_modules or (),
        overwrite=options.overwrite,
    )
    lines = _lines(report := adapter_report(read_adapter(written)))
    if ExportFormat(options.format) is ExportFormat.DIFFUSERS and report["alpha"] != report["rank"]:
        lines.append("load it with use_safetensors=True: otherwise diffusers takes alpha to be the rank")
    return lines


def _inspect(options: argparse.Namespace) -> list[str]:
    stored = read_adapter(options.source, ema=options.ema, source_adapter=options.source_adapter)
    report = adapter_report(stored, alpha=options.alpha)
    return [json.dumps(report, indent=2)] if options.json else _lines(report)


def _lines(report: dict[str, Any]) -> list[str]:
    alpha = "not stored in the file" if report["alpha"] is None else f"{report['alpha']:g}"
    norms = f"mean {report['norm_mean']:.4g}, largest {report['norm_max']:.4g}"
    facts = {
        "rank": f"{report['rank']}, alpha {alpha}",
        "tensors": f"{report['num_parameters']:,} parameters on {report['num_modules']} layers, "
        f"{' and '.join(report['dtypes'])}",
        "norms": norms if report["alpha"] else f"{norms} (of B A: alpha is unknown)",
    }
    manifest = report["manifest"] or {}
    for name, value in manifest.items():
        if value is not None and name not in ("rank", "alpha", "format_version", "base_sha256_of"):
            facts[name] = ",".join(value) if isinstance(value, tuple | list) else value
    if manifest.get("base_sha256"):
        facts["base_sha256"] += f" (of the {manifest['base_sha256_of']})"
    if report["num_bytes"] is not None:
        facts |= {"bytes": f"{report['num_bytes']:,}", "sha256": report["sha256"]}
    return [f"{report['path']}: {report['kind']}", *(f"  {name:<15} {value}" for name, value in facts.items())]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m cosmos_core.adapter_tool", description="LoRA adapter files.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    extract = commands.add_parser("extract", help="take the adapter out of a training checkpoint")
    extract.add_argument("source", type=Path, help="training checkpoint")
    extract.add_argument("out", type=Path, help="safetensors file to write")
    extract.add_argument("--alpha", type=float, required=True, help="of the training configuration")
    extract.add_argument("--base", type=Path, help="base checkpoint that the training started from")
    extract.add_argument("--resolution")
    extract.add_argument("--fps", type=int)
    _add_declaration(extract, ema=True)
    extract.set_defaults(run=_extract)

    read = commands.add_parser("inspect", help="say what an adapter file is")
    read.add_argument("source", type=Path, help="any file or folder that holds an adapter")
    read.add_argument("--alpha", type=float, help="for files that do not say it")
    read.add_argument("--json", action="store_true", help="print JSON")
    read.add_argument("--ema", action="store_true", help="the EMA network of a training checkpoint")
    read.add_argument("--source-adapter", default="default", help="name of the adapter in the file")
    read.set_defaults(run=_inspect)

    export = commands.add_parser("export", help="write an adapter for PEFT or diffusers")
    export.add_argument("source", type=Path, help="any file or folder that holds an adapter")
    export.add_argument("out", type=Path, help="folder (peft) or safetensors file (diffusers) to write")
    export.add_argument("--format", choices=[str(layout) for layout in ExportFormat], required=True)
    export.add_argument("--alpha", type=float, help="for files that do not say it")
    _add_declaration(export, ema=True)
    export.set_defaults(run=_export)

    importing = commands.add_parser("import", help="read a PEFT folder, a diffusers LoRA or bare LoRA tensors")
    importing.add_argument("source", type=Path, help="file or folder")
    importing.add_argument("out", type=Path, help="safetensors file to write")
    importing.add_argument("--alpha", type=float, help="for files that do not say it")
    importing.add_argument("--base-sha256", help="SHA-256 of the base checkpoint, if it is known")
    _add_declaration(importing, ema=False)
    importing.set_defaults(run=_import)
    return parser


def _add_declaration(command: argparse.ArgumentParser, *, ema: bool) -> None:
    command.add_argument("--rank", type=int, help="checked if given")
    command.add_argument("--source-adapter", default="default", help="name of the adapter in the file")
    command.add_argument("--overwrite", action="store_true", help="replace what is there")
    if ema:
        command.add_argument("--target-modules", help="names separated by commas; checked if given")
        command.add_argument("--ema", action="store_true", help="the EMA network of a training checkpoint")


if __name__ == "__main__":
    sys.exit(main())
