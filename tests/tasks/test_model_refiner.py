"""A refiner that asks a model: every way in which the wire can fail ends with a usable prompt and a reason."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cosmos_core.errors import BadConfig, BadScenario
from cosmos_core.hashing import sha256_file
from tasks.chat_endpoint import ChatClient
from tasks.config import find_config_file, parse_config
from tasks.lexicon import load_lexicon
from tasks.prompts import InputFile
from tasks.refiners import make_refiner
from tasks.template_refiner import TemplateRefiner
from tests.tasks.chat_server import Reply, chat_server, completion

PROMPT = (
    "A static traffic CCTV camera captures a four-way intersection. A red sedan enters at speed. A white SUV collides "
    "with its side."
)
LABELS = {"weather": "rain", "time_of_day": "night", "operator": "J. Doe", "actors": "red sedan, white SUV"}
PARTS = {
    "camera": "A static traffic CCTV camera",
    "scene": "a four-way intersection at night in rain",
    "incident": "A red sedan enters the intersection at speed. A white SUV collides with its side and the sedan spins.",
    "aftermath": "Both vehicles come to rest and block traffic.",
}
GOOD = json.dumps(PARTS)
REFINED = f"{PARTS['camera']} captures {PARTS['scene']}. {PARTS['incident']} {PARTS['aftermath']}"
NEW_COLOUR = json.dumps(PARTS | {"incident": PARTS["incident"].replace("white", "green")})
NEW_TRUCK = json.dumps(PARTS | {"aftermath": "A truck arrives and traffic stops."})
SECRET = "sk-very-secret"


@pytest.fixture
def server():
    with chat_server() as running:
        yield running


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch):
    """Retries follow at once."""
    init = ChatClient.__init__
    monkeypatch.setattr(ChatClient, "__init__", lambda self, endpoint: init(self, endpoint, sleep=lambda _: None))


@pytest.fixture
def frame(tmp_path):
    path = tmp_path / "frame.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (450, 800, 3), dtype=np.uint8)).save(path)
    return InputFile(path=path, sha256=sha256_file(path))


@pytest.fixture
def refiner_of():
    """Makes refiners of a server, and closes them."""
    made = []

    def make(server, home, **settings):
        endpoint = {"url": server.url, "model": "its-vl", "timeout_s": 2, "max_attempts": 2} | settings.pop(
            "endpoint", {}
        )
        config = parse_config({"refiner": {"kind": "endpoint", "endpoint": endpoint, **settings}}, origin="test")
        made.append(make_refiner(config, lexicon=load_lexicon(find_config_file(config.lexicon)), home=home))
        return made[-1]

    yield make
    for refiner in made:
        refiner.close()


def test_a_good_answer_is_the_prompt(refiner_of, server, tmp_path, frame):
    server.replies = [completion(GOOD)]
    refined = refiner_of(server, tmp_path).refine(PROMPT, LABELS, frame)
    assert refined.text == REFINED
    assert (refined.source, refined.refiner, refined.requested, refined.notes) == (PROMPT, "endpoint", None, ())
    assert refined.model == f"its-vl @ {server.url.split('/')[2]}"
    assert refined.template_sha256


def test_what_the_model_is_asked(refiner_of, server, tmp_path, frame):
    server.replies = [completion(GOOD)]
    refiner_of(server, tmp_path, max_frame_side=640, max_tokens=300).refine(PROMPT, LABELS, frame)
    [request] = server.requests
    assert (request["temperature"], request["seed"], request["top_p"], request["max_tokens"]) == (0, 0, 1, 300)
    system, user = request["messages"]
    assert "camera is static" in system["content"]
    assert "Between 20 and 120 words" in system["content"]
    picture, text = user["content"]
    header, _, data = picture["image_url"]["url"].partition(",")
    jpeg = base64.b64decode(data)
    assert header == "data:image/jpeg;base64"
    assert Image.open(io.BytesIO(jpeg)).size == (640, 360)
    assert len(jpeg) <= 512 << 10
    facts = json.loads(text["text"])
    assert facts["caption"] == PROMPT
    assert facts["labels"] == {name: LABELS[name] for name in ("weather", "time_of_day", "actors")}


def test_a_frame_of_noise_is_made_small_enough(refiner_of, server, tmp_path, frame):
    server.replies = [completion(GOOD)]
    refiner_of(server, tmp_path, max_frame_kib=16).refine(PROMPT, LABELS, frame)
    data = server.requests[0]["messages"][1]["content"][0]["image_url"]["url"].partition(",")[2]
    assert 0 < len(base64.b64decode(data)) <= 16 << 10


def test_faces_are_covered_before_the_picture_leaves(refiner_of, server, tmp_path):
    import cv2
    from skimage.data import astronaut

    def faces(pixels):
        cascade = cv2.CascadeClassifier(f"{cv2.data.haarcascades}haarcascade_frontalface_alt2.xml")
        return len(cascade.detectMultiScale(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY), 1.1, 3))

    Image.fromarray(astronaut()).save(tmp_path / "face.png")
    assert faces(astronaut()) == 1
    server.replies = [completion(GOOD)]
    frame = InputFile(path=tmp_path / "face.png", sha256=sha256_file(tmp_path / "face.png"))
    refiner_of(server, tmp_path).refine(PROMPT, LABELS, frame)
    data = server.requests[0]["messages"][1]["content"][0]["image_url"]["url"].partition(",")[2]
    sent = np.array(Image.open(io.BytesIO(base64.b64decode(data))))
    assert sent.shape == (512, 512, 3)
    assert faces(sent) == 0


def test_without_a_frame_text_alone_is_sent(refiner_of, server, tmp_path, frame):
    server.replies = [completion(GOOD)]
    refiner_of(server, tmp_path, send_frame=False).refine(PROMPT, LABELS, frame)
    assert [part["type"] for part in server.requests[0]["messages"][1]["content"]] == ["text"]


def test_a_schema_is_asked_for_where_it_is_configured(refiner_of, server, tmp_path):
    server.replies = [completion(GOOD)]
    refiner_of(server, tmp_path, json_schema=True).refine(PROMPT, LABELS)
    schema = server.requests[0]["response_format"]["json_schema"]["schema"]
    assert schema["required"] == list(PARTS)


@pytest.mark.parametrize(
    ("replies", "reason"),
    [
        ([completion("The camera shows a crash.")], "not one JSON object"),
        ([completion(GOOD[:90], finish_reason="length")], "not finished"),
        ([completion("")], "the answer is empty"),
        ([completion(None)], "the answer is empty"),
        ([completion("I cannot help with that.")], "not one JSON object"),
        ([completion(NEW_COLOUR)], "it lost the colour 'white'"),
        ([completion(NEW_TRUCK)], "it added the vehicle 'truck'"),
        ([Reply(b"<html>")], "no chat completion"),
        ([Reply(b'{"choices": [{"mess', cut=True)], "the connection failed"),
        ([Reply(status=429)], "HTTP 429"),
        ([Reply(status=500)], "HTTP 500"),
        ([Reply(status=401)], "HTTP 401"),
        ([Reply(status=404)], "HTTP 404"),
        ([Reply(status=400)], "HTTP 400"),
    ],
)
def test_whatever_goes_wrong_the_template_steps_in_and_says_why(refiner_of, server, tmp_path, frame, replies, reason):
    server.replies = replies
    refined = refiner_of(server, tmp_path).refine(PROMPT, LABELS, frame)
    template = TemplateRefiner().refine(PROMPT, LABELS)
    assert refined.text == template.text
    assert (refined.refiner, refined.requested, refined.model) == ("template", "endpoint", None)
    assert refined.template_sha256 == template.template_sha256
    assert "asked for the refiner endpoint (its-vl @ " in refined.notes[0]
    assert "took template" in refined.notes[0]
    assert reason in refined.notes[0]


def test_a_time_out_is_one_of_them(refiner_of, server, tmp_path):
    server.replies = [completion(GOOD)]
    server.replies[0].delay_s = 0.5
    refiner = refiner_of(server, tmp_path, endpoint={"timeout_s": 0.1})
    refined = refiner.refine(PROMPT, LABELS)
    assert refined.refiner == "template"
    assert "no answer within 0.1 s" in refined.notes[0]


def test_the_source_itself_can_be_the_fallback(refiner_of, server, tmp_path):
    server.replies = [Reply(status=500)]
    refined = refiner_of(server, tmp_path, fallback="none").refine(PROMPT, LABELS)
    assert (refined.text, refined.refiner, refined.requested) == (PROMPT, "none", "endpoint")


@pytest.mark.parametrize("trouble", [Reply(status=429), Reply(status=500), Reply(b"{}")])
def test_trouble_that_passes_costs_an_attempt_and_nothing_else(refiner_of, server, tmp_path, trouble):
    server.replies = [trouble, completion(GOOD)]
    refined = refiner_of(server, tmp_path).refine(PROMPT, LABELS)
    assert (refined.text, refined.notes) == (REFINED, ())


def test_a_wrong_answer_goes_back_once_with_what_is_wrong(refiner_of, server, tmp_path):
    server.replies = [completion(NEW_COLOUR), completion(GOOD)]
    refined = refiner_of(server, tmp_path).refine(PROMPT, LABELS)
    assert (refined.text, refined.refiner) == (REFINED, "endpoint")
    assert "answer 1 of endpoint could not be used" in refined.notes[0]
    answer, correction = server.requests[1]["messages"][2:]
    assert answer == {"role": "assistant", "content": NEW_COLOUR}
    assert "it lost the colour 'white'" in correction["content"]


def test_no_correction_is_asked_for_where_none_is_configured(refiner_of, server, tmp_path):
    server.replies = [completion(NEW_COLOUR), completion(GOOD)]
    assert refiner_of(server, tmp_path, corrections=0).refine(PROMPT, LABELS).refiner == "template"
    assert len(server.requests) == 1


def test_a_scenario_is_refined_once_across_runs(refiner_of, server, tmp_path, frame):
    server.replies = [completion(GOOD)]
    first = refiner_of(server, tmp_path).refine(PROMPT, LABELS, frame)
    again = refiner_of(server, tmp_path).refine(PROMPT, LABELS | {"operator": "somebody else"}, frame)
    assert again == first
    assert len(server.requests) == 1


def test_a_refused_answer_is_not_asked_for_again_either(refiner_of, server, tmp_path):
    server.replies = [completion(NEW_COLOUR), completion(NEW_TRUCK), completion(GOOD)]
    first = refiner_of(server, tmp_path).refine(PROMPT, LABELS)
    assert refiner_of(server, tmp_path).refine(PROMPT, LABELS) == first
    assert (first.refiner, len(server.requests)) == ("template", 2)


def test_an_outage_is_not_remembered_across_runs(refiner_of, server, tmp_path):
    server.replies = [Reply(status=500), Reply(status=500), completion(GOOD)]
    assert refiner_of(server, tmp_path).refine(PROMPT, LABELS).refiner == "template"
    assert refiner_of(server, tmp_path).refine(PROMPT, LABELS).refiner == "endpoint"


@pytest.mark.parametrize("change", ["prompt", "labels", "frame", "model", "instructions", "max_tokens"])
def test_a_change_of_anything_that_counts_asks_anew(refiner_of, server, tmp_path, frame, change):
    server.replies = [completion(GOOD)]
    refiner_of(server, tmp_path).refine(PROMPT, LABELS, frame)
    prompt, labels, settings = PROMPT, LABELS, {}
    if change == "prompt":
        prompt = PROMPT.replace("at speed", "at high speed")
    elif change == "labels":
        labels = LABELS | {"weather": "heavy rain"}
    elif change == "frame":
        frame = frame.model_copy(update={"sha256": "0" * 64})
    elif change == "model":
        settings = {"endpoint": {"model": "its-vl-2"}}
    elif change == "max_tokens":
        settings = {"max_tokens": 512}
    else:
        text = find_config_file(Path("prompts/its-refiner.yaml")).read_text()
        (tmp_path / "other.yaml").write_text(text.replace("no mood", "no moods").replace("version: 1", "version: 2"))
        settings = {"instructions": str(tmp_path / "other.yaml")}
    refiner_of(server, tmp_path, **settings).refine(prompt, labels, frame)
    assert len(server.requests) == 2


def test_a_damaged_cache_entry_is_asked_for_again(refiner_of, server, tmp_path):
    server.replies = [completion(GOOD)]
    refiner_of(server, tmp_path).refine(PROMPT, LABELS)
    [entry] = (tmp_path / "refined").iterdir()
    entry.write_text(entry.read_text()[:10])
    assert refiner_of(server, tmp_path).refine(PROMPT, LABELS).text == REFINED
    assert len(server.requests) == 2


def test_an_endpoint_that_is_down_is_left_alone_for_a_while(refiner_of, server, tmp_path):
    server.replies = [Reply(status=503)]
    refiner = refiner_of(server, tmp_path)
    notes = [refiner.refine(f"{PROMPT} {number}", LABELS).notes[0] for number in range(5)]
    assert len(server.requests) == 2  # the two attempts of the first scenario
    assert all("HTTP 503" in note for note in notes)


def test_one_refused_request_does_not_stop_the_others(refiner_of, server, tmp_path):
    server.replies = [Reply(status=400), completion(GOOD)]
    refiner = refiner_of(server, tmp_path)
    assert refiner.refine(f"{PROMPT} It rains.", LABELS).refiner == "template"
    assert refiner.refine(PROMPT, LABELS).refiner == "endpoint"


def test_a_refiner_can_be_used_after_it_was_closed(refiner_of, server, tmp_path):
    server.replies = [completion(GOOD)]
    refiner = refiner_of(server, tmp_path)
    refiner.close()
    assert refiner.refine(PROMPT, LABELS).text == REFINED
    refiner.close()


def test_an_unreadable_frame_costs_the_model_and_not_the_scenario(refiner_of, server, tmp_path, frame):
    server.replies = [completion(GOOD)]
    frame.path.write_bytes(b"no picture")
    refined = refiner_of(server, tmp_path).refine(PROMPT, LABELS, frame)
    assert (refined.refiner, server.requests) == ("template", [])


def test_an_empty_prompt_is_refused(refiner_of, server, tmp_path):
    with pytest.raises(BadScenario, match="empty"):
        refiner_of(server, tmp_path).refine(" ", LABELS)


def test_the_key_is_nowhere_but_in_the_header(refiner_of, server, tmp_path, monkeypatch, caplog, frame):
    monkeypatch.setenv("ITS_KEY", SECRET)
    caplog.set_level("DEBUG")
    server.replies = [completion(NEW_COLOUR), Reply(status=401)]
    refined = refiner_of(server, tmp_path, endpoint={"api_key_env": "ITS_KEY"}).refine(PROMPT, LABELS, frame)
    assert server.headers[0]["Authorization"] == f"Bearer {SECRET}"
    kept = "".join(file.read_text() for file in (tmp_path / "refined").iterdir())
    assert SECRET not in refined.model_dump_json() + caplog.text + kept


def test_a_key_that_is_missing_shows_before_the_first_scenario(refiner_of, server, tmp_path, monkeypatch):
    monkeypatch.delenv("ITS_KEY", raising=False)
    with pytest.raises(BadConfig, match="ITS_KEY"):
        refiner_of(server, tmp_path, endpoint={"api_key_env": "ITS_KEY"})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("magic", "'template', 'none', 'endpoint', 'transformers'"),
        ({"kind": "endpoint"}, "endpoint"),
        ({"kind": "endpoint", "endpoint": {"url": "http://u:p@h/v1", "model": "m"}}, "without credentials"),
        ({"kind": "endpoint", "endpoint": {"url": "http://h/v1", "model": "m", "api_key": "x"}}, "api_key"),
        ({"kind": "transformers"}, "path"),
        ({"kind": "template", "model": "x"}, "model"),
    ],
)
def test_a_wrong_refiner_is_named(content, message):
    with pytest.raises(BadConfig, match=message):
        parse_config({"refiner": content}, origin="run.yaml")
