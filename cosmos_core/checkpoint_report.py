"""`python -m cosmos_core.checkpoint_report FILE`: say what a checkpoint file is, without loading it into a model."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cosmos_core.checkpoint_kind import checkpoint_facts
from cosmos_core.errors import CrossroadsError
from cosmos_core.hashing import sha256_file
from cosmos_core.weights_file import read_state_dict

__all__ = ["checkpoint_report", "main"]


def checkpoint_report(path: Path | str, *, with_hash: bool = True) -> dict[str, Any]:
    """A JSON-ready description of a checkpoint file.

    Args:
        path: see `read_state_dict`.
        with_hash: read the whole file for its SHA-256; of a folder none is taken.

    Raises:
        CheckpointMissing: there is no such file.
        CheckpointMismatch: it cannot be read as named tensors.
    """
    path = Path(path)
    facts = asdict(checkpoint_facts(read_state_dict(path)))
    is_file = path.is_file()
    return {
        "path": str(path),
        "num_bytes": path.stat().st_size if is_file else None,
        "sha256": sha256_file(path) if with_hash and is_file else None,
        **facts,
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m cosmos_core.checkpoint_report")
    parser.description = "Say what a checkpoint file is."
    parser.add_argument("file", type=Path, help="a .pt, .pth or .safetensors file, or a folder of shards")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--no-hash", action="store_true", help="do not read the file for its SHA-256")
    options = parser.parse_args(arguments)
    try:
        report = checkpoint_report(options.file, with_hash=not options.no_hash)
    except CrossroadsError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    text = json.dumps(report, indent=2) if options.json else "\n".join(_lines(report))
    sys.stdout.write(f"{text}\n")
    return 0


def _lines(report: dict[str, Any]) -> list[str]:
    lines = [f"{report['path']}: {report['kind']}"]
    if report["size"]:
        lines.append(
            f"  size        {report['size']} ({report['num_blocks']} blocks of width {report['model_channels']})"
        )
    for prefix, network in report["networks"].items():
        lines.append(
            f"  network     {prefix or '(no prefix)':<12}{network['num_tensors']} tensors, "
            f"{network['num_parameters']:,} parameters, {' and '.join(network['dtypes'])}"
        )
    if report["lora_ranks"]:
        lines.append(f"  LoRA rank   {', '.join(map(str, report['lora_ranks']))} (alpha is not stored in the file)")
        lines.append(f"  LoRA on     {', '.join(report['lora_targets'])}")
    if report["num_bytes"] is not None:
        lines.append(f"  bytes       {report['num_bytes']:,}")
    if report["sha256"]:
        lines.append(f"  sha256      {report['sha256']}")
    return lines


if __name__ == "__main__":
    sys.exit(main())
