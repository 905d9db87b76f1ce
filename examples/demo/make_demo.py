"""Draw the camera frames of the demo and write its manifest, as Parquet and in the JSON batch form.

    python examples/demo/make_demo.py

Drawn by the traffic world, not photographed: no place is shown, and nobody but the portrait on the billboard.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pandas as pd
from PIL import Image

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1]))

from examples.demo.guarded import billboard, guarded_scenarios  # noqa: E402
from examples.traffic_world import Clip, make_clip  # noqa: E402

WIDTH, HEIGHT = 1280, 720
SCENES = {"intersection": 3, "highway": 23, "night": 2}
"""Seeds of the traffic world by the name of their frame."""
INCIDENTS = {
    "intersection": {"t_bone": "collision", "near_miss": "near_miss"},
    "highway": {"rear_end": "rear_end"},
    "night": {"t_bone": "collision"},
}
"""What can happen there, and the adapter that shows it."""
_COMMON = {"num_steps": 12, "seed": 7}


def scene(seed: int) -> Clip:
    """The first frame of a scene, at the size of a camera's picture."""
    return make_clip(seed, width=WIDTH, height=HEIGHT, num_frames=1)


def traffic_scenarios(clips: dict[str, Clip]) -> list[dict[str, object]]:
    """Of every scene ordinary traffic by the base and incidents by adapters, same frame and seed; a dead camera."""
    rows = []
    for name, clip in clips.items():
        common = _COMMON | {"input": f"frames/{name}.jpg"}
        labels = {
            "incident_type": "none",
            "weather": clip.labels.weather,
            "time_of_day": clip.labels.time_of_day,
            "actors": ", ".join(track.kind for track in clip.tracks[:2]),
        }
        rows.append(common | {"prompt": clip.caption, "output_name": f"{name}.mp4", "labels": labels})
        for family, adapter in INCIDENTS[name].items():
            rows.append(
                common
                | {
                    "prompt": clip.incident_captions[family],
                    "output_name": f"{name}_{family}.mp4",
                    "labels": labels | {"incident_type": family},
                    "adapters": [{"name": adapter, "strength": 1.0}],
                }
            )
    gone = {"input": "frames/camera_17_offline.jpg", "output_name": "missing_camera.mp4"}
    return [*rows, rows[0] | gone]


def main() -> None:
    """Write everything beside this file."""
    (HERE / "frames").mkdir(exist_ok=True)
    clips = {name: scene(seed) for name, seed in SCENES.items()}
    for name, clip in clips.items():
        Image.fromarray(clip.frames[0]).save(HERE / "frames" / f"{name}.jpg", quality=88)
    billboard().save(HERE / "frames" / "billboard.jpg", quality=88)
    rows = traffic_scenarios(clips) + guarded_scenarios("frames/intersection.jpg")
    batch = [{"input_video": row["input"], "prompt": row["prompt"], "output_video": row["output_name"]} for row in rows]
    (HERE / "scenarios.json").write_text(json.dumps(batch, indent=2) + "\n")
    pd.DataFrame(rows).to_parquet(HERE / "manifest.parquet", index=False)


if __name__ == "__main__":
    main()
