"""What docs/prompts.md shows and lists is what the code takes and knows."""

from __future__ import annotations

import re

import pytest
import yaml

from tasks.config import parse_config
from tasks.prompt_labels import INCIDENT_RULES, label_choices
from tasks.prompt_lint import RULES
from tasks.scenario_matrix import ScenarioMatrix


@pytest.fixture(scope="module")
def document(repository):
    return (repository / "docs" / "prompts.md").read_text()


def test_every_example_is_taken(document):
    blocks = [yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", document, re.DOTALL)]
    matrices = [ScenarioMatrix.model_validate(block) for block in blocks if "axes" in block]
    refiners = [parse_config(block, origin="docs").refiner.kind for block in blocks if "refiner" in block]
    assert (len(matrices), refiners) == (1, ["endpoint", "transformers"])


def test_every_rule_label_and_incident_is_listed(document):
    listed = set(re.findall(r"`([a-z_-]+)`", document))
    values = {value for values in label_choices().values() for value in values}
    assert set(RULES) | set(INCIDENT_RULES) | values <= listed
