"""The refiner's own process: the real one with tiny random weights, and impostors that die, hang and babble."""

from __future__ import annotations

import sys
import time

import numpy as np
import pytest
from PIL import Image

from cosmos_core.errors import BadConfig, BadRequest, CheckpointMissing, WorkerLost
from cosmos_core.hashing import sha256_file
from tasks.config import find_config_file, parse_config
from tasks.lexicon import load_lexicon
from tasks.prompts import InputFile
from tasks.refiner_process import RefinerProcess
from tasks.refiners import make_refiner
from tests.tiny_vision_language import write_tiny_vision_language

QUESTION = {"system": "Be short.", "user": "What is seen?", "said": [["a", "b"]], "jpeg": None, "max_tokens": 4}
PROMPT = "A static traffic CCTV camera captures a highway. A red sedan brakes and stops."


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_tiny_vision_language(tmp_path_factory.mktemp("vlm") / "tiny")


def process_of(folder, log, **settings):
    known = {"device": "cpu", "dtype": "float32", "load_timeout_s": 120.0, "answer_timeout_s": 60.0}
    return RefinerProcess(folder=folder, log=log, **known | settings)


def impostor(tmp_path, script, **settings):
    """A process that runs a script instead of the model."""
    process = process_of(tmp_path, tmp_path / "log.txt", **settings)
    process._command = [sys.executable, "-c", f"import sys, time\n{script}"]
    return process


@pytest.mark.slow
def test_a_model_refines_end_to_end_and_its_babble_is_refused(folder, tmp_path):
    # Random weights write nonsense: what is shown is the way there and back, and that nonsense never passes.
    Image.fromarray(np.full((90, 160, 3), 90, dtype=np.uint8)).save(tmp_path / "a.png")
    frame = InputFile(path=tmp_path / "a.png", sha256=sha256_file(tmp_path / "a.png"))
    settings = {"kind": "transformers", "path": str(folder), "device": "cpu", "max_tokens": 64, "corrections": 1}
    config = parse_config({"refiner": settings}, origin="test")
    refiner = make_refiner(config, lexicon=load_lexicon(find_config_file(config.lexicon)), home=tmp_path / "home")
    refined = refiner.refine(PROMPT, {}, frame)
    refiner.close()
    assert (refined.text, refined.refiner, refined.requested) == (PROMPT, "template", "transformers")
    assert "asked for the refiner transformers (tiny sha256 " in refined.notes[0]
    assert "the answer is not finished (finish reason length)" in refined.notes[0]
    answers = list((tmp_path / "home" / "refined").iterdir())
    assert len(answers) == 2
    # What was answered is kept: no process is needed for the same question.
    again = make_refiner(config, lexicon=load_lexicon(find_config_file(config.lexicon)), home=tmp_path / "home")
    again._model._process._command = ["/nonexistent"]
    assert again.refine(PROMPT, {}, frame) == refined


@pytest.mark.slow
def test_one_process_answers_many_questions_and_ends_with_its_input(folder, tmp_path):
    process = process_of(folder, tmp_path / "log.txt")
    first = process.ask(QUESTION)
    child = process._process
    assert process.ask(QUESTION) == first
    assert first["finish_reason"] in ("stop", "length")
    assert process._process is child
    with pytest.raises(BadRequest, match="too long"):
        process.ask(QUESTION | {"user": "x" * 5000})
    assert process.ask(QUESTION) == first
    process.close()
    assert child.returncode == 0
    process.close()


@pytest.mark.slow
def test_a_model_that_is_not_there_is_said_by_name(tmp_path):
    process = process_of(tmp_path / "none", tmp_path / "log.txt")
    with pytest.raises(CheckpointMissing, match="not there"):
        process.ask(QUESTION)
    assert process._process is None


def test_a_process_that_dies_while_loading(tmp_path):
    with pytest.raises(WorkerLost, match="while loading"):
        impostor(tmp_path, "sys.exit(3)").ask(QUESTION)


def test_a_process_that_dies_while_answering_is_started_again(tmp_path):
    process = impostor(tmp_path, "print('{}', flush=True)\nsys.stdin.readline()\nsys.exit(3)")
    for _ in range(2):
        with pytest.raises(WorkerLost, match="while answering"):
            process.ask(QUESTION)
        assert process._process is None


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("time.sleep(60)", "while loading: silent for 0.5 s"),
        ("print('{}', flush=True)\ntime.sleep(60)", "while answering: silent for 0.5 s"),
    ],
)
def test_a_process_that_hangs_is_ended(tmp_path, script, message, monkeypatch):
    monkeypatch.setattr("tasks.refiner_process._END_TIMEOUT_S", 0.2)
    process = impostor(tmp_path, script, load_timeout_s=0.5, answer_timeout_s=0.5)
    started = time.monotonic()
    with pytest.raises(WorkerLost, match=message):
        process.ask(QUESTION)
    assert time.monotonic() - started < 20
    assert process._process is None


def test_a_process_that_babbles_is_lost(tmp_path):
    with pytest.raises(WorkerLost, match="something else than JSON"):
        impostor(tmp_path, "print('Loading checkpoint shards', flush=True)\ntime.sleep(5)").ask(QUESTION)


def test_an_error_crosses_as_what_it_is(tmp_path):
    said = '{"error": {"type": "BadConfig", "what": "refiner.device", "got": "cuda"}}'
    with pytest.raises(BadConfig, match=r"refiner\.device: got cuda"):
        impostor(tmp_path, f"print('''{said}''', flush=True)").ask(QUESTION)


def test_the_refiner_can_be_kept_off_the_gpu(folder, tmp_path):
    config = parse_config({"refiner": {"kind": "transformers", "path": str(folder)}}, origin="test")
    lexicon = load_lexicon(find_config_file(config.lexicon))
    for on_cpu, device in ((False, "auto"), (True, "cpu")):
        refiner = make_refiner(config, lexicon=lexicon, home=tmp_path / "home", on_cpu=on_cpu)
        command = refiner._model._process._command
        assert command[command.index("--device") + 1] == device
