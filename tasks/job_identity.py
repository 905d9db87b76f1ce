"""What a job is identified by: everything that determines the published pixels of a scenario, and nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cosmos_core.version import CORE_VERSION
from tasks.config import RunConfig
from tasks.scenario import Scenario
from tasks.versions import AdapterVersion, ModelVersion

__all__ = ["job_identity"]


def job_identity(
    scenario: Scenario,
    *,
    input_sha256: str,
    prompt: str,
    config: RunConfig,
    model: ModelVersion,
    adapters: Sequence[AdapterVersion],
    policy_sha256: str,
    lexicon_sha256: str,
) -> dict[str, Any]:
    """JSON-ready facts whose hash is the job's id.

    Args:
        prompt: as it goes to the text encoder.
        adapters: of the scenario, in its order.
    """
    worker = config.worker
    return {
        "input": input_sha256,
        "prompt": prompt,
        "negative_prompt": scenario.negative_prompt,
        "seed": scenario.seed,
        "guidance": scenario.guidance,
        "num_steps": scenario.num_steps,
        "num_conditional_frames": scenario.num_conditional_frames,
        "num_chunks": scenario.num_chunks,
        "aspect_ratio": scenario.aspect_ratio,
        "variant": str(model.variant),
        "base": model.base.sha256,
        "ema": config.checkpoints.ema,
        "vae": model.vae.sha256,
        "text_encoder": model.text_encoder.sha256,
        "adapters": [
            [version.file.sha256, version.rank, version.alpha, list(version.target_modules), use.strength]
            for version, use in zip(adapters, scenario.adapters, strict=True)
        ],
        "policy": policy_sha256,
        "lexicon": lexicon_sha256,
        "guards": config.guards.sha256,
        "video_crf": config.video_crf,
        "dtype": worker.dtype,
        "merge_adapters": worker.merge_adapters,
        "quantize": worker.quantize,
        "text_dtype": worker.text_dtype,
        "rope_table": worker.rope_table,
        "core": CORE_VERSION,
    }
