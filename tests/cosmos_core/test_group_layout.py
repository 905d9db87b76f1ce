"""Which groups are legal, and how they share a video; without torch."""

from __future__ import annotations

import subprocess
import sys

import pytest

from cosmos_core.architecture import MODELS
from cosmos_core.errors import BadConfig
from cosmos_core.group_layout import GroupLayout, check_group_size, even_split, group_layout, legal_group_sizes


@pytest.mark.parametrize(("model", "largest"), [("2B", 16), ("14B", 40), ("tiny", 5), ("micro", 4)])
def test_every_number_up_to_that_of_the_heads_is_legal(model, largest):
    assert legal_group_sizes(MODELS[model].dit) == tuple(range(1, largest + 1))


@pytest.mark.parametrize("size", [0, -1, 5])
def test_other_sizes_are_refused_with_the_legal_ones(size):
    with pytest.raises(BadConfig, match=rf"got {size}, expected 1 \| 2 \| 3 \| 4\. The model has 4 attention heads"):
        check_group_size(MODELS["micro"].dit, size)
    with pytest.raises(BadConfig, match="expected 1"):
        group_layout(MODELS["micro"].dit, size, guided=True)


@pytest.mark.parametrize(
    ("size", "guided", "cfg", "ulysses"),
    [
        (1, True, 1, 1),
        (2, True, 2, 1),
        (2, False, 1, 2),
        (3, True, 1, 3),
        (4, True, 2, 2),
        (4, False, 1, 4),
        (6, True, 2, 3),
        (7, True, 1, 7),
        (8, True, 2, 4),
        (8, False, 1, 8),
        (16, True, 2, 8),
        (16, False, 1, 16),
    ],
)
def test_layouts_of_2b(size, guided, cfg, ulysses):
    layout = group_layout(MODELS["2B"].dit, size, guided=guided)
    assert layout == GroupLayout(cfg=cfg, ulysses=ulysses)
    assert str(layout) == f"cfg {cfg} x ulysses {ulysses}"


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("guided", [True, False])
def test_every_legal_layout_uses_every_process_and_gives_each_a_head(model, guided):
    architecture = MODELS[model].dit
    for size in legal_group_sizes(architecture):
        layout = group_layout(architecture, size, guided=guided)
        assert layout.cfg * layout.ulysses == size
        assert min(even_split(architecture.num_heads, layout.ulysses)) >= 1


@pytest.mark.parametrize("count", [0, 1, 5, 27, 31104])
@pytest.mark.parametrize("parts", [1, 2, 3, 4, 7])
def test_a_split_is_complete_and_even(count, parts):
    sizes = even_split(count, parts)
    assert (len(sizes), sum(sizes)) == (parts, count)
    assert max(sizes) - min(sizes) <= 1
    assert sizes == tuple(sorted(sizes, reverse=True))


def test_a_plan_needs_no_torch():
    code = "import sys, cosmos_core.group_layout; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0
