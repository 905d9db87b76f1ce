"""`torchrun --nproc_per_node=N -m cosmos_core.video2world_lora`: the reference's LoRA script, by its own flags.

    check   flags, batch file, inputs, guardrail, model files: all that can be wrong is found before anything is loaded
    load    embeddings of all prompts, then transformer, adapter and VAE, as a generation worker does
    make    each video: generate, check, write video and record

All processes render each video together; rank 0 alone checks, writes and speaks. Whatever fails, fails on all of them
at once, as one line on standard error.
"""

from __future__ import annotations

import logging
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cosmos_core.architecture import model_architecture
from cosmos_core.drop_in_arguments import PROGRAM, Arguments, parse_arguments
from cosmos_core.drop_in_items import BadItem, Item, read_items
from cosmos_core.drop_in_model import ADAPTER_NAME, ModelPlan, plan_model
from cosmos_core.drop_in_record import record_of, write_record
from cosmos_core.errors import BadConfig, BadRequest, CrossroadsError, from_payload
from cosmos_core.group_layout import check_group_size
from cosmos_core.guardrail_hook import DisabledGuardrail, Guardrail, GuardrailDecision, combine, find_guardrails
from cosmos_core.protocol import AdapterStrength, EncodePrompts, GenerateVideo
from cosmos_core.rank_agreement import Ranks
from cosmos_core.serving import OnStep, Server
from cosmos_core.video_file import write_video

__all__ = ["EXIT_FAILED", "EXIT_INCOMPLETE", "EXIT_USAGE", "main"]

EXIT_FAILED = 1
"""Nothing could be done."""
EXIT_USAGE = 2
"""The command line is wrong."""
EXIT_INCOMPLETE = 3
"""The command ended, but a video was not published."""

_BENCHMARK_RUNS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class _Job:
    """What was found before anything is loaded."""

    items: list[Item]
    bad: list[BadItem]
    decisions: dict[int, GuardrailDecision]
    """On the texts of each item, by its number."""
    plan: ModelPlan

    @property
    def allowed(self) -> list[Item]:
        """The items that may be generated; some of them will be held afterwards."""
        return [item for item in self.items if self.decisions[item.number].outcome != "block"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of every process; returns the exit code, on other ranks than the first always 0."""
    ranks = Ranks(lambda error: _complain(ranks, str(error)))
    with ranks:
        logging.basicConfig(
            level=logging.WARNING if ranks.is_first else logging.CRITICAL,
            format=f"{PROGRAM}: %(levelname)s: %(message)s",
            stream=sys.stderr,
        )
        try:
            parsed = parse_arguments(arguments)
        except BadRequest as error:
            code = _fail(ranks, error, EXIT_USAGE)
        else:
            try:
                code = _execute(ranks, parsed)
            except CrossroadsError as error:
                code = _fail(ranks, error, EXIT_FAILED)
    # torchrun stops every rank as soon as one of them has failed. All know the outcome, so rank 0 alone reports it by
    # its exit code, and the others end quietly after it has spoken.
    return code if ranks.is_first else 0


def _fail(ranks: Ranks, error: CrossroadsError, code: int) -> int:
    _complain(ranks, str(error))
    return code


def _complain(ranks: Ranks, message: str) -> None:
    if ranks.is_first:
        sys.stderr.write(f"{PROGRAM}: {' '.join(message.split())}\n")
        sys.stderr.flush()


def _say(ranks: Ranks, message: str) -> None:
    if ranks.is_first:
        sys.stdout.write(f"{message}\n")
        sys.stdout.flush()


def _execute(ranks: Ranks, arguments: Arguments) -> int:
    """Check, load, make; returns the exit code.

    Raises:
        CrossroadsError: on every rank; nothing could be done.
    """
    _require_world(ranks, arguments)
    guardrails = ranks.together(lambda: _guardrails(arguments) if ranks.is_first else ())
    job = ranks.first(lambda: _check(arguments, guardrails))
    _announce(ranks, arguments, job)
    if not job.allowed:
        return EXIT_INCOMPLETE
    started = time.monotonic()
    server, proof = _load(ranks, arguments, job)
    maker = _Maker(
        ranks=ranks,
        arguments=arguments,
        guardrails=guardrails,
        job=job,
        server=server,
        proof=proof,
        load_s=time.monotonic() - started,
    )
    published = [maker.make(item) for item in job.allowed].count(True)
    total = len(job.items) + len(job.bad)
    _say(ranks, f"{published} of {total} videos published")
    return 0 if published == total else EXIT_INCOMPLETE


def _require_world(ranks: Ranks, arguments: Arguments) -> None:
    if "num_gpus" in arguments.given and arguments.num_gpus != ranks.world_size:
        raise BadConfig(
            "--num_gpus is not the number of processes",
            got=arguments.num_gpus,
            expected=ranks.world_size,
            fix="Give torchrun's --nproc_per_node the same number.",
        )
    check_group_size(model_architecture(arguments.model_size).dit, ranks.world_size)


def _guardrails(arguments: Arguments) -> tuple[Guardrail, ...]:
    return (DisabledGuardrail(),) if arguments.disable_guardrail else find_guardrails()


def _check(arguments: Arguments, guardrails: tuple[Guardrail, ...]) -> _Job:
    items, bad = read_items(arguments)
    plan = plan_model(arguments)
    decisions: dict[int, GuardrailDecision] = {}
    for item in items:
        decisions[item.number] = combine(
            [rail.check_prompt(item.prompt, negative_prompt=arguments.negative_prompt) for rail in guardrails]
        )
    return _Job(items=items, bad=bad, decisions=decisions, plan=plan)


def _announce(ranks: Ranks, arguments: Arguments, job: _Job) -> None:
    """Say what will not be made, and what is not as in the reference."""
    spec = job.plan.spec
    _say(ranks, f"{spec.model} model on {spec.device} in {spec.dtype}, {ranks.world_size} process(es)")
    if not arguments.disable_prompt_refiner:
        _say(ranks, "no prompt refiner is shipped: prompts are used unchanged")
    if arguments.disable_guardrail:
        _say(ranks, "the guardrail is disabled; every record says so")
    for wrong in job.bad:
        _complain(ranks, f"item {wrong.number} is skipped: {wrong.error}")
    for item in job.items:
        if item.ignored:
            _say(ranks, f"item {item.number}: ignored {', '.join(item.ignored)}")
        if job.decisions[item.number].outcome == "block":
            _complain(ranks, _held(item, job.decisions[item.number]))


def _held(item: Item, decision: GuardrailDecision) -> str:
    what = "blocked" if decision.outcome == "block" else "quarantined"
    return f"{item.save_path} is {what}: {'; '.join(decision.reasons) or 'no reason given'}"


def _load(ranks: Ranks, arguments: Arguments, job: _Job) -> tuple[Server, dict[str, Any]]:
    server = ranks.together(lambda: Server(job.plan.spec, ranks))
    prompts = [item.prompt for item in job.allowed] + ([arguments.negative_prompt] if arguments.negative_prompt else [])
    request = EncodePrompts(request_id="text", prompts=tuple(dict.fromkeys(prompts)))
    encoded = server.encode_prompts(request, _progress(ranks))
    for prompt, num_tokens in encoded["truncated"].items():
        _say(ranks, f"cut, because it has {num_tokens} tokens: {prompt[:60]!r}")
    proof = server.load_model(lambda part: _say(ranks, f"loading {part}"))
    for refusal in proof["refused_adapters"].values():
        raise from_payload(refusal)
    _say_parameters(ranks, proof)
    return server, proof


def _say_parameters(ranks: Ranks, proof: dict[str, Any]) -> None:
    parameters = proof["parameters"]
    _say(ranks, f"Total parameters: {parameters['total']:,}")
    if parameters["lora"]:
        _say(ranks, f"Trainable LoRA parameters: {sum(parameters['lora'].values()):,}")
        _say(ranks, f"LoRA parameter ratio: {parameters['lora_ratio']:.2%}")
        effect = proof["adapter_norms"][ADAPTER_NAME]["probe_difference"]
        _say(ranks, f"The adapter changes a probe by {effect:.2%} of its norm")


def _progress(ranks: Ranks) -> OnStep:
    return lambda stage, step, num_steps: _say(ranks, f"{stage} {step}/{num_steps}")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Maker:
    """Makes one video after another from loaded models."""

    ranks: Ranks
    arguments: Arguments
    guardrails: tuple[Guardrail, ...]
    job: _Job
    server: Server
    proof: dict[str, Any]
    load_s: float

    def make(self, item: Item) -> bool:
        """Make one video; returns whether it was published.

        Raises:
            CrossroadsError: it failed, and it is the only one that was asked for.
        """
        ranks = self.ranks
        _say(ranks, f"{item.save_path} from {item.input_path}")
        try:
            with tempfile.TemporaryDirectory(prefix=f"{PROGRAM}-") as folder:
                frames_path = Path(folder) / "frames.npy"
                generation = self._generate(item, frames_path)
                decision = ranks.first(lambda: self._finish(item, frames_path, generation))
        except CrossroadsError as error:
            if self.arguments.batch_input_json is None:
                raise
            _complain(ranks, f"item {item.number} failed: {error}")
            return False
        if decision.publishes:
            _say(ranks, f"{item.save_path} is written")
        else:
            where = "" if decision.outcome == "block" else f"; it is kept as {item.quarantine_path}"
            _complain(ranks, f"{_held(item, decision)}{where}")
        return decision.publishes

    def _generate(self, item: Item, frames_path: Path) -> dict[str, Any]:
        """Generate the frames, with `--benchmark` several times; returns what was measured."""
        request = self._request(item, frames_path)
        seconds = []
        for _ in range(_BENCHMARK_RUNS if self.arguments.benchmark else 1):
            generation = self.server.generate(request, _progress(self.ranks))
            seconds.append(generation["generate_s"])
        if self.arguments.benchmark:
            mean = statistics.fmean(seconds[1:])
            _say(self.ranks, f"Benchmark: mean of {len(seconds) - 1} runs {mean:.2f} s, the first is not counted")
            generation = generation | {"benchmark_s": seconds[1:]}
        return generation

    def _request(self, item: Item, frames_path: Path) -> GenerateVideo:
        arguments = self.arguments
        return GenerateVideo(
            request_id=str(item.number),
            input_path=str(item.input_path),
            prompt=item.prompt,
            negative_prompt=arguments.negative_prompt,
            seed=arguments.seed,
            guidance=arguments.guidance,
            num_steps=arguments.num_steps,
            num_conditional_frames=arguments.num_conditional_frames,
            resolution=arguments.resolution,
            fps=arguments.fps,
            aspect_ratio=arguments.aspect_ratio,
            adapters=(AdapterStrength(name=ADAPTER_NAME),) if arguments.use_lora else (),
            frames_path=str(frames_path),
        )

    def _finish(self, item: Item, frames_path: Path, generation: dict[str, Any]) -> GuardrailDecision:
        """Check the frames and write what may be kept; on rank 0."""
        started = time.monotonic()
        frames: np.ndarray = np.load(frames_path, mmap_mode="r", allow_pickle=False)
        decisions = [self.job.decisions[item.number]]
        for guardrail in self.guardrails:
            frames, decision = guardrail.check_frames(frames)
            decisions.append(decision)
        decision = combine(decisions)
        if decision.outcome == "block":
            return decision
        checked_s = time.monotonic() - started
        video = item.save_path if decision.publishes else item.quarantine_path
        video.parent.mkdir(parents=True, exist_ok=True)
        write_video(
            frames,
            video,
            fps=self.arguments.fps,
            metadata={"comment": "synthetic video, generated by a model"},
        )
        measured = {name: value for name, value in generation.items() if name.endswith("_s")}
        encode_s = time.monotonic() - started - checked_s
        record = record_of(
            video,
            item,
            arguments=self.arguments,
            plan=self.job.plan,
            proof=self.proof,
            decision=decision,
            generation={name: value for name, value in generation.items() if name not in measured},
            timings_s={"load_s": self.load_s, **measured, "check_s": checked_s, "encode_s": encode_s},
            world_size=self.ranks.world_size,
        )
        write_record(video, record)
        return decision


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)  # torchrun says that it was stopped
