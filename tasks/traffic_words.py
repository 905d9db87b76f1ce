"""What words say in a traffic prompt: cameras, weather, times of day, vehicles, colours, numbers, collisions.

Plain regular expressions, shared by the template, the linter and the checks of what a model rewrote. Each table maps a
meaning to the ways of saying it; `meanings` finds the meanings of a text. English only.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

__all__ = [
    "AFTERMATH",
    "ANY_VEHICLE",
    "APPEARANCE",
    "COLLISION",
    "COLOURS",
    "DIRECTIONS",
    "EVENT",
    "HAZARDS",
    "INCIDENTS",
    "NUMBERS",
    "OTHER_CAMERA",
    "PERSONS",
    "PLACE",
    "PLACES",
    "STATIC_CAMERA",
    "TIME_OF_DAY",
    "VEHICLES",
    "WEATHER",
    "colour_order",
    "coloured_vehicles",
    "find_word",
    "meanings",
    "person_words",
    "says",
]

# An opening such as "A static traffic CCTV camera" or "Footage from a fixed pole-mounted camera".
STATIC_CAMERA = re.compile(
    r"(?:footage\s+from\s+)?(?:an?|the|this|one)?\s*"
    r"(?:(?:static|fixed|stationary|cctv|surveillance|traffic|security|overhead|roadside|intersection|highway|street|road|city"
    r"|urban|video|monitoring|wide|angle|mounted|\w+-mounted|wide-angle|high-angle|high)[\s,]+)+"
    r"(?:cameras?|cctv|(?:camera\s+)?footage)\b",
    re.IGNORECASE,
)
OTHER_CAMERA = re.compile(
    r"\b(?:dash\s?-?cam\w*|body\s?-?cam\w*|hand-?held|drone\s+(?:camera|footage|shot|view)|aerial\s+(?:camera|footage|shot"
    r"|view)|(?:moving|panning|tracking|orbiting|shaky)\s+(?:camera|shot)|first-person|helicopter\s+(?:camera|footage|shot|view)"
    r"|bird'?s-eye|go-?pro|passenger\s+seat|(?:smart|mobile\s+)?phone\s+(?:camera|footage)|on\s+a\s+(?:smart)?phone|camera\s+(?:pans?|zooms?|follows?"
    r"|tracks?|tilts?|moves?|orbits?|flies|rotates?))\b",
    re.IGNORECASE,
)

# What a text says about an attribute: value -> how it is said. Only unmistakable wordings count as said, except that
# a doubtful one is listed where adding a second statement could contradict it.
WEATHER = {
    "rain": r"rain\w*|drizzl\w*|downpour|showers",
    "snow": r"snow\w*|blizzard|sleet|hail",
    "fog": r"fog\w*|mist|misty|haze|hazy|smog",
    "clear": r"sunny|sunlit|sunshine|blue\s+sk(?:y|ies)|clear\s+(?:sk(?:y|ies)|weather|conditions?|day|night|morning)",
    "overcast": r"overcast|cloudy|gr[ae]y\s+sky",
    "storm": r"storm\w*|thunder\w*|lightning",
    "wind": r"windy|gusts?|gusty|strong\s+wind",
}
TIME_OF_DAY = {
    "night": r"night\w*|midnight|after\s+dark",
    "day": r"day|daytime|daylight|midday|noon|morning|afternoon|daylit|sunny|sunlit|sunshine",
    "dawn": r"dawn|sunrise|daybreak",
    "dusk": r"dusk|twilight|sunset|evening",
}

# Groups that a reader would call the same vehicle: an SUV retold as a sedan is another vehicle, a lorry is a truck.
VEHICLES = {
    "sedan": r"sedans?|saloons?",
    "hatchback": r"hatchbacks?",
    "suv": r"suvs?|sport\s+utility\s+vehicles?|crossovers?",
    "pickup": r"pick-?\s?ups?(?:\s+trucks?)?",
    "van": r"(?:delivery\s+|mini|cargo\s+)?vans?|minivans?",
    "truck": r"(?<!pickup\s)(?<!pick-up\s)(?:(?:box|semi|dump|tow|delivery|garbage|tanker)[\s-]+)?trucks?|lorr(?:y|ies)"
    r"|semi-?trailers?|tractor-trailers?|tankers?",
    "bus": r"bus(?:es)?|(?<!stage)coach(?:es)?",
    "motorcycle": r"motor-?(?:cycles?|bikes?)|scooters?|mopeds?",
    "bicycle": r"(?<!motor)bicycles?|(?<!motor)(?<!motor-)bikes?|cyclists?",
    "taxi": r"taxis?|cabs?",
    "tram": r"trams?|streetcars?|trains?",
    "emergency": r"ambulances?|fire\s+(?:engines?|trucks?)|police\s+(?:cars?|vehicles?)",
    "pedestrian": r"pedestrians?",
}
ANY_VEHICLE = r"vehicles?|cars?|automobiles?|traffic"
COLOURS = {
    "black": r"black",
    "white": r"white",
    "silver": r"silver",
    "grey": r"gr[ae]y",
    "red": r"(?:dark\s+|bright\s+)?red(?!\s+(?:traffic\s+)?(?:light|signal|phase))",
    "blue": r"blue(?!\s+sk(?:y|ies))",
    "green": r"green(?!\s+(?:traffic\s+)?(?:light|signal|phase))",
    "yellow": r"yellow(?!\s+(?:traffic\s+)?(?:light|signal|phase|line))",
    "orange": r"orange",
    "brown": r"brown|beige|tan",
    "purple": r"purple|violet",
}
DIRECTIONS = {
    "from the left": r"from\s+(?:the|its|his|her)\s+left",
    "from the right": r"from\s+(?:the|its|his|her)\s+right",
    "turning left": r"left\s+turn|turn(?:s|ed|ing)?\s+(?:\w+\s+)?left",
    "turning right": r"right\s+turn|turn(?:s|ed|ing)?\s+(?:\w+\s+)?right",
    "northbound": r"north-?bound|heading\s+north",
    "southbound": r"south-?bound|heading\s+south",
    "eastbound": r"east-?bound|heading\s+east",
    "westbound": r"west-?bound|heading\s+west",
    "towards the camera": r"towards?\s+the\s+camera",
    "away from the camera": r"away\s+from\s+the\s+camera",
    "oncoming": r"oncoming|opposite\s+direction|wrong\s+way",
}
NUMBERS = {
    "2": r"two|2|both",
    "3": r"three|3",
    "4": r"four|4",
    "5": r"five|5",
    "6": r"six|6",
    "7": r"seven|7",
    "8": r"eight|8",
    "9": r"nine|9",
    "10": r"ten|10",
}

# What kind of incident a text tells of, where it says so unmistakably.
INCIDENTS = {
    "rear_end": r"rear-?\s?end(?:s|ed|ing|er)?|into\s+(?:its|the|their|his|her)\s+(?:rear|back|rear\s+bumper)",
    "t_bone": r"t-?\s?bon(?:e|es|ed|ing)|broadsid(?:e|es|ed|ing)|(?:with|into)\s+(?:its|the|their)\s+side"
    r"|(?:with|into|hits|strikes)\s+the\s+side\s+of|(?:passenger|driver)'?s?\s+side|side-?on",
    "head_on": r"head-?\s?on|frontal(?:ly)?",
    "sideswipe": r"side-?\s?swip(?:e|es|ed|ing)|scrap(?:es|ed|ing)\s+along|brush(?:es|ed)\s+against",
    "pileup": r"pile-?\s?ups?|chain\s+(?:reaction|collision)|multi-vehicle\s+(?:collision|crash)",
    "rollover": r"roll(?:s|ed|ing)?\s?-?over|overturn\w*|on(?:to)?\s+its\s+roof",
}
COLLISION = (
    r"collid\w+|collisions?|crash\w*|hits?|hitting|struck|strik(?:es?|ing)|ram(?:s|med|ming)|rear-?\s?end(?:s|ed|ing)?"
    r"|t-?\s?bon(?:es?|ed|ing)|broadsid(?:es?|ed|ing)|side-?\s?swip(?:es?|ed|ing)|scrap(?:es|ed|ing)|pile-?\s?ups?"
    r"|impacts?|accidents?|wrecks?|runs?\s+into|ran\s+into|bumps?\s+into|clips|overturn\w*|rolls?\s+over|knock\w*"
)
EVENT = (
    COLLISION
    + r"|swerv\w+|brak(?:es|ed|ing)|skid\w*|veer\w*|spins?|loses?\s+(?:control|grip)|near-?\s?miss\w*|stall\w*"
    r"|breaks?\s+down|stops?\s+suddenly|runs?\s+(?:a|the)\s+red|without\s+yielding|cut(?:s|ting)\s+(?:across|in|off)"
    r"|cross(?:es|ing)?|pass(?:es|ing)?|flows?|driv(?:es|ing)|travel\w*|navigat\w*|mov(?:es?|ing)|turn(?:s|ing)|enter(?:s|ing)"
    r"|drift\w*|slid\w+|revers(?:es|ed|ing)|overtak\w+|rid(?:es|ing)|rolls?|leaves?\s+the\s+lane|merg\w+|approach\w*|slow(?:s|ing)"
)
"""What happens: a collision, something short of one, or traffic that simply moves."""
PLACES = {
    "intersection": r"intersections?|junctions?|crossroads?",
    "roundabout": r"roundabouts?|traffic\s+circles?",
    "highway": r"highways?|motorways?|freeways?|expressways?|interstates?",
    "ramp": r"(?:on|off)-?\s?ramps?|ramps?",
    "street": r"streets?|roads?|roadways?|avenues?|boulevards?",
    "crosswalk": r"crosswalks?|crossings?",
    "bridge": r"bridges?|overpass(?:es)?|underpass(?:es)?",
    "tunnel": r"tunnels?",
    "parking": r"parking\s+(?:lots?|areas?|spaces?)",
    "square": r"squares?|plazas?|toll\s+\w+|work\s+zones?",
}
PLACE = "|".join((*PLACES.values(), r"lanes?"))
AFTERMATH = (
    r"comes?\s+to\s+(?:a\s+)?(?:rest|halt|stop|standstill)|halts?|stops?\b(?!\s+suddenly)|block(?:s|ed|ing)?|debris|crumpl\w+|spin(?:s|ning)?"
    r"|damage\w*|dent\w*|queue\w*|pull(?:s|ed)?\s+(?:over|to|onto)|hazard\s+(?:lights|flashers)|flows?\s+on"
    r"|continues?|drives?\s+(?:on|away|off)|pushed|resumes?|remains?|slows?\s+down|disperse\w*|clears|avoid\w*"
    r"|builds?\s+up|backs?\s+up|smoke|leak\w*|lies?|lands?"
)

HAZARDS = {
    "fire": r"fires?|flames?|burns?|burning|ablaze|ignit\w+",
    "explosion": r"explo\w+|blasts?|fireballs?",
    "animal": r"animals?|dogs?|cats?|deer|cows?|horses?|birds?",
    "spill": r"spill\w*|leak\w*|oil|cargo|load",
    "flood": r"flood\w*|aquaplan\w*|hydroplan\w*",
    "ice": r"ice|icy",
}
"""What would be another incident if it were added."""

PERSONS = (
    r"pedestrians?|people|persons?|man|men|woman|women|child(?:ren)?|kids?|boys?|girls?|drivers?|passengers?|cyclists?"
    r"|bystanders?|onlookers?|riders?|motorists?|police\s+officers?|officers?|workers?|crowds?"
)
APPEARANCE = (
    r"(?:young|old|elderly|middle-aged|teenage|asian|african|black|white|caucasian|hispanic|latino|arab|indian|chinese"
    r"|blonde?|bald|bearded|tall|muscular|attractive|beautiful|muslim|jewish)\s+"
    r"(?:man|men|woman|women|person|people|boy|girl|driver|pedestrian|lady|gentleman|male|female|passenger|rider|couple)"
    r"|(?:man|woman|person|driver|pedestrian|boy|girl|rider)\s+(?:in|wearing|with)\s+(?:an?\s+|the\s+)?\w+"
    r"|faces?\s+(?:is|are)?\s*visible|facial\s+\w+|ethnicity|expression\s+of"
)

_NEXT_WORDS = re.compile(r"(?:[\s-]+[\w-]+){1,3}")
_REACH_CHARS = 48


def find_word(text: str, pattern: str) -> re.Match[str] | None:
    """The first place where a pattern stands as whole words, in any case."""
    return re.search(rf"\b(?:{pattern})\b", text, re.IGNORECASE)


def says(text: str, pattern: str) -> bool:
    return find_word(text, pattern) is not None


def meanings(text: str, vocabulary: Mapping[str, str]) -> set[str]:
    """Every meaning of a vocabulary that a text has words for."""
    return {meaning for meaning, pattern in vocabulary.items() if says(text, pattern)}


def coloured_vehicles(text: str) -> set[tuple[str, str]]:
    """Each (colour, vehicle) of a text: the colour stands before its vehicle, with at most two words between."""
    return {(colour, vehicle) for _, colour, vehicle in _coloured(text)}


def colour_order(text: str) -> list[tuple[str, str]]:
    """The coloured vehicles of a text in the order in which they come up first."""
    return list(dict.fromkeys((colour, vehicle) for _, colour, vehicle in sorted(_coloured(text))))


def _coloured(text: str) -> Iterator[tuple[int, str, str]]:
    """Each place of a colour with its vehicle."""
    for colour, pattern in COLOURS.items():
        for match in re.finditer(rf"\b(?:{pattern})\b", text, re.IGNORECASE):
            # Few words and few characters: a text of nothing but colours must not take a second.
            between = _NEXT_WORDS.match(text, match.end(), match.end() + _REACH_CHARS)
            if between and (vehicle := _first_vehicle(between[0])):
                yield match.start(), colour, vehicle


def person_words(text: str) -> set[str]:
    """Every word for a person in a text, in the singular."""
    found = {match[0].lower() for match in re.finditer(rf"\b(?:{PERSONS})\b", text, re.IGNORECASE)}
    plurals = {"men": "man", "women": "woman", "people": "person", "children": "child"}
    return {plurals.get(word, word.removesuffix("s")) for word in found}


def _first_vehicle(text: str) -> str | None:
    """The vehicle that a few words name first, before another colour does."""
    places = [(match.start(), name) for name, pattern in VEHICLES.items() if (match := find_word(text, pattern))]
    if (generic := find_word(text, ANY_VEHICLE)) is not None:
        places.append((generic.start(), "vehicle"))
    colours = [match.start() for pattern in COLOURS.values() if (match := find_word(text, pattern))]
    first = min(places, default=None)
    return first[1] if first and first[0] < min(colours, default=len(text)) else None
