"""Adapters in other programs' layouts: those programs load them and compute the same, and reading back is bitwise."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from diffusers import CosmosTransformer3DModel
from peft import LoraConfig, PeftModel
from safetensors.torch import load_file, save_file

from benchmarks.golden_set import build_dit, relative_l2, run_dit
from cosmos_core.adapter_export import ExportFormat, export_adapter
from cosmos_core.adapter_extract import extract_adapter, import_adapter
from cosmos_core.adapter_file import DIFFUSERS_METADATA_KEY, AdapterKind, read_adapter
from cosmos_core.adapter_manifest import read_header_metadata, read_manifest
from cosmos_core.adapter_names import to_diffusers_module
from cosmos_core.architecture import architecture_from_reference
from cosmos_core.errors import AdapterMismatch, BadRequest
from cosmos_core.lora_state_dict import lora_tensors

GOLDEN = Path(__file__).parents[1] / "golden"
FP32 = GOLDEN / "lora/lora_fp32_net_only.pt"
SUBSET = GOLDEN / "lora/subset_lora_tensors.safetensors"
IO = load_file(GOLDEN / "lora/io.safetensors")
ARCHITECTURE = architecture_from_reference(
    json.loads((GOLDEN / "lora/manifest.json").read_text())["dit_constructor_kwargs"]
)


@pytest.fixture(params=[FP32, GOLDEN / "lora/iter_000001000.pt"], ids=["float32", "bfloat16"])
def extracted(request, tmp_path) -> Path:
    extract_adapter(request.param, tmp_path / "rain.safetensors", alpha=8)
    return tmp_path / "rain.safetensors"


def destination(folder: Path, layout: ExportFormat) -> Path:
    return folder / "peft" if layout is ExportFormat.PEFT else folder / "diffusers.safetensors"


@pytest.mark.parametrize("layout", ExportFormat)
class TestRoundTrip:
    def test_gives_the_same_file_again(self, extracted, tmp_path, layout):
        written = export_adapter(read_adapter(extracted), destination(tmp_path, layout), layout)
        stored = read_adapter(written)
        assert stored.kind is {"peft": AdapterKind.PEFT, "diffusers": AdapterKind.DIFFUSERS}[layout]
        assert stored.manifest == read_manifest(extracted)
        import_adapter(written, tmp_path / "back.safetensors")
        assert (tmp_path / "back.safetensors").read_bytes() == extracted.read_bytes()

    def test_of_a_subset_without_a_manifest(self, tmp_path, layout):
        bare = read_adapter(SUBSET)
        with pytest.raises(AdapterMismatch, match="does not say the alpha"):
            export_adapter(bare, destination(tmp_path, layout), layout)
        written = export_adapter(bare, destination(tmp_path, layout), layout, alpha=3)
        stored = read_adapter(written)
        assert stored.spec().scale == 1
        assert set(stored.spec().targets) == {"self_attn.q_proj", "self_attn.output_proj", "mlp.layer2"}
        assert stored.tensors.keys() == bare.tensors.keys()
        assert all(torch.equal(stored.tensors[name], bare.tensors[name]) for name in bare.tensors)

    def test_nothing_is_overwritten_unasked(self, extracted, tmp_path, layout):
        stored, out = read_adapter(extracted), destination(tmp_path, layout)
        export_adapter(stored, out, layout)
        with pytest.raises(BadRequest, match="is there already"):
            export_adapter(stored, out, layout)
        export_adapter(stored, out, layout, overwrite=True)

    def test_a_declaration_cannot_contradict_the_manifest(self, extracted, tmp_path, layout):
        with pytest.raises(AdapterMismatch, match="declared alpha"):
            export_adapter(read_adapter(extracted), destination(tmp_path, layout), layout, alpha=16)


class TestPeft:
    @pytest.fixture
    def folder(self, tmp_path) -> Path:
        return export_adapter(read_adapter(FP32), tmp_path / "peft", ExportFormat.PEFT, alpha=8)

    def test_peft_loads_it_and_computes_the_same(self, folder):
        dit = build_dit(ARCHITECTURE, load_file(GOLDEN / "pipeline/dit_state_dict.safetensors"), torch.float32)
        model = PeftModel.from_pretrained(dit, str(folder))
        assert relative_l2(run_dit(model.base_model.model, IO), IO["out.fp32_checkpoint"]) < 2e-6

    def test_a_folder_that_peft_wrote(self, folder, tmp_path):
        dit = build_dit(ARCHITECTURE, load_file(GOLDEN / "pipeline/dit_state_dict.safetensors"), torch.float32)
        PeftModel.from_pretrained(dit, str(folder)).save_pretrained(str(tmp_path / "theirs"))
        config = json.loads((tmp_path / "theirs/adapter_config.json").read_text())
        assert config.keys() >= LoraConfig().to_dict().keys() - {"runtime_config"}
        stored = read_adapter(tmp_path / "theirs")
        assert (stored.manifest.rank, stored.manifest.alpha, stored.manifest.created_by) == (4, 8.0, None)
        expected = lora_tensors(torch.load(FP32, weights_only=True))
        assert all(torch.equal(stored.tensors[name], expected[name]) for name in expected)
        # Its weights file alone means the folder, which knows alpha.
        assert read_adapter(tmp_path / "theirs/adapter_model.safetensors").kind is AdapterKind.PEFT
        manifest = import_adapter(tmp_path / "theirs", tmp_path / "ours.safetensors", base_sha256="ab" * 32)
        assert (manifest.source_name, manifest.base_sha256, manifest.iteration) == ("theirs", "ab" * 32, None)
        assert len(manifest.target_modules) == 6

    @pytest.mark.parametrize(
        "option",
        [
            {"use_rslora": True},
            {"use_dora": True},
            {"rank_pattern": {"q_proj": 8}},
            {"bias": "all"},
            {"init_lora_weights": "pissa"},
            {"modules_to_save": ["final_layer"]},
        ],
        ids=lambda option: next(iter(option)),
    )
    def test_what_is_not_plain_lora_is_refused(self, folder, option):
        path = folder / "adapter_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | option))
        with pytest.raises(AdapterMismatch, match=f"not plain LoRA: got {next(iter(option))}"):
            read_adapter(folder)

    def test_other_configurations_are_refused(self, folder):
        path = folder / "adapter_config.json"
        config = json.loads(path.read_text())
        for content, message in (
            (json.dumps(config | {"peft_type": "LOHA"}), "no LoRA adapter: got LOHA"),
            (json.dumps(config | {"lora_alpha": None}), "does not say rank and alpha"),
            (json.dumps(config | {"r": 8}), r"manifest .* not that of its tensors|disagree"),
            ("[]", "no PEFT configuration"),
            ("{", "no JSON"),
        ):
            path.write_text(content)
            with pytest.raises(AdapterMismatch, match=message):
                read_adapter(folder)

    def test_a_changed_alpha_is_noticed(self, extracted, tmp_path):
        folder = export_adapter(read_adapter(extracted), tmp_path / "p", ExportFormat.PEFT)
        path = folder / "adapter_config.json"
        path.write_text(path.read_text().replace('"lora_alpha": 8', '"lora_alpha": 32'))
        with pytest.raises(AdapterMismatch, match="disagree: got rank 4, alpha 32, expected rank 4, alpha 8"):
            read_adapter(folder)

    def test_a_folder_for_peft_is_no_file(self, extracted, tmp_path):
        with pytest.raises(BadRequest, match="is a folder"):
            export_adapter(read_adapter(extracted), tmp_path / "x.safetensors", ExportFormat.PEFT)


class TestDiffusers:
    @pytest.fixture
    def file(self, tmp_path) -> Path:
        return export_adapter(read_adapter(FP32), tmp_path / "d.safetensors", ExportFormat.DIFFUSERS, alpha=8)

    def test_names(self, file):
        names = set(load_file(file))
        prefix = "transformer.transformer_blocks.1"
        for layer in (
            *(f"attn{n}.{projection}" for n in (1, 2) for projection in ("to_q", "to_k", "to_v", "to_out.0")),
            "ff.net.0.proj",
            "ff.net.2",
        ):
            assert {f"{prefix}.{layer}.lora_A.weight", f"{prefix}.{layer}.lora_B.weight"} <= names
        assert len(names) == 40
        native = torch.load(FP32, weights_only=True)
        for ours, theirs in (("self_attn.k_proj", "attn1.to_k"), ("cross_attn.output_proj", "attn2.to_out.0")):
            assert torch.equal(
                load_file(file)[f"{prefix}.{theirs}.lora_A.weight"],
                native[f"net.blocks.1.{ours}.lora_A.default.weight"],
            )

    def test_diffusers_loads_it_with_its_rank_and_alpha(self, file):
        model = CosmosTransformer3DModel(
            in_channels=17,
            out_channels=16,
            num_attention_heads=2,
            attention_head_dim=32,
            num_layers=2,
            text_embed_dim=64,
            adaln_lora_dim=16,
            patch_size=(1, 2, 2),
            extra_pos_embed_type=None,
        )
        # Without this diffusers does not look for the metadata, and takes alpha to be the rank.
        model.load_lora_adapter(file, prefix="transformer", use_safetensors=True)
        stored = read_adapter(file)
        for module in stored.modules:
            layer = model.get_submodule(to_diffusers_module(module))
            (name,) = layer.lora_A
            assert torch.equal(layer.lora_A[name].weight, stored.tensors[f"{module}.lora_A"])
            assert torch.equal(layer.lora_B[name].weight, stored.tensors[f"{module}.lora_B"])
            assert layer.scaling[name] == 2.0

    def test_a_file_of_diffusers_without_our_manifest(self, file, tmp_path):
        tensors, metadata = load_file(file), read_header_metadata(file)
        theirs = tmp_path / "theirs.safetensors"
        save_file(tensors, theirs, {DIFFUSERS_METADATA_KEY: metadata[DIFFUSERS_METADATA_KEY]})
        manifest = read_adapter(theirs).manifest
        assert (manifest.rank, manifest.alpha, len(manifest.target_modules)) == (4, 8.0, 6)
        save_file(tensors, theirs)
        assert read_adapter(theirs).manifest is None
        with pytest.raises(AdapterMismatch, match="does not say the alpha"):
            import_adapter(theirs, tmp_path / "x.safetensors")
        assert import_adapter(theirs, tmp_path / "x.safetensors", alpha=8).alpha == 8

    @pytest.mark.parametrize(
        ("name", "message"),
        [
            ("transformer.transformer_blocks.0.attn1.to_q.alpha", "Unexpected keys in regular model"),
            (
                "transformer.transformer_blocks.0.attn3.to_q.lora_A.weight",
                "No module named 'transformer_blocks.0.attn3",
            ),
            ("text_encoder.layers.0.q.lora_A.weight", "No module named 'text_encoder.layers.0.q' found for LoRA"),
        ],
    )
    def test_names_without_a_place_are_refused(self, file, tmp_path, name, message):
        save_file(load_file(file) | {name: torch.ones(4, 4)}, tmp_path / "x.safetensors")
        with pytest.raises(AdapterMismatch, match=message):
            read_adapter(tmp_path / "x.safetensors")

    def test_layers_without_a_name_there_are_refused(self):
        with pytest.raises(AdapterMismatch, match=r"No module named 't_embedder.1.linear_1' found for LoRA"):
            to_diffusers_module("t_embedder.1.linear_1")


def test_a_training_checkpoint_is_extracted_not_imported(tmp_path):
    with pytest.raises(AdapterMismatch, match="Extract it instead"):
        import_adapter(FP32, tmp_path / "x.safetensors", alpha=8)
