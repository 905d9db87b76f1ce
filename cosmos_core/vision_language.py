"""Questions about a picture, answered by a Qwen2.5-VL such as Cosmos-Reason1-7B, greedily.

Loaded from a local folder in the layout of transformers. The picture's place in the text is filled here, token by
token, so that torchvision is not needed.

    L tokens of the conversation, N patches of the picture, P values of a patch
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from PIL import Image
from transformers import AutoConfig, AutoTokenizer, Qwen2_5_VLForConditionalGeneration
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from cosmos_core.errors import BadRequest, CheckpointMismatch, CheckpointMissing, OutOfMemory

__all__ = ["VisionLanguageModel"]

_MODEL_TYPE = "qwen2_5_vl"
_PICTURE = "<|image_pad|>"
_GREEDY: dict[str, Any] = {
    "do_sample": False, "num_beams": 1, "temperature": None, "top_p": None, "top_k": None, "repetition_penalty": 1.0,
}  # fmt: skip
"""Said in full, because a checkpoint's own generation_config asks for sampling."""
_FILES = ("config.json", "tokenizer_config.json", "preprocessor_config.json")


class VisionLanguageModel:
    """A model with its tokenizer and its view of pictures."""

    def __init__(self, model: Any, tokenizer: Any, image_processor: Any) -> None:
        self._model = model.eval().requires_grad_(False)
        self._tokenizer, self._image_processor = tokenizer, image_processor
        self._picture_id: int = tokenizer.convert_tokens_to_ids(_PICTURE)

    @classmethod
    def load(
        cls, folder: Path, *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
    ) -> VisionLanguageModel:
        """Load from a local folder; nothing is ever downloaded.

        Raises:
            CheckpointMissing: the folder or a file that it needs is not there.
            CheckpointMismatch: the files are damaged, or are no Qwen2.5-VL.
        """
        missing = [name for name in _FILES if not (folder / name).is_file()]
        if missing:
            raise CheckpointMissing(
                "the refiner's model is not there" if not folder.is_dir() else "the refiner's model is incomplete",
                got=folder,
                expected=", ".join(missing),
                fix="Put all files of one revision of a Qwen2.5-VL, such as nvidia/Cosmos-Reason1-7B, into it.",
            )
        with _explained(folder):
            kind = AutoConfig.from_pretrained(folder, local_files_only=True).model_type
            if kind != _MODEL_TYPE:
                raise CheckpointMismatch(f"{folder} holds another model", got=kind, expected=_MODEL_TYPE)
            tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
            processor = Qwen2VLImageProcessorPil.from_pretrained(folder, local_files_only=True)
            model, report = Qwen2_5_VLForConditionalGeneration.from_pretrained(
                folder, local_files_only=True, dtype=dtype, use_safetensors=True, output_loading_info=True
            )
        _require_whole(folder, report)
        if tokenizer.convert_tokens_to_ids(_PICTURE) != model.config.image_token_id or not tokenizer.chat_template:
            raise CheckpointMismatch(
                f"{folder} does not go together",
                got="a tokenizer without a chat template, or with another token for pictures",
                expected=f"{_PICTURE} as token {model.config.image_token_id}",
                fix="Copy all files of one revision.",
            )
        return cls(model.to(device), tokenizer, processor)

    @torch.no_grad()
    def answer(
        self, messages: Sequence[dict[str, Any]], *, jpeg: bytes | None = None, max_tokens: int
    ) -> tuple[str, Literal["stop", "length"]]:
        """The answer to a conversation, always the likeliest next token.

        Args:
            messages: `role` and `content` each; the content is text, and with `jpeg` the first user's content begins
                with the picture.

        Returns:
            The text without special tokens, and `stop` if it came to its own end.

        Raises:
            BadRequest: the conversation is longer than the model can take.
            OutOfMemory: the device has too little memory for it.
        """
        # Text that looks like one of the model's control tokens would be read as one.
        plain = [message | {"content": message["content"].replace("<|", "< |")} for message in messages]
        inputs = self._inputs(_with_picture(plain) if jpeg else plain, jpeg)
        num_tokens = inputs["input_ids"].shape[1]
        limit = self._model.config.text_config.max_position_embeddings
        if num_tokens + max_tokens > limit:
            raise BadRequest("the refiner's question is too long", got=f"{num_tokens} + {max_tokens}", expected=limit)
        try:
            output_L = self._model.generate(**inputs, max_new_tokens=max_tokens, **_GREEDY)[0]
        except torch.OutOfMemoryError as error:
            raise OutOfMemory("the refiner's model ran out of memory", got=f"{num_tokens} tokens") from error
        new_L = output_L[num_tokens:].tolist()
        ended = bool(new_L) and new_L[-1] in _end_tokens(self._model)
        return self._tokenizer.decode(new_L, skip_special_tokens=True), "stop" if ended else "length"

    def _inputs(self, messages: list[dict[str, Any]], jpeg: bytes | None) -> dict[str, torch.Tensor]:
        text = self._tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        seen: dict[str, torch.Tensor] = {}
        if jpeg:
            picture = Image.open(io.BytesIO(jpeg)).convert("RGB")
            seen = dict(self._image_processor(picture, return_tensors="pt"))
            num_places = int(seen["image_grid_thw"].prod()) // self._image_processor.merge_size**2
            text = text.replace(_PICTURE, _PICTURE * num_places, 1)
        ids_L = self._tokenizer(text, return_tensors="pt", add_special_tokens=False)["input_ids"]
        inputs = {"input_ids": ids_L, "attention_mask": torch.ones_like(ids_L), **seen}
        inputs["mm_token_type_ids"] = (ids_L == self._picture_id).to(ids_L.dtype)
        dtype = self._model.dtype
        return {
            name: value.to(self._model.device, dtype if value.is_floating_point() else None)
            for name, value in inputs.items()
        }


def _with_picture(messages: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    first = next(index for index, message in enumerate(messages) if message["role"] == "user")
    content = [{"type": "image"}, {"type": "text", "text": messages[first]["content"]}]
    return [*messages[:first], {"role": "user", "content": content}, *messages[first + 1 :]]


def _end_tokens(model: Any) -> set[int]:
    ends = model.generation_config.eos_token_id
    return set(ends) if isinstance(ends, list) else {ends}


def _require_whole(folder: Path, report: dict[str, Any]) -> None:
    """Refuse weights that do not fill the model exactly: what is missing would be random."""
    wrong = [str(name) for kind in ("missing_keys", "unexpected_keys", "mismatched_keys") for name in report[kind]]
    if wrong:
        raise CheckpointMismatch(
            f"the weights in {folder} do not fit its config.json",
            got=f"{len(wrong)} tensors that are missing, left over or of another shape, first {sorted(wrong)[0]}",
            expected="exactly the tensors of the model",
            fix="Copy all files of one revision.",
        )


@contextmanager
def _explained(folder: Path) -> Iterator[None]:
    """Turn what transformers and tokenizers raise about damaged files, classes of their own, into one error."""
    try:
        yield
    except CheckpointMismatch:
        raise
    except Exception as error:
        reason = str(error).splitlines()
        raise CheckpointMismatch(
            f"{folder} holds no readable Qwen2.5-VL",
            got=f"{type(error).__name__}: {reason[0][:200] if reason else ''}",
            expected="config, tokenizer, preprocessor and safetensors of one revision",
            fix="Copy the folder again and compare the SHA-256 of its files.",
        ) from error
