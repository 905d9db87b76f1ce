"""RetinaFace with a ResNet-50: the face detector of the reference, under the tensor names of its checkpoint.

Legend: B frames, C channels, H W height and width in pixels, A anchors (two a cell on grids of stride 8, 16 and 32).
Architecture: "RetinaFace: Single-stage Dense Face Localisation in the Wild" (arXiv 1905.00641): ResNet stages 2 to 4,
a feature pyramid of 256 channels, a context module a level, three 1x1 heads a level. The landmark head is loaded, so
that the file is taken whole, and not used.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cosmos_core.errors import CheckpointMismatch
from cosmos_core.hashing import sha256_file
from cosmos_core.weights_file import read_state_dict

__all__ = ["FaceBox", "RetinaFace", "RetinaFaceDetector", "anchors"]

_STRIDES = (8, 16, 32)
_SIDES = ((16, 32), (64, 128), (256, 512))
"""Anchor sides in pixels, by level."""
_VARIANCES = (0.1, 0.2)
"""Scales of centre and size in the box code."""
_MEAN_BGR = (104.0, 117.0, 123.0)
_KEEP_BEFORE, _KEEP_AFTER = 5000, 750
"""Boxes a frame before and after suppression, as in the reference."""


def _convolution(inputs: int, outputs: int, size: int, *, relu: bool = True) -> nn.Sequential:
    layers: list[nn.Module] = [
        nn.Conv2d(inputs, outputs, size, padding=size // 2, bias=False),
        nn.BatchNorm2d(outputs),
    ]
    return nn.Sequential(*layers, *([nn.ReLU()] if relu else []))


class _Bottleneck(nn.Module):
    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, 4 * width, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * width)
        if stride != 1 or inputs != 4 * width:
            self.downsample: nn.Module = nn.Sequential(
                nn.Conv2d(inputs, 4 * width, 1, stride=stride, bias=False), nn.BatchNorm2d(4 * width)
            )
        else:
            self.downsample = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        out = F.relu(self.bn2(self.conv2(out)))
        return F.relu(self.bn3(self.conv3(out)) + self.downsample(x))


class _ResNet50(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        inputs = 64
        for level, (blocks, width) in enumerate(zip((3, 4, 6, 3), (64, 128, 256, 512), strict=True), 1):
            stage = []
            for block in range(blocks):
                stage.append(_Bottleneck(inputs, width, 2 if block == 0 and level > 1 else 1))
                inputs = 4 * width
            self.add_module(f"layer{level}", nn.Sequential(*stage))

    def forward(self, x: Tensor) -> list[Tensor]:
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 3, stride=2, padding=1)
        levels = []
        for level in range(1, 5):
            x = self.get_submodule(f"layer{level}")(x)
            levels.append(x)
        return levels[1:]


class _Pyramid(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.output1, self.output2, self.output3 = (_convolution(c, width, 1) for c in (512, 1024, 2048))
        self.merge1, self.merge2 = _convolution(width, width, 3), _convolution(width, width, 3)

    def forward(self, levels: list[Tensor]) -> list[Tensor]:
        fine, middle, coarse = self.output1(levels[0]), self.output2(levels[1]), self.output3(levels[2])
        middle = self.merge2(middle + F.interpolate(coarse, size=middle.shape[-2:]))
        fine = self.merge1(fine + F.interpolate(middle, size=fine.shape[-2:]))
        return [fine, middle, coarse]


class _Context(nn.Module):
    """Three fields of view over one level: 3x3, and 5x5 and 7x7 as chains of 3x3 that share their first link."""

    def __init__(self, width: int) -> None:
        super().__init__()
        quarter = width // 4
        self.conv3X3 = _convolution(width, width // 2, 3, relu=False)
        self.conv5X5_1 = _convolution(width, quarter, 3)
        self.conv5X5_2 = _convolution(quarter, quarter, 3, relu=False)
        self.conv7X7_2 = _convolution(quarter, quarter, 3)
        self.conv7x7_3 = _convolution(quarter, quarter, 3, relu=False)

    def forward(self, x: Tensor) -> Tensor:
        shared = self.conv5X5_1(x)
        views = [self.conv3X3(x), self.conv5X5_2(shared), self.conv7x7_3(self.conv7X7_2(shared))]
        return F.relu(torch.cat(views, dim=1))


class _Head(nn.Module):
    def __init__(self, width: int, values: int) -> None:
        super().__init__()
        self.values = values
        self.conv1x1 = nn.Conv2d(width, 2 * values, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv1x1(x).permute(0, 2, 3, 1).reshape(len(x), -1, self.values)


class RetinaFace(nn.Module):
    """Pictures [B, 3, H, W] to face probabilities [B, A] and box codes [B, A, 4]."""

    def __init__(self) -> None:
        super().__init__()
        width = 256
        self.body = _ResNet50()
        self.fpn = _Pyramid(width)
        self.ssh1, self.ssh2, self.ssh3 = (_Context(width) for _ in _STRIDES)
        self.ClassHead = nn.ModuleList(_Head(width, 2) for _ in _STRIDES)
        self.BboxHead = nn.ModuleList(_Head(width, 4) for _ in _STRIDES)
        self.LandmarkHead = nn.ModuleList(_Head(width, 10) for _ in _STRIDES)

    def forward(self, pictures_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        levels = self.fpn(self.body(pictures_BCHW))
        levels = [context(x) for context, x in zip((self.ssh1, self.ssh2, self.ssh3), levels, strict=True)]
        logits = torch.cat([head(x) for head, x in zip(self.ClassHead, levels, strict=True)], dim=1)
        codes = torch.cat([head(x) for head, x in zip(self.BboxHead, levels, strict=True)], dim=1)
        return logits.softmax(-1)[..., 1], codes


def anchors(height: int, width: int) -> Tensor:
    """Centre x, y and sides of every anchor in pixels, [A, 4], row by row from the finest level on."""
    parts = []
    for stride, sides in zip(_STRIDES, _SIDES, strict=True):
        rows, columns = -(-height // stride), -(-width // stride)
        y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
        centres = (torch.stack([x, y], dim=-1).float() + 0.5) * stride
        per_side = [torch.cat([centres, torch.full_like(centres, side)], dim=-1) for side in sides]
        parts.append(torch.stack(per_side, dim=2).reshape(-1, 4))
    return torch.cat(parts)


@dataclass(frozen=True, slots=True)
class FaceBox:
    """A face in a frame, in pixels."""

    x: float
    y: float
    width: float
    height: float
    score: float


class RetinaFaceDetector:
    """Faces in frames, a batch at a time. Build it with `load`."""

    def __init__(self, network: RetinaFace, *, device: str, sha256: str, confidence: float, nms: float) -> None:
        self._network = network.to(device).eval().requires_grad_(False)
        self._device = device
        self._confidence = confidence
        self._nms = nms
        self.sha256 = sha256
        self.name = "retinaface-resnet50"

    @classmethod
    def load(cls, weights: Path, *, device: str, confidence: float, nms: float) -> RetinaFaceDetector:
        """Load a `Resnet50_Final.pth`; every tensor of the network must be in it.

        Raises:
            CheckpointMissing, CheckpointMismatch: the file is missing, damaged, or holds another network.
        """
        state = {name.removeprefix("module."): tensor for name, tensor in read_state_dict(weights).items()}
        network = RetinaFace()
        try:
            network.load_state_dict(state, strict=True)
        except RuntimeError as error:
            raise CheckpointMismatch(
                f"{weights} holds another network",
                got=" ".join(str(error).split())[:300],
                expected="RetinaFace with a ResNet-50",
            ) from error
        return cls(network, device=device, sha256=sha256_file(weights), confidence=confidence, nms=nms)

    @torch.inference_mode()
    def detect(self, frames: Sequence[np.ndarray]) -> list[list[FaceBox]]:
        """Faces of frames [H, W, 3] of one size, RGB uint8, strongest first.

        Raises:
            CheckpointMismatch: the network gives something that is no probability.
        """
        pictures = torch.from_numpy(np.stack(frames)).to(self._device)[..., [2, 1, 0]].float()
        pictures = (pictures - torch.tensor(_MEAN_BGR, device=self._device)).permute(0, 3, 1, 2)
        scores_BA, codes = self._network(pictures)
        if not torch.isfinite(scores_BA).all() or not torch.isfinite(codes).all():
            raise CheckpointMismatch(f"{self.name} gives no probabilities", got="NaN", expected="finite numbers")
        priors = anchors(*pictures.shape[-2:]).to(self._device)
        found = []
        for scores_A, code in zip(scores_BA, codes, strict=True):
            likely = (scores_A > self._confidence).nonzero().flatten()
            likely = likely[scores_A[likely].argsort(descending=True)][:_KEEP_BEFORE]
            corners = _decode(code[likely], priors[likely])
            kept = _suppress(corners, self._nms)[:_KEEP_AFTER]
            found.append([_box(corners[i].tolist(), float(scores_A[likely[i]])) for i in kept])
        return found


def _decode(code: Tensor, priors: Tensor) -> Tensor:
    """Box codes against their anchors to corners left, top, right, bottom in pixels."""
    centre = priors[:, :2] + code[:, :2] * _VARIANCES[0] * priors[:, 2:]
    # A wild code must not become an infinite box.
    half = priors[:, 2:] * (code[:, 2:] * _VARIANCES[1]).clamp(max=8.0).exp() / 2
    return torch.cat([centre - half, centre + half], dim=1)


def _suppress(corners: Tensor, threshold: float) -> list[int]:
    """Indices of the boxes that no stronger box overlaps by more than the threshold; boxes come strongest first."""
    areas = (corners[:, 2:] - corners[:, :2]).prod(dim=1)
    left = torch.arange(len(corners), device=corners.device)
    kept = []
    while len(left):
        best, left = left[0], left[1:]
        kept.append(int(best))
        low = torch.maximum(corners[left, :2], corners[best, :2])
        high = torch.minimum(corners[left, 2:], corners[best, 2:])
        shared = (high - low).clamp(min=0).prod(dim=1)
        left = left[shared <= threshold * (areas[left] + areas[best] - shared)]
    return kept


def _box(corners: list[float], score: float) -> FaceBox:
    left, top, right, bottom = corners
    return FaceBox(left, top, right - left, bottom - top, score)
