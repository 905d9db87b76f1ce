"""Adapters on this machine: loading, switching, merged next to unmerged, and what each costs a forward.

    python -m benchmarks.adapters --model 2B --resolution 480 --num-adapters 3 --json out.json

Random weights. The adapters are written as extracted files to a temporary folder and read back; their ranks are 16, 32
and 8 in turn. Every time ends with the device being waited for. With several adapters the mixture of all is measured
too, whose unmerged cost grows with their number.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.golden_set import relative_l2
from benchmarks.variants import build_dit, inputs, measure
from cosmos_core.adapter_file import read_adapter, write_adapter
from cosmos_core.adapter_manifest import AdapterManifest
from cosmos_core.adapter_proof import prove
from cosmos_core.adapter_set import AdapterSet
from cosmos_core.architecture import MODELS, model_architecture
from cosmos_core.dit import DiT
from cosmos_core.geometry import video_geometry
from cosmos_core.lora import adapter_shapes
from cosmos_core.lora_state_dict import LoraSpec

_RANKS = (16, 32, 8)
_LORA_B_STD = 0.02


def write_adapters(dit: DiT, folder: Path, num_adapters: int) -> list[Path]:
    """Random adapters in bfloat16, as extracted files."""
    generator = torch.Generator().manual_seed(2)
    paths = []
    for index in range(num_adapters):
        spec = LoraSpec(rank=_RANKS[index % len(_RANKS)], alpha=_RANKS[index % len(_RANKS)])
        tensors = {}
        for name, shape in adapter_shapes(dit, spec).items():
            std = _LORA_B_STD if name.endswith("lora_B") else shape[-1] ** -0.5
            tensors[name] = (torch.randn(shape, generator=generator) * std).bfloat16()
        path = folder / f"adapter{index}.safetensors"
        write_adapter(path, tensors, AdapterManifest(rank=spec.rank, alpha=spec.alpha, target_modules=spec.targets))
        paths.append(path)
    return paths


def seconds(call: Callable[[], Any], device: torch.device) -> float:
    """One call, with the device idle before and after."""
    _wait(device)
    started = time.perf_counter()
    call()
    _wait(device)
    return time.perf_counter() - started


def load(adapters: AdapterSet, paths: list[Path], device: torch.device) -> float:
    """Load all files and say the median seconds of one, without the first, which also keeps the base."""

    def load_one(path: Path) -> None:
        stored = read_adapter(path)
        adapters.add(path.stem, stored.tensors, stored.spec())

    times = [seconds(lambda path=path: load_one(path), device) for path in paths]  # type: ignore[misc]
    return statistics.median(times[1:] or times)


def switch_times(adapters: AdapterSet, device: torch.device, *, repeats: int) -> dict[str, float]:
    """Median seconds of a switch to another adapter, to the mixture of all, and back to the base."""
    names = adapters.names
    mixture = {name: 1.0 / len(names) for name in names}
    times: dict[str, list[float]] = {"adapter": [], "mixture": [], "base": []}
    adapters.use({names[0]: 1.0})
    for index in range(repeats):
        other = {names[(index + 1) % len(names)]: 1.0 + index / 8}  # never what is in use already
        times["adapter"].append(seconds(lambda: adapters.use(other), device))  # noqa: B023
        times["mixture"].append(seconds(lambda: adapters.use(mixture), device))
        times["base"].append(seconds(lambda: adapters.use({}), device))
    return {name: statistics.median(values) for name, values in times.items()}


@torch.no_grad()
def run(
    model: str, resolution: str, fps: int, *, num_adapters: int, device: torch.device, dtype: torch.dtype, repeats: int
) -> dict[str, Any]:
    """All measurements of one model."""
    architecture = MODELS[model].dit
    geometry = video_geometry(model=model, resolution=resolution, fps=fps, aspect_ratio="16:9")
    dit = build_dit(architecture, device, dtype)
    given = inputs(architecture, geometry, device, dtype)

    def forward() -> Tensor:
        return dit(given["x"], given["timesteps"], given["text"], condition_mask_B1THW=given["mask"])

    result: dict[str, Any] = {
        "variant": f"{model} {resolution}p {fps} fps",
        "dtype": str(dtype),
        "num_tokens": geometry.num_tokens,
    }
    base = forward()
    forwards = {"base": measure(forward, device, repeats=repeats)["seconds"]}
    switches, outputs = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        paths = write_adapters(dit, Path(folder), num_adapters)
        result["file_bytes"] = [path.stat().st_size for path in paths]
        keeps = ("device", "host") if device.type == "cuda" else ("device",)
        for mode in (*(f"merged, base on {keep}" for keep in keeps), "unmerged"):
            adapters = AdapterSet(dit, merge=mode != "unmerged", keep_base="host" if "host" in mode else "device")
            one, every = {paths[0].stem: 1.0}, {path.stem: 1.0 / num_adapters for path in paths}
            result[f"load_s ({mode})"] = load(adapters, paths, device)
            result[f"bytes ({mode})"] = adapters.num_bytes
            switches[mode] = switch_times(adapters, device, repeats=max(repeats, 5))
            result[f"prove_s ({mode})"] = seconds(lambda: prove(adapters), device)  # noqa: B023
            for label, strengths in (("one adapter", one), ("all adapters", every)):
                adapters.use(strengths)
                outputs[f"{mode}, {label}"] = forward()
                forwards[f"{mode}, {label}"] = measure(forward, device, repeats=repeats)["seconds"]
            adapters.use({})
            result[f"base restored bit for bit ({mode})"] = bool(torch.equal(forward(), base))
    result["forward_s"], result["switch_s"] = forwards, switches
    result["cost_of_a_forward"] = {name: value / forwards["base"] - 1 for name, value in forwards.items()}
    result["relative_l2"] = {
        **{f"{name} against base": relative_l2(value, base) for name, value in outputs.items()},
        **{
            f"merged against unmerged, {label}": relative_l2(
                outputs[f"merged, base on device, {label}"], outputs[f"unmerged, {label}"]
            )
            for label in ("one adapter", "all adapters")
        },
    }
    return result


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure adapters on this machine.")
    parser.add_argument("--model", choices=sorted(MODELS), default="2B")
    parser.add_argument("--resolution", help="default: the model's smallest")
    parser.add_argument("--fps", type=int, help="default: the model's largest")
    parser.add_argument("--num-adapters", type=int, default=3)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), help="default: bfloat16 on a GPU")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    architecture = model_architecture(arguments.model)
    device = torch.device(arguments.device)
    machine = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or "cpu"
    result = run(
        arguments.model,
        arguments.resolution or architecture.resolutions[0],
        arguments.fps or architecture.fps[-1],
        num_adapters=arguments.num_adapters,
        device=device,
        dtype=getattr(torch, arguments.dtype or ("bfloat16" if device.type == "cuda" else "float32")),
        repeats=arguments.repeats,
    )
    print(f"{machine}, torch {torch.__version__}")
    for name, value in result.items():
        if isinstance(value, dict):
            print(name)
            for inner, measured in value.items():
                print(f"  {inner:50} {_shown(measured)}")
        else:
            print(f"{name:52} {_shown(value)}")
    if arguments.json:
        arguments.json.write_text(json.dumps({"machine": machine, "torch": torch.__version__, **result}, indent=2))


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return "  ".join(f"{name} {_shown(inner)}" for name, inner in value.items())
    return f"{value:.6g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    main()
