"""Prompts to embeddings: the encoder half of T5, from a local folder.

Every prompt is padded to a fixed number of tokens and the rows beyond its own are zero; the transformer attends to all
of them, so the zeros take part in its softmax, as they did in training.

Source: reference file imaginaire/auxiliary/text_encoder.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoTokenizer, T5Config, T5EncoderModel

from cosmos_core.errors import CheckpointMismatch, CheckpointMissing
from cosmos_core.weights_file import read_state_dict

__all__ = ["TextEmbeddings", "TextEncoder"]

_WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
_TOKENIZERS = ("tokenizer.json", "spiece.model")
_EMBEDDING, _TIED = "shared.weight", "encoder.embed_tokens.weight"
"""One tensor under two names."""
_DECODER_KEYS = ("decoder.", "lm_head.")
"""A file of the whole T5 holds its decoder as well, which is not loaded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TextEmbeddings:
    """Embeddings of some prompts, in their order."""

    embeddings: Tensor
    """[prompts, max_length, D], zero beyond each prompt's own tokens."""
    num_tokens: list[int]
    """Tokens of each whole prompt, before it was cut, end token included."""
    truncated: list[bool]
    """Whether the prompt was cut."""


class TextEncoder:
    """A tokenizer and the encoder of a T5.

    Args:
        tokenizer: as transformers makes it.
        model: the encoder; its parameters decide device and dtype.
        max_length: tokens that every prompt is padded or cut to.
    """

    def __init__(self, tokenizer: Any, model: T5EncoderModel, *, max_length: int = 512) -> None:
        self._tokenizer = tokenizer
        self._model = model.eval().requires_grad_(False)
        self.max_length = max_length

    @classmethod
    def load(
        cls,
        folder: Path | str,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        max_length: int = 512,
    ) -> TextEncoder:
        """Load from a local folder in the layout of transformers; nothing is ever downloaded.

        Safetensors are preferred to `pytorch_model.bin`, which is read without running code.

        Raises:
            CheckpointMissing: the folder or a file that it needs is not there.
            CheckpointMismatch: the files are damaged, or are no T5 encoder.
        """
        folder = Path(folder)
        _require_files(folder)
        weights = next(folder / name for name in _WEIGHTS if (folder / name).is_file())
        state_dict = read_state_dict(weights)
        with _explained(folder):
            tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
            with torch.device("meta"):
                model = T5EncoderModel(T5Config.from_pretrained(folder, local_files_only=True))
        _fill(model, state_dict, device=device, dtype=dtype, source=str(weights))
        return cls(tokenizer, model, max_length=max_length)

    @property
    def device(self) -> torch.device:
        return self._model.device

    @torch.no_grad()
    def encode(self, prompts: list[str]) -> TextEmbeddings:
        """Encode prompts in one batch; the empty prompt is a prompt of one token (its end)."""
        num_tokens = [len(self._tokenizer(prompt, verbose=False)["input_ids"]) for prompt in prompts]
        batch = self._tokenizer(
            prompts, padding="max_length", truncation=True, max_length=self.max_length, return_tensors="pt"
        )
        mask = batch["attention_mask"].to(self.device)
        hidden = self._model(input_ids=batch["input_ids"].to(self.device), attention_mask=mask).last_hidden_state
        return TextEmbeddings(
            embeddings=hidden * mask[..., None].to(hidden.dtype),
            num_tokens=num_tokens,
            truncated=[count > self.max_length for count in num_tokens],
        )


def _require_files(folder: Path) -> None:
    missing = [
        " or ".join(names)
        for names in (("config.json",), _WEIGHTS, _TOKENIZERS)
        if not any((folder / name).is_file() for name in names)
    ]
    if missing:
        raise CheckpointMissing(
            "the text encoder is not there" if not folder.is_dir() else "the text encoder is incomplete",
            got=folder,
            expected="; ".join(missing),
            fix="Put config.json, the tokenizer (tokenizer.json or spiece.model, tokenizer_config.json) and the "
            f"weights of the public model google-t5/t5-11b into {folder}",
        )


@contextmanager
def _explained(folder: Path) -> Iterator[None]:
    """Turn what transformers and tokenizers raise about damaged files, classes of their own, into one error."""
    try:
        yield
    except Exception as error:
        reason = str(error).splitlines()
        raise CheckpointMismatch(
            f"{folder} holds no readable T5 tokenizer and configuration",
            got=f"{type(error).__name__}: {reason[0] if reason else ''}",
            expected="the files of google-t5/t5-11b",
            fix="Download the folder again and compare the SHA-256 of its files.",
        ) from error


def _fill(
    model: T5EncoderModel,
    state_dict: dict[str, Tensor],
    *,
    device: torch.device | str,
    dtype: torch.dtype,
    source: str,
) -> None:
    """Assign weights strictly; the decoder that a file of the whole T5 holds is left where it is.

    Raises:
        CheckpointMismatch: names or shapes are not exactly those of the encoder.
    """
    expected = {key: tuple(value.shape) for key, value in model.state_dict().items() if key != _TIED}
    found = {key: value for key, value in state_dict.items() if not key.startswith(_DECODER_KEYS) and key != _TIED}
    wrong = sorted(
        key
        for key in expected.keys() | found.keys()
        if key not in expected or key not in found or tuple(found[key].shape) != expected[key]
    )
    if wrong:
        raise CheckpointMismatch(
            f"{source} does not hold the encoder that config.json describes",
            got=f"{len(wrong)} tensors that are missing, left over or of another shape, first {wrong[0]}",
            expected=f"{len(expected)} tensors",
            fix="Download all files of one revision.",
        )
    tensors = {key: value.to(device, dtype, copy=True) for key, value in found.items()}
    tensors[_TIED] = tensors[_EMBEDDING]
    model.load_state_dict(tensors, strict=True, assign=True)
