"""The micro model's text encoder: a small T5 with random weights and a vocabulary of traffic words.

The vocabulary is written down, not trained, so it is the same everywhere. Words that it does not know are spelled by
letters, and characters that it does not know by bytes.
"""

from __future__ import annotations

import json
import string
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from torch import Tensor
from transformers import T5Config, T5EncoderModel

from cosmos_core.random_tensor import random_tensor

__all__ = ["write_text_encoder"]

_WORDS = """
a an the of in on at to from into onto with without by for and or but as is are was were be been it its this that two
three four one first second then while when after before during near between behind ahead beside across along over under
past through toward towards away back front rear left right side turn turns turning straight forward stop stops stopped
stopping stopping slow slows slowing fast speed speeds speeding high low brake brakes braking hard sudden suddenly
car cars truck trucks bus buses van vans motorcycle bicycle cyclist cyclists pedestrian pedestrians vehicle vehicles suv
sedan taxi trailer ambulance police driver drivers passenger child person people crowd animal dog deer
red blue white black green yellow silver grey gray orange dark bright
road roads street highway motorway freeway expressway lane lanes intersection intersections junction crossing crosswalk
crossroads roundabout ramp merge merges merging bridge tunnel curve bend shoulder median barrier guardrail sidewalk
traffic light lights signal signals sign signs pole camera cctv fixed surveillance overhead view angle footage scene
video dashcam static wide clear realistic quality city urban rural suburban residential downtown buildings trees
collision collisions collide collides colliding crash crashes crashing accident accidents impact impacts hit hits
hitting strike strikes rear_end rear-end head-on t-bone sideswipe sideswipes rollover rolls skid skids skidding spin
spins swerve swerves swerving drift drifts lose loses control loss run runs running ignores ignoring yield yields fail
fails jaywalking wrong way illegal overtake overtakes overtaking cut cuts cutting tailgating follow follows
following close approach approaches approaching enter enters entering cross crosses move moves moving drive drives
driving wait waits waiting park parked parking damage damaged debris smoke fire glass bumper door hood wheel tire
skidmarks day daytime night nighttime dusk dawn morning evening noon sunny cloudy overcast rain rainy raining wet
fog foggy snow snowy ice icy storm wind sun glare shadow reflections surface asphalt busy empty heavy light moderate
"""
_FRAGMENTS = """
ing ed er est ly tion s es ment al ic ous able un re in de co ex pre th he an on en at or te st
"""
_SPACE = "\N{LOWER ONE EIGHTH BLOCK}"
_PAD, _END, _UNKNOWN = 0, 1, 2


def write_text_encoder(folder: Path, *, dim: int, length: int, seed: int) -> None:
    """Write configuration, weights and tokenizer in the layout of transformers.

    Args:
        folder: is created.
        dim: width of the embeddings.
        length: tokens that a prompt may have.
        seed: of the weights.
    """
    folder.mkdir(parents=True)
    tokenizer = _tokenizer()
    tokenizer.save(str(folder / "tokenizer.json"))
    special = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    about = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": length, **special}
    (folder / "tokenizer_config.json").write_text(json.dumps(about, indent=2) + "\n")
    (folder / "special_tokens_map.json").write_text(json.dumps(special, indent=2) + "\n")

    config = T5Config(
        vocab_size=tokenizer.get_vocab_size(),
        d_model=dim,
        d_kv=dim // 4,
        d_ff=2 * dim,
        num_layers=2,
        num_decoder_layers=0,
        num_heads=4,
        pad_token_id=_PAD,
        eos_token_id=_END,
        decoder_start_token_id=_PAD,
        architectures=["T5EncoderModel"],
        dropout_rate=0.0,
    )
    about = {key: value for key, value in config.to_dict().items() if key != "transformers_version"}
    (folder / "config.json").write_text(json.dumps(about, indent=2, sort_keys=True) + "\n")
    with torch.device("meta"):
        model = T5EncoderModel(config)
    weights = {
        name: _weight(name, value, seed=seed)
        for name, value in model.state_dict().items()
        if name != "encoder.embed_tokens.weight"  # the same tensor as shared.weight
    }
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def _weight(name: str, like: Tensor, *, seed: int) -> Tensor:
    if "layer_norm" in name:
        return torch.ones(like.shape)
    # T5 has no 1 / sqrt(d) in its attention: the query projection carries it.
    scale = like.shape[-1] ** -0.5
    if name.endswith("SelfAttention.q.weight"):
        scale /= like.shape[-1] ** 0.25
    if name == "shared.weight":
        scale = 1.0
    return random_tensor(f"text.{name}", like.shape, seed=seed, std=scale)


def _tokenizer() -> Tokenizer:
    pieces: dict[str, float] = {"<pad>": 0.0, "</s>": 0.0, "<unk>": -100.0}
    pieces.update({f"<0x{value:02X}>": -100.0 for value in range(256)})
    for word in _WORDS.split():
        pieces.setdefault(_SPACE + word, -4.0)
    for fragment in _FRAGMENTS.split():
        pieces.setdefault(fragment, -8.0)
    for letter in (_SPACE, *string.ascii_letters, *string.digits, *string.punctuation):
        pieces.setdefault(letter, -10.0)
    tokenizer = Tokenizer(models.Unigram(list(pieces.items()), unk_id=_UNKNOWN, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFKC(), normalizers.Replace("\n", " "), normalizers.Lowercase()]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(replacement=_SPACE, prepend_scheme="always")]
    )
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace(replacement=_SPACE)])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", _END)]
    )
    tokenizer.add_special_tokens(["<pad>", "</s>", "<unk>"])
    return tokenizer
