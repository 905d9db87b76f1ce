"""Immutable versions: every model file of a run pinned by its SHA-256 before anything is loaded."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict

from cosmos_core.architecture import ModelArchitecture, model_architecture
from cosmos_core.errors import CheckpointMissing
from cosmos_core.hashing import sha256_file, sha256_json
from tasks.config import AdapterConfig, CheckpointConfig, RunConfig
from tasks.scenario import Scenario

__all__ = ["AdapterVersion", "FileVersion", "ModelVersion", "Variant", "resolve_adapter", "resolve_model"]


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


class FileVersion(_Version):
    """A file, or a folder of files, by content."""

    path: str
    sha256: str
    num_bytes: int


class AdapterVersion(_Version):
    """A LoRA adapter by content, with what its file cannot say."""

    name: str
    file: FileVersion
    rank: int
    alpha: float
    target_modules: tuple[str, ...] = ()


class ModelVersion(_Version):
    """All files of one variant."""

    variant: Variant
    base: FileVersion
    vae: FileVersion
    text_encoder: FileVersion


def resolve_model(variant: Variant, config: RunConfig, *, hash_cache: Path) -> ModelVersion:
    """Find and hash the files of one variant.

    Raises:
        CheckpointMissing: names the file and where it is expected.
    """
    architecture = model_architecture(variant.model)
    files = config.checkpoints
    folder = files.root / architecture.repository
    base = files.base or folder / architecture.checkpoint_name(variant.resolution, variant.fps)
    return ModelVersion(
        variant=variant,
        base=_pin(base, "base checkpoint", architecture, hash_cache),
        vae=_pin(files.vae or _vae_path(folder), "video VAE", architecture, hash_cache),
        text_encoder=_pin(_text_encoder_path(files, architecture), "text encoder", architecture, hash_cache),
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
        file=_hash(adapter.path, hash_cache),
        rank=adapter.rank,
        alpha=adapter.alpha,
        target_modules=adapter.target_modules,
    )


def _vae_path(folder: Path) -> Path:
    native = folder / "tokenizer" / "tokenizer.pth"
    return native if native.exists() else native.with_suffix(".safetensors")


def _text_encoder_path(files: CheckpointConfig, architecture: ModelArchitecture) -> Path:
    return files.text_encoder or files.root / architecture.text_encoder


def _pin(path: Path, what: str, architecture: ModelArchitecture, hash_cache: Path) -> FileVersion:
    if path.exists():
        return _hash(path, hash_cache)
    fix = (
        "Run `crossroads tiny` to make it"
        if architecture.name == "tiny"
        else "Run `crossroads checkpoint plan` for the files to download and where to put them"
    )
    raise CheckpointMissing(f"the {what} of model {architecture.name} is not there", got=path, fix=fix)


def _hash(path: Path, cache: Path) -> FileVersion:
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.is_file())
        parts = {file.relative_to(path).as_posix(): _hash(file, cache) for file in files}
        digest = sha256_json({name: part.sha256 for name, part in parts.items()})
        return FileVersion(path=str(path), sha256=digest, num_bytes=sum(part.num_bytes for part in parts.values()))
    status = path.stat()
    return FileVersion(path=str(path), sha256=_hash_file(path, cache), num_bytes=status.st_size)


def _hash_file(path: Path, cache: Path) -> str:
    """SHA-256 of a file, remembered by path, size, inode and time of change: a 14B checkpoint takes a minute."""
    status = path.stat()
    identity = [str(path.resolve()), status.st_size, status.st_ino, status.st_mtime_ns, status.st_ctime_ns]
    entry = cache / sha256_json(identity)
    if entry.exists():
        return entry.read_text()
    digest = sha256_file(path)
    cache.mkdir(parents=True, exist_ok=True)
    temporary = entry.with_suffix(f".{status.st_ino}.tmp")
    temporary.write_text(digest)
    temporary.replace(entry)
    return digest
