"""A prompt from structured labels: camera, scene, incident, aftermath, in the plain sentences of traffic captions.

Deterministic: equal labels give equal text. The template refiner finds nothing to add to a built prompt, and the linter
nothing to warn of; tests hold both over every combination of labels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tasks.prompt_labels import Actor, Incident, PromptLabels

__all__ = ["build_prompt", "manifest_labels"]

_CAMERAS = {
    "cctv": "A static traffic CCTV camera",
    "pole": "A static pole-mounted traffic camera",
    "overhead": "A static overhead traffic camera",
    "roadside": "A static roadside traffic camera",
    "high_angle": "A static high-angle traffic camera",
}
_PLACES = {
    "four_way_intersection": "a four-way intersection",
    "t_junction": "a T-junction",
    "roundabout": "a roundabout",
    "highway": "a multi-lane highway",
    "on_ramp": "a highway on-ramp",
    "urban_street": "an urban street",
    "rural_road": "a rural road",
    "crosswalk": "a marked crosswalk",
}
_TIMES = {"dawn": "at dawn", "day": "during the day", "dusk": "at dusk", "night": "at night"}
_WEATHER = {
    "clear": "in clear weather",
    "overcast": "in overcast weather",
    "rain": "in rain",
    "heavy_rain": "in heavy rain",
    "snow": "in snow",
    "fog": "in fog",
}
_TYPES = {"suv": "SUV", "pickup": "pickup truck", "semi_truck": "semi-truck"}
_ORDINALS = ("first", "second", "third")
_DIRECTIONS = {
    "from_left": " from the left",
    "from_right": " from the right",
    "towards_camera": " driving towards the camera",
    "away_from_camera": " driving away from the camera",
}
_WALKING = {"towards_camera": " walking towards the camera", "away_from_camera": " walking away from the camera"}

# {a} {b} {c} introduce an actor, {the_a} ... speak of it again. The first actor is the one whose mistake it is.
_INCIDENTS: Mapping[Incident, tuple[str, ...]] = {
    "rear_end": ("{b} brakes suddenly.", "{a} following too closely runs into its rear."),
    "t_bone": (
        "{a} enters the intersection at speed without yielding.",
        "{b} proceeds with the right of way and collides with the side of {the_a}.",
    ),
    "head_on": ("{a} drifts across the centre line.", "{b} cannot avoid it and the two collide head-on."),
    "sideswipe": ("{a} changes lanes without enough room.", "It scrapes along the side of {b} in the next lane."),
    "pileup": (
        "{a} brakes suddenly.",
        "{b} runs into its rear.",
        "{c} following behind cannot stop in time and runs into the rear of {the_b}.",
    ),
    "run_off_road": ("{a} loses grip and leaves its lane.", "It hits the roadside barrier with its front."),
    "stalled": ("{a} slows down and stalls in its lane.",),
    "pedestrian_near_miss": (
        "{b} is on the crosswalk.",
        "{a} turns without yielding.",
        "{the_b} steps back and {the_a} swerves to avoid contact.",
    ),
}
_ORDINARY = ("{a} passes at moderate speed and keeps its distance.", "{b} follows.", "{c} follows after it.")


def build_prompt(labels: PromptLabels) -> str:
    """The prompt that tells exactly what the labels say."""
    scene = [_CAMERAS[labels.camera], "captures", _PLACES[labels.road_layout]]
    if labels.traffic:
        scene.append(f"with {labels.traffic} traffic")
    scene += [_TIMES[labels.time_of_day], _WEATHER[labels.weather]]
    sentences = _ORDINARY[: len(labels.actors)] if labels.incident == "none" else _INCIDENTS[labels.incident]
    words = _actor_words(labels.actors, " ".join(sentences))
    parts = [f"{' '.join(scene)}.", *(_sentence(text, words) for text in sentences), _aftermath(labels)]
    return " ".join(parts)


def manifest_labels(labels: PromptLabels) -> dict[str, str]:
    """The same facts as a manifest's labels; `aftermath` is the sentence of the prompt."""
    facts = {
        "camera": labels.camera,
        "road_layout": labels.road_layout,
        "time_of_day": labels.time_of_day,
        "weather": labels.weather,
        "incident_type": labels.incident,
        "actors": ", ".join(_plain_name(actor) for actor in labels.actors),
        "aftermath": _aftermath(labels),
    }
    return facts | ({"traffic": labels.traffic} if labels.traffic else {})


def _plain_name(actor: Actor) -> str:
    name = _TYPES.get(actor.type, actor.type)
    return f"{actor.colour} {name}" if actor.colour else name


def _actor_words(actors: Sequence[Actor], story: str) -> dict[str, str]:
    """How each actor is introduced and spoken of again; equal ones are told apart as first, second, third."""
    words: dict[str, str] = {}
    told: list[str] = []
    for letter in sorted("abc"[: len(actors)], key=lambda letter: story.index(f"{{{letter}}}")):
        actor = actors["abc".index(letter)]
        name = plain = _plain_name(actor)
        if [_plain_name(other) for other in actors].count(plain) > 1:
            name = f"{_ORDINALS[told.count(plain)]} {plain}"
            introduced = f"the {name}"
        else:
            introduced = f"{'an' if name[0] in 'aeio' or name.startswith('SUV') else 'a'} {name}"
        told.append(plain)
        words[letter] = introduced + _going(actor)
        words[f"the_{letter}"] = f"the {name}"
    return words


def _going(actor: Actor) -> str:
    if actor.direction is None:
        return ""
    walking = _WALKING.get(actor.direction) if actor.type == "pedestrian" else None
    return walking or _DIRECTIONS[actor.direction]


def _sentence(template: str, words: Mapping[str, str]) -> str:
    text = template.format_map(words)
    return text[0].upper() + text[1:]


def _aftermath(labels: PromptLabels) -> str:
    vehicles = [actor for actor in labels.actors if actor.type != "pedestrian"]
    number = len(vehicles)
    who = {1: "The vehicle", 2: "Both vehicles"}.get(number, "All vehicles")
    s = "s" if number == 1 else ""
    return {
        "stops": f"{who} come{s} to rest on the road.",
        "blocks_traffic": f"{who} come{s} to rest and block{s} traffic.",
        "pulls_over": f"{who} roll{s} to the roadside and stop{s}.",
        "debris": f"{who} come{s} to rest and debris lies on the road.",
        "queue": f"{who} stop{s} and traffic queues up behind.",
        "flows_on": "Traffic flows on.",
    }[labels.aftermath]
