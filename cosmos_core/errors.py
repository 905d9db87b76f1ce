"""The exception tree of Crossroads, split by what the caller should do next.

CrossroadsError
├── BadRequest               never retry: the request itself is wrong
│   ├── BadConfig            a run configuration or command line option
│   ├── BadManifest          a manifest that cannot be read at all
│   ├── BadScenario          one row of a manifest
│   ├── BadInput             an image or video that cannot be used
│   ├── BadVariant           a model, resolution, fps or aspect ratio that does not exist
│   ├── ReleaseRefused       a file that nothing entitles to be published
│   └── ReviewRefused        a review of something that is not there, has changed, or may not be approved
├── BadModel                 never retry: a model file is missing or wrong
│   ├── CheckpointMissing
│   ├── CheckpointMismatch   a base checkpoint, VAE or text encoder
│   └── AdapterMismatch      a LoRA adapter
├── Transient                retry, after a pause
│   ├── StorageUnavailable
│   ├── EndpointUnavailable  a model behind an HTTP address
│   └── WorkerLost           a worker died, hung or was stopped; retry on a fresh one
├── OutOfMemory              retry once, in a smaller mode or elsewhere
└── Cancelled                the run is being stopped; nothing is wrong with the request

A message always says what was got, what was expected and how to fix it. An error crosses the process border
as the dictionary of `to_payload` and comes back as the same class through `from_payload`.
"""

from __future__ import annotations

from typing import Any

__all__ = [
    "AdapterMismatch",
    "BadConfig",
    "BadInput",
    "BadManifest",
    "BadModel",
    "BadRequest",
    "BadScenario",
    "BadVariant",
    "Cancelled",
    "CheckpointMismatch",
    "CheckpointMissing",
    "CrossroadsError",
    "EndpointUnavailable",
    "OutOfMemory",
    "ReleaseRefused",
    "ReviewRefused",
    "StorageUnavailable",
    "Transient",
    "WorkerLost",
    "from_payload",
]


class CrossroadsError(Exception):
    """Base of every error that Crossroads raises on purpose.

    Args:
        what: one clause naming what went wrong.
        got: the offending value, if there is one.
        expected: what would have been accepted.
        fix: what the reader can do about it, as an imperative sentence.
    """

    def __init__(self, what: str, *, got: object = None, expected: object = None, fix: str | None = None) -> None:
        self.what = what
        self.got = None if got is None else str(got)
        self.expected = None if expected is None else str(expected)
        self.fix = fix
        super().__init__(str(self))

    def __str__(self) -> str:
        text = self.what
        if self.got is not None:
            text += f": got {self.got}"
        if self.expected is not None:
            text += f"{',' if self.got is not None else ':'} expected {self.expected}"
        if self.fix:
            text += f". {self.fix}"
        return text

    def __reduce__(self) -> tuple[Any, ...]:
        # Prefect pickles exceptions into its states; keyword-only arguments need this to survive.
        return (from_payload, (self.to_payload(),))

    def to_payload(self) -> dict[str, str | None]:
        """A JSON-ready form of the error: type, what, got, expected, fix."""
        return {
            "type": type(self).__name__,
            "what": self.what,
            "got": self.got,
            "expected": self.expected,
            "fix": self.fix,
        }


class BadRequest(CrossroadsError, ValueError):
    """The request is wrong; sending it again cannot help."""


class BadConfig(BadRequest):
    """A run configuration or a command line option is wrong."""


class BadManifest(BadRequest):
    """A manifest cannot be read at all: missing, empty, or not a table of scenarios."""


class BadScenario(BadRequest):
    """One row of a manifest is wrong."""


class BadInput(BadRequest):
    """An input image or video is missing, unreadable or unsuitable."""


class BadVariant(BadRequest):
    """A combination of model, resolution, fps and aspect ratio that does not exist."""


class ReleaseRefused(BadRequest):
    """A file may not be published: its release token is missing, forged, or was made for something else."""


class ReviewRefused(BadRequest):
    """A person's review cannot be carried out."""


class BadModel(CrossroadsError):
    """A model file is missing or is not what it was declared to be."""


class CheckpointMissing(BadModel):
    """A checkpoint file is not where it should be."""


class CheckpointMismatch(BadModel):
    """A checkpoint's content differs from what the architecture or the configuration declares."""


class AdapterMismatch(BadModel):
    """A LoRA adapter's content differs from what was declared, or does not fit the base model."""


class Transient(CrossroadsError):
    """Infrastructure failed in a way that may pass."""


class StorageUnavailable(Transient):
    """A local or remote store did not answer, or refused for a reason that may pass."""


class EndpointUnavailable(Transient):
    """A model endpoint did not answer, or not in a form that can be used."""


class WorkerLost(Transient):
    """A generation worker died, hung or was stopped before it answered."""


class OutOfMemory(CrossroadsError):
    """A device ran out of memory."""


class Cancelled(CrossroadsError):
    """The run is being stopped; the scenario has not been tried to its end."""


_BY_NAME = {cls.__name__: cls for name, cls in globals().items() if isinstance(cls, type) and name in __all__}


def from_payload(payload: dict[str, Any]) -> CrossroadsError:
    """The error that `to_payload` described; an unknown type becomes a plain `CrossroadsError`."""
    cls = _BY_NAME.get(str(payload.get("type")), CrossroadsError)
    return cls(
        str(payload.get("what", "unknown error")),
        got=payload.get("got"),
        expected=payload.get("expected"),
        fix=payload.get("fix"),
    )
