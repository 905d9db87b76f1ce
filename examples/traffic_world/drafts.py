"""Traffic at the first frame of each layout, and what its drivers may do next.

In every draft two vehicles are on ways that meet: vehicle 0 is hit or threatened by vehicle 1, unless all goes well.
Their starts follow from the moment and the place of the impact, so that it can be seen.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from examples.traffic_world.palette import COLOURS, VEHICLE_TYPES, VehicleType
from examples.traffic_world.paths import Path, straight, turning
from examples.traffic_world.roads import HIGHWAY_LANE_M, LANE_M, STOP_LINE_M, ZEBRA_HALF_M
from examples.traffic_world.traffic import Braking, Plan, Stop, Vehicle

FAMILIES: dict[str, tuple[str, ...]] = {
    "intersection": ("t_bone", "near_miss"),
    "highway": ("rear_end", "near_miss"),
    "crosswalk": ("rear_end", "near_miss"),
}
"""The incidents that make sense in a layout."""
_LANE = LANE_M / 2
_HARD = 7.0
_IMPACT_S = (1.75, 3.15)


@dataclass(frozen=True, slots=True, kw_only=True)
class Walker:
    """A pedestrian who crosses at the zebra, or waits for the whole clip."""

    start: tuple[float, float]
    velocity: tuple[float, float]
    from_s: float
    """When the walk begins; negative: it has begun before the clip."""
    clothes: tuple[int, int, int]

    def at(self, time: np.ndarray) -> np.ndarray:
        """Positions [T, 2] at times [T]."""
        walked = np.maximum(time - self.from_s, 0.0)
        return np.array(self.start) + walked[:, None] * np.array(self.velocity)


@dataclass(slots=True, kw_only=True)
class Draft:
    """A scene before its courses are known. Vehicle 0 is hit or threatened, vehicle 1 does it."""

    vehicles: list[Vehicle]
    plans: dict[str, list[Plan]]
    """By family; "" is the ordinary course."""
    walkers: list[Walker]
    target: tuple[float, float]
    azimuths: tuple[tuple[float, float], ...]
    """Where the camera may stand around the target, degrees, counterclockwise from +x."""
    reach: tuple[float, float]
    """Ground distance of the camera from the target, metres."""


def _kinds(rng: np.random.Generator, count: int) -> tuple[list[VehicleType], list[str]]:
    """Types and colours; the two main vehicles differ from each other and are not both large."""
    names = list(VEHICLE_TYPES)
    shares = np.array([VEHICLE_TYPES[name].share for name in names])
    kinds = [VEHICLE_TYPES[names[index]] for index in rng.choice(len(names), count, p=shares / shares.sum())]
    for index in (0, 1):
        if kinds[index].length > 6 and rng.random() < 0.85:
            kinds[index] = VEHICLE_TYPES["sedan"]
    taxis = [index for index, kind in enumerate(kinds) if kind.name == "taxi"]
    for index in taxis[1:]:
        kinds[index] = VEHICLE_TYPES["sedan"]
    palette = [colour for colour in COLOURS if colour != "yellow" or not taxis]
    colours = [str(colour) for colour in rng.permutation(palette)][:count]
    if taxis:
        colours[taxis[0]] = "yellow"
    return kinds, colours


def _braking_to(start_s: float, speed: float, deceleration: float) -> Braking:
    """Brake from a speed to standstill."""
    return Braking(from_s=start_s, until_s=start_s + speed / deceleration + 0.1, deceleration=deceleration)


def _intersection(rng: np.random.Generator) -> Draft:
    """Vehicle 0 goes straight on; vehicle 1 comes from the side and must stop at the line."""
    count = int(rng.integers(3, 6))
    kinds, colours = _kinds(rng, count)
    road = int(rng.integers(4))
    cross = (road + (1 if rng.random() < 0.5 else 3)) % 4
    headings = {quarter: quarter * math.pi / 2 for quarter in range(4)}
    impact = rng.uniform(*_IMPACT_S)
    speed_0, speed_1 = rng.uniform(8, 12), rng.uniform(7.5, 11)
    lanes = {quarter: straight(f"arm{quarter}", headings[quarter], _LANE) for quarter in range(4)}
    # Where the two centre lines cross, along each of them.
    side = 1.0 if cross == (road + 1) % 4 else -1.0
    meet_0, meet_1 = _LANE * side, -_LANE * side
    struck_at = rng.uniform(-1.5, 1.5)
    nose_1 = meet_1 - kinds[0].width / 2
    vehicles = [
        Vehicle(
            kind=kinds[0],
            colour=colours[0],
            path=lanes[road],
            start_m=meet_0 + struck_at - speed_0 * impact,
            speed=speed_0,
            cruise=speed_0,
        ),
        Vehicle(
            kind=kinds[1],
            colour=colours[1],
            path=lanes[cross],
            start_m=nose_1 - kinds[1].length / 2 - speed_1 * impact,
            speed=speed_1,
            cruise=speed_1,
        ),
    ]
    line = Stop(at_m=-STOP_LINE_M - 0.2)
    plans = [Plan(), Plan(stops=(line,))]
    roles = list(rng.permutation(["follower", "oncoming", "opposite", "turner"]))[: count - 2]
    for index, role in enumerate(roles, start=2):
        vehicle, plan = _crossing_extra(rng, str(role), kinds[index], colours[index], vehicles, lanes, road, cross)
        vehicles.append(vehicle)
        plans.append(plan)
    halt = nose_1 - rng.uniform(0.5, 0.9) - kinds[1].length / 2
    late = max((halt - vehicles[1].start_m - speed_1**2 / (2 * _HARD)) / speed_1, 0.0)
    startle = impact - rng.uniform(0.7, 0.9)
    halted = late + speed_1 / _HARD
    patience = rng.uniform(0.9, 1.6) if rng.random() < 0.6 else math.inf
    release = Stop(at_m=halt + kinds[1].length / 2, until_s=halted + patience)
    near = [
        Plan(
            brakings=(Braking(from_s=startle, until_s=startle + 0.5, deceleration=3.5),),
            inattentive_s=startle,
            swerve=(0.45 * side, impact + 0.1, 0.9),
        ),
        Plan(brakings=(_braking_to(late, speed_1, _HARD),), stops=(release,), inattentive_s=halted),
        *plans[2:],
    ]
    smash = [Plan(inattentive_s=math.inf), Plan(inattentive_s=math.inf), *plans[2:]]
    quadrants = tuple((quarter * 90 + 18.0, quarter * 90 + 72.0) for quarter in range(4))
    return Draft(
        vehicles=vehicles,
        plans={"": plans, "t_bone": smash, "near_miss": near},
        walkers=[],
        target=(0.0, 0.0),
        azimuths=quadrants,
        reach=(17.0, 22.0),
    )


def _crossing_extra(
    rng: np.random.Generator,
    role: str,
    kind: VehicleType,
    colour: str,
    vehicles: list[Vehicle],
    lanes: dict[int, Path],
    road: int,
    cross: int,
) -> tuple[Vehicle, Plan]:
    """One of the other vehicles of an intersection."""
    speed = rng.uniform(8, 11)
    plan = Plan()
    if role == "follower":
        path, speed = lanes[road], vehicles[0].speed
        start = vehicles[0].start_m - rng.uniform(18, 26) - kind.length / 2
    elif role == "oncoming":
        path = lanes[(road + 2) % 4]
        start = -speed * (rng.uniform(0.2, 1.0) if rng.random() < 0.5 else rng.uniform(3.6, 4.8))
    elif role == "opposite":
        path, speed = lanes[(cross + 2) % 4], 0.0
        start = -STOP_LINE_M - 0.5 - kind.length / 2
        plan = Plan(stops=(Stop(at_m=-STOP_LINE_M - 0.2),))
    else:
        quarter = (road + 2) % 4
        path = turning(f"arm{quarter}", quarter * math.pi / 2, _LANE, side="right", radius_m=4.8, speed=5.0)
        start = -rng.uniform(10, 34)
        speed = min(speed, math.sqrt(25 + 4.4 * max(-6 - start, 0)))
    cruise = speed if speed > 0 else 9.0
    return Vehicle(kind=kind, colour=colour, path=path, start_m=start, speed=speed, cruise=cruise), plan


def _pair(
    rng: np.random.Generator, kinds: list[VehicleType], speed: float, hit_m: float
) -> tuple[float, float, float, float]:
    """Starts of a lead and its follower, when the lead brakes, and the gap, so that they would meet at `hit_m`."""
    gap = rng.uniform(6.5, 9.0)
    closing = math.sqrt(2 * gap / _HARD)
    if closing * _HARD > speed:
        closing = (gap + speed**2 / (2 * _HARD)) / speed
    braked = min(closing, speed / _HARD)
    impact = max(rng.uniform(*_IMPACT_S), closing + 0.25)
    brakes = impact - closing
    travelled = speed * (brakes + braked) - 0.5 * _HARD * braked**2
    lead = hit_m + kinds[0].length / 2 - travelled
    follower = lead - (kinds[0].length + kinds[1].length) / 2 - gap
    return lead, follower, brakes, gap


def _pair_plans(
    rng: np.random.Generator, speed: float, brakes: float, gap: float
) -> tuple[tuple[Plan, Plan], tuple[Plan, Plan]]:
    """What lead and follower do in a rear-end collision and in a near miss."""
    lead = Plan(brakings=(_braking_to(brakes, speed, _HARD),), inattentive_s=brakes)
    forever = Braking(from_s=brakes, until_s=math.inf, deceleration=_HARD)
    hit = (replace(lead, brakings=(forever,)), Plan(inattentive_s=math.inf))
    reaction, room = 0.55, gap + speed**2 / (2 * _HARD) - rng.uniform(0.5, 0.9)
    needed = speed**2 / (2 * max(room - reaction * speed, 0.1))
    if needed > 7.4:
        reaction = max((room - speed**2 / 14.8) / speed, 0.0)
        needed = 7.4
    begin = brakes + reaction
    follower = Plan(brakings=(_braking_to(begin, speed, needed),), inattentive_s=begin)
    return hit, (lead, follower)


def _highway(rng: np.random.Generator) -> Draft:
    """A lead and a follower in one lane of the main carriageway, others in the lanes beside and beyond."""
    count = int(rng.integers(4, 7))
    kinds, colours = _kinds(rng, count)
    centres = [-1.5 - HIGHWAY_LANE_M * (lane + 0.5) for lane in range(3)]
    own = int(rng.integers(3))
    speed = rng.uniform(11.5, 16)
    lanes = [straight(f"lane{index}", 0.0, -centre) for index, centre in enumerate(centres)]
    lead, follower, brakes, gap = _pair(rng, kinds, speed, rng.uniform(-4, 3))
    vehicles = [
        Vehicle(kind=kinds[0], colour=colours[0], path=lanes[own], start_m=lead, speed=speed, cruise=speed),
        Vehicle(kind=kinds[1], colour=colours[1], path=lanes[own], start_m=follower, speed=speed, cruise=speed),
    ]
    for index in range(2, count):
        kind, colour = kinds[index], colours[index]
        if index == 2:  # behind the pair, so that the later part of the clip has traffic too
            path, pace = lanes[own], speed
            start = follower - rng.uniform(22, 30) - kind.length
        elif rng.random() < 0.35:
            path = straight("beyond", math.pi, -1.5 - HIGHWAY_LANE_M * (0.5 + rng.integers(2)) + 0.0)
            path = straight(f"beyond{index}", math.pi, 1.5 + HIGHWAY_LANE_M * (0.5 + rng.integers(2)))
            pace, start = rng.uniform(13, 18), -rng.uniform(10, 70)
        else:
            lane = int(rng.choice([lane for lane in range(3) if lane != own]))
            path, pace = lanes[lane], speed * rng.uniform(0.95, 1.12)
            start = -pace * rng.uniform(0.3, 4.6)
        vehicles.append(Vehicle(kind=kind, colour=colour, path=path, start_m=start, speed=pace, cruise=pace))
    hit, miss = _pair_plans(rng, speed, brakes, gap)
    others = [Plan() for _ in vehicles[2:]]
    target = (0.0, centres[own] * 0.7 + centres[1] * 0.3)
    return Draft(
        vehicles=vehicles,
        plans={"": [Plan(), Plan(), *others], "rear_end": [*hit, *others], "near_miss": [*miss, *others]},
        walkers=[],
        target=target,
        azimuths=((-150, -112), (-68, -30), (-150, -112), (-68, -30), (112, 148), (32, 68)),
        reach=(17.0, 23.0),
    )


def _crosswalk(rng: np.random.Generator) -> Draft:
    """A lead and a follower come up to a zebra that somebody is crossing."""
    count = int(rng.integers(3, 6))
    kinds, colours = _kinds(rng, count)
    speed = rng.uniform(8.5, 11.0)
    way = straight("way", 0.0, _LANE)
    back = straight("back", math.pi, _LANE)
    lead, follower, brakes, gap = _pair(rng, kinds, speed, -ZEBRA_HALF_M - kinds[0].length - rng.uniform(4.2, 6.5))
    vehicles = [
        Vehicle(kind=kinds[0], colour=colours[0], path=way, start_m=lead, speed=speed, cruise=speed),
        Vehicle(kind=kinds[1], colour=colours[1], path=way, start_m=follower, speed=speed, cruise=speed),
    ]
    walkers, clear = _walkers(rng)
    before = Stop(at_m=-ZEBRA_HALF_M - 1.4, until_s=clear)
    plans = [Plan(stops=(before,)), Plan()]
    for index in range(2, count):
        kind, colour = kinds[index], colours[index]
        ahead = [vehicle for vehicle in vehicles if vehicle.path is back]
        if index == 2 and rng.random() < 0.5:  # has just passed the zebra
            path, pace, start, plan = way, speed, rng.uniform(1, 9) + kind.length, Plan()
        else:
            pace = rng.uniform(8, 11)
            start = -pace * rng.uniform(1.2, 3.6) - 4 if not ahead else ahead[-1].start_m - rng.uniform(14, 24)
            path, plan = back, Plan(stops=(before,))
        vehicles.append(Vehicle(kind=kind, colour=colour, path=path, start_m=start, speed=pace, cruise=pace))
        plans.append(plan)
    hit, miss = _pair_plans(rng, speed, brakes, gap)
    miss = (replace(miss[0], stops=(before,)), miss[1])
    return Draft(
        vehicles=vehicles,
        plans={"": plans, "rear_end": [*hit, *plans[2:]], "near_miss": [*miss, *plans[2:]]},
        walkers=walkers,
        target=(-4.5, 0.0),
        azimuths=((-150, -108), (-72, -30), (108, 150), (30, 72)),
        reach=(16.0, 21.0),
    )


def _walkers(rng: np.random.Generator) -> tuple[list[Walker], float]:
    """Some people, and when the last of them has left the road."""
    clothes = ((206, 70, 60), (64, 104, 184), (96, 98, 108), (216, 186, 96), (232, 230, 224), (76, 150, 104))
    walkers, clear = [], 0.0
    for index in range(int(rng.integers(1, 4))):
        side = 1.0 if rng.random() < 0.5 else -1.0
        pace = rng.uniform(1.25, 1.6)
        x = rng.uniform(-1.2, 1.2)
        tone = clothes[rng.integers(len(clothes))]
        if index > 0 and rng.random() < 0.4:
            spot = (rng.uniform(-4, 4), side * (LANE_M + rng.uniform(0.9, 2.4)))
            walkers.append(Walker(start=spot, velocity=(0.0, 0.0), from_s=0.0, clothes=tone))
            continue
        from_s = rng.uniform(-2.6, 0.2)
        walkers.append(
            Walker(start=(x, side * (LANE_M + 0.9)), velocity=(0.0, -side * pace), from_s=from_s, clothes=tone)
        )
        clear = max(clear, from_s + (2 * LANE_M + 0.9) / pace)
    return walkers, clear + 0.2


DRAFTS = {"intersection": _intersection, "highway": _highway, "crosswalk": _crosswalk}
