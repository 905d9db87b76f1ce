"""The guard models of one run: made from the configuration, started when first needed, shared by all stages."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from cosmos_core.errors import BadConfig, CheckpointMissing
from cosmos_core.guard_protocol import GuardSpec
from tasks.chat_endpoint import ChatClient
from tasks.detectors import Box, Kind
from tasks.frame_sanity import Frames, content_unavailable
from tasks.guard_checks import check_by_classifier, check_by_endpoint, check_by_model, check_by_seeing_model
from tasks.guard_client import GuardClient
from tasks.guard_config import ContentGuard, EndpointGuard, GuardConfig
from tasks.policy import Policy
from tasks.verdicts import CheckUnavailable, Stage, Verdict

__all__ = ["Guards", "RetinaFaces"]

_CONTENT_STAGES: tuple[Stage, ...] = ("input", "video")
_TEXT_STAGES: tuple[Stage, ...] = ("prompt", "refined_prompt", "negative_prompt")
_CASCADE_CHECKS = frozenset({"sanity", "redaction"})


class Guards:
    """Guard models. Safe to share between threads; close them when done.

    Args:
        config: which there are.
        log_folder: where their processes write logs.
        on_cpu: run local models on the CPU, wherever the configuration puts them, to leave memory to the workers.

    Raises:
        BadConfig: the key of an endpoint is not set.
    """

    def __init__(
        self, config: GuardConfig | None = None, *, log_folder: Path | None = None, on_cpu: bool = False
    ) -> None:
        self._on_cpu = on_cpu
        self.config = config or GuardConfig()
        self._log_folder = log_folder or Path(tempfile.gettempdir())
        self._chats: dict[str, ChatClient] = {}
        self._processes: dict[str, GuardClient] = {}
        for check, guard in self.config.text.items():
            if isinstance(guard, EndpointGuard):
                self._chats[check] = ChatClient(guard.endpoint)
            else:
                self._processes[check] = self._process(guard.spec())
        if isinstance(self.config.content, ContentGuard):
            self._processes["content"] = self._process(self.config.content.spec())
        elif self.config.content is not None:
            self._chats["content"] = ChatClient(self.config.content.endpoint)
        if self.config.faces is not None:
            self._processes["faces"] = self._process(self.config.faces.spec())

    def __enter__(self) -> Guards:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End every process and connection."""
        for process in self._processes.values():
            process.close()
        for chat in self._chats.values():
            chat.close()

    def require_use(self, policy: Policy) -> None:
        """Refuse a policy and a configuration that do not fit each other, before anything is done.

        Raises:
            BadConfig: a guard is configured that the policy asks for in no stage, or a required check has no backend.
        """
        if not policy.enforced:
            return
        content = {f"{stage}.content" for stage in _CONTENT_STAGES} if self.config.content is not None else set()
        asked = {check for checks in policy.stages.values() for check in checks.requested}
        for check in self.config.text:
            if check not in asked:
                raise BadConfig(
                    f"guard {check} is configured and never used",
                    expected=f"one of the checks of policy {policy.id}: {', '.join(sorted(asked))}",
                    fix="Name it in a stage of the policy, or remove it.",
                )
        if content and not content & asked:
            raise BadConfig(
                "a content guard is configured and never used",
                fix=f"Name {' or '.join(sorted(content))} in policy {policy.id}, or remove it.",
            )
        for stage, checks in policy.stages.items():
            built_in = {"text.lexicon"} if stage in _TEXT_STAGES else {f"{stage}.{name}" for name in _CASCADE_CHECKS}
            made = built_in | (set(self.config.text) if stage in _TEXT_STAGES else {f"{stage}.content"} & content)
            for check in checks.required:
                if check not in made:
                    raise BadConfig(
                        f"policy {policy.id} requires {stage}/{check}, and nothing here makes this check",
                        expected=f"one of {', '.join(sorted(made))}",
                        fix="Configure a guard for it under guards, or choose another policy.",
                    )

    @property
    def shows_frames_to_others(self) -> bool:
        """Whether judging frames sends them to an endpoint."""
        return isinstance(self.config.content, EndpointGuard)

    def check_text(self, text: str, *, stage: Stage, policy: Policy) -> list[Verdict]:
        """Let every guard model read a text that the policy wants it to read in this stage."""
        wanted = policy.stages[stage].requested if stage in policy.stages else ()
        verdicts = []
        for check, guard in self.config.text.items():
            if check not in wanted:
                continue
            if not text and stage == "negative_prompt":
                absent = Verdict(stage=stage, check=check, status="pass", backend="none", evidence={"absent": True})
                verdicts.append(absent)
            elif isinstance(guard, EndpointGuard):
                verdicts.append(check_by_endpoint(self._chats[check], guard, text, stage=stage, check=check))
            else:
                verdicts.append(check_by_model(self._processes[check], guard, text, stage=stage, check=check))
        return verdicts

    def check_content(
        self, frames: Frames, *, stage: Stage, policy: Policy, frames_path: Path | None = None
    ) -> Verdict:
        """Judge what frames [T, H, W, 3] show; `unavailable` if nothing here can.

        Args:
            frames_path: .npy file that holds the same frames, if there is one.
        """
        check = f"{stage}.content"
        if self.config.content is None:
            return content_unavailable(stage=stage)
        if not isinstance(self.config.content, ContentGuard):
            return check_by_seeing_model(self._chats["content"], self.config.content, frames, stage=stage, check=check)
        with _as_file(frames, frames_path) as path:
            return check_by_classifier(
                self._processes["content"], frames, path, policy.content, stage=stage, check=check
            )

    def face_detector(self) -> RetinaFaces | None:
        """The configured detector of faces; None leaves it to the cascade."""
        return RetinaFaces(self._processes["faces"]) if self.config.faces is not None else None

    def _process(self, spec: GuardSpec) -> GuardClient:
        return GuardClient(
            spec.model_copy(update={"device": "cpu"}) if self._on_cpu else spec,
            log_folder=self._log_folder,
            load_timeout_s=self.config.load_timeout_s,
            timeout_s=self.config.timeout_s,
        )


class RetinaFaces:
    """RetinaFace in a guard process, in the form of a detector for redaction.

    The weights are loaded at the first search; that they are missing or wrong shows there, as an exception.
    """

    def __init__(self, client: GuardClient) -> None:
        self._client = client
        self.kind: Kind = "face"
        self.name = "retinaface-resnet50"
        self.sha256 = ""
        """Of the weights; known from the first search on."""

    def enlargement(self, height: int, width: int) -> float:
        """Frames are searched at their own size."""
        return 1.0

    def detect_many(self, frames: Frames) -> list[list[Box]]:
        """Boxes in each of some frames [T, H, W, 3], clipped to the frame, sorted; one request for all of them.

        Raises:
            CheckUnavailable: the weights are missing.
        """
        height, width = frames.shape[1:3]
        try:
            self.sha256 = self._client.ready().sha256
            with _as_file(frames, None) as path:
                found = self._client.find_faces(path, tuple(range(len(frames))))
        except CheckpointMissing as problem:
            raise CheckUnavailable(problem.what, got=problem.got, expected=problem.expected, fix=problem.fix) from None
        return [
            sorted(box for x, y, w, h, _ in boxes if (box := _clipped(x, y, w, h, height, width)) is not None)
            for boxes in found
        ]


def _clipped(x: float, y: float, w: float, h: float, height: int, width: int) -> Box | None:
    """The part of a box that lies in the frame, in whole pixels; None if there is none."""
    left, top = max(0, int(np.floor(x))), max(0, int(np.floor(y)))
    right, bottom = min(width, int(np.ceil(x + w))), min(height, int(np.ceil(y + h)))
    return (left, top, right - left, bottom - top) if right > left and bottom > top else None


@contextmanager
def _as_file(frames: Frames, path: Path | None) -> Iterator[Path]:
    if path is not None:
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="crossroads-guard-") as folder:
        made = Path(folder) / "frames.npy"
        np.save(made, frames)
        yield made
