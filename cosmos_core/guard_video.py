"""The visual content classifier of the reference: a frozen SigLIP picture encoder and a small trained head.

Legend: B frames, D embedding width, C classes. Frames are uint8 RGB [H, W, 3].
Source: reference files video_content_safety_filter.py and vision_encoder.py; the head is Linear, BatchNorm, ReLU twice
and a last Linear, its weights are named `network.layers.N`.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from transformers import SiglipVisionModel

from cosmos_core.errors import CheckpointMismatch, CheckpointMissing
from cosmos_core.guard_text import hash_folder
from cosmos_core.hashing import sha256_file, sha256_json

__all__ = ["CLASSES", "FrameClassifier", "SafetyHead", "read_head"]

CLASSES = ("Safe", "Sexual_Content", "Violence", "Drugs", "Child_Abuse", "Hate_and_Harassment", "Self-Harm")
"""In the order of the head's outputs."""

_HIDDEN = (512, 256)


class SafetyHead(nn.Module):
    """Embedding [B, D] to logits [B, C]."""

    def __init__(self, width: int, *, num_classes: int = len(CLASSES)) -> None:
        super().__init__()
        first, second = _HIDDEN
        self.layers = nn.Sequential(
            nn.Linear(width, first),
            nn.BatchNorm1d(first),
            nn.ReLU(),
            nn.Linear(first, second),
            nn.BatchNorm1d(second),
            nn.ReLU(),
            nn.Linear(second, num_classes),
        )

    def forward(self, embedding_BD: Tensor) -> Tensor:
        logits_BC: Tensor = self.layers(embedding_BD)
        return logits_BC


def read_head(path: Path, *, width: int) -> SafetyHead:
    """The head of a `safety_filter.pt`, whose weights lie under the key `model`.

    Raises:
        CheckpointMissing: there is no such file.
        CheckpointMismatch: it is damaged, or holds another network.
    """
    if not path.is_file():
        raise CheckpointMissing("no classifier head", got=path, fix="Download nvidia/Cosmos-Guardrail1.")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        state = {name.removeprefix("network."): tensor for name, tensor in content["model"].items()}
    except (pickle.UnpicklingError, RuntimeError, EOFError, KeyError, TypeError, AttributeError, ValueError) as error:
        raise CheckpointMismatch(
            f"{path} is no classifier head", got=str(error).split("\n")[0], expected="tensors under the key `model`"
        ) from error
    head = SafetyHead(width)
    try:
        head.load_state_dict(state, strict=True)
    except RuntimeError as error:
        raise CheckpointMismatch(
            f"{path} holds another network", got=" ".join(str(error).split())[:300], expected=f"7 classes over {width}"
        ) from error
    return head


class FrameClassifier:
    """Class probabilities of frames, a batch at a time. Build it with `load`."""

    def __init__(self, encoder: SiglipVisionModel, head: SafetyHead, *, device: str, sha256: str, name: str) -> None:
        self._encoder = encoder.to(device).eval().requires_grad_(False)
        self._head = head.to(device).eval().requires_grad_(False)
        self._device = device
        self._side = int(encoder.config.image_size)
        self.mean = self.std = np.full(3, 0.5, dtype=np.float32)
        self.sha256 = sha256
        self.name = name

    @classmethod
    def load(cls, *, head: Path, encoder: Path, device: str) -> FrameClassifier:
        """Load encoder and head from local files; nothing is ever downloaded.

        Raises:
            CheckpointMissing: a file is missing.
            CheckpointMismatch: a file is damaged or does not fit.
        """
        if not (encoder / "config.json").is_file() or not list(encoder.glob("*.safetensors")):
            raise CheckpointMissing(
                "no SigLIP encoder", got=encoder, expected="config.json and .safetensors", fix="Download it."
            )
        try:
            model, info = SiglipVisionModel.from_pretrained(
                encoder, local_files_only=True, use_safetensors=True, dtype=torch.float32, output_loading_info=True
            )
        except (OSError, ValueError, RuntimeError, KeyError) as error:
            raise CheckpointMismatch(
                f"the encoder in {encoder} cannot be loaded", got=f"{type(error).__name__}: {error}".split("\n")[0]
            ) from error
        # The file holds SigLIP's text half as well; only what the picture half lacks matters.
        wrong = sorted(map(str, [*info["missing_keys"], *info["mismatched_keys"]]))
        if wrong:
            raise CheckpointMismatch(
                f"the weights in {encoder} do not fit its config.json", got=f"{len(wrong)} tensors, first {wrong[0]}"
            )
        digest = sha256_json({"head": sha256_file(head) if head.is_file() else None, "encoder": hash_folder(encoder)})
        classifier = cls(
            model,
            read_head(head, width=model.config.hidden_size),
            device=device,
            sha256=digest,
            name=f"{head.name} on {encoder.name}",
        )
        classifier._take_preprocessing(encoder / "preprocessor_config.json")
        return classifier

    @torch.inference_mode()
    def score(self, frames: Sequence[np.ndarray]) -> np.ndarray:
        """Probabilities [B, C] of frames [H, W, 3], in the order of `CLASSES`.

        Raises:
            CheckpointMismatch: the network gives something that is no probability.
        """
        pixels = torch.from_numpy(np.stack([self._prepared(frame) for frame in frames])).to(self._device)
        # SigLIP's pooled output; newer releases of transformers wrap it, and code that expected a bare tensor raised.
        embedding_BD = self._encoder(pixel_values=pixels).pooler_output
        embedding_BD = embedding_BD / embedding_BD.norm(dim=-1, keepdim=True)
        probabilities = self._head(embedding_BD).softmax(-1).float().cpu().numpy()
        if probabilities.shape != (len(frames), len(CLASSES)) or not np.isfinite(probabilities).all():
            raise CheckpointMismatch(
                f"{self.name} gives no probabilities",
                got=f"{probabilities.shape}, {np.isnan(probabilities).sum()} NaN",
                expected=f"{(len(frames), len(CLASSES))} finite numbers",
            )
        return probabilities

    def _prepared(self, frame: np.ndarray) -> np.ndarray:
        """A frame as the encoder's own preprocessing makes it: a stretched square, bicubic, normalised; [3, S, S]."""
        square = (self._side, self._side)
        picture = Image.fromarray(np.ascontiguousarray(frame)).resize(square, Image.Resampling.BICUBIC)
        values = np.asarray(picture, dtype=np.float32) / 255.0
        return ((values - self.mean) / self.std).transpose(2, 0, 1)

    def _take_preprocessing(self, path: Path) -> None:
        if not path.is_file():
            return
        try:
            settings = json.loads(path.read_text())
            mean, std = (np.array(settings[key], dtype=np.float32) for key in ("image_mean", "image_std"))
        except (ValueError, KeyError, TypeError) as error:
            raise CheckpointMismatch(f"{path} cannot be read", got=error, expected="image_mean, image_std") from error
        if mean.shape != (3,) or std.shape != (3,) or std.min() <= 0:
            raise CheckpointMismatch(f"{path} is wrong", got=f"{mean}, {std}", expected="three means, three deviations")
        self.mean, self.std = mean, std
