from __future__ import annotations

import numpy as np
import pytest

from examples.traffic_world import COLOURS, INCIDENTS, LAYOUTS, TIMES, WEATHERS, boxes, make_clip
from examples.traffic_world.captions import captions
from examples.traffic_world.dataset import clip_shards, render_clips, write_dataset
from examples.traffic_world.drafts import FAMILIES
from examples.traffic_world.scene import Course, Scene, draw_scene
from tasks.manifest import read_manifest
from tasks.scenario import ScenarioDefaults

SECONDS = 6.0
SEEDS = range(12)


@pytest.fixture(scope="module")
def scenes() -> dict[str, list[Scene]]:
    return {layout: [draw_scene(seed, layout, SECONDS, 192, 112) for seed in SEEDS] for layout in LAYOUTS}


def gaps(scene: Scene, course: Course, first: int, second: int) -> np.ndarray:
    outlines = [
        boxes.corners(
            course.motions[index].position,
            course.motions[index].heading,
            scene.vehicles[index].kind.length,
            scene.vehicles[index].kind.width,
        )
        for index in (first, second)
    ]
    return boxes.gap(outlines[0], outlines[1])


def pairs(scene: Scene) -> list[tuple[int, int]]:
    count = len(scene.vehicles)
    return [(first, second) for first in range(count) for second in range(first + 1, count)]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_ordinary_traffic_never_touches(scenes, layout):
    for scene in scenes[layout]:
        for pair in pairs(scene):
            assert gaps(scene, scene.courses[""], *pair).min() > 0.2


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_collision_makes_contact_when_it_says_and_ends_at_standstill(scenes, layout):
    family = FAMILIES[layout][0]
    for scene in scenes[layout]:
        course = scene.courses[family]
        apart = gaps(scene, course, 0, 1)
        assert course.impact is not None
        assert int(np.flatnonzero(apart < 0)[0]) == course.impact.step
        assert apart.min() > -0.9  # crushed, not run through
        for motion in course.motions[:2]:
            assert motion.speed[-5:].max() < 0.3


@pytest.mark.parametrize("layout", LAYOUTS)
def test_nobody_else_is_touched_in_any_course(scenes, layout):
    for scene in scenes[layout]:
        for family, course in scene.courses.items():
            for pair in pairs(scene):
                if pair != (0, 1) or family == "near_miss":
                    assert gaps(scene, course, *pair).min() > 0.1


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_near_miss_is_near_and_a_miss(scenes, layout):
    for scene in scenes[layout]:
        assert 0.1 < gaps(scene, scene.courses["near_miss"], 0, 1).min() < 2.0


def test_a_collision_only_loses_energy(scenes):
    for layout in LAYOUTS:
        for scene in scenes[layout]:
            course = scene.courses[FAMILIES[layout][0]]
            assert course.impact is not None
            masses = [vehicle.kind.mass_kg for vehicle in scene.vehicles[:2]]
            energy = sum(mass * motion.speed**2 for mass, motion in zip(masses, course.motions, strict=False))
            after = energy[course.impact.step :]
            assert (np.diff(after) < 0.02 * after[0]).all()


@pytest.mark.parametrize("incident", [None, *INCIDENTS])
def test_equal_arguments_give_equal_clips(incident):
    one, two = make_clip(5, incident=incident, num_frames=20), make_clip(5, incident=incident, num_frames=20)
    assert np.array_equal(one.frames, two.frames)
    assert one.frames.shape == (20, 112, 192, 3)
    assert one.frames.dtype == np.uint8
    assert one.caption == two.caption
    assert one.labels == two.labels


@pytest.mark.parametrize("layout", LAYOUTS)
def test_all_courses_begin_with_the_same_frame(layout):
    ordinary = make_clip(3, layout=layout, num_frames=2)
    for family in FAMILIES[layout]:
        incident = make_clip(3, layout=layout, incident=family, num_frames=2)
        assert np.array_equal(ordinary.frames[0], incident.frames[0])
        assert ordinary.incident_captions[family] == incident.caption
        assert incident.ordinary_caption == ordinary.caption


def test_impact_is_seen_in_time():
    for seed in range(3):
        clip = make_clip(seed, incident="t_bone", num_frames=2)
        assert clip.labels.impact_frame is not None
        assert 16 <= clip.labels.impact_frame <= 34


def test_pixels_far_from_traffic_stand_still_in_clear_weather():
    clip = make_clip(2, layout="intersection", time_of_day="day", weather="clear", num_frames=30)
    moved = (clip.frames != clip.frames[:1]).any(axis=(0, 3))
    near = np.zeros(moved.shape, dtype=bool)
    for track in clip.tracks:
        for x0, y0, x1, y1 in track.box_px[~np.isnan(track.box_px).any(1)]:
            near[max(int(y0) - 14, 0) : int(y1) + 14, max(int(x0) - 14, 0) : int(x1) + 14] = True
    assert not (moved & ~near).any()
    assert (~near).mean() > 0.2
    still = (clip.frames == clip.background).all(axis=(0, 3))
    assert still[~near].mean() > 0.99


def test_tracks_tell_where_vehicles_are_seen():
    clip = make_clip(1, time_of_day="day", weather="clear")
    for track in clip.tracks:
        boxes_seen = track.box_px[track.visible]
        assert (boxes_seen[:, :2] < boxes_seen[:, 2:]).all()
        assert (boxes_seen >= 0).all()
        assert (boxes_seen <= (192, 112, 192, 112)).all()
    assert any(track.visible.any() for track in clip.tracks)


def test_captions_say_camera_scene_vehicles_and_incident(scenes):
    words = {"t_bone": "t-bone collision", "rear_end": "rear-end collision", "near_miss": "near miss"}
    places = {"intersection": "intersection", "highway": "highway", "crosswalk": "street"}
    for layout in LAYOUTS:
        for seed, scene in zip(SEEDS, scenes[layout], strict=True):
            for time_of_day in TIMES:
                texts = captions(scene, seed, time_of_day, WEATHERS[seed % 3])
                for family, text in texts.items():
                    assert 40 <= len(text.split()) <= 90
                    assert "CCTV" in text or "camera" in text
                    assert places[layout] in text
                    for vehicle in scene.vehicles[:2]:
                        assert f"{vehicle.colour} {vehicle.kind.name}" in text
                    for name, phrase in words.items():
                        assert (phrase in text) == (name == family)


def test_colours_of_the_main_vehicles_differ(scenes):
    for layout in LAYOUTS:
        for scene in scenes[layout]:
            colours = [vehicle.colour for vehicle in scene.vehicles]
            assert len(set(colours)) == len(colours)
            assert set(colours) <= set(COLOURS)


def test_unknown_names_and_impossible_incidents_are_refused():
    with pytest.raises(ValueError, match="expected one of"):
        make_clip(0, weather="snow")
    with pytest.raises(ValueError, match="no t_bone"):
        make_clip(0, incident="t_bone", layout="highway")


def test_shards_hold_every_clip_once():
    shards = list(clip_shards(range(3), size=2, num_frames=3))
    assert [shard.frames.shape[0] for shard in shards] == [2, 1]
    assert [clip.labels.seed for shard in shards for clip in shard.clips] == [0, 1, 2]


def test_workers_render_the_same_clips():
    here = list(render_clips(range(2), num_frames=2))
    there = list(render_clips(range(2), workers=2, num_frames=2))
    for one, two in zip(here, there, strict=True):
        assert np.array_equal(one.frames, two.frames)


def test_a_dataset_is_a_valid_manifest(tmp_path):
    written = write_dataset(tmp_path, num=2, incident="rear_end", num_frames=5)
    manifest = read_manifest(str(written), ScenarioDefaults())
    assert len(manifest.rows) == 2
    assert not manifest.invalid
