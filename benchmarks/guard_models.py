"""Time the guard models at full size with random weights: `python -m benchmarks.guard_models --device cuda`.

One clip of 93 frames at 1280x704 goes through the visual classifier and the face detector in batches and one by one,
one prompt through a Llama of the size of Llama-Guard-3-8B. Prints JSON; trained weights may find anything.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM, SiglipVisionConfig, SiglipVisionModel

from cosmos_core.guard_video import FrameClassifier, SafetyHead
from cosmos_core.retinaface import RetinaFace, RetinaFaceDetector

__all__ = ["main"]

_SO400M = {"hidden_size": 1152, "intermediate_size": 4304, "num_hidden_layers": 27, "num_attention_heads": 16,
           "image_size": 384, "patch_size": 14}  # fmt: skip
_LLAMA_8B = {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32,
             "num_key_value_heads": 8, "vocab_size": 128256}  # fmt: skip


def _seconds(call: Callable[[], object], device: str) -> float:
    call()
    if device != "cpu":
        torch.cuda.synchronize()
    started = time.perf_counter()
    call()
    if device != "cpu":
        torch.cuda.synchronize()
    return round(time.perf_counter() - started, 3)


def _peak_gib(device: str) -> float | None:
    if device == "cpu":
        return None
    peak = torch.cuda.max_memory_allocated() / 2**30
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    return round(peak, 2)


def _over(frames: np.ndarray, size: int, judge: Callable[[list[np.ndarray]], object]) -> Callable[[], object]:
    return lambda: [judge(list(frames[start : start + size])) for start in range(0, len(frames), size)]


def main(arguments: list[str] | None = None) -> int:
    """Entry point; gives the exit status."""
    parser = argparse.ArgumentParser(prog="benchmarks.guard_models", description=__doc__.split("\n")[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--frames", type=int, default=93)
    parser.add_argument("--skip-text", action="store_true", help="leave out the 8B language model")
    parser.add_argument("--json", type=Path, help="also write the numbers to this file")
    options = parser.parse_args(arguments)
    device, torch_device = options.device, torch.device(options.device)
    frames = np.random.default_rng(0).integers(0, 255, (options.frames, 704, 1280, 3), dtype=np.uint8)
    torch.manual_seed(0)
    result: dict[str, object] = {
        "device": torch.cuda.get_device_name() if torch_device.type == "cuda" else platform.processor(),
        "torch": torch.__version__,
        "frames": [options.frames, 704, 1280],
    }
    with torch_device:
        encoder, head = SiglipVisionModel(SiglipVisionConfig(**_SO400M)), SafetyHead(1152)
    classifier = FrameClassifier(encoder, head, device=device, sha256="", name="random")
    result["siglip_fp32"] = {
        f"batch_{size}_s": _seconds(_over(frames, size, classifier.score), device) for size in (1, 16)
    } | {"peak_gib": _peak_gib(device)}
    del encoder, head, classifier
    network = RetinaFace()
    with torch.no_grad():
        for part in network.ClassHead:
            part.conv1x1.bias.copy_(torch.tensor([9.0, -9.0] * 2))  # no face anywhere: the network's time alone
    detector = RetinaFaceDetector(network, device=device, sha256="", confidence=0.7, nms=0.4)
    result["retinaface_fp32"] = {
        f"batch_{size}_s": _seconds(_over(frames, size, detector.detect), device) for size in (1, 4)
    } | {"peak_gib": _peak_gib(device)}
    del network, detector
    if not options.skip_text:
        with torch_device:
            torch.set_default_dtype(torch.bfloat16)
            model = LlamaForCausalLM(LlamaConfig(**_LLAMA_8B)).eval()
            torch.set_default_dtype(torch.float32)
        tokens = torch.randint(0, 128000, (1, 700), device=torch_device)  # template and prompt of Llama-Guard-3
        generate = {"max_new_tokens": 5, "min_new_tokens": 5, "do_sample": False, "pad_token_id": 0}
        mask = torch.ones_like(tokens)
        result["llama_8b_bf16"] = {
            "answer_of_5_tokens_s": _seconds(lambda: model.generate(tokens, attention_mask=mask, **generate), device),
            "peak_gib": _peak_gib(device),
        }
    text = json.dumps(result, indent=2)
    print(text)
    if options.json:
        options.json.write_text(text + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
