"""A guard model for text, loaded from a local folder: Llama-Guard-3, Qwen3Guard-Gen, or any of their form.

What the model says is returned as it said it; reading a verdict out of that is somebody else's work, and so is deciding
what an answer that cannot be read means. The chat template is rendered to text and tokenised as text: its tokenised
forms changed their type between releases of transformers, which turned guards off without a word.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from cosmos_core.errors import CheckpointMismatch, CheckpointMissing
from cosmos_core.hashing import sha256_file, sha256_json

__all__ = ["GuardedText", "TextGuard", "hash_folder"]


@dataclass(frozen=True, slots=True, kw_only=True)
class GuardedText:
    """What a guard model said about one text."""

    answer: str
    """New tokens alone, without special ones."""
    finished: bool
    """Whether the model ended by itself; an answer that was cut is no answer."""
    score: float
    """Probability of the first token that says something, given the template: how sure the first word was."""


class TextGuard:
    """A causal language model that answers its own chat template. Build it with `load`."""

    def __init__(self, model: Any, tokenizer: Any, *, name: str, sha256: str, max_new_tokens: int) -> None:
        self._model = model.eval().requires_grad_(False)
        self._tokenizer = tokenizer
        self._max_new_tokens = max_new_tokens
        self.name = name
        self.sha256 = sha256

    @classmethod
    def load(cls, folder: Path, *, device: str, dtype: torch.dtype, max_new_tokens: int) -> TextGuard:
        """Load model and tokenizer; every parameter must come from the files.

        Raises:
            CheckpointMissing: there is no such folder, or no weights in it.
            CheckpointMismatch: the files do not fit each other, or there is no chat template.
        """
        if not (folder / "config.json").is_file() or not list(folder.glob("*.safetensors")):
            raise CheckpointMissing(
                "no guard model", got=folder, expected="config.json, tokenizer and .safetensors", fix="Download it."
            )
        try:
            # Weights that are only in pickled files are refused, and so is code that a folder brings along.
            model, info = AutoModelForCausalLM.from_pretrained(
                folder,
                local_files_only=True,
                use_safetensors=True,
                trust_remote_code=False,
                dtype=dtype,
                output_loading_info=True,
            )
            tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        except (OSError, ValueError, RuntimeError, KeyError) as error:
            raise CheckpointMismatch(
                f"the guard model in {folder} cannot be loaded", got=f"{type(error).__name__}: {error}".split("\n")[0]
            ) from error
        wrong = sorted(map(str, [*info["missing_keys"], *info["mismatched_keys"], *info["unexpected_keys"]]))
        if wrong:
            raise CheckpointMismatch(
                f"the weights in {folder} do not fit its config.json", got=f"{len(wrong)} tensors, first {wrong[0]}"
            )
        if not tokenizer.chat_template:
            raise CheckpointMismatch(f"the tokenizer in {folder} has no chat template", fix="Copy all of its files.")
        if tokenizer.pad_token_id is None:
            tokenizer.pad_token = tokenizer.eos_token
        tokenizer.padding_side = "left"
        return cls(
            model.to(device),
            tokenizer,
            name=f"{folder.parent.name}/{folder.name}",
            sha256=hash_folder(folder),
            max_new_tokens=max_new_tokens,
        )

    @torch.inference_mode()
    def answer(self, texts: Sequence[str]) -> list[GuardedText]:
        """What the model says about each text, all in one batch, without sampling.

        Raises:
            CheckpointMismatch: the chat template gives no text, or drops the text that it is given.
        """
        inputs = self._tokenizer(
            [self._rendered(text) for text in texts], return_tensors="pt", padding=True, add_special_tokens=False
        ).to(self._model.device)
        length = inputs["input_ids"].shape[1]
        made = self._model.generate(
            **inputs,
            do_sample=False,
            temperature=None,
            top_p=None,
            top_k=None,
            max_new_tokens=self._max_new_tokens,
            pad_token_id=self._tokenizer.pad_token_id,
            return_dict_in_generate=True,
            output_logits=True,
        )
        logits_BTV = torch.stack(made.logits, dim=1).float()
        return [
            self._read(tokens[length:], logits_TV) for tokens, logits_TV in zip(made.sequences, logits_BTV, strict=True)
        ]

    def _rendered(self, text: str) -> str:
        conversation = [{"role": "user", "content": text}]
        rendered = self._tokenizer.apply_chat_template(conversation, tokenize=False, add_generation_prompt=True)
        if not isinstance(rendered, str) or text.strip() not in rendered:
            raise CheckpointMismatch(
                f"the chat template of {self.name} does not hold the text",
                got=type(rendered).__name__,
                expected="the rendered conversation",
            )
        return rendered

    def _read(self, tokens: torch.Tensor, logits_TV: torch.Tensor) -> GuardedText:
        ends = self._model.generation_config.eos_token_id
        ends = {ends} if isinstance(ends, int) else set(ends or ())
        finished, score = False, 0.0
        for position, token in enumerate(tokens.tolist()):
            if token in ends:
                finished = True
                break
            if score == 0.0 and self._tokenizer.decode([token]).strip():
                score = float(logits_TV[position].softmax(-1)[token])
        return GuardedText(
            answer=self._tokenizer.decode(tokens, skip_special_tokens=True).strip(), finished=finished, score=score
        )


def hash_folder(folder: Path) -> str:
    """SHA-256 over the JSON object that gives each file's name its hash: weights, config, tokenizer, template."""
    files = sorted(file for file in folder.rglob("*") if file.is_file() and not file.name.startswith("."))
    return sha256_json({file.relative_to(folder).as_posix(): sha256_file(file) for file in files})
