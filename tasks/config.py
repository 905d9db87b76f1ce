"""The configuration of a run: one YAML file, read into frozen records.

Paths in a file are relative to the folder that Crossroads runs in, except `configs/...`, which is also looked up beside
the installed packages, so that the shipped files are found from anywhere.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from cosmos_core.errors import BadConfig
from cosmos_core.memory_mode import Saving
from tasks.guard_config import GuardConfig
from tasks.manifest_source import without_credentials
from tasks.refiner_config import RefinerConfig, TemplateRefinerConfig
from tasks.scenario import ScenarioDefaults

__all__ = [
    "AdapterConfig",
    "CheckpointConfig",
    "RunConfig",
    "WorkerConfig",
    "find_config_file",
    "load_config",
    "parse_config",
]

SHIPPED = Path(__file__).resolve().parent.parent


class _Config(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class CheckpointConfig(_Config):
    """Where the model files lie. What is not given is looked up in the reference's layout below `root`."""

    root: Path = Path("checkpoints")
    base: Path | None = None
    """Base checkpoint (.pt, .safetensors); default `<root>/<org>/<name>/model-<resolution>p-<fps>fps.pt`.

    Any of the three files may be a reference into the registry instead: `registry:its-base@production`."""
    vae: Path | None = None
    """Video VAE; default `<root>/<org>/<name>/tokenizer/tokenizer.pth` (or .safetensors)."""
    text_encoder: Path | None = None
    """Folder of the T5 encoder; default `<root>/google-t5/t5-11b`."""
    ema: bool = False
    """Take the EMA weights (`net_ema.`) of a training checkpoint."""
    force_variant: bool = False
    """Use a checkpoint whose file name says another resolution or fps."""


class AdapterConfig(_Config):
    """One LoRA adapter under the name that manifests use."""

    path: Path
    rank: int | None = Field(default=None, ge=1)
    """None takes what an extracted adapter says of itself; a training checkpoint gets the documents' default, 16."""
    alpha: float | None = Field(default=None, gt=0)
    """Likewise. Training checkpoints do not store it, so give the training value if it was not 16."""
    target_modules: tuple[str, ...] = ()
    """Empty means the six default targets, or what an extracted adapter says of itself."""
    source_adapter: str = "default"
    """Name under which a training checkpoint stores the adapter."""
    allow_inert: bool = False
    """Accept an adapter that changes nothing."""


class WorkerConfig(_Config):
    """How generation workers are run."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """`auto` is bfloat16 on a GPU and float32 on a CPU."""
    gpus: tuple[str, ...] | None = None
    """GPUs to use, one worker each, as `CUDA_VISIBLE_DEVICES` names them; default all that are visible."""
    cpu_workers: int = Field(default=1, ge=1)
    """Workers on a machine without a GPU. They share its cores, so more than one is for trying out what workers do."""
    lease_timeout_s: float = Field(default=14400.0, gt=0)
    """How long to wait for a device while other runs have all of them."""
    startup_timeout_s: float = Field(default=300.0, gt=0)
    """Until the processes of a worker answer."""
    load_timeout_s: float = Field(default=1800.0, gt=0)
    """For text encoding and for loading a model."""
    scenario_timeout_s: float = Field(default=7200.0, gt=0)
    """For one video."""
    silence_timeout_s: float = Field(default=120.0, gt=0)
    """A worker without a heart-beat for this long is taken for dead."""
    num_threads: int | None = Field(default=None, ge=1)
    merge_adapters: bool = True
    """Add a scenario's adapters into the weights; unmerged they cost time in every forward."""
    text_dtype: Literal["float32", "bfloat16"] = "float32"
    """Precision of the text encoder: float32 as the reference runs it (19.5 GB for T5-11B), or half of that."""
    rope_table: Literal["auto", "float32"] = "auto"
    """`auto` rounds rotary angles as the reference does with bfloat16 weights; `float32` is the exact table."""
    quantize: Literal["none", "fp8", "int8"] = "none"
    """Keep the large weights in 8 bits: an approximation that saves memory; adapters then stay unmerged."""
    parallelism: str = Field(default="auto", pattern=r"^(auto|data|context:[1-9][0-9]{0,2})$")
    """`data` is one model a GPU, `context:N` groups of N GPUs that render one video together; `auto` is data, and
    groups where scenarios are fewer than GPUs or one GPU's memory does not suffice (docs/planning.md)."""
    memory_mode: Literal["auto"] | tuple[Saving, ...] = "auto"
    """Ways to need less GPU memory: some of `base`, `strips`, `loading`, `guardrail`, `text`, `refiner`; an empty list
    is none. `auto` takes what the smallest GPU needs (docs/planning.md)."""


class RunConfig(_Config):
    """Everything about a run that is not in its manifest."""

    defaults: ScenarioDefaults = ScenarioDefaults()
    """What a row gets for each column that it leaves empty."""
    checkpoints: CheckpointConfig = CheckpointConfig()
    adapters: dict[str, AdapterConfig] = {}
    """Adapters by name; what a manifest names beyond these is looked up in the registry."""
    registry: str | None = None
    """Registry of checkpoints and adapters: a folder or s3:// prefix. The environment's CROSSROADS_REGISTRY goes first;
    with neither it is the folder `registry` where Crossroads runs, if there is one."""
    lineage: str | None = None
    """Dataset with a row for each video of many runs: a folder or s3:// prefix. The environment's CROSSROADS_LINEAGE
    goes first; with neither it is the folder `lineage` of the run's output."""
    refiner: RefinerConfig = TemplateRefinerConfig()
    """`template`, `none`, or a mapping that describes a model (docs/prompts.md)."""
    policy: Path = Path("configs/guardrail/its-accident.yaml")
    lexicon: Path = Path("configs/guardrail/lexicon.yaml")
    guards: GuardConfig = GuardConfig()
    """Models that read the texts and look at the frames, beside the lexicon and the cascades."""
    worker: WorkerConfig = WorkerConfig()
    video_crf: int = Field(default=18, ge=0, le=51)
    """H.264 quality: lower is better and larger."""
    input_hosts: tuple[str, ...] = ()
    """Hosts that http(s) inputs may come from. None by default: a manifest must not make this machine call others."""
    input_size_limit_mib: int = Field(default=512, ge=1)
    """Largest input file that is fetched."""

    @field_validator("registry", "lineage")
    @classmethod
    def _carries_no_credentials(cls, value: str | None) -> str | None:
        # The whole configuration is recorded with every video.
        if value is not None and without_credentials(value) != value:
            raise ValueError("an address without credentials; put them into the environment")
        return value


def find_config_file(path: Path) -> Path:
    """A configuration file as given, or as shipped beside the packages.

    Raises:
        BadConfig: there is no such file.
    """
    for candidate in (path, SHIPPED / path, SHIPPED / "configs" / path, SHIPPED / "configs" / f"{path}.yaml"):
        if candidate.is_file():
            return candidate
    names = ", ".join(sorted(file.stem for file in (SHIPPED / "configs").glob("*.yaml")))
    raise BadConfig("no such configuration file", got=path, fix=f"Give a path, or one of the shipped names: {names}")


def load_config(path: Path | None = None) -> RunConfig:
    """The run configuration of a YAML file; without a path the shipped `configs/default.yaml`.

    Raises:
        BadConfig: the file is missing, is not YAML, or has a wrong or unknown field.
    """
    file = find_config_file(path or Path("default"))
    try:
        content = yaml.safe_load(file.read_text())
    except yaml.YAMLError as error:
        raise BadConfig(f"{file} is not YAML", got=" ".join(str(error).split())) from error
    if not isinstance(content, dict | None):
        raise BadConfig(f"{file} is not a mapping", got=type(content).__name__, expected="field: value lines")
    return parse_config(content or {}, origin=str(file))


def parse_config(content: dict[str, Any], *, origin: str) -> RunConfig:
    """The run configuration of plain values.

    Raises:
        BadConfig: names the first wrong field.
    """
    try:
        return RunConfig.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        known = (
            ", ".join(RunConfig.model_fields) if first["type"] == "extra_forbidden" and len(first["loc"]) == 1 else None
        )
        raise BadConfig(
            f"{origin}: field {field}",
            got=without_credentials(repr(first["input"]))[:100],
            expected=known or first["msg"],
        ) from error
