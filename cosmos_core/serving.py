"""What a worker does with a request: encode prompts, load the model, generate one video.

The text encoder and the transformer are never in memory together: embeddings come first, are kept by content, and the
encoder goes before the model comes.

Several processes render one video together. Each has the transformer and its adapters; rank 0 alone has the text
encoder, the VAE and the files, and the others compute what it asks for.
"""

from __future__ import annotations

import gc
import itertools
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cosmos_core.adapter_file import StoredAdapter, read_adapter
from cosmos_core.adapter_origin import adapter_origin
from cosmos_core.adapter_proof import prove
from cosmos_core.adapter_set import AdapterSet
from cosmos_core.architecture import model_architecture
from cosmos_core.checkpoint import load_dit
from cosmos_core.clip_sampling import end_clips, follow_clips
from cosmos_core.context_parallel import ContextParallel
from cosmos_core.dit import DiT
from cosmos_core.embedding_cache import CachedEmbedding, EmbeddingCache
from cosmos_core.errors import BadConfig, BadModel, BadRequest
from cosmos_core.geometry import VideoGeometry, video_geometry
from cosmos_core.group_layout import group_layout
from cosmos_core.lora_state_dict import LoraSpec
from cosmos_core.memory_mode import STRIP_ROWS
from cosmos_core.pixels import conditioning_frames
from cosmos_core.protocol import AdapterFile, EncodePrompts, GenerateVideo, WorkerSpec
from cosmos_core.quantize import quantize_base, set_compute
from cosmos_core.rank_agreement import Ranks
from cosmos_core.text_encoder import TextEncoder
from cosmos_core.vae import VideoVAE
from cosmos_core.video2world import Video2World
from cosmos_core.video_file import probe_input, read_image, read_video

__all__ = ["OnStep", "Server"]

logger = logging.getLogger(__name__)

OnStep = Callable[[str, int, int], None]
"""Called with the name of a stage, the step that is done, and the number of steps."""

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class Server:
    """The models of one worker process, loaded when they are first needed and kept.

    With several processes every method is called on all of them with the same request, and returns or raises the same
    on all. What fails while they compute a video ends them (`Ranks.lockstep`).

    Args:
        spec: what to load.
        ranks: the processes that render together; by default this one alone.

    Raises:
        BadConfig: so many processes cannot share this model, or there are not as many GPUs.
    """

    def __init__(self, spec: WorkerSpec, ranks: Ranks | None = None) -> None:
        self._spec = spec
        self._ranks = ranks or Ranks()
        # Agreed upon before any group is made: a process that is missing there would keep the others waiting.
        self.device = self._ranks.together(_own_gpu if spec.device == "cuda" else lambda: torch.device("cpu"))
        if spec.num_threads:
            torch.set_num_threads(spec.num_threads)
        self._dtype = _DTYPES[spec.dtype]
        self._architecture = model_architecture(spec.model)
        self._embeddings = EmbeddingCache(
            revision=spec.text_encoder_sha256,
            length=self._architecture.text_length,
            dtype=_DTYPES[spec.text_dtype],
            folder=Path(spec.embedding_cache) if spec.embedding_cache else None,
        )
        self._context: ContextParallel | None = None
        if self._ranks.world_size > 1:
            self._context = ContextParallel(self._ranks, self._architecture.dit, self.device)
        self._dit: DiT | None = None
        self._model: Video2World | None = None
        """On rank 0."""
        self._adapters: AdapterSet | None = None
        self._refused: dict[str, BadModel] = {}
        self._proof: dict[str, Any] = {}

    def encode_prompts(self, request: EncodePrompts, on_step: OnStep) -> dict[str, Any]:
        """Encode those prompts that are not kept yet; the encoder leaves the memory afterwards.

        Returns:
            Prompts that were cut, with their number of tokens, and how many had to be encoded.
        """
        return self._ranks.first(lambda: self._encode_prompts(request, on_step))

    def _encode_prompts(self, request: EncodePrompts, on_step: OnStep) -> dict[str, Any]:
        missing = [prompt for prompt in dict.fromkeys(request.prompts) if self._embeddings.get(prompt) is None]
        if missing:
            encoder = TextEncoder.load(
                Path(self._spec.text_encoder),
                device="cpu" if "text" in self._spec.savings else self.device,
                dtype=_DTYPES[self._spec.text_dtype],
                max_length=self._architecture.text_length,
            )
            for step, prompt in enumerate(missing, 1):
                self._embeddings.put(prompt, _encode(encoder, prompt))
                on_step("text", step, len(missing))
            del encoder
            _free_memory()
        kept = {prompt: self._embedding(prompt) for prompt in request.prompts}
        return {
            "num_encoded": len(missing),
            "truncated": {prompt: entry.num_tokens for prompt, entry in kept.items() if entry.truncated},
        }

    def load_model(self, on_part: Callable[[str], None]) -> dict[str, Any]:
        """Load transformer, adapters and VAE.

        An adapter that is refused costs only the scenarios that ask for it.

        Returns:
            Parameter counts, for each adapter where it comes from and the proof that it acts, and under
            `refused_adapters` why an adapter cannot be used.

        Raises:
            BadModel: a file is not what it was declared to be.
        """
        return self._ranks.together(lambda: self._load_model(on_part))

    def _load_model(self, on_part: Callable[[str], None]) -> dict[str, Any]:
        if self._dit is not None:
            return self._proof
        on_part("transformer")
        on_host = "loading" in self._spec.savings and self._spec.quantize != "none"
        dit = load_dit(
            Path(self._spec.checkpoint),
            self._architecture.dit,
            device="cpu" if on_host else self.device,
            dtype=self._dtype,
            ema=self._spec.ema,
            # A team may have nothing but the training checkpoint, which holds base and adapter together.
            lora_base=any(adapter.path == self._spec.checkpoint for adapter in self._spec.adapters),
        )
        if self._spec.rope_table == "float32":
            dit.rope_table_dtype = torch.float32
        if self._spec.quantize != "none":
            on_part(f"{self._spec.quantize} weights")
            quantize_base(dit, self._spec.quantize, compute="auto")
        if on_host:
            set_compute(dit.to(self.device), "auto")
        merge = self._spec.merge_adapters and self._spec.quantize == "none"
        adapters = AdapterSet(dit, merge=merge, keep_base="host" if "base" in self._spec.savings else "device")
        proof = self._load_adapters(adapters, on_part)
        if self._ranks.is_first:
            on_part("vae")
            vae = VideoVAE.load(Path(self._spec.vae), self._architecture.vae, device=self.device, dtype=self._dtype)
            vae.strip_rows = STRIP_ROWS if "strips" in self._spec.savings else None
            self._model = Video2World(dit, vae, self._context)
        self._dit, self._adapters, self._proof = dit, adapters, proof
        return proof

    def generate(self, request: GenerateVideo, on_step: OnStep) -> dict[str, Any]:
        """Generate one video; its frames go to the request's path.

        Returns:
            Sizes, and the seconds of each part under names that end in `_s`.

        Raises:
            BadRequest: the request does not fit the model.
            OutOfMemory: the device's memory does not suffice.
        """
        times = _Stopwatch()
        self._ranks.together(lambda: self._use_adapters(request))
        if self._context is not None and not self._ranks.is_first:
            assert self._dit is not None
            for _ in follow_clips(self._dit, self._context):
                pass
        return self._ranks.first(lambda: self._lead(request, on_step, times))

    def _use_adapters(self, request: GenerateVideo) -> None:
        if self._adapters is None:
            raise BadRequest("no model is loaded", fix="Send load_model first")
        for adapter in request.adapters:
            if adapter.name in self._refused:
                raise self._refused[adapter.name]
        self._adapters.use({adapter.name: adapter.strength for adapter in request.adapters})

    def _lead(self, request: GenerateVideo, on_step: OnStep, times: _Stopwatch) -> dict[str, Any]:
        """On rank 0: generate, while the others follow."""
        try:
            return self._generate(request, on_step, times)
        finally:
            if self._context is not None:
                end_clips(self._context)

    def _generate(self, request: GenerateVideo, on_step: OnStep, times: _Stopwatch) -> dict[str, Any]:
        assert self._model is not None
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        geometry = video_geometry(
            model=self._spec.model,
            resolution=request.resolution,
            fps=request.fps,
            aspect_ratio=request.aspect_ratio,
        )
        frames = _read_frames(Path(request.input_path), geometry, request.num_conditional_frames)
        prompt = self._embedding(request.prompt)
        negative = self._embedding(request.negative_prompt).embedding if request.negative_prompt else None
        times.lap("prepare_s")
        video = _chunks(self._model, request, frames, prompt.embedding, negative, geometry, on_step)
        times.lap("generate_s")
        _write_frames(video, Path(request.frames_path))
        times.lap("write_s")
        guided = negative is not None and request.guidance != 0
        return {
            "width": geometry.width,
            "height": geometry.height,
            "num_frames": len(video),
            "fps": geometry.fps,
            "num_prompt_tokens": prompt.num_tokens,
            "prompt_truncated": prompt.truncated,
            "layout": str(group_layout(self._architecture.dit, self._ranks.world_size, guided=guided)),
            "savings": list(self._spec.savings),
            "peak_gpu_gib": self._peak_gpu_gib(),
            **times.laps,
        }

    def _peak_gpu_gib(self) -> float | None:
        return torch.cuda.max_memory_allocated(self.device) / 2**30 if self.device.type == "cuda" else None

    def _embedding(self, prompt: str) -> CachedEmbedding:
        entry = self._embeddings.get(prompt)
        if entry is None:
            raise BadRequest("a prompt was not encoded", got=prompt[:80], fix="Send encode_prompts first")
        return entry

    def _load_adapters(self, adapters: AdapterSet, on_part: Callable[[str], None]) -> dict[str, Any]:
        """Put all adapters onto the network and prove that each acts."""
        origins: dict[str, Any] = {}
        proofs: dict[str, Any] = {}
        for adapter in self._spec.adapters:
            on_part(f"adapter {adapter.name}")
            try:
                origins[adapter.name], proofs[adapter.name] = self._load_adapter(adapters, adapter)
            except BadModel as error:
                logger.error("adapter %s is refused: %s", adapter.name, error)
                self._refused[adapter.name] = error
                if adapter.name in adapters.names:
                    adapters.remove(adapter.name)
        num_base, counts = adapters.num_base_parameters(), adapters.parameter_counts()
        num_lora = sum(counts.values())
        return {
            "parameters": {
                "dit": num_base,
                "lora": counts,
                "total": num_base + num_lora,
                "lora_ratio": num_lora / (num_base + num_lora),
            },
            "merged": adapters.merge,
            "adapter_norms": proofs,
            "adapter_origins": origins,
            "refused_adapters": {name: error.to_payload() for name, error in self._refused.items()},
        }

    def _load_adapter(self, adapters: AdapterSet, adapter: AdapterFile) -> tuple[dict[str, Any], dict[str, Any]]:
        """Put one adapter onto the network; returns where it comes from and the proof that it acts."""
        stored = read_adapter(Path(adapter.path), ema=self._spec.ema, source_adapter=adapter.source_adapter)
        adapters.add(adapter.name, stored.tensors, _lora_spec(stored, adapter))
        origin = adapter_origin(stored, adapters, name=adapter.name, checkpoint_sha256=self._spec.checkpoint_sha256)
        allowed = [adapter.name] if adapter.allow_inert else []
        [proof] = prove(adapters, names=[adapter.name], allow_inert=allowed)
        return origin, proof.to_record()


class _Stopwatch:
    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._last = time.monotonic()

    def lap(self, name: str) -> None:
        now = time.monotonic()
        self.laps[name], self._last = now - self._last, now


def _own_gpu() -> torch.device:
    """The GPU of this process, by its number on this machine; made the current one."""
    index, count = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if index >= count:
        raise BadConfig(
            "more processes than GPUs",
            got=f"process {index} on a machine with {count} visible GPUs",
            expected=f"{count} processes at most",
            fix="Give torchrun's --nproc_per_node as many as there are in CUDA_VISIBLE_DEVICES.",
        )
    device = torch.device("cuda", index)
    torch.cuda.set_device(device)
    return device


def _encode(encoder: TextEncoder, prompt: str) -> CachedEmbedding:
    encoded = encoder.encode([prompt])
    return CachedEmbedding(
        embedding=encoded.embeddings.cpu(), num_tokens=encoded.num_tokens[0], truncated=encoded.truncated[0]
    )


def _lora_spec(stored: StoredAdapter, adapter: AdapterFile) -> LoraSpec:
    rank, alpha = adapter.rank, adapter.alpha
    if stored.manifest is None:
        # The documents' defaults, for files that cannot say better; a wrong rank does not load.
        rank = LoraSpec().rank if rank is None else rank
        alpha = LoraSpec().alpha if alpha is None else alpha
    return stored.spec(rank=rank, alpha=alpha, target_modules=adapter.target_modules)


def _read_frames(path: Path, geometry: VideoGeometry, num_conditional_frames: int) -> np.ndarray:
    if path.suffix == ".npy":  # frames that the client has already decoded, and redacted
        frames = np.load(path, mmap_mode="r", allow_pickle=False)
    else:
        probe = probe_input(path, min_frames=num_conditional_frames)
        frames = read_image(path)[None] if probe.kind == "image" else read_video(path, last=num_conditional_frames)
    return conditioning_frames(
        frames, width=geometry.width, height=geometry.height, num_conditional_frames=num_conditional_frames
    )


def _chunks(
    model: Video2World,
    request: GenerateVideo,
    frames: np.ndarray,
    prompt: torch.Tensor,
    negative: torch.Tensor | None,
    geometry: VideoGeometry,
    on_step: OnStep,
) -> np.ndarray:
    """All frames of a video; chunks that an interrupted attempt left beside the result are taken from there.

    Returns:
        uint8 [T, H, W, 3] with T = F + (chunks - 1) * (F - conditional frames).
    """
    paths = [Path(f"{request.frames_path}.chunk{index:02}") for index in range(request.num_chunks)]
    finished = [np.load(path) for path in itertools.takewhile(Path.exists, paths)] if request.num_chunks > 1 else []

    def step_of_chunk(index: int, step: int, num_steps: int) -> None:
        on_step("denoise", index * num_steps + step, request.num_chunks * num_steps)

    overlap = request.num_conditional_frames
    parts = [chunk if index == 0 else chunk[overlap:] for index, chunk in enumerate(finished)]
    for chunk in model.generate_long(
        frames,
        [prompt] * request.num_chunks,
        geometry=geometry,
        negative_embedding_1ND=negative,
        num_conditional_frames=request.num_conditional_frames,
        guidance=request.guidance,
        num_steps=request.num_steps,
        seed=request.seed,
        finished=finished,
        on_step=step_of_chunk,
    ):
        parts.append(chunk.new_frames)
        if request.num_chunks > 1:
            _write_frames(chunk.frames, paths[chunk.index])
    return np.concatenate(parts)


def _write_frames(frames: np.ndarray, path: Path) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with temporary.open("wb") as file:
        np.save(file, frames)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def _free_memory() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
