"""Compare this implementation with a folder of golden vectors: `python -m benchmarks.parity DIR`.

Prints one line for each group with its largest relative L2 distance and the limit, and a line for every case that is
over its limit or could not be run. Exit status 0 only if everything that the folder holds was compared and agrees.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch

from benchmarks.golden_set import Case
from benchmarks.parity_lora import lora_cases
from benchmarks.parity_network import dit_cases, layout_cases, rope_cases
from benchmarks.parity_pipeline import pipeline_cases
from benchmarks.parity_pixels import postprocess_cases, preprocess_cases, vae_cases
from benchmarks.parity_sampler import sampler_cases

__all__ = ["GroupResult", "compare", "main"]

_SOURCES: tuple[Callable[[Path], Iterator[Case]], ...] = (
    dit_cases,
    rope_cases,
    sampler_cases,
    vae_cases,
    preprocess_cases,
    postprocess_cases,
    layout_cases,
    lora_cases,
    pipeline_cases,
)


@dataclass(slots=True)
class GroupResult:
    """Outcome of all cases of one group."""

    limit: float
    num_cases: int = 0
    largest: float = 0.0
    """Largest deviation of the cases that ran."""
    complaints: list[str] = field(default_factory=list)
    """One line for each case that is over its limit or could not be run."""


def compare(folder: Path) -> dict[str, GroupResult]:
    """Run everything that the folder holds."""
    results: dict[str, GroupResult] = {}
    for source in _SOURCES:
        try:
            for case in source(folder):
                _measure(case, results.setdefault(case.group, GroupResult(limit=case.limit)))
        except Exception as error:  # a folder that cannot be read is a result, and the other sources still run
            name = source.__name__.removesuffix("_cases")
            results.setdefault(name, GroupResult(limit=0)).complaints.append(f"cannot be read: {_describe(error)}")
    return results


@torch.no_grad()
def _measure(case: Case, result: GroupResult) -> None:
    result.num_cases += 1
    try:
        deviation = case.measure()
    except Exception as error:  # the reason is printed and fails the comparison
        result.complaints.append(f"{case.name}: could not be run: {_describe(error)}")
        return
    # A deviation that is not a number has to count as the largest.
    result.largest = deviation if not deviation <= result.largest else result.largest
    if not deviation <= case.limit:
        result.complaints.append(f"{case.name}: {deviation:.3g} is over {case.limit:.3g}")


def _describe(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def main(arguments: list[str] | None = None) -> int:
    """Entry point; gives the exit status."""
    parser = argparse.ArgumentParser(prog="benchmarks.parity", description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path, help="folder of golden vectors")
    parser.add_argument("--threads", type=int, help="CPU threads of PyTorch")
    options = parser.parse_args(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    results = compare(options.folder)
    if not results:
        print(f"{options.folder}: no golden vectors there", file=sys.stderr)
        return 1
    width = max(len(group) for group in results)
    print(f"{'group':{width}}  cases  largest   limit     ok")
    for group, result in results.items():
        verdict = "ok" if not result.complaints else "FAILED"
        print(f"{group:{width}}  {result.num_cases:5d}  {result.largest:8.2e}  {result.limit:8.2e}  {verdict}")
        for complaint in result.complaints:
            print(f"  {complaint}")
    return int(any(result.complaints for result in results.values()))


if __name__ == "__main__":
    raise SystemExit(main())
