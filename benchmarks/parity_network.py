"""Parity of the network: forwards, rotary tables, names and shapes of the full-size models."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.golden_set import Case, build_dit, load_json, load_tensors, relative_l2, run_dit
from cosmos_core.architecture import DiTArchitecture, architecture_from_reference
from cosmos_core.checkpoint import drop_benign
from cosmos_core.dit import DiT
from cosmos_core.lora import LoraSpec, adapter_shapes
from cosmos_core.rope import rope_angles

__all__ = ["dit_cases", "layout_cases", "rope_cases"]

_DIT_LIMIT = 2e-6
_ROPE_LIMIT = 1e-6
_BF16_LIMIT = 3e-2

_DIT_OUTPUTS: dict[str, tuple[torch.dtype, torch.dtype, float]] = {
    "out.net_output": (torch.float32, torch.float32, _DIT_LIMIT),
    "out.net_output_bf16_native": (torch.bfloat16, torch.bfloat16, _BF16_LIMIT),
    "out.net_output_fp32_math_bf16_rope": (torch.float32, torch.bfloat16, _DIT_LIMIT),
    "out.net_output_fp32_math_fp32_rope": (torch.float32, torch.float32, _DIT_LIMIT),
}
"""Tensor name to dtype of the arithmetic, dtype of the rotary table, limit."""


def dit_cases(folder: Path) -> Iterator[Case]:
    """Every output of every case of every configuration below `dit/`."""
    for config in sorted(folder.glob("dit/*/config.json")):
        architecture = architecture_from_reference(load_json(config)["constructor_kwargs"])
        weights = config.parent / "state_dict.safetensors"
        for path in sorted(set(config.parent.glob("*.safetensors")) - {weights}):
            for output in sorted(name for name in load_tensors(path) if name.startswith("out.")):
                dtype, rope_dtype, limit = _DIT_OUTPUTS[output]
                group = f"dit {config.parent.name}" if output == "out.net_output" else _bf16_group(dtype)
                measure = partial(_dit_deviation, architecture, weights, path, output, dtype, rope_dtype)
                yield Case(group, f"{config.parent.name}/{path.stem} {output}", limit, measure)


def _bf16_group(dtype: torch.dtype) -> str:
    return "dit bf16" if dtype == torch.bfloat16 else "dit bf16 weights, float32 arithmetic"


def _dit_deviation(
    architecture: DiTArchitecture, weights: Path, path: Path, output: str, dtype: torch.dtype, rope_dtype: torch.dtype
) -> float:
    state_dict, tensors = load_tensors(weights), load_tensors(path)
    if output != "out.net_output":
        state_dict = {
            name: value.bfloat16() if value.is_floating_point() else value for name, value in state_dict.items()
        }
    dit = build_dit(architecture, state_dict, dtype, rope_table_dtype=rope_dtype)
    return relative_l2(run_dit(dit, tensors), tensors[output])


def rope_cases(folder: Path) -> Iterator[Case]:
    """Every table of `dit/rope/`, named `<table>.<part>.<fp32 or bf16buffers>`."""
    for description in sorted(folder.glob("dit/rope/*.json")):
        path = description.with_suffix(".safetensors")
        tables = load_json(description)["tables"]
        for name in sorted(load_tensors(path)):
            table, part, precision = name.rsplit(".", 2)
            group, limit = ("rope", _ROPE_LIMIT) if precision == "fp32" else ("rope bf16", _BF16_LIMIT)
            yield Case(group, name, limit, partial(_rope_deviation, path, name, tables[table], part, precision))


def _rope_deviation(path: Path, name: str, table: Mapping[str, Any], part: str, precision: str) -> float:
    frames, rows, columns = {
        "axis_t": (table["grid"][0], 1, 1),
        "axis_h": (1, table["grid"][1], 1),
        "axis_w": (1, 1, table["grid"][2]),
    }.get(part) or tuple(int(size) for size in part.removeprefix("grid_").split("x"))
    architecture = DiTArchitecture(
        model_channels=table["head_dim"],
        num_blocks=1,
        num_heads=1,
        max_frames=table["len_t"],
        max_img_h=2 * table["len_h"],
        max_img_w=2 * table["len_w"],
        rope_enable_fps_modulation=table["enable_fps_modulation"],
        **{f"rope_{axis}_extrapolation_ratio": table[f"{axis}_extrapolation_ratio"] for axis in "thw"},
    )
    angles = rope_angles(
        architecture,
        num_latent_frames=frames,
        latent_height=2 * rows,
        latent_width=2 * columns,
        table_dtype=torch.float32 if precision == "fp32" else torch.bfloat16,
        fps=table["fps"],
    )
    golden = load_tensors(path)[name].flatten(0, 2)
    # A single position has all angles zero, and no norm to divide by.
    return relative_l2(angles, golden) if golden.any() else float(angles.abs().max())


def layout_cases(folder: Path) -> Iterator[Case]:
    """Names and shapes of every described Video2World network and of its LoRA training checkpoint."""
    for path in sorted(folder.glob("layout/*.json")):
        layout = load_json(path)
        if "constructor_kwargs" in layout and "state_dict" in layout:
            yield Case("layout", f"{path.stem} network", 0, partial(_network_differences, layout))
            yield Case("layout", f"{path.stem} adapter", 0, partial(_adapter_differences, layout))


def _network_differences(layout: Mapping[str, Any]) -> float:
    dit = _meta_dit(layout)
    golden = drop_benign(_expand(layout, layout["state_dict"]))
    shapes = {name: tuple(value.shape) for name, value in dit.state_dict().items()}
    num_parameters = sum(parameter.numel() for parameter in dit.parameters())
    return len(shapes.items() ^ golden.items()) + abs(num_parameters - layout["num_parameters"])


def _adapter_differences(layout: Mapping[str, Any]) -> float:
    lora = layout["lora_training_checkpoint"]
    shapes = adapter_shapes(_meta_dit(layout), LoraSpec(rank=lora["rank"], alpha=lora["alpha"]))
    ours = {re.sub(r"(lora_[AB])$", r"\1.default.weight", name): shape for name, shape in shapes.items()}
    golden = _expand(layout, lora["state_dict"])
    theirs = {name: shape for name, shape in golden.items() if ".base_layer." not in name}
    num_parameters = sum(rows * columns for rows, columns in shapes.values())
    return len(ours.items() ^ theirs.items()) + abs(num_parameters - lora["adapter_parameters"])


def _meta_dit(layout: Mapping[str, Any]) -> DiT:
    with torch.device("meta"):
        return DiT(architecture_from_reference(layout["constructor_kwargs"]))


def _expand(layout: Mapping[str, Any], state_dict: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Names without prefix, one for each block, to shapes."""
    shapes: dict[str, tuple[int, ...]] = {}
    for name, (shape, _) in state_dict.items():
        name = name.removeprefix(layout["published_file_key_prefix"])
        for block in range(layout["num_blocks"]) if "<0..N-1>" in name else [0]:
            shapes[name.replace("<0..N-1>", str(block))] = tuple(shape)
    return shapes
