"""The closed vocabulary of the world: what is named in captions and labels, with sizes in metres and colours in RGB."""

from __future__ import annotations

from dataclasses import dataclass

LAYOUTS = ("intersection", "highway", "crosswalk")
TIMES = ("day", "dusk", "night")
WEATHERS = ("clear", "rain", "fog")
INCIDENTS = ("t_bone", "rear_end", "near_miss")

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (200, 34, 32),
    "blue": (34, 82, 196),
    "white": (240, 240, 238),
    "black": (36, 37, 41),
    "silver": (160, 166, 174),
    "yellow": (246, 194, 20),
    "green": (30, 132, 70),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class VehicleType:
    """Size and weight of one kind of vehicle."""

    name: str
    """The noun a caption uses."""
    length: float
    width: float
    height: float
    mass_kg: float
    share: float
    """Relative frequency among drawn vehicles."""

    @property
    def size_m(self) -> tuple[float, float, float]:
        """Length, width, height."""
        return self.length, self.width, self.height


_TYPES = (
    VehicleType(name="sedan", length=4.7, width=1.86, height=1.46, mass_kg=1450, share=5),
    VehicleType(name="hatchback", length=4.1, width=1.8, height=1.52, mass_kg=1200, share=3),
    VehicleType(name="SUV", length=4.7, width=1.95, height=1.78, mass_kg=1900, share=3),
    VehicleType(name="pickup", length=5.4, width=1.96, height=1.82, mass_kg=2000, share=2),
    VehicleType(name="van", length=5.3, width=2.02, height=2.25, mass_kg=2200, share=2.5),
    VehicleType(name="taxi", length=4.7, width=1.86, height=1.5, mass_kg=1500, share=1.2),
    VehicleType(name="truck", length=7.4, width=2.4, height=3.0, mass_kg=6500, share=0.8),
    VehicleType(name="bus", length=9.2, width=2.5, height=3.0, mass_kg=9500, share=0.6),
)
VEHICLE_TYPES: dict[str, VehicleType] = {kind.name: kind for kind in _TYPES}
