"""A refiner that asks a vision-language model, believes nothing and loses nothing.

    question -> answer -> one JSON object -> prompt -> facts compared with the source -> refined prompt

An answer that cannot be used goes back once with what is wrong with it; after that, and whenever the model cannot be
reached, the fallback steps in and the record says so. Answers are kept by content, so a scenario is refined once, on
whatever run, as long as prompt, labels, picture, model and instructions stay the same. Refusals are kept as well: with
greedy decoding they would only come back.
"""

from __future__ import annotations

import json
import logging
import time
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cosmos_core.errors import BadConfig, BadModel, Cancelled, CrossroadsError, Transient
from cosmos_core.hashing import sha256_json
from tasks.prompt_lint import PromptLinter
from tasks.prompts import InputFile, PromptRefiner, RefinedPrompt, require_text
from tasks.refined_answer import UnusableAnswer, refined_text
from tasks.refined_facts import broken_facts
from tasks.refiner_config import ModelRefinerConfig
from tasks.refiner_frame import jpeg_of_frame
from tasks.refiner_instructions import Answer, Question, RefinerInstructions
from tasks.refiner_models import VisionModel

__all__ = ["AnswerCache", "ModelRefiner"]

_REST_S = 120.0
"""How long a model that cannot be reached is left alone: a batch must not wait for a time-out on every row."""
_MAX_PROBLEMS = 3
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class AnswerCache:
    """Answers by the hash of their question, one small file each."""

    folder: Path

    def get(self, key: str) -> Answer | None:
        """The answer, or None if there is none that can be read."""
        try:
            return Answer(**json.loads((self.folder / f"{key}.json").read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None

    def put(self, key: str, answer: Answer) -> None:
        """Keep an answer; it appears whole or not at all."""
        self.folder.mkdir(parents=True, exist_ok=True)
        temporary = self.folder / f".{key}.{uuid.uuid4().hex}.part"
        temporary.write_text(json.dumps(asdict(answer), ensure_ascii=False), encoding="utf-8")
        temporary.replace(self.folder / f"{key}.json")


class ModelRefiner:
    """Asks a model and falls back to a refiner without one."""

    def __init__(
        self,
        model: VisionModel,
        config: ModelRefinerConfig,
        *,
        instructions: RefinerInstructions,
        linter: PromptLinter,
        fallback: PromptRefiner,
        cache: AnswerCache,
    ) -> None:
        self.name = model.name
        self._model, self._config, self._instructions = model, config, instructions
        self._linter, self._fallback, self._cache = linter, fallback, cache
        self._out_of_reach: tuple[float, str] | None = None
        """Until when the model is left alone, and why."""

    def refine(self, prompt: str, labels: Mapping[str, Any], frame: InputFile | None = None) -> RefinedPrompt:
        """What the model makes of a prompt, or the fallback's text with the reason in its notes.

        Raises:
            BadScenario: the prompt is empty.
        """
        require_text(prompt)
        try:
            text, notes = self._ask(prompt, labels, frame if self._config.send_frame else None)
        except UnusableAnswer as problem:
            return self._fall_back(prompt, labels, str(problem))
        except Cancelled:
            raise
        except CrossroadsError as error:
            return self._fall_back(prompt, labels, str(error))
        return RefinedPrompt(
            text=text,
            source=prompt,
            refiner=self.name,
            model=self._model.identity,
            template_sha256=self._instructions.sha256,
            changed=text != prompt,
            notes=notes,
        )

    def close(self) -> None:
        self._model.close()

    def _ask(self, prompt: str, labels: Mapping[str, Any], frame: InputFile | None) -> tuple[str, tuple[str, ...]]:
        """The usable text, and what was wrong with earlier answers."""
        question = self._instructions.question(prompt, labels)
        notes: list[str] = []
        for attempt in range(self._config.corrections + 1):
            answer = self._answer(question, frame)
            try:
                text = refined_text(answer)
                problems = broken_facts(text, prompt, labels, linter=self._linter, instructions=self._instructions)[
                    :_MAX_PROBLEMS
                ]
            except UnusableAnswer as problem:
                problems = (str(problem),)
            if not problems:
                return text, tuple(notes)
            notes.append(f"answer {attempt + 1} of {self.name} could not be used: {'; '.join(problems)}")
            question = question.corrected(answer.text, self._instructions.correct(problems))
        raise UnusableAnswer("; ".join(notes))

    def _answer(self, question: Question, frame: InputFile | None) -> Answer:
        key = self._key(question, frame)
        if (known := self._cache.get(key)) is not None:
            return known
        self._require_reach()
        sizes = {"max_side": self._config.max_frame_side, "max_bytes": self._config.max_frame_kib << 10}
        jpeg = jpeg_of_frame(frame.path, **sizes) if frame else None
        try:
            answer = self._model.ask(question, jpeg)
        except (Transient, BadConfig, BadModel) as error:
            rest_s = _REST_S if isinstance(error, Transient) else float("inf")
            self._out_of_reach = (time.monotonic() + rest_s, str(error))
            raise
        self._cache.put(key, answer)
        return answer

    def _key(self, question: Question, frame: InputFile | None) -> str:
        return sha256_json(
            {
                "model": self._model.identity,
                "instructions": self._instructions.sha256,
                "question": asdict(question),
                "frame": frame.sha256 if frame else None,
                "max_frame": [self._config.max_frame_side, self._config.max_frame_kib],
                "max_tokens": self._config.max_tokens,
            }
        )

    def _require_reach(self) -> None:
        if self._out_of_reach and time.monotonic() < self._out_of_reach[0]:
            raise UnusableAnswer(self._out_of_reach[1])

    def _fall_back(self, prompt: str, labels: Mapping[str, Any], reason: str) -> RefinedPrompt:
        refined = self._fallback.refine(prompt, labels)
        _log.warning("the refiner %s could not be used, %s steps in: %s", self.name, refined.refiner, reason)
        note = f"asked for the refiner {self.name} ({self._model.identity}), took {refined.refiner}: {reason}"
        return refined.model_copy(update={"requested": self.name, "notes": (note, *refined.notes)})
