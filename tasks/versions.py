"""Immutable versions: every model file of a run pinned by its SHA-256 before anything is loaded."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from cosmos_core.architecture import ModelArchitecture, model_architecture
from cosmos_core.checkpoint_name import check_variant
from cosmos_core.errors import AdapterMismatch, BadConfig, CheckpointMismatch, CheckpointMissing
from tasks.config import AdapterConfig, CheckpointConfig, RunConfig
from tasks.file_versions import FileVersion, hash_path
from tasks.registry_documents import Kind, RegisteredVersion
from tasks.scenario import Scenario

__all__ = [
    "AdapterVersion",
    "FileVersion",
    "ModelVersion",
    "Registered",
    "Variant",
    "registered_adapter",
    "require_parent",
    "resolve_adapter",
    "resolve_model",
]

Registered = Callable[[str, Kind], tuple[RegisteredVersion, FileVersion]]
"""Finds what a registry reference means for this run, as a file on this machine."""

_REGISTRY_PREFIX = "registry:"
_WHAT = {Kind.CHECKPOINT: "base checkpoint", Kind.VAE: "video VAE", Kind.TEXT_ENCODER: "text encoder"}


class _Version(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Variant(_Version):
    """What selects a base checkpoint: scenarios of one variant share a worker."""

    model: str
    resolution: str
    fps: int

    @classmethod
    def of(cls, scenario: Scenario) -> Variant:
        return cls(model=scenario.model, resolution=scenario.resolution, fps=scenario.fps)

    def __str__(self) -> str:
        return f"{self.model} {self.resolution}p {self.fps}fps"


class AdapterVersion(_Version):
    """A LoRA adapter by content, with what its file cannot say."""

    name: str
    file: FileVersion
    rank: int | None = None
    """None where the file says it itself."""
    alpha: float | None = None
    target_modules: tuple[str, ...] = ()
    source_adapter: str = "default"
    allow_inert: bool = False
    reference: str | None = None
    """How the manifest asked for it, if it came from the registry: `its-collision@production`."""
    version: str | None = None
    """What that meant when the run began: `its-collision:v3`."""
    parent_sha256: str | None = None
    """Base checkpoint that it was trained on, if the registry knows."""
    iteration: int | None = None
    """Training iteration, if the registry knows."""


class ModelVersion(_Version):
    """All files of one variant."""

    variant: Variant
    base: FileVersion
    vae: FileVersion
    text_encoder: FileVersion


def resolve_model(
    variant: Variant, config: RunConfig, *, hash_cache: Path, registered: Registered | None = None
) -> ModelVersion:
    """Find and hash the files of one variant.

    Raises:
        CheckpointMissing: names the file and where it is expected.
        CheckpointMismatch: a registered file was changed, or a file is another variant's.
        BadRequest: a reference into the registry is wrong.
    """
    architecture = model_architecture(variant.model)
    files = config.checkpoints
    folder = files.root / architecture.repository
    base = files.base or folder / architecture.checkpoint_name(variant.resolution, variant.fps)
    places = {
        Kind.CHECKPOINT: base,
        Kind.VAE: files.vae or _vae_path(folder),
        Kind.TEXT_ENCODER: _text_encoder_path(files, architecture),
    }
    pinned: dict[Kind, FileVersion] = {}
    for kind, place in places.items():
        if reference := _reference(place):
            version, pinned[kind] = _from_registry(reference, kind, registered)
            if not files.force_variant:
                _require_variant(version, variant)
        else:
            if kind is Kind.CHECKPOINT:
                check_variant(place, variant.resolution, variant.fps, force=files.force_variant)
            pinned[kind] = _pin(place, _WHAT[kind], architecture, hash_cache)
    return ModelVersion(
        variant=variant, base=pinned[Kind.CHECKPOINT], vae=pinned[Kind.VAE], text_encoder=pinned[Kind.TEXT_ENCODER]
    )


def resolve_adapter(name: str, adapter: AdapterConfig, *, hash_cache: Path) -> AdapterVersion:
    """Find and hash one adapter.

    Raises:
        CheckpointMissing: the file is not there.
    """
    if not adapter.path.exists():
        raise CheckpointMissing(
            f"adapter {name!r} is not there", got=adapter.path, fix=f"Correct adapters.{name}.path in the configuration"
        )
    return AdapterVersion(
        name=name,
        file=hash_path(adapter.path, hash_cache),
        rank=adapter.rank,
        alpha=adapter.alpha,
        target_modules=adapter.target_modules,
        source_adapter=adapter.source_adapter,
        allow_inert=adapter.allow_inert,
    )


def registered_adapter(name: str, *, registered: Registered) -> AdapterVersion:
    """The adapter that a registry reference means; the reference stays its name in manifests and records.

    Raises:
        CheckpointMissing: the reference or the file leads nowhere.
        AdapterMismatch: the file was changed, or is no adapter.
        BadRequest: the reference is malformed or ambiguous.
    """
    version, file = registered(name, Kind.ADAPTER)
    assert version.rank is not None, "an adapter's document has its rank"
    assert version.alpha is not None, "an adapter's document has its alpha"
    return AdapterVersion(
        name=name,
        file=file,
        rank=version.rank,
        alpha=version.alpha,
        target_modules=version.target_modules,
        reference=name,
        version=version.id,
        parent_sha256=version.parent_sha256,
        iteration=version.iteration,
    )


def require_parent(adapter: AdapterVersion, model: ModelVersion) -> None:
    """Make sure that an adapter acts on the base checkpoint that it was trained on, as far as that is known.

    Raises:
        AdapterMismatch: it was trained on another one.
    """
    if adapter.parent_sha256 not in (None, model.base.sha256):
        raise AdapterMismatch(
            f"adapter {adapter.version or adapter.name} was trained on another base checkpoint",
            got=f"{model.base.path} with sha256 {model.base.sha256}",
            expected=f"sha256 {adapter.parent_sha256}",
            fix="Choose the adapter of this base, or set checkpoints.base to the base of this adapter",
        )


def _reference(place: Path) -> str | None:
    text = str(place)
    return text.removeprefix(_REGISTRY_PREFIX) if text.startswith(_REGISTRY_PREFIX) else None


def _from_registry(reference: str, kind: Kind, registered: Registered | None) -> tuple[RegisteredVersion, FileVersion]:
    if registered is None:
        raise BadConfig(
            "there is no registry to look this up in",
            got=f"{_REGISTRY_PREFIX}{reference}",
            fix="Set registry in the configuration, or CROSSROADS_REGISTRY",
        )
    return registered(reference, kind)


def _require_variant(version: RegisteredVersion, variant: Variant) -> None:
    differs = version.resolution not in (None, variant.resolution) or version.fps not in (None, variant.fps)
    if differs:
        raise CheckpointMismatch(
            f"{version.id} is registered for another variant",
            got=f"{version.resolution or 'any'} lines, {version.fps or 'any'} fps",
            expected=variant,
            fix="Choose the checkpoint of this variant, or set checkpoints.force_variant",
        )


def _vae_path(folder: Path) -> Path:
    native = folder / "tokenizer" / "tokenizer.pth"
    return native if native.exists() else native.with_suffix(".safetensors")


def _text_encoder_path(files: CheckpointConfig, architecture: ModelArchitecture) -> Path:
    return files.text_encoder or files.root / architecture.text_encoder


def _pin(path: Path, what: str, architecture: ModelArchitecture, hash_cache: Path) -> FileVersion:
    if path.exists():
        return hash_path(path, hash_cache)
    fix = (
        f"Run `{architecture.made_by}`"
        if architecture.made_by
        else "Run `crossroads checkpoint plan` for the files to download and where to put them"
    )
    raise CheckpointMissing(f"the {what} of model {architecture.name} is not there", got=path, fix=fix)
