"""One scenario: which image or video, which prompt, and every number that decides the clip's pixels.

Three records share their fields and checks: `ScenarioRow` is what a manifest row says and nothing more,
`ScenarioDefaults` is what the run's configuration says for all rows, `Scenario` is both put together and checked.
No storage and no file is touched here.
"""

from __future__ import annotations

from typing import Annotated, Any, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from cosmos_core.architecture import MODELS
from cosmos_core.errors import BadVariant
from cosmos_core.geometry import VideoGeometry, video_geometry
from cosmos_core.negative_prompt import DEFAULT_NEGATIVE_PROMPT
from tasks import scenario_rules as rules

__all__ = [
    "DEFAULT_NEGATIVE_PROMPT",
    "GENERATION_FIELDS",
    "AdapterUse",
    "Scenario",
    "ScenarioDefaults",
    "ScenarioRow",
    "wrong_variant_field",
]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class AdapterUse(_Record):
    """One LoRA adapter and how strongly it acts."""

    name: Annotated[str, BeforeValidator(rules.adapter_name)]
    """A name that the run's configuration or registry knows."""
    strength: Annotated[float, BeforeValidator(rules.number(-10.0, 10.0))] = 1.0
    """Factor on the adapter's update; 0 is the base model."""


RowNumber = Annotated[int, BeforeValidator(rules.whole_number(0, 2**31 - 1))]
ScenarioId = Annotated[str, BeforeValidator(rules.scenario_name)]
Input = Annotated[str, BeforeValidator(rules.input_name)]
Prompt = Annotated[str, BeforeValidator(rules.text(max_chars=rules.MAX_PROMPT_CHARS))]
NegativePrompt = Annotated[str, BeforeValidator(rules.text(max_chars=rules.MAX_PROMPT_CHARS, empty=True))]
Adapters = Annotated[tuple[AdapterUse, ...], BeforeValidator(rules.adapter_list)]
Seed = Annotated[int, BeforeValidator(rules.whole_number(0, rules.MAX_SEED))]
Guidance = Annotated[float, BeforeValidator(rules.number(0.0, 50.0))]
NumSteps = Annotated[int, BeforeValidator(rules.whole_number(1, 1000))]
NumChunks = Annotated[int, BeforeValidator(rules.whole_number(1, 64))]
NumConditionalFrames = Annotated[int, BeforeValidator(rules.one_of((1, 5)))]
Model = Annotated[str, BeforeValidator(rules.model_name)]
Resolution = Annotated[str, BeforeValidator(rules.resolution)]
Fps = Annotated[int, BeforeValidator(rules.fps)]
AspectRatio = Annotated[str, BeforeValidator(rules.aspect_ratio)]
OutputName = Annotated[str, BeforeValidator(rules.output_path)]
Labels = Annotated[dict[str, str], BeforeValidator(rules.label_dict)]


class ScenarioRow(_Record):
    """What one manifest row gives, cleaned; None where the row says nothing."""

    scenario_id: ScenarioId | None = None
    input: Input
    prompt: Prompt
    negative_prompt: NegativePrompt | None = None
    adapters: Adapters | None = None
    seed: Seed | None = None
    guidance: Guidance | None = None
    num_steps: NumSteps | None = None
    num_conditional_frames: NumConditionalFrames | None = None
    num_chunks: NumChunks | None = None
    model: Model | None = None
    resolution: Resolution | None = None
    fps: Fps | None = None
    aspect_ratio: AspectRatio | None = None
    output_name: OutputName | None = None
    labels: Labels | None = None

    def given(self) -> dict[str, Any]:
        """Only the given fields, in JSON types; equal rows give equal dictionaries whatever file they came from."""
        given = self.model_dump(mode="json", exclude_none=True)
        if not given.get("labels", True):  # no labels and an empty set of labels are the same
            del given["labels"]
        return given


class _Generation(_Record):
    """The numbers of a generation, each with the default of the smallest model."""

    negative_prompt: NegativePrompt = DEFAULT_NEGATIVE_PROMPT
    """What the video should not look like; the empty text turns guidance off (one forward an evaluation)."""
    adapters: Adapters = ()
    seed: Seed = 0
    guidance: Guidance = 7.0
    num_steps: NumSteps = 35
    num_conditional_frames: NumConditionalFrames = 1
    """Pixel frames of the input that are kept: 1 (image or video) or 5 (video)."""
    num_chunks: NumChunks = 1
    """Clips chained into one long video, each starting from the last frames of the one before."""
    model: Model = "tiny"
    resolution: Resolution = "112"
    fps: Fps = 10
    aspect_ratio: AspectRatio = "16:9"

    @model_validator(mode="after")
    def _variant_exists(self) -> Self:
        _ = self.geometry
        return self

    @property
    def geometry(self) -> VideoGeometry:
        """Size of the clip in pixels, latents and tokens."""
        return video_geometry(
            model=self.model, resolution=self.resolution, fps=self.fps, aspect_ratio=self.aspect_ratio
        )


class ScenarioDefaults(_Generation):
    """What holds for every row that does not say otherwise."""


GENERATION_FIELDS = tuple(_Generation.model_fields)
"""Names of the fields that a row may leave to the run's defaults."""


class Scenario(_Generation):
    """One complete, checked scenario."""

    row_number: RowNumber
    """Position in the manifest, from 0."""
    scenario_id: ScenarioId
    """Unique in its manifest, also where case does not count; it names the scenario's files."""
    input: Input
    """Image or video as the manifest gives it."""
    input_uri: Input
    """The same, resolved: an absolute local path or a URI."""
    prompt: Prompt
    output_name: OutputName | None = None
    """Name that the customer gave the video, carried through to its record."""
    labels: Labels = Field(default_factory=dict)
    """Free-form facts, such as incident, weather, time_of_day, actors."""


def wrong_variant_field(*, model: str, resolution: str, fps: int, aspect_ratio: str) -> tuple[str, BadVariant] | None:
    """Which field makes the combination one that does not exist, and why; None if it exists."""
    try:
        video_geometry(model=model, resolution=resolution, fps=fps, aspect_ratio=aspect_ratio)
    except BadVariant as error:
        architecture = MODELS.get(model)
        if architecture is None:
            return "model", error
        if resolution not in architecture.resolutions:
            return "resolution", error
        return ("fps" if fps not in architecture.fps else "aspect_ratio"), error
    return None
