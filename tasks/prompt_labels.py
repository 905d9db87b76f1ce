"""Structured facts of an ITS scenario: one camera, one place, one incident, its actors and its aftermath.

The values are closed lists, so that a set of labels can be counted, compared and turned into a prompt. What fits what
(a T-bone needs an intersection and two vehicles) is checked here, once, for the builder and the scenario matrix alike.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from cosmos_core.errors import BadScenario

__all__ = ["INCIDENT_RULES", "Actor", "IncidentRule", "PromptLabels", "label_choices", "parse_labels"]

Camera = Literal["cctv", "pole", "overhead", "roadside", "high_angle"]
"""Static mounts only: the adapter has seen no other camera."""
RoadLayout = Literal[
    "four_way_intersection", "t_junction", "roundabout", "highway", "on_ramp", "urban_street", "rural_road", "crosswalk"
]
TimeOfDay = Literal["dawn", "day", "dusk", "night"]
Weather = Literal["clear", "overcast", "rain", "heavy_rain", "snow", "fog"]
Traffic = Literal["light", "moderate", "heavy"]
ActorType = Literal[
    "car", "sedan", "hatchback", "suv", "pickup", "van", "truck", "semi_truck", "bus", "taxi", "motorcycle", "bicycle",
    "pedestrian",
]  # fmt: skip
Colour = Literal["black", "white", "silver", "grey", "red", "blue", "green", "yellow", "orange", "brown"]
Direction = Literal["from_left", "from_right", "towards_camera", "away_from_camera"]
"""As the camera sees it."""
Incident = Literal[
    "none", "rear_end", "t_bone", "head_on", "sideswipe", "pileup", "run_off_road", "stalled", "pedestrian_near_miss"
]
Aftermath = Literal["stops", "blocks_traffic", "pulls_over", "debris", "queue", "flows_on"]

_OPPOSITE = {frozenset({"from_left", "from_right"}), frozenset({"towards_camera", "away_from_camera"})}
_INTERSECTIONS: tuple[RoadLayout, ...] = ("four_way_intersection", "t_junction")


@dataclass(frozen=True, slots=True, kw_only=True)
class IncidentRule:
    """What an incident needs."""

    num_actors: tuple[int, int]
    """Fewest and most; the first actor is the one whose mistake it is."""
    layouts: tuple[RoadLayout, ...] = ()
    """Where it can happen; empty means anywhere."""
    pedestrian: bool = False
    """The last actor is a pedestrian; no other incident has one."""
    aftermaths: tuple[Aftermath, ...] = ("stops", "blocks_traffic", "pulls_over", "debris", "queue")


INCIDENT_RULES: Mapping[Incident, IncidentRule] = {
    "none": IncidentRule(num_actors=(1, 3), aftermaths=("flows_on",)),
    "rear_end": IncidentRule(num_actors=(2, 2)),
    "t_bone": IncidentRule(num_actors=(2, 2), layouts=_INTERSECTIONS),
    "head_on": IncidentRule(num_actors=(2, 2), layouts=("urban_street", "rural_road")),
    "sideswipe": IncidentRule(num_actors=(2, 2), layouts=("highway", "on_ramp", "urban_street", "roundabout")),
    "pileup": IncidentRule(num_actors=(3, 3), layouts=("highway", "on_ramp", "urban_street", "rural_road")),
    "run_off_road": IncidentRule(num_actors=(1, 1), layouts=("highway", "on_ramp", "rural_road", "roundabout")),
    "stalled": IncidentRule(num_actors=(1, 1), aftermaths=("blocks_traffic", "queue", "flows_on")),
    "pedestrian_near_miss": IncidentRule(
        num_actors=(2, 2), layouts=(*_INTERSECTIONS, "crosswalk", "urban_street"), pedestrian=True,
        aftermaths=("flows_on", "queue"),
    ),
}  # fmt: skip


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Actor(_Part):
    """One vehicle or pedestrian."""

    type: ActorType
    colour: Colour | None = None
    direction: Direction | None = None

    @model_validator(mode="after")
    def _no_looks(self) -> Self:
        if self.type == "pedestrian" and self.colour:
            raise ValueError("a pedestrian without a colour: prompts do not describe what persons look like")
        return self


class PromptLabels(_Part):
    """Everything that a prompt is built from."""

    camera: Camera = "cctv"
    road_layout: RoadLayout
    time_of_day: TimeOfDay
    weather: Weather
    traffic: Traffic | None = None
    incident: Incident
    actors: tuple[Actor, ...] = Field(min_length=1)
    aftermath: Aftermath

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if problem := _misfit(self):
            raise ValueError(problem)
        return self


def _misfit(labels: PromptLabels) -> str | None:
    """What does not fit together, as the end of a sentence "expected ..."."""
    name, rule, actors = labels.incident, INCIDENT_RULES[labels.incident], labels.actors
    fewest, most = rule.num_actors
    if not fewest <= len(actors) <= most:
        number = f"{fewest}" if fewest == most else f"{fewest} to {most}"
        return f"{number} actors for {name}, not {len(actors)}"
    if rule.layouts and labels.road_layout not in rule.layouts:
        return f"{name} at {' | '.join(rule.layouts)}, not at {labels.road_layout}"
    if labels.aftermath not in rule.aftermaths:
        return f"{' | '.join(rule.aftermaths)} as aftermath of {name}, not {labels.aftermath}"
    is_pedestrian = [actor.type == "pedestrian" for actor in actors]
    if is_pedestrian != [False] * (len(actors) - 1) + [rule.pedestrian]:
        return f"a vehicle and then a pedestrian for {name}" if rule.pedestrian else f"vehicles only for {name}"
    if labels.traffic == "light" and labels.aftermath == "queue":
        return "moderate or heavy traffic for a queue, not light"
    return _wrong_way(name, [actor.direction for actor in actors if actor.direction])


def _wrong_way(incident: Incident, directions: list[Direction]) -> str | None:
    if len(directions) < 2 or incident in ("none", "pedestrian_near_miss"):
        return None
    opposite = frozenset(directions) in _OPPOSITE
    if incident == "head_on" and not opposite:
        return f"opposite directions for head_on, not {' and '.join(directions)}"
    if incident in ("rear_end", "sideswipe", "pileup") and len(set(directions)) > 1:
        return f"one direction for {incident}, not {' and '.join(directions)}"
    if incident == "t_bone" and (opposite or len(set(directions)) == 1):
        return f"crossing directions for t_bone, not {' and '.join(directions)}"
    return None


def parse_labels(values: Mapping[str, Any]) -> PromptLabels:
    """Labels of plain values.

    Raises:
        BadScenario: names the first value that is wrong.
    """
    try:
        return PromptLabels.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(str(part) for part in first["loc"])
        reason = first.get("ctx", {}).get("expected") or first.get("ctx", {}).get("error") or first["msg"]
        shown = "nothing" if first["type"] == "missing" else repr(first["input"])[:100] if field else None
        raise BadScenario(f"label {field}" if field else "labels that do not fit", got=shown, expected=reason) from None


def label_choices() -> dict[str, tuple[str, ...]]:
    """Every field of labels with its values, for documentation and messages."""
    return {
        "camera": get_args(Camera),
        "road_layout": get_args(RoadLayout),
        "time_of_day": get_args(TimeOfDay),
        "weather": get_args(Weather),
        "traffic": get_args(Traffic),
        "incident": get_args(Incident),
        "actors[].type": get_args(ActorType),
        "actors[].colour": get_args(Colour),
        "actors[].direction": get_args(Direction),
        "aftermath": get_args(Aftermath),
    }
