"""What each kind of file does when it is loaded as an adapter: exactly what was declared, or a message that says why.

Every case goes through files, the way a worker takes them, and with merged as well as unmerged adapters. The words are
those that users of the reference know, with the names that stand in the file.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from benchmarks.golden_set import build_dit, relative_l2, run_dit
from cosmos_core.adapter_extract import extract_adapter
from cosmos_core.adapter_file import read_adapter
from cosmos_core.adapter_set import AdapterSet
from cosmos_core.architecture import architecture_from_reference
from cosmos_core.checkpoint import load_dit
from cosmos_core.dit import DiT
from cosmos_core.errors import AdapterMismatch, CheckpointMismatch, CrossroadsError

GOLDEN = Path(__file__).parents[1] / "golden"
MANIFEST = json.loads((GOLDEN / "lora/manifest.json").read_text())
ARCHITECTURE = architecture_from_reference(MANIFEST["dit_constructor_kwargs"])
IO = load_file(GOLDEN / "lora/io.safetensors")
SIX = "q_proj,k_proj,v_proj,output_proj,mlp.layer1,mlp.layer2"
Q_PROJ = "blocks.0.self_attn.q_proj"

StateDict = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def base() -> StateDict:
    return load_file(GOLDEN / "pipeline/dit_state_dict.safetensors")


@pytest.fixture(scope="module")
def live() -> StateDict:
    """A training checkpoint in float32, on the published base: rank 4, alpha 8, the six targets."""
    return torch.load(GOLDEN / "lora/lora_fp32_net_only.pt", weights_only=True)


@pytest.fixture(params=[True, False], ids=["merged", "unmerged"])
def adapters(base, request) -> AdapterSet:
    return AdapterSet(build_dit(ARCHITECTURE, base, torch.float32), merge=request.param)


def load(adapters: AdapterSet, path: Path, *, rank=4, alpha=8.0, targets=SIX, ema=False, source="default") -> None:
    stored = read_adapter(path, ema=ema, source_adapter=source)
    adapters.add("default", stored.tensors, stored.spec(rank=rank, alpha=alpha, target_modules=targets))
    adapters.use({"default": 1.0})


def written(folder: Path, state_dict: StateDict, name: str = "iter_000001000.pt") -> Path:
    torch.save({key: value.clone() for key, value in state_dict.items()}, folder / name)
    return folder / name


def renamed(state_dict: StateDict, old: str, new: str) -> StateDict:
    return {name.replace(old, new): value for name, value in state_dict.items()}


def without(state_dict: StateDict, part: str) -> StateDict:
    return {name: value for name, value in state_dict.items() if part not in name}


def as_base(state_dict: StateDict) -> StateDict:
    return renamed(without(state_dict, "lora_"), ".base_layer", "")


def with_ema(state_dict: StateDict) -> StateDict:
    """As training writes it with EMA on; the averaged adapter is another one."""
    average = {
        name.replace("net.", "net_ema."): value * 0.5 if "lora_" in name else value
        for name, value in state_dict.items()
    }
    return {**state_dict, **average}


def with_third_block(state_dict: StateDict) -> StateDict:
    return {**state_dict, **{n.replace("blocks.1.", "blocks.2."): v for n, v in state_dict.items() if "blocks.1." in n}}


def strip_prefix(state_dict: StateDict) -> StateDict:
    return {name.removeprefix("net."): value for name, value in state_dict.items()}


LOADED = {
    "matched": (lambda s: s, {}),
    "matched with EMA keys": (with_ema, {}),
    "targets with spaces": (lambda s: s, {"targets": " q_proj, k_proj ,v_proj, output_proj,mlp.layer1, mlp.layer2 "}),
    "no prefix": (strip_prefix, {}),
    "EMA only, asked for": (lambda s: renamed(s, "net.", "net_ema."), {"ema": True}),
    "another name, declared": (lambda s: renamed(s, ".default.", ".rain."), {"source": "rain"}),
    "rank from the shapes": (lambda s: s, {"rank": None}),
}


@pytest.mark.parametrize("case", LOADED)
def test_loads_exactly(adapters, live, tmp_path, case):
    change, declared = LOADED[case]
    load(adapters, written(tmp_path, change(live)), **declared)
    assert adapters.parameter_counts() == {"default": 13312}
    assert relative_l2(run_dit(adapters.dit, IO), IO["out.fp32_checkpoint"]) < 2e-6


def test_the_average_is_another_adapter(adapters, live, tmp_path):
    path = written(tmp_path, with_ema(live))
    load(adapters, path, ema=True)
    difference = relative_l2(run_dit(adapters.dit, IO), IO["out.fp32_checkpoint"])
    assert difference > 1e-3


REFUSED: dict[str, tuple[Callable[[StateDict], StateDict], dict[str, object], list[str]]] = {
    "rank": (
        lambda s: s,
        {"rank": 16},
        [
            "size mismatch for blocks.0.cross_attn.k_proj.lora_A.default.weight and 39 more",
            "got (4, 64), expected (16, 64) for rank 16",
            "The file's rank is 4: declare it with the alpha that it was trained with",
        ],
    ),
    "too few targets": (
        lambda s: s,
        {"targets": "q_proj,v_proj,output_proj,mlp.layer1,mlp.layer2"},
        [
            "Unexpected keys in regular model: ['blocks.0.cross_attn.k_proj.lora_A.default.weight', ",
            "... 4 more]",
            "No module named 'blocks.0.cross_attn.k_proj' found for LoRA",
            "got 8 unexpected, expected 32 tensors",
            "declare the target modules that it was trained with",
        ],
    ),
    "too many targets": (
        lambda s: s,
        {"targets": SIX + ",linear_1"},
        [
            "Missing keys in regular model: ['t_embedder.1.linear_1.lora_A.default.weight', "
            "'t_embedder.1.linear_1.lora_B.default.weight']",
            "got 2 missing, expected 42 tensors",
            "declare the target modules that it was trained with",
        ],
    ),
    "targets that match nothing": (
        lambda s: s,
        {"targets": "to_q,q_proj"},
        [
            "No module named 'to_q' found for LoRA",
            "got to_q, expected suffixes of module names",
            "Declare the target modules of the training configuration",
        ],
    ),
    "base checkpoint": (
        as_base,
        {},
        [
            "Missing keys in regular model: ['blocks.0.cross_attn.k_proj.lora_A.default.weight', ",
            "... 36 more]",
            "expected keys with lora_A and lora_B",
            "give the file that the LoRA training wrote",
        ],
    ),
    "EMA only": (
        lambda s: renamed(s, "net.", "net_ema."),
        {},
        [
            "Missing keys in regular model: ['net.blocks.0.self_attn.q_proj.lora_A.default.weight', ",
            "expected keys that start with net.",
            "Ask for the EMA network (ema on)",
        ],
    ),
    "EMA asked for, none there": (
        lambda s: s,
        {"ema": True},
        [
            "Missing keys in regular model: ['net_ema.blocks.0.self_attn.q_proj.lora_A.default.weight', ",
            "Ask for the live network (ema off)",
        ],
    ),
    "another adapter name": (
        lambda s: renamed(s, ".default.", ".rain."),
        {},
        [
            "Missing keys in regular model: ['blocks.0.self_attn.q_proj.lora_A.default.weight', ",
            "Unexpected keys in regular model: ['blocks.0.self_attn.q_proj.lora_A.rain.weight', ",
            "got rain, expected default",
            "source_adapter",
        ],
    ),
    "some lora_B missing": (
        lambda s: without(without(s, "0.self_attn.q_proj.lora_B"), "1.mlp.layer2.lora_B"),
        {},
        [
            "Missing keys in regular model: ['blocks.0.self_attn.q_proj.lora_B.default.weight', "
            "'blocks.1.mlp.layer2.lora_B.default.weight']",
            "got 2 missing, expected 40 tensors",
            "The file is damaged",
        ],
    ),
    "extra blocks": (
        with_third_block,
        {},
        [
            "Unexpected keys in regular model: ['blocks.2.cross_attn.k_proj.lora_A.default.weight', ",
            "No module named 'blocks.2.cross_attn.k_proj' found for LoRA",
            "got 20 unexpected, expected 40 tensors",
            "another number of blocks",
        ],
    ),
    "blocks missing": (
        lambda s: without(s, "blocks.1."),
        {},
        ["Missing keys in regular model: ['blocks.1.", "got 20 missing", "another number of blocks"],
    ),
    "prefix on some names only": (
        lambda s: {**s, f"{Q_PROJ}.lora_A.default.weight": s[f"net.{Q_PROJ}.lora_A.default.weight"]},
        {},
        ["keys without a prefix next to prefixed ones", f"got {Q_PROJ}.lora_A.default.weight", "expected net."],
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_is_refused_with_the_reason(adapters, base, live, tmp_path, case):
    change, declared, words = REFUSED[case]
    with pytest.raises(AdapterMismatch) as caught:
        load(adapters, written(tmp_path, change(live)), **declared)
    for expected in words:
        assert expected in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1000
    # Nothing of it is left behind.
    assert (adapters.names, adapters.active) == ((), {})
    assert torch.equal(run_dit(adapters.dit, IO), run_dit(build_dit(ARCHITECTURE, base, torch.float32), IO))


class TestAlpha:
    """A training checkpoint cannot contradict a wrong alpha; a file with a manifest can."""

    @pytest.fixture
    def extracted(self, live, tmp_path) -> Path:
        extract_adapter(written(tmp_path, live), tmp_path / "rain.safetensors", alpha=8)
        return tmp_path / "rain.safetensors"

    def test_of_a_training_checkpoint_has_to_be_declared(self, adapters, live, tmp_path):
        with pytest.raises(AdapterMismatch, match=r"does not say the alpha.*Declare the value.*extract"):
            load(adapters, written(tmp_path, live), alpha=None)

    def test_four_times_too_large_shows_in_the_norms_only(self, adapters, live, tmp_path):
        stored = read_adapter(written(tmp_path, live))
        for name, alpha in (("right", 8.0), ("wrong", 32.0)):
            adapters.add(name, stored.tensors, stored.spec(alpha=alpha))
        right, wrong = adapters.effective_norms("right"), adapters.effective_norms("wrong")
        assert wrong == pytest.approx({module: 4 * norm for module, norm in right.items()})

    def test_of_the_manifest_is_used(self, adapters, extracted):
        load(adapters, extracted, rank=None, alpha=None, targets="")
        assert relative_l2(run_dit(adapters.dit, IO), IO["out.fp32_checkpoint"]) < 2e-6

    @pytest.mark.parametrize(
        ("declared", "message"),
        [
            ({"alpha": 32.0}, "declared alpha is not the one in the manifest.*got alpha 32, expected alpha 8.*Leave"),
            ({"rank": 16}, "declared rank is not the one in the manifest.*got rank 16, expected rank 4"),
            ({"targets": "q_proj,k_proj"}, "No module named 'blocks.0.cross_attn.output_proj' found for LoRA"),
        ],
    )
    def test_rank_and_targets_cannot_contradict_the_manifest(self, adapters, extracted, declared, message):
        with pytest.raises(AdapterMismatch, match=message):
            load(adapters, extracted, **declared)
        assert adapters.names == ()


class TestLoraCheckpointWithoutLora:
    def test_is_refused_as_a_base(self, live, tmp_path):
        with pytest.raises(CheckpointMismatch) as caught:
            load_dit(written(tmp_path, live), ARCHITECTURE)
        message = str(caught.value)
        assert "Unexpected keys in regular model: ['blocks.0.self_attn.q_proj.base_layer.weight', " in message
        assert "expected base transformer" in message
        assert "Declare it as an adapter with its rank and alpha" in message

    def test_gives_its_base_when_asked_to(self, base, live, tmp_path):
        dit: DiT = load_dit(written(tmp_path, live), ARCHITECTURE, dtype=torch.float32, lora_base=True)
        assert torch.equal(dit.get_submodule(Q_PROJ).weight, base[f"{Q_PROJ}.weight"])

    def test_an_adapter_alone_is_no_base(self, live, tmp_path):
        alone = {name: value for name, value in live.items() if "lora_" in name}
        with pytest.raises(CrossroadsError, match="Give the base checkpoint here and declare this file as an adapter"):
            load_dit(written(tmp_path, alone), ARCHITECTURE)
