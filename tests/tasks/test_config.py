"""Run configurations: every shipped file is a case, and a wrong field is named."""

from __future__ import annotations

import pytest

from cosmos_core.errors import BadConfig
from tasks.config import SHIPPED, find_config_file, load_config, parse_config
from tasks.lexicon import load_lexicon
from tasks.policy import load_policy

RUN_CONFIGS = sorted((SHIPPED / "configs").glob("*.yaml"))


@pytest.mark.parametrize("path", RUN_CONFIGS, ids=lambda path: path.stem)
def test_every_shipped_configuration_is_valid(path):
    config = load_config(path)
    assert load_policy(find_config_file(config.policy)).id
    assert load_lexicon(find_config_file(config.lexicon)).id
    assert {use.name for use in config.defaults.adapters} <= set(config.adapters)


def test_without_a_path_the_default_is_taken():
    assert load_config() == load_config(SHIPPED / "configs" / "default.yaml")
    assert load_config().defaults.model == "tiny"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"modle": "2B"}, "field modle: got '2B', expected defaults, checkpoints, adapters"),
        ({"defaults": {"fps": 11}}, "defaults"),
        ({"adapters": {"a": {"path": "x", "rank": 0}}}, r"adapters\.a\.rank: got 0"),
        ({"worker": {"device": "tpu"}}, r"worker\.device: got 'tpu'"),
    ],
)
def test_a_wrong_field_is_named(content, message):
    with pytest.raises(BadConfig, match=message):
        parse_config(content, origin="run.yaml")


def test_a_missing_or_broken_file_is_refused(tmp_path):
    with pytest.raises(BadConfig, match=r"no such configuration file: got none\.yaml.*default"):
        load_config(tmp_path.__class__("none.yaml"))
    (tmp_path / "broken.yaml").write_text("a: [")
    with pytest.raises(BadConfig, match="is not YAML"):
        load_config(tmp_path / "broken.yaml")
    (tmp_path / "list.yaml").write_text("- 1")
    with pytest.raises(BadConfig, match="is not a mapping"):
        load_config(tmp_path / "list.yaml")
