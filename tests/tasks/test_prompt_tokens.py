"""Tokens are counted as the text encoder counts them, or estimated on the safe side."""

from __future__ import annotations

import pytest

from cosmos_core.errors import CheckpointMismatch
from tasks.config import parse_config
from tasks.prompt_tokens import run_token_counter, token_counter

PROMPTS = ("", "A car.", "A static traffic CCTV camera captures 2 cars; a T-bone collision (fast)!", "word " * 700)


@pytest.fixture(scope="module")
def folder(micro_root):
    [file] = [file for file in micro_root.rglob("tokenizer.json")]
    return file.parent


@pytest.mark.parametrize("prompt", PROMPTS)
def test_the_count_is_that_of_the_text_encoder(folder, prompt):
    from transformers import AutoTokenizer

    counter = token_counter(folder)
    assert counter.exact
    assert counter.source == str(folder / "tokenizer.json")
    assert counter.count(prompt) == len(AutoTokenizer.from_pretrained(folder)(prompt, verbose=False)["input_ids"])


def test_a_run_counts_with_the_encoder_that_it_would_load(micro_root, folder):
    config = {"defaults": {"model": "micro"}, "checkpoints": {"root": str(micro_root)}}
    assert run_token_counter(parse_config(config, origin="x")).source == str(folder / "tokenizer.json")
    config["defaults"] = {"model": "2B", "resolution": "720", "fps": 16}
    assert not run_token_counter(parse_config(config, origin="x")).exact


@pytest.mark.parametrize(
    ("text", "tokens"),
    [("", 1), ("a", 2), ("car", 2), ("cars", 3), ("A car.", 4), ("2026", 5), ("é!", 3), ("accelerates", 5)],
)
def test_the_estimate_counts_three_letters_a_token(text, tokens):
    assert token_counter(None).count(text) == tokens


def test_the_estimate_never_takes_fewer_tokens_than_words():
    counter = token_counter(None)
    assert not counter.exact
    assert all(counter.count(prompt) > len(prompt.split()) for prompt in PROMPTS)


def test_a_damaged_tokenizer_is_refused(tmp_path):
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(CheckpointMismatch, match="no tokenizer"):
        token_counter(tmp_path)
