"""How long a prompt is for the text encoder: T5 keeps 512 tokens and drops the rest without a word.

With the encoder's `tokenizer.json` at hand the tokens are counted, without torch; otherwise they are estimated, so that
the estimate errs towards too many.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cosmos_core.architecture import model_architecture
from cosmos_core.errors import CheckpointMismatch
from tasks.config import RunConfig

__all__ = ["MAX_TOKENS", "TokenCounter", "run_token_counter", "token_counter"]

MAX_TOKENS = 512
"""What the encoder keeps, its end token included."""

_WORD_OR_MARK = re.compile(r"[A-Za-z]+|\d|[^\sA-Za-z\d]")
_LETTERS_A_TOKEN = 3
# T5's 32,000 pieces hold every common English word whole; a rare one falls into pieces of three letters or more on
# average, a number into digits at worst, and each other mark is a piece of its own.


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenCounter:
    """Counts the tokens of a prompt, end token included."""

    source: str
    """The tokenizer's file, or `estimate`."""
    _tokenizer: Any = None

    @property
    def exact(self) -> bool:
        return self._tokenizer is not None

    def count(self, text: str) -> int:
        """Tokens of the whole text, before anything is cut."""
        if self._tokenizer is not None:
            return len(self._tokenizer.encode(text).ids)
        return 1 + sum(_estimate(piece) for piece in _WORD_OR_MARK.findall(text))


def token_counter(folder: Path | None) -> TokenCounter:
    """A counter with the tokenizer of a text encoder's folder; an estimate if there is none.

    Raises:
        CheckpointMismatch: the tokenizer's file is damaged.
    """
    file = folder / "tokenizer.json" if folder else None
    if file is None or not file.is_file():
        return TokenCounter(source="estimate")
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_file(str(file))
    except Exception as error:  # the library raises bare Exception
        raise CheckpointMismatch(
            f"{file} is no tokenizer",
            got=str(error).splitlines()[0][:200] if str(error) else type(error).__name__,
            fix="Copy tokenizer.json of google-t5/t5-11b again.",
        ) from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return TokenCounter(source=str(file), _tokenizer=tokenizer)


def run_token_counter(config: RunConfig) -> TokenCounter:
    """The counter for the text encoder that a run would load.

    Raises:
        CheckpointMismatch: its tokenizer is damaged.
    """
    files = config.checkpoints
    return token_counter(files.text_encoder or files.root / model_architecture(config.defaults.model).text_encoder)


def _estimate(piece: str) -> int:
    return -(-len(piece) // _LETTERS_A_TOKEN) if piece[0].isalpha() and piece.isascii() else 1
