"""Adapters against the reference, the arithmetic of several adapters, and every way in which a file can be wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from benchmarks.golden_set import build_dit, relative_l2, run_dit
from cosmos_core.architecture import architecture_from_reference, model_architecture
from cosmos_core.checkpoint import base_network
from cosmos_core.dit import DiT
from cosmos_core.errors import AdapterMismatch, BadRequest
from cosmos_core.lora import (
    activate,
    active_strengths,
    adapter_shapes,
    differing_base_weights,
    effective_norms,
    load_adapter,
    loaded_adapters,
    lora_parameter_counts,
    unload_adapter,
)
from cosmos_core.lora_state_dict import LoraSpec, lora_tensors

GOLDEN = Path(__file__).parents[1] / "golden"
MANIFEST = json.loads((GOLDEN / "lora/manifest.json").read_text())
ARCHITECTURE = architecture_from_reference(MANIFEST["dit_constructor_kwargs"])
SPEC = LoraSpec(rank=4, alpha=8)
SUBSET = LoraSpec(rank=3, alpha=3, target_modules="self_attn.q_proj, self_attn.output_proj, mlp.layer2")
IO = load_file(GOLDEN / "lora/io.safetensors")
Q_PROJ = "blocks.0.self_attn.q_proj"


@pytest.fixture(scope="module")
def base() -> dict[str, torch.Tensor]:
    return load_file(GOLDEN / "pipeline/dit_state_dict.safetensors")


@pytest.fixture(scope="module")
def training() -> dict[str, torch.Tensor]:
    return torch.load(GOLDEN / "lora/iter_000001000.pt", weights_only=True)


@pytest.fixture(scope="module")
def fp32() -> dict[str, torch.Tensor]:
    return torch.load(GOLDEN / "lora/lora_fp32_net_only.pt", weights_only=True)


@pytest.fixture(scope="module")
def subset() -> dict[str, torch.Tensor]:
    return load_file(GOLDEN / "lora/subset_lora_tensors.safetensors")


@pytest.fixture
def dit(base) -> DiT:
    return build_dit(ARCHITECTURE, base, torch.float32)


def only_lora(state_dict: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: value for name, value in state_dict.items() if "lora_" in name}


class TestAgainstTheReference:
    @pytest.mark.parametrize(("ema", "output"), [(False, "out.net_fp32"), (True, "out.net_ema_fp32")])
    def test_both_networks_of_a_training_checkpoint(self, training, ema, output):
        dit = build_dit(ARCHITECTURE, base_network(training, ema=ema, lora_base=True), torch.float32)
        load_adapter(dit, training, SPEC, ema=ema)
        activate(dit, {"default": 1.0})
        assert relative_l2(run_dit(dit, IO), IO[output]) < 2e-6

    def test_bfloat16(self, training):
        dit = build_dit(ARCHITECTURE, base_network(training, lora_base=True), torch.bfloat16)
        load_adapter(dit, training, SPEC)
        activate(dit, {"default": 1.0})
        assert all(parameter.dtype == torch.bfloat16 for parameter in dit.parameters())
        assert relative_l2(run_dit(dit, IO), IO["out.net_bf16_native"]) < 3e-2

    def test_on_the_published_base(self, dit, fp32):
        assert relative_l2(run_dit(dit, IO), IO["out.base_fp32_no_lora"]) < 2e-6
        load_adapter(dit, fp32, SPEC)
        activate(dit, {"default": 1.0})
        assert relative_l2(run_dit(dit, IO), IO["out.fp32_checkpoint"]) < 2e-6

    def test_a_subset_of_targets(self, dit, subset):
        tensors = load_file(GOLDEN / "lora/subset_io.safetensors")
        load_adapter(dit, subset, SUBSET)
        activate(dit, {"default": 1.0})
        assert relative_l2(run_dit(dit, tensors), tensors["out.fp32"]) < 2e-6

    def test_native_key_names(self, dit, fp32):
        load_adapter(dit, fp32, SPEC)
        names = set(dit.state_dict())
        assert {f"{Q_PROJ}.base_layer.weight", f"{Q_PROJ}.lora_A.default.weight"} <= names
        assert {name.removeprefix("net.") for name in only_lora(fp32)} <= names

    @pytest.mark.parametrize(("size", "rank", "count"), [("2B", 16, 22_937_600), ("14B", 32, 143_917_056)])
    def test_adapter_sizes_of_the_real_models(self, size, rank, count):
        with torch.device("meta"):
            dit = DiT(model_architecture(size).dit)
        shapes = adapter_shapes(dit, LoraSpec(rank=rank, alpha=rank))
        assert sum(rows * columns for rows, columns in shapes.values()) == count


class TestSeveralAdapters:
    def test_zero_strength_is_the_base_bit_for_bit(self, dit, fp32, subset):
        golden = run_dit(dit, IO)
        load_adapter(dit, fp32, SPEC, name="a")
        load_adapter(dit, subset, SUBSET, name="b")
        assert torch.equal(run_dit(dit, IO), golden)
        activate(dit, {"a": 1.0})
        assert not torch.equal(run_dit(dit, IO), golden)
        for off in ({}, {"a": 0.0}, {"a": 0, "b": 0}):
            activate(dit, off)
            assert active_strengths(dit) == {}
            assert torch.equal(run_dit(dit, IO), golden)

    def test_forward_equals_merged_weights(self, base, fp32, subset):
        dit = build_dit(ARCHITECTURE, base, torch.float32)
        load_adapter(dit, fp32, SPEC, name="a")
        load_adapter(dit, subset, SUBSET, name="b")
        activate(dit, {"a": 0.5, "b": -2.0})
        merged = dict(base)
        for state_dict, scale in ((fp32, 0.5 * SPEC.scale), (subset, -2.0 * SUBSET.scale)):
            tensors = lora_tensors(state_dict)
            for module in {name.rpartition(".")[0] for name in tensors}:
                merged[f"{module}.weight"] = merged[f"{module}.weight"] + scale * (
                    tensors[f"{module}.lora_B"] @ tensors[f"{module}.lora_A"]
                )
        expected = run_dit(build_dit(ARCHITECTURE, merged, torch.float32), IO)
        assert relative_l2(run_dit(dit, IO), expected) < 2e-6

    def test_activation_is_exactly_what_was_asked_for(self, dit, fp32, subset):
        load_adapter(dit, fp32, SPEC, name="a")
        activate(dit, {"a": 0.25})
        load_adapter(dit, subset, SUBSET, name="b")
        assert active_strengths(dit) == {"a": 0.25}
        activate(dit, {"b": 3.0})
        assert active_strengths(dit) == {"b": 3.0}
        assert not any(parameter.requires_grad for parameter in dit.parameters())

    def test_switching_back_gives_the_same_bits(self, dit, fp32, subset):
        load_adapter(dit, fp32, SPEC, name="a")
        load_adapter(dit, subset, SUBSET, name="b")
        activate(dit, {"a": 1.0})
        first = run_dit(dit, IO)
        activate(dit, {"a": 0.5, "b": 1.0})
        activate(dit, {"a": 1.0})
        assert torch.equal(run_dit(dit, IO), first)

    def test_unloading_leaves_the_others(self, dit, fp32, subset):
        golden = run_dit(dit, IO)
        load_adapter(dit, fp32, SPEC, name="a")
        load_adapter(dit, subset, SUBSET, name="b")
        activate(dit, {"a": 1.0, "b": 0.5})
        unload_adapter(dit, "a")
        assert (loaded_adapters(dit), active_strengths(dit)) == (["b"], {"b": 0.5})
        unload_adapter(dit, "b")
        assert loaded_adapters(dit) == []
        assert torch.equal(run_dit(dit, IO), golden)
        load_adapter(dit, fp32, SPEC, name="a")
        assert loaded_adapters(dit) == ["a"]

    def test_unknown_names_and_strengths_are_refused(self, dit, fp32):
        load_adapter(dit, fp32, SPEC, name="rain")
        with pytest.raises(AdapterMismatch, match="got snow, expected rain"):
            activate(dit, {"snow": 1.0})
        with pytest.raises(BadRequest, match="finite"):
            activate(dit, {"rain": float("nan")})
        with pytest.raises(AdapterMismatch, match="snow"):
            effective_norms(dit, "snow")

    @pytest.mark.parametrize("name", ["a.b", "", "a"])
    def test_taken_and_unusable_names_are_refused(self, dit, fp32, name):
        load_adapter(dit, fp32, SPEC, name="a")
        with pytest.raises(AdapterMismatch, match="Choose another name"):
            load_adapter(dit, fp32, SPEC, name=name)

    def test_counts_and_norms(self, dit, fp32, subset):
        load_adapter(dit, fp32, SPEC, name="a")
        load_adapter(dit, subset, SUBSET, name="b")
        assert lora_parameter_counts(dit) == {"a": 13312, "b": 3456}
        norms, tensors = effective_norms(dit, "a"), lora_tensors(fp32)
        assert len(norms) == 20
        for module, norm in norms.items():
            delta = SPEC.scale * (tensors[f"{module}.lora_B"] @ tensors[f"{module}.lora_A"])
            assert norm == pytest.approx(float(delta.norm()), rel=1e-5)

    def test_dtype_is_the_callers_choice(self, dit, training):
        load_adapter(dit, training, SPEC, name="a")
        load_adapter(dit, training, SPEC, name="b", dtype=torch.bfloat16)
        weights = dit.get_submodule(Q_PROJ).lora_A
        assert (weights["a"].weight.dtype, weights["b"].weight.dtype) == (torch.float32, torch.bfloat16)


class TestAcceptedFiles:
    @pytest.mark.parametrize(
        "rename",
        [
            lambda name: name.removeprefix("net."),
            lambda name: name.replace(".default.", "."),
            lambda name: "base_model.model." + name.removeprefix("net.").replace(".default.", "."),
        ],
        ids=["no prefix", "no adapter name", "PEFT export"],
    )
    def test_adapter_only_files(self, dit, fp32, rename):
        load_adapter(dit, {rename(name): value for name, value in only_lora(fp32).items()}, SPEC)
        activate(dit, {"default": 1.0})
        assert relative_l2(run_dit(dit, IO), IO["out.fp32_checkpoint"]) < 2e-6

    def test_full_checkpoint_without_prefix(self, dit, fp32):
        load_adapter(dit, {name.removeprefix("net."): value for name, value in fp32.items()}, SPEC)
        activate(dit, {"default": 1.0})
        assert relative_l2(run_dit(dit, IO), IO["out.fp32_checkpoint"]) < 2e-6

    @pytest.mark.parametrize(
        "targets",
        [
            "q_proj, k_proj ,v_proj,output_proj, mlp.layer1,mlp.layer2",
            ["q_proj", "k_proj", "v_proj", "output_proj", "mlp.layer1", "mlp.layer2"],
        ],
    )
    def test_target_lists_with_spaces_and_as_sequences(self, dit, fp32, targets):
        load_adapter(dit, fp32, LoraSpec(rank=4, alpha=8, target_modules=targets))
        assert lora_parameter_counts(dit) == {"default": 13312}

    def test_another_adapter_name_when_declared(self, dit, fp32):
        renamed = {name.replace(".default.", ".rain."): value for name, value in fp32.items()}
        load_adapter(dit, renamed, SPEC, source_adapter="rain")
        assert lora_parameter_counts(dit) == {"default": 13312}

    def test_the_base_it_was_trained_on_is_recognised(self, dit, fp32, training):
        assert differing_base_weights(dit, fp32) == []
        assert differing_base_weights(dit, only_lora(fp32)) == []
        # The checkpoint's base weights are rounded to bfloat16, these are not.
        assert Q_PROJ in differing_base_weights(dit, training)
        load_adapter(dit, fp32, SPEC)
        assert differing_base_weights(dit, fp32) == []


def without(state_dict, part):
    return {name: value for name, value in state_dict.items() if part not in name}


def renamed(state_dict, old, new):
    return {name.replace(old, new): value for name, value in state_dict.items()}


WRONG_FILES = {
    "base checkpoint": (lambda s: renamed(without(s, "lora_"), ".base_layer", ""), SPEC, "LoRA training wrote"),
    "rank": (lambda s: s, LoraSpec(rank=16, alpha=16), "The file's rank is 4"),
    "too few targets": (
        lambda s: s,
        LoraSpec(rank=4, alpha=8, target_modules="q_proj,k_proj"),
        r"Unexpected keys in regular model: \['blocks.0.cross_attn.output_proj.lora_A.*got 24 unexpected.*"
        "The file adapts cross_attn.k_proj",
    ),
    "too many targets": (
        lambda s: s,
        LoraSpec(rank=4, alpha=8, target_modules=(*SPEC.targets, "linear_1")),
        "Missing keys in regular model: .'t_embedder.1.linear_1.*2 missing",
    ),
    "targets that match nothing": (lambda s: s, LoraSpec(rank=4, alpha=8, target_modules="to_q"), "to_q"),
    "no targets": (lambda s: s, LoraSpec(rank=4, alpha=8, target_modules=" , "), "match no linear layer"),
    "lora_B missing": (
        lambda s: without(s, "1.cross_attn.q_proj.lora_B"),
        SPEC,
        r"\['blocks.1.cross_attn.q_proj.lora_B.default.weight'\].*1 missing.*has only one of lora_A and lora_B",
    ),
    "another adapter name": (
        lambda s: renamed(s, ".default.", ".rain."),
        SPEC,
        "got rain, expected default.*source_adapter",
    ),
    "more blocks": (
        lambda s: {**s, **renamed({n: v for n, v in s.items() if "blocks.1." in n}, "blocks.1.", "blocks.2.")},
        SPEC,
        "20 unexpected, .*another number of blocks",
    ),
    "fewer blocks": (lambda s: without(s, "blocks.1."), SPEC, "20 missing.*another number of blocks"),
    "EMA only": (lambda s: renamed(s, "net.", "net_ema."), SPEC, r"start with net\..*ema on"),
    "mixed prefixes": (
        lambda s: {**s, "blocks.0.mlp.layer1.weight": s[f"net.{Q_PROJ}.base_layer.weight"]},
        SPEC,
        "next",
    ),
    "DoRA": (
        lambda s: {**s, f"net.{Q_PROJ}.lora_magnitude_vector.default.weight": torch.ones(64)},
        SPEC,
        "unknown kind.*lora_magnitude_vector",
    ),
    "stored alpha": (lambda s: {**s, f"net.{Q_PROJ}.alpha": torch.tensor(8.0)}, SPEC, "unknown kind"),
}


@pytest.mark.parametrize("case", WRONG_FILES)
def test_wrong_files_are_refused_and_change_nothing(dit, fp32, case):
    change, spec, message = WRONG_FILES[case]
    names = list(dit.state_dict())
    with pytest.raises(AdapterMismatch, match=message):
        load_adapter(dit, change(fp32), spec)
    assert list(dit.state_dict()) == names
    assert loaded_adapters(dit) == []


def test_ema_without_an_ema_network_is_refused(dit, fp32):
    with pytest.raises(AdapterMismatch, match=r"start with net_ema\..*ema off"):
        load_adapter(dit, fp32, SPEC, ema=True)


@pytest.mark.parametrize(("rank", "alpha"), [(16, None), (16, 0), (0, 16), (16, float("nan"))])
def test_rank_and_alpha_have_to_be_declared(rank, alpha):
    with pytest.raises(AdapterMismatch, match="do not store alpha"):
        LoraSpec(rank=rank, alpha=alpha)
