"""The network against recorded forwards of the reference, and what loading and batching rely on."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from benchmarks.golden_set import build_dit, relative_l2, run_dit
from cosmos_core.architecture import DiTArchitecture, architecture_from_reference, model_architecture
from cosmos_core.attention import attention
from cosmos_core.dit import DiT, RMSNorm
from cosmos_core.errors import BadConfig, BadVariant

GOLDEN = Path(__file__).parents[1] / "golden/dit"
CASES = sorted(path for path in GOLDEN.glob("a*/c*.safetensors"))
BF16_CASES = [path for path in CASES if path.stem.endswith("bf16")]
FP32_CASES = [path for path in CASES if path not in BF16_CASES]


def reference_dit(folder: Path, dtype: torch.dtype, rope_table_dtype: torch.dtype | None = None) -> DiT:
    kwargs = json.loads((folder / "config.json").read_text())["constructor_kwargs"]
    state_dict = load_file(folder / "state_dict.safetensors")
    return build_dit(architecture_from_reference(kwargs), state_dict, dtype, rope_table_dtype=rope_table_dtype)


def tiny_dit(**changes) -> DiT:
    torch.manual_seed(0)
    sizes = {"model_channels": 64, "num_blocks": 2, "num_heads": 2, "crossattn_emb_channels": 32, "adaln_lora_dim": 8}
    return DiT(DiTArchitecture(**{**sizes, **changes})).requires_grad_(False).eval()


def tiny_inputs(batch=1, frames=3) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {
        "in.x": torch.randn(batch, 16, frames, 6, 8, generator=generator),
        "in.timesteps": torch.rand(batch, frames, generator=generator),
        "in.crossattn_emb": torch.randn(batch, 5, 32, generator=generator),
        "in.condition_video_input_mask": torch.zeros(batch, 1, frames, 6, 8),
        "in.padding_mask": torch.zeros(batch, 1, 48, 64),
        "in.fps": torch.full((batch,), 16),
    }


@pytest.mark.parametrize("path", FP32_CASES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_forward_equals_the_reference(path):
    tensors = load_file(path)
    output = run_dit(reference_dit(path.parent, torch.float32), tensors)
    assert relative_l2(output, tensors["out.net_output"]) < 2e-6


@pytest.mark.parametrize("path", BF16_CASES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_bfloat16_forward_equals_the_reference(path):
    tensors = load_file(path)
    output = run_dit(reference_dit(path.parent, torch.bfloat16), tensors)
    assert output.dtype == torch.bfloat16
    assert relative_l2(output, tensors["out.net_output_bf16_native"]) < 3e-2


@pytest.mark.parametrize("table", ["fp32", "bf16"])
@pytest.mark.parametrize("path", BF16_CASES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_both_rotary_tables_equal_the_reference(path, table):
    tensors = load_file(path)
    rope_table_dtype = torch.float32 if table == "fp32" else torch.bfloat16
    dit = reference_dit(path.parent, torch.bfloat16, rope_table_dtype).float()
    assert relative_l2(run_dit(dit, tensors), tensors[f"out.net_output_fp32_math_{table}_rope"]) < 2e-6


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_the_rotary_table_follows_the_dtype_of_the_weights(dtype):
    dit = tiny_dit().to(dtype)
    explicit = tiny_dit().to(dtype)
    explicit.rope_table_dtype = dtype
    assert torch.equal(run_dit(dit, tiny_inputs()), run_dit(explicit, tiny_inputs()))


def test_construction_on_the_meta_device_leaves_nothing_to_fill_but_parameters():
    with torch.device("meta"):
        dit = DiT(model_architecture("2B").dit)
    assert not list(dit.buffers())
    assert sum(parameter.numel() for parameter in dit.parameters()) == 1_956_413_440
    assert set(dit.state_dict()) == {name for name, _ in dit.named_parameters()}


def test_assigned_weights_run_after_construction_on_meta():
    source = tiny_dit()
    with torch.device("meta"):
        dit = DiT(source.architecture)
    dit.load_state_dict(source.state_dict(), assign=True)
    assert torch.equal(run_dit(dit, tiny_inputs()), run_dit(source, tiny_inputs()))


def test_samples_of_a_batch_do_not_see_each_other():
    dit, inputs = tiny_dit(), tiny_inputs(batch=2)
    both = run_dit(dit, inputs)
    for index in range(2):
        alone = run_dit(dit, {name: value[index : index + 1] for name, value in inputs.items()})
        torch.testing.assert_close(both[index : index + 1], alone, rtol=1e-5, atol=1e-5)


def test_one_time_for_all_frames_equals_the_same_time_on_every_frame():
    dit, inputs = tiny_dit(), tiny_inputs()
    outputs = [
        run_dit(dit, {**inputs, "in.timesteps": timesteps})
        for timesteps in (torch.tensor([0.3]), torch.tensor([[0.3]]), torch.full((1, 3), 0.3))
    ]
    torch.testing.assert_close(outputs[0], outputs[1], rtol=0, atol=0)
    torch.testing.assert_close(outputs[0], outputs[2], rtol=1e-5, atol=1e-6)


def test_no_padding_mask_equals_a_mask_of_zeros():
    dit, inputs = tiny_dit(), tiny_inputs()
    output = dit(
        inputs["in.x"],
        inputs["in.timesteps"],
        inputs["in.crossattn_emb"],
        condition_mask_B1THW=inputs["in.condition_video_input_mask"],
    )
    assert torch.equal(output, run_dit(dit, inputs))


def test_rotary_tables_are_kept_for_a_few_shapes_only():
    dit = tiny_dit()
    for frames in (1, 2, 3, 3, 2):
        run_dit(dit, tiny_inputs(frames=frames))
    assert sorted(key[0] for key in dit._rope_cache) == [2, 3]


def test_attention_can_be_replaced_for_self_and_cross_attention_apart():
    dit, calls = tiny_dit(), []

    def counting(q, k, v):
        calls.append((q.shape[1], k.shape[1]))
        return attention(q, k, v)

    golden = run_dit(dit, tiny_inputs())
    dit.set_attention(counting)
    assert torch.equal(run_dit(dit, tiny_inputs()), golden)
    assert calls == [(36, 36)] * 2
    dit.set_attention(counting, cross=True)
    run_dit(dit, tiny_inputs())
    assert calls[2:] == [(36, 36), (36, 5)] * 2


def test_attention_kernels_agree():
    dit = tiny_dit()
    golden = run_dit(dit, tiny_inputs())
    dit.set_attention(partial(attention, backend="math"))
    torch.testing.assert_close(run_dit(dit, tiny_inputs()), golden, rtol=1e-5, atol=1e-5)


def test_rms_norm_rounds_once():
    generator = torch.Generator().manual_seed(0)
    norm = RMSNorm(64).bfloat16().requires_grad_(False)
    norm.weight.copy_(torch.randn(64, generator=generator))
    x = torch.randn(32, 64, generator=generator).bfloat16()
    exact = x.float() * torch.rsqrt(x.float().pow(2).mean(-1, keepdim=True) + 1e-6) * norm.weight.float()
    assert torch.equal(norm(x), exact.bfloat16())


def test_frame_rate_modulation_needs_the_frame_rate():
    dit, inputs = tiny_dit(rope_enable_fps_modulation=True), tiny_inputs()
    with pytest.raises(BadVariant, match="frame rate"):
        run_dit(dit, {**inputs, "in.fps": None})
    slow, fast = (run_dit(dit, {**inputs, "in.fps": torch.tensor([fps])}) for fps in (16, 30))
    assert not torch.equal(slow, fast)


def test_reference_arguments_become_an_architecture():
    kwargs = json.loads((GOLDEN / "a1_2b_style/config.json").read_text())["constructor_kwargs"]
    architecture = architecture_from_reference({**kwargs, "atten_backend": "minimal_a2a", "min_fps": 1, "max_fps": 30})
    assert architecture == replace(
        model_architecture("2B").dit,
        model_channels=128,
        num_blocks=2,
        num_heads=4,
        crossattn_emb_channels=64,
        adaln_lora_dim=16,
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"window_size": 3}, "unknown network argument"),
        ({"use_adaln_lora": False}, "use_adaln_lora is not supported"),
        ({"extra_per_block_abs_pos_emb": True}, "extra_per_block_abs_pos_emb"),
        ({"crossattn_proj_in_channels": 4096}, "crossattn_proj_in_channels"),
    ],
)
def test_arguments_that_change_the_maths_are_refused(changes, message):
    with pytest.raises(BadConfig, match=message):
        architecture_from_reference({"model_channels": 64, "num_blocks": 1, "num_heads": 2, **changes})


def test_missing_arguments_are_refused():
    with pytest.raises(BadConfig, match="num_heads"):
        architecture_from_reference({"model_channels": 64, "num_blocks": 1})
