"""Train the text encoder: a small T5 that reads captions and writes down what they say.

    python -m examples.tiny_model.train_text_encoder build/tiny

The tokenizer (Unigram with byte fallback, as T5's) takes its pieces from the captions, then encoder and decoder learn
to turn a caption into its labels: `layout intersection; time night; weather rain; incident t_bone; subject red sedan
left`. Only the encoder is kept. It stays as it is while the transformer is trained, so embeddings are made once.
"""

from __future__ import annotations

import argparse
import json
import math
import string
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from torch import Tensor
from transformers import T5Config, T5ForConditionalGeneration

from cosmos_core.architecture import MODELS
from cosmos_core.negative_prompt import DEFAULT_NEGATIVE_PROMPT
from examples.tiny_model.captions import captions_and_labels
from examples.tiny_model.pieces import Piece, set_learning_rate

__all__ = ["main", "target_text", "train_tokenizer"]

_MODEL = MODELS["tiny"]
_PAD, _END, _UNKNOWN = 0, 1, 2
_SPACE = "\N{LOWER ONE EIGHTH BLOCK}"
_VOCABULARY = 1200
_SPELLED, _RARE = -14.0, -100.0
"""Log-probabilities of letters and of bytes."""
_TARGET_LENGTH = 64
_LAYERS, _FEED_FORWARD, _HEADS = 3, 256, 4


def train_tokenizer(texts: Iterable[str]) -> Tokenizer:
    """A Unigram tokenizer in T5's manner: the words of the texts, and letters and bytes to spell all others.

    The library's trainer never takes a whole word of such a small vocabulary for a piece, so pieces are counted here.
    """
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFKC(), normalizers.Replace("\n", " "), normalizers.Lowercase()]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.WhitespaceSplit(),
            pre_tokenizers.Metaspace(replacement=_SPACE, prepend_scheme="always"),
            pre_tokenizers.Punctuation(),
        ]
    )
    counts: Counter[str] = Counter()
    for text in texts:
        split = tokenizer.pre_tokenizer.pre_tokenize_str(tokenizer.normalizer.normalize_str(text))
        counts.update(word for word, _ in split)
    total = counts.total()
    pieces = {"<pad>": 0.0, "</s>": 0.0, "<unk>": _RARE, **{f"<0x{value:02X}>": _RARE for value in range(256)}}
    words = [(word, count) for word, count in counts.most_common(_VOCABULARY) if count > 1]
    pieces.update((word, math.log(count / total)) for word, count in words)
    for letter in (_SPACE, *string.ascii_lowercase, *string.digits, *string.punctuation):
        pieces.setdefault(letter, _SPELLED)
    tokenizer.model = models.Unigram(list(pieces.items()), unk_id=_UNKNOWN, byte_fallback=True)
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace(replacement=_SPACE)])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", _END)]
    )
    tokenizer.add_special_tokens(["<pad>", "</s>", "<unk>"])
    return tokenizer


def target_text(labels: Mapping[str, Any]) -> str:
    """What the decoder learns to write for a caption."""
    subject = " ".join(str(labels.get(f"subject_{part}") or "") for part in ("colour", "kind", "direction"))
    return (
        f"layout {labels['layout']}; time {labels['time_of_day']}; weather {labels['weather']}; "
        f"incident {labels['incident'] or 'none'}; subject {subject.strip() or 'none'}; "
        f"colours {' '.join(labels.get('colours', ())) or 'none'}"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Train tokenizer and encoder; a few minutes on two cores."""
    parser = argparse.ArgumentParser(prog="python -m examples.tiny_model.train_text_encoder", description=__doc__)
    parser.add_argument("work", type=Path, help="folder of clips, states and results")
    parser.add_argument("--captions", type=int, default=12000)
    parser.add_argument("--steps", type=int, default=2500)
    parser.add_argument("--batch", type=int, default=48)
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    options = parser.parse_args(arguments)
    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")

    pairs = captions_and_labels(options.captions)
    captions, targets = [caption for caption, _ in pairs], [target_text(labels) for _, labels in pairs]
    tokenizer = train_tokenizer([*captions, *targets, DEFAULT_NEGATIVE_PROMPT])
    config = T5Config(
        vocab_size=tokenizer.get_vocab_size(),
        d_model=_MODEL.dit.crossattn_emb_channels,
        d_kv=_MODEL.dit.crossattn_emb_channels // _HEADS,
        d_ff=_FEED_FORWARD,
        num_layers=_LAYERS,
        num_decoder_layers=2,
        num_heads=_HEADS,
        dropout_rate=0.05,
        feed_forward_proj="gated-gelu",
        pad_token_id=_PAD,
        eos_token_id=_END,
        decoder_start_token_id=_PAD,
    )
    model = T5ForConditionalGeneration(config).train().to(device)
    optimizer = torch.optim.AdamW(
        [{"params": list(model.parameters()), "peak_lr": options.learning_rate}], betas=(0.9, 0.98), weight_decay=0.0
    )
    inputs = _encoded(tokenizer, captions, _MODEL.text_length).to(device)
    outputs = _encoded(tokenizer, targets, _TARGET_LENGTH).to(device)
    generator = np.random.default_rng(0)
    piece = Piece(num_steps=options.steps, train_minutes=0.0, minutes=600.0)
    num_held_out = min(512, len(captions) // 8)
    while piece.goes_on:
        set_learning_rate(optimizer, piece.share, rise=0.05)
        rows = torch.from_numpy(generator.integers(num_held_out, len(captions), size=options.batch)).to(device)
        loss = _loss(model, inputs[rows], outputs[rows])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        piece.step += 1
        if piece.every(250) or piece.finished:
            with torch.no_grad():
                held_out = _loss(model.eval(), inputs[:num_held_out], outputs[:num_held_out])
            model.train()
            print(f"text step {piece.step} {piece.seconds:.0f} s: loss {loss:.4f}, held out {held_out:.4f}", flush=True)
    _save(options.work / "model" / "text_encoder", tokenizer, config, model)


def _encoded(tokenizer: Tokenizer, texts: Sequence[str], length: int) -> Tensor:
    """Token ids [texts, length], padded and cut."""
    tokenizer.enable_truncation(length)
    tokenizer.enable_padding(pad_id=_PAD, pad_token="<pad>", length=length)
    ids = torch.tensor([encoding.ids for encoding in tokenizer.encode_batch(list(texts))])
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return ids


def _loss(model: T5ForConditionalGeneration, inputs: Tensor, outputs: Tensor) -> Tensor:
    # Columns that are padding in every row cost time and change nothing.
    inputs = inputs[:, : int((inputs != _PAD).sum(dim=1).max())]
    outputs = outputs[:, : int((outputs != _PAD).sum(dim=1).max())]
    labels = outputs.masked_fill(outputs == _PAD, -100)
    return model(input_ids=inputs, attention_mask=inputs != _PAD, labels=labels).loss


def _save(folder: Path, tokenizer: Tokenizer, config: T5Config, model: T5ForConditionalGeneration) -> None:
    """Write the encoder and the tokenizer in the layout of transformers, weights in bfloat16."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    special = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    about = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": _MODEL.text_length, **special}
    (folder / "tokenizer_config.json").write_text(json.dumps(about, indent=2) + "\n")
    (folder / "special_tokens_map.json").write_text(json.dumps(special, indent=2) + "\n")
    fields = {**config.to_dict(), "num_decoder_layers": 0, "architectures": ["T5EncoderModel"], "dropout_rate": 0.0}
    fields = {key: value for key, value in fields.items() if key not in ("transformers_version", "dtype")}
    (folder / "config.json").write_text(json.dumps(fields, indent=2, sort_keys=True, default=str) + "\n")
    weights = {
        name: value.detach().to("cpu", torch.bfloat16).contiguous()
        for name, value in model.state_dict().items()
        if name.startswith(("shared.", "encoder.")) and name != "encoder.embed_tokens.weight"
    }
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


if __name__ == "__main__":
    main()
