"""Which files the drop-in command loads, found and checked against its flags before any of them is loaded.

Names and shapes are compared without reading a weight, so a wrong rank is refused within seconds and not after the text
encoder has been loaded.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from cosmos_core.adapter_file import AdapterKind, StoredAdapter, read_adapter
from cosmos_core.architecture import ModelArchitecture, model_architecture
from cosmos_core.checkpoint import load_dit
from cosmos_core.checkpoint_kind import CheckpointKind, checkpoint_facts
from cosmos_core.checkpoint_name import check_variant
from cosmos_core.drop_in_arguments import Arguments
from cosmos_core.errors import AdapterMismatch, BadConfig, CheckpointMissing
from cosmos_core.hashing import sha256_file, sha256_json
from cosmos_core.lora import adapter_shapes
from cosmos_core.lora_state_dict import LoraSpec, check_adapter_tensors
from cosmos_core.protocol import AdapterFile, WorkerSpec
from cosmos_core.weights_file import read_state_dict

__all__ = ["ADAPTER_NAME", "ModelPlan", "plan_model"]

ADAPTER_NAME = "lora"


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelPlan:
    """What is loaded."""

    spec: WorkerSpec
    adapter: LoraSpec | None
    """What the adapter was trained with, as far as the flags and its file say; none without `--use_lora`."""
    adapter_kind: str | None
    sha256: dict[str, str]
    """Content hashes by path, of everything but the text encoder."""


def plan_model(arguments: Arguments) -> ModelPlan:
    """Find all files, check that they fit the flags and each other, and hash them.

    Raises:
        CheckpointMissing: a file is not there.
        CheckpointMismatch: the base checkpoint is not that of the model size.
        AdapterMismatch: the adapter is not what the flags say.
        BadConfig: flags contradict each other.
    """
    architecture = model_architecture(arguments.model_size)
    folder = arguments.checkpoint_root / architecture.repository
    stored = _read_adapter(arguments) if arguments.use_lora else None
    checkpoint = folder / architecture.checkpoint_name(arguments.resolution, arguments.fps)
    if arguments.dit_path and (stored is None or stored.kind is AdapterKind.TRAINING):
        checkpoint = Path(arguments.dit_path)
    spec = _lora_spec(stored, arguments) if stored else None
    _check_transformer(checkpoint, architecture, arguments, stored, spec)
    vae = folder / "tokenizer" / "tokenizer.pth"
    vae = vae if vae.exists() else vae.with_suffix(".safetensors")
    text_encoder = arguments.checkpoint_root / architecture.text_encoder
    _require(vae, "video VAE", architecture)
    _require(text_encoder, "text encoder", architecture)
    files = {checkpoint, vae} | ({Path(arguments.dit_path)} if stored else set())
    sha256 = {str(path): _sha256(path) for path in sorted(files)}
    device, dtype = _placement(arguments)
    return ModelPlan(
        spec=WorkerSpec(
            model=arguments.model_size,
            checkpoint=str(checkpoint),
            vae=str(vae),
            text_encoder=str(text_encoder),
            text_encoder_sha256="not hashed",  # embeddings are kept by this process alone
            checkpoint_sha256=sha256[str(checkpoint)],
            adapters=(_adapter_file(arguments, stored, sha256),) if stored else (),
            savings=("base",),  # one adapter for all videos: the base is only needed for the proof
            ema=arguments.load_ema,
            device=device,
            dtype=dtype,
            socket_path="",
        ),
        adapter=spec,
        adapter_kind=str(stored.kind) if stored else None,
        sha256=sha256,
    )


def _read_adapter(arguments: Arguments) -> StoredAdapter:
    if not arguments.dit_path:
        raise BadConfig(
            "--use_lora without an adapter",
            expected="--dit_path",
            fix="Give the LoRA training checkpoint or adapter with --dit_path.",
        )
    return read_adapter(Path(arguments.dit_path), ema=arguments.load_ema)


def _lora_spec(stored: StoredAdapter, arguments: Arguments) -> LoraSpec:
    """The flags, except that the defaults of those that were not written out give way to the file's own manifest."""
    declared = _declared(stored, arguments)
    return stored.spec(rank=declared.rank, alpha=declared.alpha, target_modules=declared.target_modules)


def _adapter_file(arguments: Arguments, stored: StoredAdapter, sha256: dict[str, str]) -> AdapterFile:
    declared = _declared(stored, arguments)
    return declared.model_copy(update={"sha256": sha256[str(Path(arguments.dit_path))]})


def _declared(stored: StoredAdapter, arguments: Arguments) -> AdapterFile:
    def counts(flag: str) -> bool:
        return stored.manifest is None or flag in arguments.given

    targets = LoraSpec(target_modules=arguments.lora_target_modules).targets
    return AdapterFile(
        name=ADAPTER_NAME,
        path=str(Path(arguments.dit_path)),
        sha256="",
        rank=arguments.lora_rank if counts("lora_rank") else None,
        alpha=arguments.lora_alpha if counts("lora_alpha") else None,
        target_modules=targets if counts("lora_target_modules") else (),
    )


def _check_transformer(
    checkpoint: Path,
    architecture: ModelArchitecture,
    arguments: Arguments,
    stored: StoredAdapter | None,
    spec: LoraSpec | None,
) -> None:
    """Compare names and shapes of base and adapter with the model; nothing is read but the files' headers."""
    if not arguments.dit_path or stored is not None:
        _require(checkpoint, "base checkpoint", architecture)
    check_variant(checkpoint, arguments.resolution, arguments.fps)
    if stored is None and arguments.dit_path:
        _refuse_adapter(checkpoint)
    in_one_file = stored is not None and stored.kind is AdapterKind.TRAINING
    network = load_dit(
        checkpoint,
        architecture.dit,
        device="meta",
        ema=arguments.load_ema,
        lora_base=in_one_file,
    )
    if stored is not None and spec is not None:
        check_adapter_tensors(stored.tensors, adapter_shapes(network, spec), spec)


def _refuse_adapter(path: Path) -> None:
    """A file of LoRA training without `--use_lora` is a forgotten flag.

    Raises:
        AdapterMismatch: it is one.
    """
    if (path / "adapter_config.json").is_file():
        kind, keys = str(AdapterKind.PEFT), ""
    else:
        state_dict = read_state_dict(path)
        facts = checkpoint_facts(state_dict)
        if facts.kind not in (CheckpointKind.LORA_TRAINING, CheckpointKind.LORA_ADAPTER):
            return
        names = [name for name in state_dict if ".lora_" in name]
        shown = ", ".join(repr(name) for name in names[:2])
        kind, keys = str(facts.kind), f". Unexpected keys in regular model: [{shown}, ... {len(names) - 2} more]"
    raise AdapterMismatch(
        f"{path} holds LoRA weights, but --use_lora is not set{keys}",
        got=kind,
        expected=str(CheckpointKind.BASE),
        fix="Add --use_lora, with the --lora_rank and --lora_alpha of the training.",
    )


def _require(path: Path, what: str, architecture: ModelArchitecture) -> None:
    if not path.exists():
        hint = (
            f"`{architecture.made_by}` puts it in place"
            if architecture.made_by
            else "`crossroads checkpoint plan` says what to download"
        )
        raise CheckpointMissing(
            f"the {what} of model {architecture.name} is not there",
            got=path,
            fix=f"Give its folder with --checkpoint_root; {hint}.",
        )


def _sha256(path: Path) -> str:
    """Of a file; of a folder, that of its files' names and hashes."""
    if path.is_file():
        return sha256_file(path)
    files = sorted(file for file in path.rglob("*") if file.is_file())
    return sha256_json({str(file.relative_to(path)): sha256_file(file) for file in files})


def _placement(arguments: Arguments) -> tuple[Literal["cpu", "cuda"], Literal["float32", "bfloat16"]]:
    has_cuda = torch.cuda.is_available()
    if arguments.device == "cuda" and not has_cuda:
        raise BadConfig("--device cuda", got="no GPU that PyTorch can use", fix="Use --device cpu.")
    device: Literal["cpu", "cuda"] = "cuda" if has_cuda and arguments.device != "cpu" else "cpu"
    if arguments.dtype == "auto":
        return device, "bfloat16" if device == "cuda" else "float32"
    return device, arguments.dtype
