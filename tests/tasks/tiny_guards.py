"""Guard models of a few thousand random weights, in the very layout of the real ones' files."""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
    SiglipConfig,
    SiglipModel,
)

from cosmos_core.guard_video import CLASSES, SafetyHead
from cosmos_core.retinaface import RetinaFace

TEMPLATE = "{% for m in messages %}<user> {{ m['content'] }} {% endfor %}<assistant>"
_WORDS = ["<pad>", "<eos>", "<user>", "<assistant>", "safe", "unsafe", "\n", "S1", "S10", ",", "Safety:", "Safe", "car"]


def save_text_guard(folder: Path, says: list[str], *, family: str = "llama", template: str | None = TEMPLATE) -> Path:
    """A causal model that says the words of `says`, one after another, whatever it is told."""
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
             "num_key_value_heads": 1, "vocab_size": len(_WORDS), "max_position_embeddings": 64,
             "pad_token_id": 0, "eos_token_id": 1, "bos_token_id": None, "tie_word_embeddings": False}  # fmt: skip
    torch.manual_seed(0)
    config, model_class = (
        (LlamaConfig(**sizes), LlamaForCausalLM)
        if family == "llama"
        else (Qwen3Config(head_dim=8, **sizes), Qwen3ForCausalLM)
    )
    model = model_class(config)
    # Each word gets an embedding of its own, the layers add nothing, and the head maps each word to its follower.
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "o_proj" in name or "down_proj" in name:
                parameter.zero_()
        model.model.embed_tokens.weight.copy_(8 * torch.eye(len(_WORDS), 16))
        model.lm_head.weight.zero_()
        chain = ["<assistant>", *says]
        for word, follower in zip(chain, [*says, "<eos>"], strict=True):
            model.lm_head.weight[_WORDS.index(follower), _WORDS.index(word)] = 8
    folder.mkdir(parents=True)
    model.save_pretrained(folder)
    words = Tokenizer(models.WordLevel({word: index for index, word in enumerate(_WORDS)}, unk_token="car"))
    words.pre_tokenizer = pre_tokenizers.Split(" ", "removed")
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", eos_token="<eos>")
    tokenizer.chat_template = template
    tokenizer.save_pretrained(folder)
    return folder


def save_classifier(folder: Path, *, prefers: str | None = None) -> tuple[Path, Path]:
    """Head and encoder in the layout of Cosmos-Guardrail1; `prefers` makes one class win on every frame."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(1)
    vision = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
              "image_size": 28, "patch_size": 14}  # fmt: skip
    text = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
            "vocab_size": 32, "max_position_embeddings": 8}  # fmt: skip
    encoder = folder / "siglip"
    SiglipModel(SiglipConfig(text_config=text, vision_config=vision)).save_pretrained(encoder)
    head = SafetyHead(16)
    if prefers is not None:
        with torch.no_grad():
            head.layers[-1].bias[CLASSES.index(prefers)] = 20.0
    state = {f"network.{name}": tensor for name, tensor in head.state_dict().items()}
    torch.save({"model": state}, folder / "safety_filter.pt")
    return folder / "safety_filter.pt", encoder


def save_retinaface(path: Path, *, threshold_bias: float = -8.0) -> Path:
    """RetinaFace with random weights, under the names of `Resnet50_Final.pth`; the bias decides how often it fires."""
    torch.manual_seed(2)
    network = RetinaFace()
    with torch.no_grad():
        for head in network.ClassHead:
            head.conv1x1.weight.mul_(0.01)
            head.conv1x1.bias.copy_(torch.tensor([0.0, threshold_bias] * 2))
        for head in network.BboxHead:
            head.conv1x1.weight.zero_()
            head.conv1x1.bias.zero_()
    torch.save({f"module.{name}": tensor for name, tensor in network.state_dict().items()}, path)
    return path
