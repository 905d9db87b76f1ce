"""The refiner that a configuration names."""

from __future__ import annotations

from pathlib import Path

from tasks.config import RunConfig, find_config_file
from tasks.lexicon import Lexicon
from tasks.lint_words import load_lint_words
from tasks.model_refiner import AnswerCache, ModelRefiner
from tasks.prompt_lint import PromptLinter
from tasks.prompt_tokens import run_token_counter
from tasks.prompts import PassthroughRefiner, PromptRefiner
from tasks.refiner_config import (
    EndpointRefinerConfig,
    ModelRefinerConfig,
    NoRefinerConfig,
    TemplateRefinerConfig,
    TransformersRefinerConfig,
)
from tasks.refiner_instructions import load_instructions
from tasks.refiner_models import EndpointModel, ProcessModel, VisionModel
from tasks.template_refiner import TemplateRefiner

__all__ = ["make_refiner"]


def make_refiner(run: RunConfig, *, lexicon: Lexicon, home: Path, on_cpu: bool = False) -> PromptRefiner:
    """The refiner of a run.

    Args:
        lexicon: what a rewriting must not add words of.
        home: answers are kept in `refined` below it.
        on_cpu: run a local model on the CPU, wherever the configuration puts it.

    Raises:
        BadConfig: a file that it needs is missing or wrong, or the key of its endpoint is not in the environment.
        CheckpointMismatch: the text encoder's tokenizer is damaged.
    """
    config = run.refiner
    if on_cpu and isinstance(config, TransformersRefinerConfig):
        config = config.model_copy(update={"device": "cpu"})
    if isinstance(config, TemplateRefinerConfig):
        return TemplateRefiner()
    if isinstance(config, NoRefinerConfig):
        return PassthroughRefiner()
    words = load_lint_words(find_config_file(config.words))
    return ModelRefiner(
        _model(config, home),
        config,
        instructions=load_instructions(find_config_file(config.instructions)),
        linter=PromptLinter(words=words, lexicon=lexicon, tokens=run_token_counter(run)),
        fallback=TemplateRefiner() if config.fallback == "template" else PassthroughRefiner(),
        cache=AnswerCache(home / "refined"),
    )


def _model(config: ModelRefinerConfig, home: Path) -> VisionModel:
    if isinstance(config, EndpointRefinerConfig):
        return EndpointModel(config)
    return ProcessModel(config, home=home)
