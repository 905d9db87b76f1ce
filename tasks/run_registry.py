"""The registry as one run sees it: each reference looked up once, its file brought here and verified once."""

from __future__ import annotations

from cosmos_core.errors import AdapterMismatch, CheckpointMismatch
from tasks.file_versions import FileVersion
from tasks.model_files import bring_model
from tasks.pinned_versions import PinnedVersions
from tasks.registry import find_registry, open_registry
from tasks.registry_documents import Kind, RegisteredVersion
from tasks.run import Run

__all__ = ["RunRegistry"]


class RunRegistry:
    """Callable that finds what a reference means for a run; nothing is opened or written before the first call."""

    def __init__(self, run: Run, place: str) -> None:
        self._run = run
        self._place = place
        self._pins: PinnedVersions | None = None
        self._found: dict[str, tuple[RegisteredVersion, FileVersion]] = {}

    @classmethod
    def of(cls, run: Run) -> RunRegistry | None:
        """The registry of a run, or None if it has none."""
        place = find_registry(configured=run.config.registry)
        return cls(run, place) if place else None

    def __call__(self, reference: str, kind: Kind) -> tuple[RegisteredVersion, FileVersion]:
        """The version that a reference means for this run, and its file on this machine.

        Raises:
            BadRequest: the reference is malformed or ambiguous, or there is no registry at its place.
            CheckpointMissing: the reference or the file leads nowhere.
            CheckpointMismatch, AdapterMismatch: the file was changed, or is of another kind.
            StorageUnavailable: the registry or the file's bucket did not answer.
        """
        if reference not in self._found:
            version = self._pinned().resolve(reference)
            self._found[reference] = (version, bring_model(version, reference, home=self._run.home))
        version, file = self._found[reference]
        if version.kind is not kind:
            mismatch = AdapterMismatch if kind is Kind.ADAPTER else CheckpointMismatch
            raise mismatch(f"{version.id} is of another kind", got=version.kind, expected=kind)
        return version, file

    def _pinned(self) -> PinnedVersions:
        if self._pins is None:
            run = self._run
            self._pins = PinnedVersions(
                open_registry(self._place),
                run.store,
                run_id=run.run_id,
                manifest_sha256=run.manifest.sha256,
                config=run.config.model_dump(mode="json"),
            )
        return self._pins
