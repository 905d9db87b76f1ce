"""Padding, truncation and zeroed rows of text embeddings, and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, T5EncoderModel

from cosmos_core.errors import CheckpointMismatch, CheckpointMissing
from cosmos_core.micro_text import write_text_encoder
from cosmos_core.text_encoder import TextEncoder

FACTS = json.loads((Path(__file__).parents[1] / "golden/text/facts.json").read_text())
PROMPT = "A red car collides with a truck at a foggy intersection."
LENGTH = 32


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("text") / "t5"
    write_text_encoder(folder, dim=64, length=LENGTH, seed=0)
    return folder


@pytest.fixture(scope="module")
def encoder(folder: Path) -> TextEncoder:
    return TextEncoder.load(folder, max_length=LENGTH)


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(folder, tmp_path / "t5"))


def test_rows_beyond_the_prompt_are_zero(encoder: TextEncoder) -> None:
    result = encoder.encode([PROMPT, "", "car"])
    assert result.embeddings.shape == (3, LENGTH, 64)
    assert result.num_tokens == [13, 1, 2]
    assert result.truncated == [False, False, False]
    for row, count in zip(result.embeddings, result.num_tokens, strict=True):
        assert row[:count].abs().sum(dim=-1).min() > 0
        assert not row[count:].any()


def test_padding_does_not_reach_the_prompt(folder: Path, encoder: TextEncoder) -> None:
    """As without any padding: the encoder attends to the prompt's own tokens alone."""
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    with torch.no_grad():
        plain = encoder._model(**tokenizer([PROMPT], return_tensors="pt")).last_hidden_state
    padded = encoder.encode([PROMPT, "a much longer prompt about cars, trucks and buses at an intersection"]).embeddings
    torch.testing.assert_close(padded[:1, : plain.shape[1]], plain, rtol=1e-5, atol=1e-5)


def test_the_facts_of_the_reference_hold_for_a_long_prompt(encoder: TextEncoder) -> None:
    prompt = FACTS["default_negative_prompt"]
    result = encoder.encode([prompt])
    assert result.truncated == [True]
    assert result.num_tokens[0] > LENGTH
    assert result.embeddings.shape[1] == LENGTH
    assert result.embeddings[0, -1].any()
    tokenizer = encoder._tokenizer
    cut = tokenizer(prompt, truncation=True, max_length=LENGTH)["input_ids"]
    assert cut[-1] == tokenizer.eos_token_id


def test_a_prompt_of_exactly_the_length_is_not_cut(encoder: TextEncoder) -> None:
    assert encoder.encode(["car " * (LENGTH - 1)]).truncated == [False]
    assert encoder.encode(["car " * LENGTH]).truncated == [True]


def test_dtype_and_prompts_are_told_apart(folder: Path, encoder: TextEncoder) -> None:
    half = TextEncoder.load(folder, dtype=torch.bfloat16, max_length=LENGTH)
    embeddings = half.encode([PROMPT, "a dog in the rain"]).embeddings
    assert embeddings.dtype == torch.bfloat16
    exact = encoder.encode([PROMPT]).embeddings
    assert (embeddings[:1].float() - exact).norm() / exact.norm() < 3e-2
    assert not torch.equal(embeddings[0], embeddings[1])


def test_pickled_weights_of_the_whole_t5_give_the_same(copy: Path, encoder: TextEncoder) -> None:
    state_dict = load_file(copy / "model.safetensors")
    state_dict["encoder.embed_tokens.weight"] = state_dict["shared.weight"]
    state_dict["decoder.block.0.layer.0.SelfAttention.q.weight"] = torch.zeros(4, 4)
    state_dict["lm_head.weight"] = torch.zeros(4, 4)
    torch.save(state_dict, copy / "pytorch_model.bin")
    (copy / "model.safetensors").unlink()
    other = TextEncoder.load(copy, max_length=LENGTH)
    assert torch.equal(other.encode([PROMPT]).embeddings, encoder.encode([PROMPT]).embeddings)


def test_weights_are_placed_where_transformers_places_them(folder: Path, encoder: TextEncoder) -> None:
    theirs = T5EncoderModel.from_pretrained(folder, local_files_only=True).state_dict()
    ours = encoder._model.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_unknown_characters_are_spelled_by_bytes(encoder: TextEncoder) -> None:
    tokenizer = encoder._tokenizer
    text = "a car in zürich, 交通 😀."
    tokens = tokenizer(text)["input_ids"]
    assert tokenizer.unk_token_id not in tokens
    assert tokenizer.decode(tokens, skip_special_tokens=True) == text


def test_a_missing_folder_says_what_to_put_there(tmp_path: Path, copy: Path) -> None:
    with pytest.raises(CheckpointMissing, match=r"google-t5/t5-11b into .*absent"):
        TextEncoder.load(tmp_path / "absent")
    (copy / "tokenizer.json").unlink()
    with pytest.raises(CheckpointMissing, match=r"incomplete.*tokenizer.json or spiece.model"):
        TextEncoder.load(copy)


def test_other_weights_and_damaged_files_are_refused(copy: Path) -> None:
    state_dict = load_file(copy / "model.safetensors")
    norm = "encoder.final_layer_norm.weight"
    lacking = {key: value for key, value in state_dict.items() if key != norm}
    save_file(lacking, copy / "model.safetensors")
    with pytest.raises(CheckpointMismatch, match=f"1 tensors that are missing.*first {norm}"):
        TextEncoder.load(copy)
    save_file({**state_dict, norm: torch.ones(32)}, copy / "model.safetensors")
    with pytest.raises(CheckpointMismatch, match="another shape"):
        TextEncoder.load(copy)
    save_file(state_dict, copy / "model.safetensors")
    (copy / "tokenizer.json").write_text("{")
    with pytest.raises(CheckpointMismatch, match="no readable T5 tokenizer"):
        TextEncoder.load(copy)
