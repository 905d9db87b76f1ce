"""The drop-in command: the documents' own commands run, what is wrong is one line, nothing unchecked is published."""

from __future__ import annotations

import dataclasses
import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from cosmos_core import guardrail_hook, video2world_lora
from cosmos_core.adapter_export import ExportFormat, export_adapter
from cosmos_core.adapter_extract import extract_adapter
from cosmos_core.adapter_file import read_adapter
from cosmos_core.drop_in_arguments import DEVIATIONS, parse_arguments
from cosmos_core.errors import BadConfig, OutOfMemory
from cosmos_core.guardrail_hook import GuardrailDecision, combine, find_guardrails
from cosmos_core.hashing import sha256_file
from cosmos_core.rank_agreement import Ranks
from cosmos_core.video_file import probe_input, read_video, write_video

TRAINED = "checkpoints/posttraining/video2world/2b_metropolis/checkpoints/model"
BASE = "checkpoints/crossroads/micro/model-112p-10fps.safetensors"
PROMPT = "A static traffic CCTV camera captures two cars that collide."
CRASH_PROMPT = (
    "A static traffic CCTV camera captures an urban street scene, where two cars are speeding down the road. Suddenly, "
    "a white sedan abruptly enters from an intersection, cutting across traffic and colliding with one of the "
    "vehicles. The impact causes significant damage. Both vehicles come to a halt following the crash."
)

# The commands of the two documents; their placeholders are filled in by `words`.
DOCUMENTED = {
    "basic": """
torchrun --nproc_per_node=${NUM_GPUS} examples/video2world_lora.py \\
    --model_size 2B \\
    --dit_path <path_to_lora_checkpoint> \\
    --input_path <input_image_or_video> \\
    --prompt "<your_prompt>" \\
    --save_path <output_path> \\
    --use_lora \\
    --lora_rank 16 \\
    --lora_alpha 16 \\
    --lora_target_modules "q_proj,k_proj,v_proj,output_proj,mlp.layer1,mlp.layer2"
""",
    "metropolis": """
torchrun --nproc_per_node=${NUM_GPUS} examples/video2world_lora.py \\
    --model_size 2B \\
    --dit_path checkpoints/posttraining/video2world/2b_metropolis/checkpoints/model/iter_000002000.pt \\
    --input_path "/path/to/your/input.jpg" \\
    --prompt "A static traffic cctv camera captures an urban intersection where multiple vehicles navigate through the busy streets." \\
    --save_path results/2b_metropolis_lora/generated_video.mp4 \\
    --num_gpus ${NUM_GPUS} \\
    --offload_guardrail \\
    --offload_prompt_refiner \\
    --use_lora \\
    --lora_rank 16 \\
    --lora_alpha 16 \\
    --lora_target_modules "q_proj,k_proj,v_proj,output_proj,mlp.layer1,mlp.layer2"
""",  # noqa: E501
    "its": """
torchrun --nproc_per_node=${NUM_GPUS} examples/video2world_lora.py \\
    --model_size 2B \\
    --dit_path "checkpoints/posttraining/video2world/2b_metropolis/checkpoints/model/iter_000001000.pt" \\
    --input_path "path/to/input_frame.jpg" \\
    --prompt "Your accident scenario description" \\
    --save_path "output/generated_accident.mp4" \\
    --num_gpus ${NUM_GPUS} \\
    --use_lora \\
    --lora_rank 16 \\
    --lora_alpha 16 \\
    --lora_target_modules "q_proj,k_proj,v_proj,output_proj,mlp.layer1,mlp.layer2" \\
    --offload_guardrail \\
    --offload_prompt_refiner
""",
    "collision": f"""
torchrun --nproc_per_node=${{NUM_GPUS}} examples/video2world_lora.py \\
    --model_size 2B \\
    --dit_path "checkpoints/posttraining/video2world/2b_metropolis/checkpoints/model/iter_000001000.pt" \\
    --input_path "benchmark/frames_1280x704/intersection_view.jpg" \\
    --prompt '{CRASH_PROMPT}' \\
    --save_path output/collision_scenario.mp4 \\
    --num_gpus ${{NUM_GPUS}} \\
    --use_lora \\
    --lora_rank 16 \\
    --lora_alpha 16 \\
    --lora_target_modules "q_proj,k_proj,v_proj,output_proj,mlp.layer1,mlp.layer2" \\
    --offload_guardrail \\
    --offload_prompt_refiner
""",
    "batch": """
torchrun --nproc_per_node=${NUM_GPUS} examples/video2world_lora.py \\
    --model_size 2B \\
    --dit_path "checkpoints/posttraining/video2world/2b_metropolis/checkpoints/model/iter_000001000.pt" \\
    --batch_input_json "batch_scenarios.json" \\
    --num_gpus ${NUM_GPUS} \\
    --use_lora \\
    --lora_rank 16 \\
    --lora_alpha 16 \\
    --lora_target_modules "q_proj,k_proj,v_proj,output_proj,mlp.layer1,mlp.layer2"
""",
}
WRITTEN = {
    "basic": ("output/basic.mp4",),
    "metropolis": ("results/2b_metropolis_lora/generated_video.mp4",),
    "its": ("output/generated_accident.mp4",),
    "collision": ("output/collision_scenario.mp4",),
    "batch": ("output/collision_01.mp4", "output/pileup_02.mp4"),
}
BATCH = [
    {
        "input_video": "frames/intersection_01.jpg",
        "prompt": "A traffic CCTV camera captures a T-bone collision...",
        "output_video": "output/collision_01.mp4",
    },
    {
        "input_video": "frames/highway_02.jpg",
        "prompt": "A static camera shows a multi-vehicle pileup...",
        "output_video": "output/pileup_02.mp4",
    },
]
ON_MICRO = ["--model_size", "micro", "--num_steps", "1", "--device", "cpu", "--aspect_ratio", "1:1"]


@pytest.fixture(autouse=True)
def _one_thread():
    """Several threads wait for each other on a busy machine, and the model is too small to gain from them."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def desk(tmp_path, micro_root, repository, monkeypatch) -> Path:
    """A working folder in which the documents' paths lead somewhere."""
    frames = repository / "examples/demo/frames"
    (tmp_path / TRAINED).mkdir(parents=True)
    (tmp_path / "checkpoints/crossroads").symlink_to(micro_root / "crossroads")
    trained = micro_root / "crossroads/micro/adapters/collision/iter_000000001.pt"
    for name in ("iter_000001000.pt", "iter_000002000.pt"):
        (tmp_path / TRAINED / name).symlink_to(trained)
    for name in ("path/to/input_frame.jpg", "benchmark/frames_1280x704/intersection_view.jpg", *_inputs(BATCH)):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(frames / "intersection.jpg", tmp_path / name)
    (tmp_path / "batch_scenarios.json").write_text(json.dumps(BATCH))
    monkeypatch.chdir(tmp_path)
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def _inputs(batch) -> list[str]:
    return [item["input_video"] for item in batch]


def words(name: str, num_gpus: int) -> list[str]:
    """A documented command as the shell would split it, with its placeholders filled in."""
    text = DOCUMENTED[name].replace("\\\n", " ").replace("${NUM_GPUS}", str(num_gpus))
    for placeholder, value in {
        "<path_to_lora_checkpoint>": f"{TRAINED}/iter_000001000.pt",
        "<input_image_or_video>": "path/to/input_frame.jpg",
        "/path/to/your/input.jpg": "path/to/input_frame.jpg",
        "<your_prompt>": PROMPT,
        "<output_path>": "output/basic.mp4",
    }.items():
        text = text.replace(placeholder, value)
    return shlex.split(text)


def flags(name: str) -> list[str]:
    """The flags of a documented command, on the micro model."""
    return [*words(name, 1)[3:], *ON_MICRO]


def torchrun(command: list[str]) -> subprocess.CompletedProcess[str]:
    """Run a documented command, its script's path replaced."""
    assert command[0] == "torchrun"
    assert command[2] == "examples/video2world_lora.py"
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", command[1]]
    return subprocess.run(
        [*launcher, "-m", "cosmos_core.video2world_lora", *command[3:], *ON_MICRO],
        capture_output=True,
        text=True,
        timeout=200,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )


def one(*extra: str, lora: bool = True, **changed: str) -> list[str]:
    """Flags of a single short video."""
    values = {"dit_path": f"{TRAINED}/iter_000001000.pt"} if lora else {}
    values |= {"input_path": "path/to/input_frame.jpg", "prompt": PROMPT, "save_path": "output/one.mp4"} | changed
    listed = [word for name, value in values.items() for word in (f"--{name}", value)]
    return [*listed, *(["--use_lora"] if lora else []), *ON_MICRO, *extra]


def complaints(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith("video2world_lora:")]


def record(video: str) -> dict:
    return json.loads(Path(f"{video}.json").read_text())


def files(folder: Path) -> set[str]:
    return {path.name for path in folder.rglob("*") if path.is_file()} if folder.exists() else set()


class Strict:
    """A guardrail that refuses words and holds clips on demand."""

    name = "strict"

    def __init__(self, frames: str = "publish") -> None:
        self._frames = frames

    def check_prompt(self, prompt, *, negative_prompt):
        outcome = next((word for word in ("block", "quarantine") if word in prompt), "publish")
        return GuardrailDecision(outcome=outcome, reasons=(f"the word {outcome}",))

    def check_frames(self, frames_THWC):
        if self._frames == "raise":
            raise RuntimeError("out of order")
        decision = GuardrailDecision(outcome=self._frames, reasons=("the picture",), record={"looked": True})
        return np.zeros_like(frames_THWC), decision


class FastServer:
    """Takes the place of the models where the pixels do not matter: noise for frames."""

    def __init__(self, spec, ranks) -> None:
        self._adapters = [adapter.name for adapter in spec.adapters]

    def encode_prompts(self, request, on_step):
        return {"num_encoded": len(request.prompts), "truncated": {}}

    def load_model(self, on_part):
        norms = {name: {"probe_difference": 0.1} for name in self._adapters}
        parameters = {"total": 1, "lora": {}, "lora_ratio": 0.0}
        return {"parameters": parameters, "adapter_norms": norms, "refused_adapters": {}}

    def generate(self, request, on_step):
        on_step("denoise", 1, 1)
        np.save(request.frames_path, np.random.default_rng(0).integers(0, 255, (5, 64, 64, 3), dtype=np.uint8))
        return {"width": 64, "height": 64, "num_frames": 5, "fps": request.fps, "generate_s": 0.5}


@pytest.fixture
def fast(monkeypatch) -> None:
    monkeypatch.setattr(video2world_lora, "Server", FastServer)


@pytest.fixture
def install(monkeypatch):
    """Make these the installed guardrails."""
    return lambda *rails: monkeypatch.setattr(video2world_lora, "find_guardrails", lambda: rails)


class TestFlags:
    def test_have_the_defaults_of_the_reference(self):
        parsed = dataclasses.asdict(parse_arguments([]))
        facts = json.loads((Path(__file__).parents[1] / "golden/text/facts.json").read_text())
        reference = {
            "model_size": "2B",
            "resolution": "720",
            "fps": 16,
            "dit_path": "",
            "use_lora": False,
            "lora_rank": 16,
            "lora_alpha": 16,
            "lora_target_modules": "q_proj,k_proj,v_proj,output_proj,mlp.layer1,mlp.layer2",
            "init_lora_weights": True,
            "prompt": "",
            "input_path": "assets/video2world/input0.jpg",
            "negative_prompt": facts["default_negative_prompt"],
            "num_conditional_frames": 1,
            "batch_input_json": None,
            "guidance": 7,
            "seed": 0,
            "save_path": "output/generated_video.mp4",
            "num_gpus": 1,
            "disable_guardrail": False,
            "offload_guardrail": False,
            "disable_prompt_refiner": False,
            "offload_prompt_refiner": False,
            "benchmark": False,
        }
        added = {
            "checkpoint_root": Path("checkpoints"),
            "aspect_ratio": "16:9",
            "num_steps": 35,
            "load_ema": False,
            "device": "auto",
            "dtype": "auto",
            "given": frozenset(),
        }
        assert parsed == reference | added

    def test_of_micro_lead_to_its_only_variant(self):
        parsed = parse_arguments(["--model_size", "micro"])
        assert (parsed.resolution, parsed.fps) == ("112", 10)

    @pytest.mark.parametrize(
        ("wrong", "message"),
        [
            (["--lora_rnk", "16"], "unrecognized arguments: --lora_rnk 16"),
            (["--lora_rank", "0"], "argument --lora_rank: 0 is not within 1 and 65536"),
            (
                ["--model_size", "micro", "--resolution", "720"],
                "model micro has no such resolution: got 720, expected 112",
            ),
            (["--guidance", "nan"], "argument --guidance: nan is not finite"),
        ],
    )
    def test_that_are_wrong_are_wrong_usage(self, capsys, wrong, message):
        assert video2world_lora.main(wrong) == 2
        (line,) = complaints(capsys.readouterr().err)
        assert message in line

    def test_help_lists_every_deviation_that_the_document_lists(self, capsys, monkeypatch, repository):
        document = (repository / "docs/drop-in.md").read_text()
        with pytest.raises(SystemExit) as ended:
            parse_arguments(["--help"])
        shown = capsys.readouterr().out
        assert ended.value.code == 0
        for title, sentence in DEVIATIONS:
            assert f"{title}: {sentence}" in shown
            assert f"**{title[0].upper()}{title[1:]}.**" in document
        monkeypatch.setenv("RANK", "1")
        with pytest.raises(SystemExit):
            parse_arguments(["--help"])
        assert capsys.readouterr().out == ""


class TestDocumentedCommands:
    @pytest.mark.parametrize("name", ["its", "collision"])  # the others run under torchrun
    def test_run_in_one_process(self, desk, capsys, name):
        assert video2world_lora.main(flags(name)) == 0
        shown = capsys.readouterr()
        assert complaints(shown.err) == []
        assert "Total parameters: 1,480,320\n" in shown.out
        assert "Trainable LoRA parameters: 204,800\nLoRA parameter ratio: 13.83%\n" in shown.out
        assert "denoise 1/1\n" in shown.out
        for video in WRITTEN[name]:
            assert (probe := probe_input(Path(video))).num_frames == 61
            assert (probe.width, probe.height) == (112, 112)

    @pytest.mark.e2e
    @pytest.mark.slow
    @pytest.mark.parametrize(("name", "num_gpus"), [("metropolis", 1), ("basic", 2), ("batch", 2)])
    def test_run_under_torchrun(self, desk, name, num_gpus):
        ended = torchrun(words(name, num_gpus))
        assert ended.returncode == 0, ended.stderr
        assert ended.stdout.count("Total parameters:") == 1
        assert f"{num_gpus} process(es)" in ended.stdout
        for video in WRITTEN[name]:
            assert record(video)["video"]["sha256"] == sha256_file(Path(video))
            assert record(video)["environment"]["processes"] == num_gpus
            assert record(video)["generation"]["layout"] == f"cfg {num_gpus} x ulysses 1"


class TestRecord:
    def test_says_what_went_in_and_what_came_out(self, desk, fast):
        assert video2world_lora.main(one("--seed", "7")) == 0
        written = record("output/one.mp4")
        assert files(desk / "output") == {"one.mp4", "one.mp4.json"}
        assert written["video"]["sha256"] == sha256_file(desk / "output/one.mp4")
        assert written["input"]["sha256"] == sha256_file(desk / "path/to/input_frame.jpg")
        assert written["adapter"]["sha256"] == sha256_file(desk / TRAINED / "iter_000001000.pt")
        assert (written["adapter"]["rank"], written["adapter"]["alpha"]) == (16, 16)
        assert written["arguments"]["seed"] == 7
        assert written["timings_s"]["generate_s"] == 0.5
        assert written["guardrail"]["disabled"] is False
        assert written["status"] == "published"

    def test_an_adapter_file_on_the_base_gives_the_video_of_the_training_checkpoint(self, desk):
        extract_adapter(f"{TRAINED}/iter_000001000.pt", "a.safetensors", alpha=16, base=BASE)
        shas = {}
        for name, path in {"full": f"{TRAINED}/iter_000001000.pt", "file": "a.safetensors"}.items():
            assert video2world_lora.main(one(dit_path=path, save_path=f"output/{name}.mp4")) == 0
            shas[name] = record(f"output/{name}.mp4")["video"]["sha256"]
        assert video2world_lora.main(one(lora=False, dit_path=BASE, save_path="output/base.mp4")) == 0
        assert shas["full"] == shas["file"]
        assert record("output/full.mp4")["proof"]["adapter_norms"]["lora"]["probe_difference"] > 0
        assert record("output/file.mp4")["proof"]["adapter_origins"]["lora"]["same_base"] is True
        assert record("output/base.mp4")["video"]["sha256"] not in shas.values()

    def test_a_peft_folder_is_an_adapter_on_the_standard_base(self, desk, fast):
        extract_adapter(f"{TRAINED}/iter_000001000.pt", "a.safetensors", alpha=4)
        export_adapter(read_adapter("a.safetensors"), desk / "peft", ExportFormat.PEFT)
        assert video2world_lora.main(one(dit_path="peft")) == 0
        written = record("output/one.mp4")
        assert (written["adapter"]["kind"], written["adapter"]["alpha"]) == ("PEFT adapter folder", 4)
        assert len(written["adapter"]["sha256"]) == 64
        assert written["model"]["checkpoint"]["path"] == BASE

    def test_without_a_path_the_standard_base_is_used(self, desk, fast, capsys):
        assert video2world_lora.main(one("--disable_prompt_refiner", lora=False)) == 0
        assert record("output/one.mp4")["model"]["checkpoint"] == {"path": BASE, "sha256": sha256_file(desk / BASE)}
        assert record("output/one.mp4")["adapter"] is None
        assert "prompt refiner" not in capsys.readouterr().out

    def test_a_disabled_guardrail_is_recorded(self, desk, fast, monkeypatch):
        monkeypatch.setattr(guardrail_hook, "entry_points", lambda group: [])
        assert video2world_lora.main(one("--disable_guardrail")) == 0
        assert record("output/one.mp4")["guardrail"]["disabled"] is True

    def test_five_frames_take_a_video(self, desk, fast, capsys):
        assert video2world_lora.main(one("--num_conditional_frames", "5")) == 1
        assert "is a picture" in capsys.readouterr().err
        clip = np.random.default_rng(0).integers(0, 255, (8, 64, 64, 3), dtype=np.uint8)
        write_video(clip, "clip.mp4", fps=10)
        assert video2world_lora.main(one("--num_conditional_frames", "5", input_path="clip.mp4")) == 0
        assert record("output/one.mp4")["arguments"]["num_conditional_frames"] == 5

    def test_benchmark_counts_the_last_three_of_four(self, desk, fast, capsys):
        assert video2world_lora.main(one("--benchmark")) == 0
        shown = capsys.readouterr().out
        assert shown.count("denoise 1/1") == 4
        assert "Benchmark: mean of 3 runs" in shown
        assert len(record("output/one.mp4")["timings_s"]["benchmark_s"]) == 3


class TestWrongModels:
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (one("--lora_rank", "8"), "size mismatch for blocks.0.cross_attn.k_proj.lora_A.default.weight"),
            (one("--lora_target_modules", "q_proj"), "Unexpected keys in regular model: ['blocks.0.cross_attn.k_proj."),
            (
                one(
                    "--lora_target_modules",
                    "q_proj,k_proj,v_proj,output_proj,mlp.layer1,mlp.layer2,adaln_modulation_mlp.1",
                ),
                "Missing keys in regular model: ['blocks.0.adaln_modulation_mlp.1.lora_A.default.weight'",
            ),
            (one("--lora_target_modules", "to_q"), "No module named 'to_q' found for LoRA"),
            (one(dit_path=BASE), "Missing keys in regular model: ['blocks.0.cross_attn.k_proj.lora_A.default.weight'"),
            (one(dit_path="nowhere.pt"), "no such checkpoint: got nowhere.pt"),
            (
                one(lora=False, dit_path=f"{TRAINED}/iter_000001000.pt"),
                "--use_lora is not set. Unexpected keys in regular model: ['net.blocks.0.",
            ),
            (one("--load_ema"), "expected keys that start with net_ema."),
            (one("--checkpoint_root", "elsewhere"), "the video VAE of model micro is not there: got elsewhere/"),
            (one(dit_path=""), "--use_lora without an adapter: expected --dit_path"),
            (one("--num_gpus", "2"), "--num_gpus is not the number of processes: got 2, expected 1"),
            (one(input_path="nowhere.jpg"), "no such input file: got nowhere.jpg"),
            (one(save_path="output/one.gif"), "videos are written as mp4"),
            (one(prompt=" "), "the prompt is empty"),
            (one("--batch_input_json", "nowhere.json"), "the batch file cannot be read: got nowhere.json"),
        ],
        ids=lambda value: None if isinstance(value, list) else value[:40],
    )
    def test_are_one_line_before_anything_is_loaded(self, desk, capsys, monkeypatch, arguments, message):
        def loaded(*_):
            pytest.fail("a model was loaded")

        monkeypatch.setattr(video2world_lora, "Server", loaded)
        assert video2world_lora.main(arguments) == 1
        (line,) = complaints(capsys.readouterr().err)
        assert message in line
        assert files(desk / "output") == set()

    @pytest.mark.parametrize(("flag", "value"), [("lora_alpha", "32"), ("lora_rank", "8")])
    def test_a_flag_against_the_adapter_files_own_word_is_refused(self, desk, capsys, flag, value):
        extract_adapter(f"{TRAINED}/iter_000001000.pt", "a.safetensors", alpha=16)
        assert video2world_lora.main(one(f"--{flag}", value, dit_path="a.safetensors")) == 1
        (line,) = complaints(capsys.readouterr().err)
        assert f"got {flag.removeprefix('lora_')} {value}, expected {flag.removeprefix('lora_')} 16" in line

    def test_a_default_gives_way_to_the_adapter_files_own_word(self, desk, fast):
        extract_adapter(f"{TRAINED}/iter_000001000.pt", "a.safetensors", alpha=4)
        assert video2world_lora.main(one(dit_path="a.safetensors")) == 0
        assert record("output/one.mp4")["adapter"]["alpha"] == 4

    def test_a_name_of_another_variant_is_refused(self, desk, capsys):
        shutil.copy(BASE, "model-480p-10fps.safetensors")
        assert video2world_lora.main(one(lora=False, dit_path="model-480p-10fps.safetensors")) == 1
        assert "was trained for another variant" in capsys.readouterr().err

    @pytest.mark.e2e
    @pytest.mark.slow
    def test_end_all_processes_with_one_line(self, desk):
        ended = torchrun([*words("collision", 2), "--lora_rank", "32"])
        assert ended.returncode == 1
        (line,) = complaints(ended.stderr)
        assert "size mismatch for blocks.0.cross_attn.k_proj.lora_A.default.weight" in line
        assert "exitcode  : 1" in ended.stderr
        assert files(desk / "output") == set()


class TestBatch:
    def test_a_bad_item_is_named_and_the_others_run(self, desk, fast, capsys):
        items = [
            BATCH[0] | {"seed": 3},
            {"input_video": "frames/gone.jpg", "prompt": PROMPT},
            {"input_video": "frames/highway_02.jpg"},
            BATCH[0],
            {"input_video": "frames/highway_02.jpg", "prompt": PROMPT},
        ]
        Path("mixed.json").write_text(json.dumps(items))
        assert video2world_lora.main([*flags("batch"), "--batch_input_json", "mixed.json"]) == 3
        shown = capsys.readouterr()
        assert complaints(shown.err) == [
            "video2world_lora: item 2 is skipped: no such input file: got frames/gone.jpg",
            "video2world_lora: item 3 is skipped: prompt: got nothing, expected a text",
            "video2world_lora: item 4 is skipped: output_video: got output/collision_01.mp4, as item 1, expected a "
            "name of its own",
        ]
        assert "item 1: ignored seed\n" in shown.out
        assert "2 of 5 videos published\n" in shown.out
        assert record("output/collision_01.mp4")["item"] == 1
        assert record("output_4.mp4")["item"] == 5  # named from 0, as in the reference

    def test_a_failure_on_the_way_costs_one_item(self, desk, fast, capsys, monkeypatch):
        generate = FastServer.generate

        def failing(self, request, on_step):
            if request.request_id == "1":
                raise OutOfMemory("the device ran out of memory")
            return generate(self, request, on_step)

        monkeypatch.setattr(FastServer, "generate", failing)
        assert video2world_lora.main(flags("batch")) == 3
        assert complaints(capsys.readouterr().err) == ["video2world_lora: item 1 failed: the device ran out of memory"]
        assert files(desk / "output") == {"pileup_02.mp4", "pileup_02.mp4.json"}

    @pytest.mark.parametrize("content", ["{}", "[]", "no json"])
    def test_a_file_without_items_is_refused(self, desk, capsys, content):
        Path("batch_scenarios.json").write_text(content)
        assert video2world_lora.main(flags("batch")) == 1
        assert len(complaints(capsys.readouterr().err)) == 1


class TestGuardrail:
    def test_a_blocked_prompt_loads_and_writes_nothing(self, desk, capsys, monkeypatch):
        monkeypatch.setattr(video2world_lora, "Server", lambda _: pytest.fail("a model was loaded"))
        assert video2world_lora.main(one(prompt="A man deliberately drives into pedestrians.")) == 3
        (line,) = complaints(capsys.readouterr().err)
        assert line.startswith(
            "video2world_lora: output/one.mp4 is blocked: prompt/text.lexicon flagged violent_intent"
        )
        assert files(desk / "output") == set()

    def test_a_prompt_to_be_reviewed_is_generated_into_quarantine(self, desk, fast, capsys):
        assert video2world_lora.main(one(prompt="A collision with an injured driver.")) == 3
        (line,) = complaints(capsys.readouterr().err)
        assert "output/one.mp4 is quarantined: prompt/text.lexicon flagged casualty_nongraphic" in line
        assert "it is kept as output/quarantine/one.mp4" in line
        assert not (desk / "output/one.mp4").exists()
        assert record("output/quarantine/one.mp4")["status"] == "quarantined"

    def test_what_is_published_is_what_the_guardrail_returned(self, desk, fast, install):
        install(Strict())
        assert video2world_lora.main(one()) == 0
        assert read_video("output/one.mp4").max() < 8
        assert {"looked": True} in record("output/one.mp4")["guardrail"]["checks"]

    def test_a_blocked_clip_is_written_nowhere(self, desk, fast, install):
        install(Strict(), Strict("block"))
        assert video2world_lora.main(one()) == 3
        assert files(desk / "output") == set()

    def test_one_that_raises_publishes_nothing(self, desk, fast, capsys, install):
        install(Strict("raise"))
        assert video2world_lora.main(one()) == 1
        assert "unexpected RuntimeError: got out of order" in complaints(capsys.readouterr().err)[-1]
        assert files(desk / "output") == set()

    def test_without_one_the_command_is_refused(self, desk, capsys, monkeypatch):
        monkeypatch.setattr(guardrail_hook, "entry_points", lambda group: [])
        assert video2world_lora.main(one()) == 1
        (line,) = complaints(capsys.readouterr().err)
        assert "no guardrail is installed" in line
        assert "--disable_guardrail" in line
        assert files(desk / "output") == set()

    def test_one_that_cannot_be_loaded_is_an_error(self, monkeypatch):
        class Broken:
            name = "broken"

            def load(self):
                raise ImportError("no module")

        monkeypatch.setattr(guardrail_hook, "entry_points", lambda group: [Broken()])
        with pytest.raises(BadConfig, match="guardrail broken cannot be loaded: got ImportError: no module"):
            find_guardrails()

    def test_decisions_combine_to_the_gravest(self):
        made = [
            GuardrailDecision(outcome=outcome, reasons=(outcome,)) for outcome in ("publish", "block", "quarantine")
        ]
        assert combine(made).outcome == "block"
        assert combine(made).reasons == ("block", "quarantine", "publish")
        with pytest.raises(ValueError, match="empty"):
            combine([])


class TestRanks:
    def test_an_unexpected_error_becomes_one_of_ours(self):
        with Ranks() as ranks, pytest.raises(OutOfMemory, match="ran out of memory"):
            ranks.together(_out_of_memory)

    def test_a_result_comes_back(self):
        with Ranks() as ranks:
            assert ranks.first(lambda: 3) == ranks.together(lambda: 3) == 3


def _out_of_memory() -> None:
    raise torch.OutOfMemoryError("CUDA out of memory\nmore")
