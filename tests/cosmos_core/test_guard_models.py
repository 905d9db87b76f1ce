"""Guard models on random weights in the real layout: what is loaded, what is refused, what comes out."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from transformers import SiglipImageProcessorPil, SiglipModel

from cosmos_core.errors import CheckpointMismatch, CheckpointMissing
from cosmos_core.guard_text import TextGuard
from cosmos_core.guard_video import CLASSES, FrameClassifier, read_head
from cosmos_core.retinaface import RetinaFace, RetinaFaceDetector, _suppress, anchors
from tests.tasks.tiny_guards import save_classifier, save_retinaface, save_text_guard


def frames(number: int, height: int = 48, width: int = 64) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 255, (number, height, width, 3), dtype=np.uint8)


def load_text(folder, **changes):
    return TextGuard.load(folder, **({"device": "cpu", "dtype": torch.float32, "max_new_tokens": 8} | changes))


# --- text


@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_a_text_guard_says_what_its_weights_say(tmp_path, family):
    guard = load_text(save_text_guard(tmp_path / "org/guard", ["unsafe", "S1"], family=family))
    answers = guard.answer(["car car", "car"])
    assert [answer.answer.split() for answer in answers] == [["unsafe", "S1"]] * 2
    assert all(answer.finished and answer.score > 0.9 for answer in answers)
    assert (guard.name, len(guard.sha256)) == ("org/guard", 64)


def test_texts_in_one_batch_are_answered_as_alone(tmp_path):
    guard = load_text(save_text_guard(tmp_path / "g", ["safe"]))
    texts = ["car", "car safe car car", "S1 car"]
    assert guard.answer(texts) == [guard.answer([text])[0] for text in texts]


def test_an_answer_that_does_not_end_says_so(tmp_path):
    guard = load_text(save_text_guard(tmp_path / "g", ["unsafe", "S1", ",", "S10"]), max_new_tokens=2)
    [answer] = guard.answer(["car"])
    assert not answer.finished


def test_a_template_that_drops_the_text_is_refused(tmp_path):
    guard = load_text(save_text_guard(tmp_path / "g", ["safe"], template="<user> car <assistant>"))
    with pytest.raises(CheckpointMismatch, match="does not hold the text"):
        guard.answer(["a prompt"])


def test_a_guard_without_template_weights_or_files_is_refused(tmp_path):
    with pytest.raises(CheckpointMissing, match="no guard model"):
        load_text(tmp_path / "none")
    bare = save_text_guard(tmp_path / "bare", ["safe"], template=None)
    with pytest.raises(CheckpointMismatch, match="no chat template"):
        load_text(bare)
    other = save_text_guard(tmp_path / "other", ["safe"])
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 2}))
    with pytest.raises(CheckpointMismatch, match="do not fit"):
        load_text(other)  # random weights for a missing layer would answer anything


# --- frames


def test_the_classifier_is_the_references_from_pixels_to_classes(tmp_path):
    head_path, encoder_path = save_classifier(tmp_path)
    classifier = FrameClassifier.load(head=head_path, encoder=encoder_path, device="cpu")
    clip = frames(3)
    got = classifier.score(list(clip))
    # The same by transformers' own picture processor and the whole SigLIP model.
    processor = SiglipImageProcessorPil(size={"height": 28, "width": 28})
    pixels = processor(images=list(clip), return_tensors="pt")["pixel_values"]
    model = SiglipModel.from_pretrained(encoder_path).eval()
    with torch.no_grad():
        embedding = model.get_image_features(pixel_values=pixels).pooler_output
        embedding = embedding / embedding.norm(dim=-1, keepdim=True)
        wanted = read_head(head_path, width=16).eval()(embedding).softmax(-1).numpy()
    np.testing.assert_allclose(got, wanted, atol=2e-6)
    np.testing.assert_allclose(got, np.concatenate([classifier.score([frame]) for frame in clip]), atol=1e-6)


@pytest.mark.parametrize("name", CLASSES)
def test_the_classes_stand_in_the_order_of_the_head(tmp_path, name):
    head, encoder = save_classifier(tmp_path, prefers=name)
    scores = FrameClassifier.load(head=head, encoder=encoder, device="cpu").score(list(frames(2)))
    assert (scores[:, CLASSES.index(name)] > 0.99).all()


def test_a_wrong_head_or_encoder_is_refused(tmp_path):
    head, encoder = save_classifier(tmp_path)
    with pytest.raises(CheckpointMissing, match="no classifier head"):
        FrameClassifier.load(head=tmp_path / "none.pt", encoder=encoder, device="cpu")
    with pytest.raises(CheckpointMissing, match="no SigLIP"):
        FrameClassifier.load(head=head, encoder=tmp_path / "none", device="cpu")
    content = torch.load(head, weights_only=True)
    del content["model"]["network.layers.4.running_var"]
    torch.save(content, head)
    with pytest.raises(CheckpointMismatch, match="another network"):
        FrameClassifier.load(head=head, encoder=encoder, device="cpu")
    torch.save({"state": content["model"]}, head)
    with pytest.raises(CheckpointMismatch, match="no classifier head"):
        FrameClassifier.load(head=head, encoder=encoder, device="cpu")
    config = json.loads((encoder / "config.json").read_text())
    config["vision_config"]["num_hidden_layers"] = 3
    (encoder / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointMismatch, match="do not fit"):
        FrameClassifier.load(head=head, encoder=encoder, device="cpu")


def test_a_network_that_gives_nan_gives_no_scores(tmp_path):
    head, encoder = save_classifier(tmp_path)
    content = torch.load(head, weights_only=True)
    content["model"]["network.layers.0.weight"].fill_(float("nan"))
    torch.save(content, head)
    with pytest.raises(CheckpointMismatch, match="no probabilities"):
        FrameClassifier.load(head=head, encoder=encoder, device="cpu").score(list(frames(1)))


# --- faces


def test_retinaface_has_the_size_and_the_names_of_the_published_file():
    state = RetinaFace().state_dict()
    assert sum(parameter.numel() for parameter in RetinaFace().parameters()) == 27_293_600
    assert {
        "body.layer1.0.downsample.0.weight",
        "body.layer4.2.bn3.running_var",
        "fpn.output3.1.bias",
        "fpn.merge2.0.weight",
        "ssh2.conv5X5_1.0.weight",
        "ssh3.conv7x7_3.1.running_mean",
        "ClassHead.0.conv1x1.bias",
        "BboxHead.2.conv1x1.weight",
        "LandmarkHead.1.conv1x1.weight",
    } <= state.keys()
    assert state["fpn.output1.0.weight"].shape == (256, 512, 1, 1)
    assert state["LandmarkHead.0.conv1x1.weight"].shape == (20, 256, 1, 1)


def test_anchors_stand_in_the_order_of_the_network():
    with torch.no_grad():
        scores, codes = RetinaFace().eval()(torch.zeros(1, 3, 40, 72))
    priors = anchors(40, 72)
    assert scores.shape[1] == codes.shape[1] == len(priors)
    assert priors[:4].tolist() == [[4, 4, 16, 16], [4, 4, 32, 32], [12, 4, 16, 16], [12, 4, 32, 32]]
    assert priors[-1].tolist() == [80, 48, 512, 512]


def test_a_detector_finds_where_the_head_fires_and_nowhere_else(tmp_path):
    path = save_retinaface(tmp_path / "Resnet50_Final.pth")
    quiet = RetinaFaceDetector.load(path, device="cpu", confidence=0.7, nms=0.4)
    clip = frames(2)
    assert quiet.detect(list(clip)) == [[], []]
    loud = RetinaFaceDetector.load(
        save_retinaface(tmp_path / "loud.pth", threshold_bias=8.0), device="cpu", confidence=0.7, nms=0.4
    )
    found = loud.detect(list(clip))
    assert all(0 < len(boxes) <= 750 for boxes in found)
    assert [box.score for box in found[0]] == sorted((box.score for box in found[0]), reverse=True)
    alone = [loud.detect([frame])[0] for frame in clip]
    assert [len(boxes) for boxes in found] == [len(boxes) for boxes in alone]


def test_of_overlapping_boxes_the_strongest_stays():
    corners = torch.tensor([[0, 0, 10, 10], [1, 1, 11, 11], [20, 20, 30, 30], [0, 0, 10, 4]], dtype=torch.float32)
    assert _suppress(corners, 0.4) == [0, 2, 3]
    assert _suppress(corners, 0.39) == [0, 2]


def test_a_cut_or_foreign_face_model_is_refused(tmp_path):
    path = save_retinaface(tmp_path / "face.pth")
    state = torch.load(path, weights_only=True)
    state.pop("module.ssh1.conv3X3.0.weight")
    torch.save(state, path)
    with pytest.raises(CheckpointMismatch, match="another network"):
        RetinaFaceDetector.load(path, device="cpu", confidence=0.7, nms=0.4)
    with pytest.raises(CheckpointMissing):
        RetinaFaceDetector.load(tmp_path / "none.pth", device="cpu", confidence=0.7, nms=0.4)
