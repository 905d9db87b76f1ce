"""8-bit weights: the coding itself, both kernels, adapters on top in either order, and what is refused."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file, save_file
from torch import nn

from cosmos_core.architecture import DiTArchitecture
from cosmos_core.dit import DiT
from cosmos_core.errors import AdapterMismatch, BadRequest
from cosmos_core.lora import activate, adapter_shapes, differing_base_weights, load_adapter, unload_adapter
from cosmos_core.lora_state_dict import LoraSpec
from cosmos_core.quantize import (
    base_bytes,
    dequantize_adapter,
    large_linears,
    quantize_adapter,
    quantize_base,
    set_compute,
)
from cosmos_core.quantized_linear import QuantizedLinear, check_backend, dequantize_rows, quantize_rows
from cosmos_core.random_tensor import random_tensor

ARCHITECTURE = DiTArchitecture(
    model_channels=64, num_blocks=2, num_heads=2, crossattn_emb_channels=32, adaln_lora_dim=16
)
SPEC = LoraSpec(rank=4, alpha=8)
SCHEMES = ("fp8", "int8")
LIMITS = {"fp8": 0.04, "int8": 0.01}
needs_cpu_fp8 = pytest.mark.skipif(
    check_backend("cpu", "fp8") == "dequantize", reason="this torch has no rowwise _scaled_mm on the CPU"
)
CPU_KERNELS = [pytest.param("fp8", "scaled_mm", marks=needs_cpu_fp8), ("int8", "int_mm")]
Q_PROJ = "blocks.0.self_attn.q_proj"
FRAMES = 2


def relative_l2(got: torch.Tensor, expected: torch.Tensor) -> float:
    return float((got.double() - expected.double()).norm() / expected.double().norm())


def make_dit(dtype: torch.dtype = torch.float32) -> DiT:
    dit = DiT(ARCHITECTURE)
    for name, parameter in dit.named_parameters():
        if parameter.ndim == 2:
            std = 0.5 * parameter.shape[1] ** -0.5
            parameter.data = random_tensor(name, parameter.shape, seed=0, std=std)
    return dit.to(dtype).requires_grad_(False).eval()


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Products this small are slower when they are shared out."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def dit() -> DiT:
    return make_dit()


@pytest.fixture
def adapter(dit) -> dict[str, torch.Tensor]:
    return {
        f"{name}.weight": random_tensor(name, shape, seed=1, std=0.1)
        for name, shape in adapter_shapes(dit, SPEC).items()
    }


def run(dit: DiT) -> torch.Tensor:
    x = random_tensor("x", (1, 16, FRAMES, 8, 8), seed=2, std=1.0)
    text = random_tensor("text", (1, 32, 32), seed=2, std=1.0)
    mask = torch.zeros_like(x[:, :1])
    return dit(x, torch.full((1, FRAMES), 0.5), text, condition_mask_B1THW=mask)


def with_dequantized_base(dit: DiT) -> DiT:
    """The network in which every quantized weight is an ordinary one again; adapters stay where they are."""
    plain = copy.deepcopy(dit)
    for module in list(plain.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, QuantizedLinear):
                linear = nn.Linear(child.in_features, child.out_features, bias=False)
                linear.weight = nn.Parameter(child.dequantized(torch.float32), requires_grad=False)
                setattr(module, name, linear)
    return plain


class TestRows:
    @pytest.mark.parametrize("scheme", SCHEMES)
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_round_trip(self, scheme, dtype):
        values = random_tensor("w", (96, 2048), seed=0, std=0.02).to(dtype)
        codes, scale = quantize_rows(values, scheme)
        assert (codes.shape, codes.element_size()) == (values.shape, 1)
        assert (scale.shape, scale.dtype) == ((96, 1), torch.float32)
        assert relative_l2(dequantize_rows(codes, scale, torch.float32), values) < LIMITS[scheme]

    @pytest.mark.parametrize("scheme", SCHEMES)
    def test_each_row_has_a_scale_of_its_own(self, scheme):
        values = random_tensor("w", (8, 64), seed=0, std=1.0) * torch.logspace(-6, 6, 8)[:, None]
        restored = dequantize_rows(*quantize_rows(values, scheme), torch.float32)
        assert max(relative_l2(got, row) for got, row in zip(restored, values, strict=True)) < LIMITS[scheme]

    @pytest.mark.parametrize("scheme", SCHEMES)
    def test_the_largest_of_a_row_is_kept_and_zeros_stay_zeros(self, scheme):
        values = torch.tensor([[0.0, 0.0, 0.0], [-3.0, 0.0, 1.5], [1e-30, 0.0, 0.0]])
        restored = dequantize_rows(*quantize_rows(values, scheme), torch.float32)
        assert torch.allclose(restored.abs().amax(1), values.abs().amax(1), rtol=1e-6, atol=0)
        assert torch.equal(restored == 0, values == 0)

    @pytest.mark.parametrize("scheme", SCHEMES)
    def test_numbers_that_are_not_finite_do_not_become_ordinary_ones(self, scheme):
        values = torch.tensor([[1.0, float("nan")], [1.0, 2.0]])
        restored = dequantize_rows(*quantize_rows(values, scheme), torch.float32)
        assert restored.isfinite().tolist()[1] == [True, True]
        assert not restored[0].isfinite().any()


class TestLayer:
    @pytest.mark.parametrize("scheme", SCHEMES)
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_dequantized_product(self, scheme, dtype):
        linear = nn.Linear(48, 24, bias=False)
        layer = QuantizedLinear.from_linear(linear, scheme)
        x = random_tensor("x", (2, 5, 48), seed=0, std=1.0).to(dtype)
        got = layer(x)
        assert (got.shape, got.dtype) == ((2, 5, 24), dtype)
        assert torch.equal(got, F.linear(x, layer.dequantized(dtype)))
        assert 0 < relative_l2(layer.dequantized(torch.float32), linear.weight.detach()) < LIMITS[scheme]

    @pytest.mark.parametrize(("scheme", "backend"), CPU_KERNELS)
    @pytest.mark.parametrize("rows_at_once", [16384, 64])
    def test_kernel_multiplies_coded_activations(self, monkeypatch, scheme, backend, rows_at_once):
        monkeypatch.setattr("cosmos_core.quantized_linear._ROWS_AT_ONCE", rows_at_once)
        linear = nn.Linear(64, 32, bias=False)
        layer = QuantizedLinear.from_linear(linear, scheme, backend=backend)
        x = random_tensor("x", (2, 80, 64), seed=0, std=1.0)
        coded = dequantize_rows(*quantize_rows(x, scheme), torch.float32)
        got = layer(x)
        assert (got.shape, got.dtype) == ((2, 80, 32), torch.float32)
        assert relative_l2(got, coded @ layer.dequantized(torch.float32).T) < 3e-3
        assert relative_l2(got, F.linear(x, layer.dequantized(torch.float32))) > 3e-3

    @pytest.mark.parametrize(("scheme", "backend"), CPU_KERNELS)
    @pytest.mark.parametrize(("rows", "features"), [(17, 64), (16, 64), (64, 40)])
    def test_shapes_that_do_not_fit_the_kernel_are_dequantized(self, scheme, backend, rows, features):
        layer = QuantizedLinear.from_linear(nn.Linear(features, 32, bias=False), scheme, backend=backend)
        x = torch.randn(rows, features)
        assert torch.equal(layer(x), F.linear(x, layer.dequantized(torch.float32)))

    @pytest.mark.parametrize("scheme", SCHEMES)
    def test_casts_leave_codes_and_scales_alone(self, scheme):
        layer = QuantizedLinear.from_linear(nn.Linear(32, 16, bias=False), scheme)
        before = {name: value.clone() for name, value in layer.state_dict().items()}
        layer.to(torch.bfloat16).half()
        assert before.keys() == {"quantized", "scale"}
        for name, value in layer.state_dict().items():
            assert value.dtype == before[name].dtype
            assert torch.equal(value.float(), before[name].float())
        assert {buffer.device.type for buffer in layer.to("meta").buffers()} == {"meta"}

    def test_the_weight_is_sealed(self):
        layer = QuantizedLinear.from_linear(nn.Linear(32, 16, bias=False), "int8")
        weight = layer.to(torch.bfloat16).weight
        assert (weight.shape, weight.dtype, weight.device.type) == ((16, 32), torch.bfloat16, "cpu")
        delta = torch.zeros(16, 32)
        for change in (
            lambda: weight.float() + delta,
            lambda: weight.add_(delta),
            lambda: weight.data.add_(delta),
            lambda: setattr(weight, "data", delta),
            lambda: weight.copy_(delta),
            lambda: weight.detach().clone(),
            lambda: torch.equal(delta, weight),
            lambda: setattr(layer, "weight", nn.Parameter(delta)),
            lambda: setattr(layer, "weight", delta),
        ):
            with pytest.raises(AdapterMismatch, match="merge, and quantize last"):
                change()
        assert "weight" not in layer.state_dict()


class TestCheckBackend:
    @pytest.mark.parametrize(("scheme", "backend"), CPU_KERNELS)
    def test_kernels_of_the_cpu_pass(self, caplog, scheme, backend):
        assert check_backend("cpu", scheme) == backend
        assert not caplog.records

    @pytest.mark.parametrize(("scheme", "kernel"), [("fp8", "_scaled_mm"), ("int8", "_int_mm")])
    def test_a_kernel_that_raises_or_is_missing_falls_back_with_one_line(self, monkeypatch, caplog, scheme, kernel):
        def refuse(*_, **__):
            raise RuntimeError("needs compute capability 9.0\nand a long trace")

        monkeypatch.setattr(torch, kernel, refuse)
        assert check_backend("cpu", scheme) == "dequantize"
        monkeypatch.delattr(torch, kernel)
        assert check_backend("cpu", scheme) == "dequantize"
        assert [record.levelno for record in caplog.records] == [logging.WARNING] * 2
        assert caplog.messages[0].endswith(
            f"needs compute capability 9.0; {scheme} weights are dequantized for every call"
        )

    @needs_cpu_fp8
    @pytest.mark.parametrize("wrong", [float("nan"), 1.1])
    def test_a_kernel_that_is_wrong_falls_back(self, monkeypatch, caplog, wrong):
        kernel = torch._scaled_mm
        monkeypatch.setattr(torch, "_scaled_mm", lambda *args, **kwargs: kernel(*args, **kwargs) * wrong)
        assert check_backend("cpu") == "dequantize"
        assert "is off by" in caplog.text

    @needs_cpu_fp8
    def test_what_a_network_computes_with(self, monkeypatch, dit):
        with pytest.raises(BadRequest, match="not quantized"):
            set_compute(dit, "auto")
        assert quantize_base(dit, "fp8").backend == "dequantize"
        expected = run(dit)
        assert set_compute(dit, "scaled_mm") == "scaled_mm"
        assert 0 < relative_l2(run(dit), expected) < 0.1
        assert set_compute(dit, "dequantize") == "dequantize"
        assert torch.equal(run(dit), expected)
        monkeypatch.delattr(torch, "_scaled_mm")
        with pytest.raises(BadRequest, match="_scaled_mm does not work on cpu"):
            set_compute(dit, "scaled_mm")


class TestBase:
    @pytest.mark.parametrize("scheme", SCHEMES)
    def test_memory_falls(self, scheme):
        dit = make_dit(torch.bfloat16)
        large = sum(linear.weight.numel() for _, linear in large_linears(dit))
        rows = sum(linear.out_features for _, linear in large_linears(dit))
        before = sum(tensor.nbytes for tensor in dit.state_dict().values())
        result = quantize_base(dit, scheme)
        after = sum(tensor.nbytes for tensor in dit.state_dict().values())
        assert (result.bytes_before, result.bytes_after) == (before, after)
        assert before - after == large - 4 * rows
        assert result.num_layers == 20

    def test_which_layers_are_replaced(self, dit):
        quantize_base(dit, "int8")
        names = {name for name, module in dit.named_modules() if isinstance(module, QuantizedLinear)}
        shapes = adapter_shapes(dit, SPEC)
        assert names == {name.rpartition(".")[0] for name in shapes}
        wide = make_dit()
        assert quantize_base(wide, "int8", adaln=True).num_layers == 20 + 2 * 3 * 2
        for name in ("x_embedder", "t_embedder", "final_layer"):
            modules = wide.get_submodule(name).modules()
            assert not any(isinstance(module, QuantizedLinear) for module in modules)

    @pytest.mark.parametrize(("scheme", "limit"), [("fp8", 0.05), ("int8", 0.02)])
    def test_network_equals_the_one_with_dequantized_weights(self, dit, scheme, limit):
        base = run(dit)
        quantize_base(dit, scheme)
        assert torch.equal(run(dit), run(with_dequantized_base(dit)))
        assert 1e-4 < relative_l2(run(dit), base) < limit

    def test_bfloat16(self):
        dit = make_dit(torch.bfloat16)
        base = run(dit)
        quantize_base(dit, "fp8")
        got = run(dit)
        assert (got.dtype, dit.dtype) == (torch.bfloat16, torch.bfloat16)
        assert relative_l2(got, base) < 0.06

    def test_state_dict_round_trip(self, dit):
        quantize_base(dit, "fp8")
        other = make_dit()
        quantize_base(other, "fp8")
        state = {name: torch.zeros_like(value) for name, value in other.state_dict().items()}
        other.load_state_dict(state)
        other.load_state_dict(dit.state_dict(), strict=True)
        assert torch.equal(run(other), run(dit))

    def test_twice_and_unknown_schemes_are_refused(self, dit):
        with pytest.raises(BadRequest, match=r"got int4, expected fp8 \| int8"):
            quantize_base(dit, "int4")
        quantize_base(dit, "fp8")
        with pytest.raises(BadRequest, match="quantized already"):
            quantize_base(dit, "int8")


@pytest.mark.parametrize("scheme", SCHEMES)
class TestAdaptersOnTop:
    @pytest.fixture
    def both_orders(self, adapter, scheme) -> list[DiT]:
        first, second = make_dit(), make_dit()
        quantize_base(first, scheme)
        load_adapter(first, adapter, SPEC)
        load_adapter(second, adapter, SPEC)
        activate(second, {"default": 1.0})
        quantize_base(second, scheme)
        return [first, second]

    def test_either_order_gives_the_same_network(self, both_orders, scheme):
        for dit in both_orders:
            layer = dit.get_submodule(Q_PROJ)
            assert isinstance(layer, LoraLayer)
            assert isinstance(layer.base_layer, QuantizedLinear)
            activate(dit, {"default": 0.7})
        first, second = both_orders
        assert torch.equal(run(first), run(second))
        assert list(first.state_dict()) == list(second.state_dict())
        assert base_bytes(first) == base_bytes(second)

    def test_layer_equals_the_formula(self, both_orders, adapter, scheme):
        x = random_tensor("x", (3, 64), seed=5, std=1.0)
        A, B = (adapter[f"{Q_PROJ}.lora_{matrix}.weight"] for matrix in "AB")
        for dit in both_orders:
            activate(dit, {"default": 0.5})
            layer = dit.get_submodule(Q_PROJ)
            weight = layer.base_layer.dequantized(torch.float32)
            expected = x @ weight.T + 0.5 * (SPEC.alpha / SPEC.rank) * x @ A.T @ B.T
            assert relative_l2(layer(x), expected) < 1e-6
            assert torch.equal(run(dit), run(with_dequantized_base(dit)))

    def test_nothing_active_is_the_quantized_base_bit_for_bit(self, dit, both_orders, scheme):
        quantize_base(dit, scheme)
        expected = run(dit)
        for network in both_orders:
            activate(network, {"default": 1.0})
            assert not torch.equal(run(network), expected)
            activate(network, {})
            assert torch.equal(run(network), expected)
            unload_adapter(network, "default")
            assert torch.equal(run(network), expected)

    def test_adapters_stay_in_the_dtype_of_the_network(self, adapter, scheme):
        dit = make_dit(torch.bfloat16)
        quantize_base(dit, scheme)
        load_adapter(dit, adapter, SPEC)
        layer = dit.get_submodule(Q_PROJ)
        assert layer.lora_A["default"].weight.dtype == torch.bfloat16
        activate(dit, {"default": 1.0})
        assert run(dit).dtype == torch.bfloat16

    @pytest.mark.parametrize("safe", [False, True])
    def test_merging_is_refused_and_changes_nothing(self, both_orders, adapter, scheme, safe):
        for dit in both_orders:
            activate(dit, {"default": 1.0})
            expected = run(dit)
            with pytest.raises(AdapterMismatch, match="Load the base, merge, and quantize last"):
                dit.get_submodule(Q_PROJ).merge(safe_merge=safe)
            with pytest.raises(AdapterMismatch, match="compare with a checkpoint"):
                differing_base_weights(dit, {f"net.{Q_PROJ}.base_layer.weight": torch.zeros(64, 64)})
            assert torch.equal(run(dit), expected)

    def test_merging_before_is_what_the_message_says(self, dit, adapter, scheme):
        for name, linear in large_linears(dit):
            A, B = (adapter[f"{name}.lora_{matrix}.weight"] for matrix in "AB")
            linear.weight.data += SPEC.scale * B @ A
        merged = run(dit)
        quantize_base(dit, scheme)
        assert relative_l2(run(dit), merged) < 0.05


class TestStoredAdapter:
    @pytest.mark.parametrize("scheme", SCHEMES)
    def test_file_round_trip(self, tmp_path, adapter, scheme):
        stored = quantize_adapter(adapter, scheme)
        assert stored.tensors.keys() == {f"{name}.{part}" for name in adapter for part in ("quantized", "scale")}
        save_file(stored.tensors, tmp_path / "adapter.safetensors", metadata=stored.metadata)
        restored = dequantize_adapter(load_file(tmp_path / "adapter.safetensors"))
        assert restored.keys() == adapter.keys()
        for name, values in dequantize_adapter(stored.tensors).items():
            assert torch.equal(restored[name], values)
            error = relative_l2(values, adapter[name])
            assert error == pytest.approx(stored.relative_errors[name], rel=1e-3)
            assert 0 < error < LIMITS[scheme]
        assert stored.metadata["quantization"] == scheme
        assert float(stored.metadata["quantization_error"]) == pytest.approx(
            max(stored.relative_errors.values()), rel=0.01
        )

    @pytest.mark.parametrize("scheme", SCHEMES)
    def test_half_the_size_at_the_size_of_the_real_model(self, scheme):
        bf16 = {
            "x.lora_A.weight": random_tensor("a", (16, 2048), seed=0, std=0.02).bfloat16(),
            "x.lora_B.weight": random_tensor("b", (8192, 16), seed=0, std=1e-4).bfloat16(),
        }
        stored = quantize_adapter(bf16, scheme)
        size, before = (sum(t.nbytes for t in tensors.values()) for tensors in (stored.tensors, bf16))
        assert 0.5 < size / before < 0.57
        assert max(stored.relative_errors.values()) < LIMITS[scheme]

    def test_it_acts_like_the_original(self, dit, adapter):
        load_adapter(dit, adapter, SPEC, name="original")
        load_adapter(dit, dequantize_adapter(quantize_adapter(adapter, "int8").tensors), SPEC, name="stored")
        activate(dit, {})
        base = run(dit)
        activate(dit, {"original": 1.0})
        expected = run(dit)
        activate(dit, {"stored": 1.0})
        assert 0 < relative_l2(run(dit) - base, expected - base) < 0.02

    def test_zeros_and_other_tensors_are_kept(self):
        tensors = {"x.lora_B.weight": torch.zeros(8, 4), "steps": torch.tensor(1000)}
        stored = quantize_adapter(tensors, "fp8")
        assert stored.relative_errors == {"x.lora_B.weight": 0.0}
        restored = dequantize_adapter(stored.tensors)
        assert all(torch.equal(restored[name], value) for name, value in tensors.items())

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda t: t.pop("x.scale"), "codes without scales"),
            (lambda t: t.pop("x.quantized"), "scales without codes"),
            (lambda t: t.update({"x.scale": torch.ones(4)}), r"scales \[4\]"),
            (lambda t: t.update({"x.quantized": torch.ones(4, 8)}), "torch.float32"),
        ],
    )
    def test_damaged_files_are_refused(self, change, message):
        tensors = dict(quantize_adapter({"x": torch.randn(4, 8)}, "int8").tensors)
        change(tensors)
        with pytest.raises(AdapterMismatch, match=message):
            dequantize_adapter(tensors)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize(("scheme", "backend"), [("fp8", "scaled_mm"), ("int8", "int_mm")])
def test_kernels_of_the_gpu(scheme, backend):
    if torch.cuda.get_device_capability() < (9, 0):
        pytest.skip("rowwise FP8 needs compute capability 9.0")
    assert check_backend("cuda", scheme) == backend
    linear = nn.Linear(2048, 8192, bias=False, device="cuda", dtype=torch.bfloat16)
    x = torch.randn(1, 20000, 2048, device="cuda", dtype=torch.bfloat16)
    expected = QuantizedLinear.from_linear(linear, scheme)(x)
    got = QuantizedLinear.from_linear(linear, scheme, backend=backend)(x)
    assert got.dtype == torch.bfloat16
    assert 0 < relative_l2(got, expected) < LIMITS[scheme]
