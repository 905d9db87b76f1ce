"""Several adapters on one network: merged equals unmerged, mixtures are exact, and the base comes back bit for bit."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from benchmarks.adapters import run as run_benchmark
from benchmarks.golden_set import build_dit, relative_l2, run_dit
from cosmos_core.adapter_export import ExportFormat, export_adapter
from cosmos_core.adapter_extract import extract_adapter
from cosmos_core.adapter_file import read_adapter
from cosmos_core.adapter_merge import Update, concatenated_ranks, merged_weight
from cosmos_core.adapter_origin import adapter_origin
from cosmos_core.adapter_proof import probe_output, prove
from cosmos_core.adapter_set import AdapterSet
from cosmos_core.architecture import architecture_from_reference
from cosmos_core.dit import DiT
from cosmos_core.errors import AdapterMismatch, BadRequest, CheckpointMismatch, CrossroadsError, from_payload
from cosmos_core.hashing import sha256_file
from cosmos_core.lora_state_dict import LoraSpec, lora_tensors
from cosmos_core.protocol import AdapterFile, AdapterStrength, EncodePrompts, GenerateVideo, WorkerSpec
from cosmos_core.quantize import quantize_base
from cosmos_core.serving import Server
from cosmos_core.video2world import Video2World

GOLDEN = Path(__file__).parents[1] / "golden"
ARCHITECTURE = architecture_from_reference(
    json.loads((GOLDEN / "lora/manifest.json").read_text())["dit_constructor_kwargs"]
)
IO = load_file(GOLDEN / "lora/io.safetensors")
RAIN = lora_tensors(torch.load(GOLDEN / "lora/lora_fp32_net_only.pt", weights_only=True))
RAIN_SPEC = LoraSpec(rank=4, alpha=8)
NIGHT = lora_tensors(load_file(GOLDEN / "lora/subset_lora_tensors.safetensors"))
NIGHT_SPEC = LoraSpec(rank=3, alpha=3, target_modules="self_attn.q_proj, self_attn.output_proj, mlp.layer2")
BASE = load_file(GOLDEN / "pipeline/dit_state_dict.safetensors")


def network(dtype: torch.dtype = torch.float32) -> DiT:
    return build_dit(ARCHITECTURE, BASE, dtype)


def filled(dit: DiT, *, merge: bool = True, keep_base: str = "device") -> AdapterSet:
    adapters = AdapterSet(dit, merge=merge, keep_base=keep_base)
    adapters.add("rain", RAIN, RAIN_SPEC)
    adapters.add("night", NIGHT, NIGHT_SPEC)
    return adapters


def weights(dit: DiT) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in dit.state_dict().items()}


def equal(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


MIXTURES = [{"rain": 1.0}, {"night": 1.0}, {"rain": 0.5, "night": -2.0}, {"rain": 0.0, "night": 0.3}]


class TestMerging:
    @pytest.mark.parametrize(("dtype", "limit"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
    @pytest.mark.parametrize("strengths", MIXTURES)
    def test_merged_equals_unmerged(self, dtype, limit, strengths):
        outputs = []
        for merge in (True, False):
            adapters = filled(network(dtype), merge=merge)
            adapters.use(strengths)
            outputs.append(run_dit(adapters.dit, IO).float())
        assert relative_l2(*outputs) < limit
        assert relative_l2(outputs[0], run_dit(network(dtype), IO).float()) > 2 * relative_l2(*outputs)

    def test_against_the_reference(self):
        adapters = filled(network())
        adapters.use({"rain": 1.0})
        assert relative_l2(run_dit(adapters.dit, IO), IO["out.fp32_checkpoint"]) < 2e-6

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_the_base_comes_back_bit_for_bit(self, dtype):
        adapters = filled(network(dtype))
        base = weights(adapters.dit)
        for strengths in MIXTURES:
            adapters.use(strengths)
            assert not equal(weights(adapters.dit), base)
            adapters.use({"rain": 0.0} if "rain" in strengths else {})
            assert equal(weights(adapters.dit), base)
            assert adapters.active == {}

    def test_equal_strengths_give_equal_bits_whatever_came_before(self):
        adapters = filled(network(torch.bfloat16))
        adapters.use({"rain": 0.7, "night": 0.2})
        first = weights(adapters.dit)
        for strengths in ({"night": 3.0}, {"rain": -1.0}, {"night": 0.2, "rain": 0.7}):
            adapters.use(strengths)
        assert equal(weights(adapters.dit), first)

    def test_only_what_changes_is_computed(self):
        adapters = filled(network())
        assert adapters.use({"rain": 1.0}) is True
        assert adapters.use({"rain": 1.0}) is False
        module = adapters.dit.get_submodule("blocks.0.cross_attn.q_proj")
        version = module.weight._version
        # This adapter does not touch that layer.
        assert adapters.use({"rain": 1.0, "night": 1.0}) is True
        assert module.weight._version == version

    def test_weights_stay_where_they_are(self):
        """Captured graphs and compiled code hold their addresses."""
        adapters = filled(network())
        addresses = {name: value.data_ptr() for name, value in adapters.dit.state_dict().items()}
        adapters.use({"rain": 1.0})
        adapters.use({})
        assert {name: value.data_ptr() for name, value in adapters.dit.state_dict().items()} == addresses

    def test_a_weight_is_rounded_once(self):
        adapters = filled(network(torch.bfloat16))
        adapters.use({"rain": 0.5, "night": -2.0})
        name = "blocks.1.mlp.layer2"
        delta = 0.5 * 2.0 * RAIN[f"{name}.lora_B"].double() @ RAIN[f"{name}.lora_A"].double()
        delta += -2.0 * NIGHT[f"{name}.lora_B"].double() @ NIGHT[f"{name}.lora_A"].double()
        expected = (BASE[f"{name}.weight"].bfloat16().double() + delta).float().bfloat16()
        assert torch.equal(adapters.dit.get_submodule(name).weight, expected)

    def test_memory_is_that_of_the_adapted_layers(self):
        adapters = AdapterSet(network())
        assert adapters.num_bytes == {"adapters": 0, "base": 0}
        adapters.add("night", NIGHT, NIGHT_SPEC)
        adapted = sum(BASE[f"{name.rpartition('.')[0]}.weight"].numel() for name in NIGHT if name.endswith("A"))
        assert adapters.num_bytes == {"adapters": 4 * 3456, "base": 4 * adapted}
        adapters.add("rain", RAIN, RAIN_SPEC)
        adapters.use({"rain": 1.0, "night": 1.0})
        adapters.remove("rain")
        assert adapters.num_bytes == {"adapters": 4 * 3456, "base": 4 * adapted}

    def test_a_switch_that_fails_is_made_whole_by_the_next(self, monkeypatch):
        adapters = filled(network())
        base = weights(adapters.dit)
        calls = []

        def fails_later(*arguments):
            calls.append(arguments)
            if len(calls) == 5:
                raise torch.OutOfMemoryError("no memory")
            return merged_weight(*arguments)

        monkeypatch.setattr("cosmos_core.adapter_merge.merged_weight", fails_later)
        with pytest.raises(torch.OutOfMemoryError):
            adapters.use({"rain": 1.0})
        adapters.use({})
        assert equal(weights(adapters.dit), base)

    @pytest.mark.parametrize("scheme", ["fp8", "int8"])
    def test_quantised_weights_are_not_merged_into(self, scheme):
        dit = network()
        num_parameters = AdapterSet(dit).num_base_parameters()
        quantize_base(dit, scheme, compute="dequantize")
        adapters = AdapterSet(dit)
        with pytest.raises(AdapterMismatch, match=r"merged into the weights of blocks.0.*merge_adapters off"):
            adapters.add("night", NIGHT, NIGHT_SPEC)
        assert adapters.names == ()

        unmerged = filled(dit, merge=False)
        assert unmerged.num_base_parameters() == num_parameters
        rain, _ = prove(unmerged)
        assert rain.probe_difference > 1e-4
        stored = read_adapter(GOLDEN / "lora/iter_000001000.pt")
        assert adapter_origin(stored, unmerged, name="rain")["same_base"] is None

    def test_kept_on_the_host(self):
        adapters = filled(network(), keep_base="host")
        base = weights(adapters.dit)
        adapters.use({"rain": 1.0})
        adapters.use({})
        assert equal(weights(adapters.dit), base)


@pytest.mark.parametrize("ranks", [(1,), (4, 3), (2, 16, 5)])
def test_a_mixture_is_one_adapter_of_concatenated_ranks(ranks):
    generator = torch.Generator().manual_seed(0)
    updates = [
        Update(
            factor,
            torch.randn(rank, 24, generator=generator),
            torch.randn(40, rank, generator=generator),
        )
        for rank, factor in zip(ranks, (0.5, -2.0, 1.25), strict=False)
    ]
    A, B = concatenated_ranks(updates)
    assert (A.shape, B.shape) == ((sum(ranks), 24), (40, sum(ranks)))
    expected = sum(update.factor * update.B.double() @ update.A.double() for update in updates)
    assert torch.allclose(B @ A, expected, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("merge", [True, False], ids=["merged", "unmerged"])
class TestTheSet:
    def test_loading_keeps_what_is_in_use(self, merge):
        adapters = AdapterSet(network(), merge=merge)
        adapters.add("rain", RAIN, RAIN_SPEC)
        adapters.use({"rain": 0.5})
        output = run_dit(adapters.dit, IO)
        adapters.add("night", NIGHT, NIGHT_SPEC)
        assert (adapters.names, adapters.active) == (("rain", "night"), {"rain": 0.5})
        assert torch.equal(run_dit(adapters.dit, IO), output)

    def test_zero_strength_is_the_base_bit_for_bit(self, merge):
        base = run_dit(network(), IO)
        adapters = filled(network(), merge=merge)
        assert torch.equal(run_dit(adapters.dit, IO), base)
        for off in ({}, {"rain": 0.0}, {"rain": 0.0, "night": 0.0}):
            adapters.use({"rain": 1.0, "night": 1.0})
            adapters.use(off)
            assert torch.equal(run_dit(adapters.dit, IO), base)

    def test_removing_leaves_the_others(self, merge):
        adapters = filled(network(), merge=merge)
        adapters.use({"night": 1.0})
        output = run_dit(adapters.dit, IO)
        adapters.use({"rain": 1.0, "night": 1.0})
        adapters.remove("rain")
        assert (adapters.names, adapters.active) == (("night",), {"night": 1.0})
        assert torch.equal(run_dit(adapters.dit, IO), output)
        adapters.remove("night")
        assert torch.equal(run_dit(adapters.dit, IO), run_dit(network(), IO))
        with pytest.raises(AdapterMismatch, match="got night, expected none is loaded"):
            adapters.remove("night")

    def test_counts_and_norms(self, merge):
        adapters = filled(network(), merge=merge)
        assert adapters.parameter_counts() == {"rain": 13312, "night": 3456}
        assert adapters.num_base_parameters() == sum(value.numel() for value in network().parameters())
        norms = adapters.effective_norms("rain")
        assert len(norms) == 20
        for module, norm in norms.items():
            delta = 2.0 * RAIN[f"{module}.lora_B"] @ RAIN[f"{module}.lora_A"]
            assert norm == pytest.approx(float(delta.norm()), rel=1e-5)

    def test_any_name_can_be_used(self, merge):
        """References of the registry, and words that are attributes of PyTorch's modules."""
        adapters = filled(network(), merge=merge)
        adapters.use({"rain": 1.0})
        expected = run_dit(adapters.dit, IO)
        for name in ("its-collision@production", "a.b", "training", "keys"):
            adapters.add(name, RAIN, RAIN_SPEC)
            adapters.use({name: 1.0})
            assert torch.equal(run_dit(adapters.dit, IO), expected)
            adapters.remove(name)

    def test_wrong_requests_change_nothing(self, merge):
        adapters = filled(network(), merge=merge)
        adapters.use({"rain": 1.0})
        output = run_dit(adapters.dit, IO)
        with pytest.raises(AdapterMismatch, match=r"got snow, expected rain \| night"):
            adapters.use({"snow": 1.0})
        with pytest.raises(BadRequest, match="finite"):
            adapters.use({"night": float("inf")})
        for name in ("rain", ""):
            with pytest.raises(AdapterMismatch, match="Choose another name"):
                adapters.add(name, RAIN, RAIN_SPEC)
        with pytest.raises(AdapterMismatch, match="size mismatch for"):
            adapters.add("snow", RAIN, LoraSpec(rank=8, alpha=8))
        assert (adapters.names, adapters.active) == (("rain", "night"), {"rain": 1.0})
        assert torch.equal(run_dit(adapters.dit, IO), output)


@pytest.mark.parametrize("merge", [True, False], ids=["merged", "unmerged"])
class TestProof:
    def test_says_what_every_adapter_does(self, merge):
        adapters = filled(network(), merge=merge)
        adapters.use({"night": 0.5})
        rain, night = prove(adapters)
        assert adapters.active == {"night": 0.5}
        num_base = adapters.num_base_parameters()
        assert (rain.name, rain.rank, rain.alpha, rain.num_parameters) == ("rain", 4, 8, 13312)
        assert rain.ratio == 13312 / (num_base + 13312)
        base = probe_output(network())
        for name, proof in (("rain", rain), ("night", night)):
            adapters.use({name: 1.0})
            assert proof.probe_difference == pytest.approx(relative_l2(probe_output(adapters.dit), base), rel=1e-6)
            assert proof.probe_difference > 1e-4
        record = night.to_record()
        assert json.loads(json.dumps(record, allow_nan=False)) == record
        assert {kind: len(norms) for kind, norms in record["by_layer"].items()} == {
            "self_attn.q_proj": 2,
            "self_attn.output_proj": 2,
            "mlp.layer2": 2,
        }
        assert record["max"] == max(night.norms.values())

    @pytest.mark.parametrize("factor", [0.0, 1e-30], ids=["untrained", "lost in rounding"])
    def test_an_adapter_that_changes_nothing_is_an_error(self, merge, factor):
        adapters = AdapterSet(network(), merge=merge)
        untrained = {name: value * (factor if name.endswith("lora_B") else 1) for name, value in RAIN.items()}
        adapters.add("rain", untrained, RAIN_SPEC)
        adapters.add("night", NIGHT, NIGHT_SPEC)
        with pytest.raises(AdapterMismatch, match=r"rain changes nothing.*differs from the base by 0.*allow_inert"):
            prove(adapters)
        assert adapters.active == {}
        rain, _ = prove(adapters, allow_inert=["rain"])
        assert rain.is_inert

    def test_numbers_that_are_none_are_an_error(self, merge):
        adapters = AdapterSet(network(), merge=merge)
        adapters.add("rain", RAIN | {"blocks.0.mlp.layer1.lora_B": torch.full((256, 4), torch.nan)}, RAIN_SPEC)
        with pytest.raises(AdapterMismatch, match="adapter rain has weights that are not numbers"):
            prove(adapters, allow_inert=["rain"])
        adapters.dit.x_embedder.proj[1].weight.fill_(torch.inf)
        with pytest.raises(CheckpointMismatch, match="base model's answer"):
            prove(adapters)


class TestOrigin:
    def test_base_weights_are_compared(self, tmp_path):
        stored = read_adapter(GOLDEN / "lora/iter_000001000.pt")
        same = adapter_origin(stored, AdapterSet(network()), name="rain")
        # The checkpoint's weights are rounded to bfloat16, the network's are not.
        assert 1e-4 < same["base_distance"] < 4e-3
        assert same["same_base"] is True
        assert same["manifest"] is None
        dit = network()
        dit.blocks[1].mlp.layer1.weight.mul_(1.05)
        assert adapter_origin(stored, AdapterSet(dit), name="rain")["same_base"] is False

    def test_hashes_are_compared(self, tmp_path, caplog):
        adapters = AdapterSet(network())
        extract_adapter(GOLDEN / "lora/iter_000001000.pt", tmp_path / "rain.safetensors", alpha=8)
        stored = read_adapter(tmp_path / "rain.safetensors")
        assert adapter_origin(stored, adapters, name="rain", checkpoint_sha256="ab")["same_base"] is None
        known = stored.manifest.model_copy(update={"base_sha256": "ab", "base_sha256_of": "file"})
        stored = read_adapter(tmp_path / "rain.safetensors").__class__(
            path=stored.path, kind=stored.kind, tensors=stored.tensors, manifest=known
        )
        assert adapter_origin(stored, adapters, name="rain", checkpoint_sha256="ab")["same_base"] is True
        assert adapter_origin(stored, adapters, name="rain", checkpoint_sha256="cd")["same_base"] is False
        assert "adapter rain was trained on another base" in caplog.text


def refusal(server: Server) -> CrossroadsError:
    """Why the server does not use its only adapter."""
    [payload] = server.load_model(lambda part: None)["refused_adapters"].values()
    return from_payload(payload)


class TestServer:
    """The worker's side, on the micro model."""

    @pytest.fixture
    def spec(self, micro_root):
        model = micro_root / "crossroads/micro"

        def make(*adapters: AdapterFile, **options: object) -> WorkerSpec:
            return WorkerSpec(
                model="micro",
                checkpoint=str(model / "model-112p-10fps.safetensors"),
                vae=str(model / "tokenizer/tokenizer.safetensors"),
                text_encoder=str(model / "text_encoder"),
                text_encoder_sha256="micro",
                adapters=adapters,
                socket_path="",
                **options,
            )

        return make

    @pytest.fixture
    def checkpoint(self, micro_root) -> Path:
        return micro_root / "crossroads/micro/adapters/collision/iter_000000001.pt"

    @pytest.fixture
    def sources(self, micro_root, checkpoint, tmp_path) -> dict[str, Path]:
        """The same adapter in every layout."""
        file = tmp_path / "collision.safetensors"
        base = micro_root / "crossroads/micro/model-112p-10fps.safetensors"
        extract_adapter(checkpoint, file, alpha=16, base=base)
        stored = read_adapter(file)
        return {
            "checkpoint": checkpoint,
            "extracted": file,
            "peft": export_adapter(stored, tmp_path / "peft", ExportFormat.PEFT),
            "diffusers": export_adapter(stored, tmp_path / "d.safetensors", ExportFormat.DIFFUSERS),
        }

    def test_takes_adapters_from_every_source(self, spec, sources, micro_root):
        files = [AdapterFile(name=name, path=str(path), sha256="") for name, path in sources.items()]
        base = micro_root / "crossroads/micro/model-112p-10fps.safetensors"
        proof = Server(spec(*files, checkpoint_sha256=sha256_file(base))).load_model(lambda part: None)
        counts = proof["parameters"]
        assert counts["lora"] == dict.fromkeys(sources, 204_800)
        assert counts["total"] == counts["dit"] + 4 * 204_800
        assert counts["lora_ratio"] == 4 * 204_800 / counts["total"]
        differences = {name: norms["probe_difference"] for name, norms in proof["adapter_norms"].items()}
        assert len(set(differences.values())) == 1
        assert differences["peft"] > 1e-3
        assert all(origin["same_base"] for origin in proof["adapter_origins"].values())
        assert proof["merged"] is True
        json.dumps(proof, allow_nan=False)

    def test_refuses_the_adapter_of_another_model(self, spec):
        path = str(GOLDEN / "lora/lora_fp32_net_only.pt")
        server = Server(spec(AdapterFile(name="a", path=path, sha256="", rank=4, alpha=8.0)))
        with pytest.raises(AdapterMismatch, match="another number of blocks"):
            raise refusal(server)

    @pytest.mark.parametrize(
        ("source", "declared", "message"),
        [
            ("extracted", {"alpha": 8.0}, "declared alpha is not the one in the manifest"),
            ("peft", {"rank": 8}, "declared rank is not the one in the manifest"),
            ("checkpoint", {"rank": 8}, "size mismatch for"),
            ("checkpoint", {"source_adapter": "rain"}, "another name"),
        ],
    )
    def test_refuses_what_disagrees(self, spec, sources, source, declared, message):
        server = Server(spec(AdapterFile(name="a", path=str(sources[source]), sha256="", **declared)))
        with pytest.raises(AdapterMismatch, match=message):
            raise refusal(server)

    def test_an_inert_adapter_has_to_be_allowed(self, spec, checkpoint, tmp_path):
        tensors = torch.load(checkpoint, weights_only=True)
        torch.save({n: v * 0 if "lora_B" in n else v for n, v in tensors.items()}, tmp_path / "iter_1.pt")
        file = AdapterFile(name="a", path=str(tmp_path / "iter_1.pt"), sha256="")
        with pytest.raises(AdapterMismatch, match="adapter a changes nothing"):
            raise refusal(Server(spec(file)))
        allowed = file.model_copy(update={"allow_inert": True})
        proof = Server(spec(allowed)).load_model(lambda part: None)
        assert proof["adapter_norms"]["a"]["probe_difference"] == 0

    def test_switches_from_video_to_video(self, spec, sources, tmp_path, monkeypatch):
        # Decoding takes most of the time and knows nothing of adapters: latents are compared instead of frames.
        monkeypatch.setattr(Video2World, "decode_latents", lambda self, latents: latents.numpy())
        Image.fromarray(np.full((90, 160, 3), 120, np.uint8)).save(tmp_path / "a.png")

        def frames(server: Server, number: int, **strengths: float) -> np.ndarray:
            path = tmp_path / f"{number}.npy"
            request = GenerateVideo(
                request_id="r",
                input_path=str(tmp_path / "a.png"),
                prompt="x",
                negative_prompt="",
                seed=1,
                guidance=0.0,
                num_steps=1,
                num_conditional_frames=1,
                resolution="112",
                fps=10,
                aspect_ratio="16:9",
                adapters=tuple(AdapterStrength(name=name, strength=value) for name, value in strengths.items()),
                frames_path=str(path),
            )
            server.generate(request, lambda *step: None)
            return np.load(path)

        files = [AdapterFile(name=name, path=str(sources[name]), sha256="") for name in ("extracted", "peft")]
        videos = {}
        for merge in (True, False):
            server = Server(spec(*files, merge_adapters=merge))
            server.encode_prompts(EncodePrompts(request_id="p", prompts=("x",)), lambda *step: None)
            server.load_model(lambda part: None)
            half = {"extracted": 0.5, "peft": 0.5}
            base, one, both, again = (
                frames(server, number, **strengths)
                for number, strengths in enumerate([{}, {"extracted": 1.0}, half, {"extracted": 0.0}])
            )
            assert np.array_equal(base, again)
            assert not np.array_equal(base, one)
            videos[merge] = (one, both)
        for merged, unmerged in zip(videos[True], videos[False], strict=True):
            assert relative_l2(torch.from_numpy(merged), torch.from_numpy(unmerged)) < 1e-5


def test_the_benchmark_runs(tmp_path):
    result = run_benchmark(
        "micro", "112", 10, num_adapters=2, device=torch.device("cpu"), dtype=torch.float32, repeats=1
    )
    assert all(value is True for name, value in result.items() if name.startswith("base restored"))
    assert all(value < 1e-5 for name, value in result["relative_l2"].items() if name.startswith("merged against"))
    assert all(value > 1e-3 for name, value in result["relative_l2"].items() if name.endswith("against base"))
    assert result["file_bytes"][1] > result["file_bytes"][0]
    json.dumps(result, allow_nan=False)
