"""Rotary angles against the reference's tables, and the properties that attention relies on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from cosmos_core.architecture import DiTArchitecture, model_architecture
from cosmos_core.errors import BadVariant
from cosmos_core.rope import apply_rope, rope_angles

GOLDEN = Path(__file__).parents[1] / "golden/dit/rope"
TABLES = json.loads((GOLDEN / "rope_tables.json").read_text())["tables"]


@pytest.fixture(scope="module")
def tables() -> dict[str, torch.Tensor]:
    return load_file(GOLDEN / "rope_tables.safetensors")


@pytest.mark.parametrize("table_dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("axis", ["t", "h", "w"])
@pytest.mark.parametrize("name", TABLES)
def test_every_axis_equals_the_reference_table(tables, name, axis, table_dtype):
    table = TABLES[name]
    architecture = DiTArchitecture(
        model_channels=table["head_dim"],
        num_blocks=1,
        num_heads=1,
        **{f"rope_{a}_extrapolation_ratio": table[f"{a}_extrapolation_ratio"] for a in "thw"},
    )
    frames, rows, columns = (size if a == axis else 1 for a, size in zip("thw", table["grid"], strict=True))
    angles = rope_angles(
        architecture,
        num_latent_frames=frames,
        latent_height=2 * rows,
        latent_width=2 * columns,
        table_dtype=table_dtype,
    )
    suffix = "fp32" if table_dtype == torch.float32 else "bf16buffers"
    golden = tables[f"{name}.axis_{axis}.{suffix}"].flatten(0, 2)
    torch.testing.assert_close(angles, golden, rtol=0, atol=1e-6)


def test_the_full_grid_is_ordered_t_h_w(tables):
    angles = rope_angles(model_architecture("2B").dit, num_latent_frames=3, latent_height=8, latent_width=10)
    torch.testing.assert_close(angles, tables["v2w_2b_720p.grid_3x4x5.fp32"].flatten(0, 2), rtol=0, atol=1e-6)


def test_bfloat16_table_differs_by_what_the_reference_shows():
    grid = {"num_latent_frames": 24, "latent_height": 88, "latent_width": 160}
    architecture = model_architecture("2B").dit
    exact = rope_angles(architecture, **grid)
    rounded = rope_angles(architecture, **grid, table_dtype=torch.bfloat16)
    assert 0.15 < (exact - rounded).abs().max() < 0.2


def test_frame_rate_modulation_stretches_time_only():
    sizes = {"model_channels": 32, "num_blocks": 1, "num_heads": 1}
    grid = {"num_latent_frames": 4, "latent_height": 4, "latent_width": 4}
    plain = rope_angles(DiTArchitecture(**sizes), **grid)
    modulated = rope_angles(DiTArchitecture(**sizes, rope_enable_fps_modulation=True), **grid, fps=12)
    torch.testing.assert_close(modulated[:, :6], plain[:, :6] * 2)
    assert torch.equal(modulated[:, 6:16], plain[:, 6:16])


def test_rotation_keeps_norms_and_depends_on_distance_only():
    architecture = DiTArchitecture(model_channels=32, num_blocks=1, num_heads=1)
    angles = rope_angles(architecture, num_latent_frames=8, latent_height=2, latent_width=2)
    x = torch.randn(1, 1, 1, 32, generator=torch.Generator().manual_seed(0)).expand(1, 8, 1, 32)
    rotated = apply_rope(x, angles.cos(), angles.sin())
    torch.testing.assert_close(rotated.norm(dim=-1), x.norm(dim=-1))
    dots = (rotated[:, 1:] * rotated[:, :-1]).sum(-1)
    torch.testing.assert_close(dots, dots[:, :1].expand_as(dots))


@pytest.mark.parametrize(
    ("grid", "what"), [((1, 242, 2), "larger"), ((129, 2, 2), "larger"), ((1, 3, 2), "whole number of patches")]
)
def test_impossible_grids_are_refused(grid, what):
    frames, height, width = grid
    with pytest.raises(BadVariant, match=what):
        rope_angles(model_architecture("2B").dit, num_latent_frames=frames, latent_height=height, latent_width=width)
