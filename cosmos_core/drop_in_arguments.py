"""Flags of the drop-in command: every one of the reference's `video2world_lora.py` with its default, and a few more.

No torch here. Source: reference file examples/video2world_lora.py.
"""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any, Literal, NoReturn

from cosmos_core.architecture import MODELS
from cosmos_core.errors import BadConfig
from cosmos_core.geometry import ASPECT_RATIOS, video_geometry
from cosmos_core.lora_defaults import DEFAULT_TARGETS

__all__ = ["DEFAULT_NEGATIVE_PROMPT", "DEVIATIONS", "PROGRAM", "Arguments", "parse_arguments"]

PROGRAM = "video2world_lora"
