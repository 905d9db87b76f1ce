"""A recorded job, verified and written down to be run again.

Nothing is generated unless the input, every model file, the policy and every number give the very job id that the
record has. All that the new run needs and writes lies in one folder: its input, its own home, its output.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

import yaml

from cosmos_core.errors import AdapterMismatch, BadInput, BadRequest, CheckpointMismatch, CheckpointMissing
from cosmos_core.hashing import sha256_file, sha256_json
from tasks.config import AdapterConfig, RunConfig, find_config_file, parse_config
from tasks.file_versions import FileVersion
from tasks.input_files import fetch_input
from tasks.job_identity import job_identity
from tasks.lexicon import load_lexicon
from tasks.model_files import bring_model
from tasks.policy import load_policy
from tasks.records import Record
from tasks.refiner_config import NoRefinerConfig
from tasks.registry import find_registry, open_registry
from tasks.scenario import GENERATION_FIELDS, ScenarioDefaults
from tasks.versions import AdapterVersion, ModelVersion, resolve_adapter, resolve_model

__all__ = ["Rerun", "identity_changes", "prepare_rerun"]

_MODEL_FILES = ("base", "vae", "text_encoder")


@dataclass(frozen=True, slots=True)
class Rerun:
    """A verified job, written down as a run of one row."""

    folder: Path
    manifest: Path
    config: Path

    @property
    def output(self) -> Path:
        return self.folder / "out"

    @property
    def home(self) -> Path:
        """A home of its own: nothing that the first run left on this machine may take part."""
        return self.folder / "home"


def prepare_rerun(
    record: Record, folder: Path, *, elsewhere: RunConfig | None = None, input_uri: str | None = None
) -> Rerun:
    """Verify that a record's job can be run again as it was, and write it down as a run of one row.

    Args:
        folder: an empty or new folder for all that the run needs and writes.
        elsewhere: a configuration whose `checkpoints` and `adapters` say where the files lie now.
        input_uri: where the input lies now.

    Raises:
        BadRequest: the record is no complete one, was changed, or something that decides about pixels is not as it was.
        BadInput: the input is gone, or is not the one of the record.
        BadModel: a model file is gone, or is not the one of the record.
    """
    _require_complete(record)
    if folder.exists() and any(folder.iterdir()):
        raise BadRequest("the folder is not empty", got=folder, fix="Name a new one with --into")
    folder.mkdir(parents=True, exist_ok=True)
    rerun = Rerun(folder=folder, manifest=folder / "manifest.json", config=folder / "run.yaml")
    input_path = _verified_input(record, folder, input_uri)
    config = _verified_config(record, rerun.home, elsewhere)
    assert record.prompts is not None, "a complete record has its prompts"
    row = {"scenario_id": record.scenario_id, "input": input_path.name, "prompt": record.prompts.refined}
    rerun.manifest.write_text(json.dumps([row]))
    rerun.config.write_text(yaml.safe_dump(config.model_dump(mode="json")))
    return rerun


def identity_changes(then: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """What two identities of jobs differ in, for people; empty if they are equal."""
    fields = dict.fromkeys([*then, *now])
    return "; ".join(
        f"{name} {json.dumps(now.get(name))} instead of {json.dumps(then.get(name))}"
        for name in fields
        if json.dumps(then.get(name)) != json.dumps(now.get(name))
    )


def _require_complete(record: Record) -> None:
    needed: dict[str, object] = {
        "video": record.output,
        "prompts": record.prompts,
        "model": record.model,
        "input": record.input_sha256,
        "configuration": record.config,
        "identity": record.identity,
    }
    if missing := [name for name, value in needed.items() if not value]:
        raise BadRequest(
            f"the record of {record.scenario_id} does not say enough to run its job again",
            got=f"no {', no '.join(missing)}",
            expected="the record of a video, written by this version",
        )
    if sha256_json(record.identity) != record.job_id:
        raise BadRequest(
            f"the record of {record.scenario_id} was changed",
            got=f"facts with the hash {sha256_json(record.identity)[:12]}",
            expected=f"those of job {record.job_id}",
            fix="Take the record from its output, or from a backup",
        )


def _verified_input(record: Record, folder: Path, input_uri: str | None) -> Path:
    config = _recorded_config(record)
    uri = input_uri or record.scenario.input_uri
    fetched = fetch_input(
        uri, folder / "fetched", limit_bytes=config.input_size_limit_mib << 20, hosts=config.input_hosts
    )
    path = folder / f"input{PurePosixPath(urlsplit(uri).path).suffix}"
    shutil.copyfile(fetched, path)
    if (digest := sha256_file(path)) != record.input_sha256:
        raise BadInput(
            f"the input {uri} is not the one of the record",
            got=f"sha256 {digest}",
            expected=record.input_sha256,
            fix="Put the old one back, or say where it is with --input",
        )
    return path


def _verified_config(record: Record, home: Path, elsewhere: RunConfig | None) -> RunConfig:
    """A configuration under which the job has the record's id, with every file verified by its content."""
    assert record.model is not None, "a complete record has its model"
    recorded = _recorded_config(record)
    config = recorded.model_copy(
        update={
            "defaults": ScenarioDefaults(**{name: getattr(record.scenario, name) for name in GENERATION_FIELDS}),
            "refiner": NoRefinerConfig(),  # the prompt is already refined
            "registry": None,
            "lineage": None,
            "worker": recorded.worker.model_copy(update={"gpus": None}),  # which one it is decides no pixel
            **(_places_in(elsewhere) if elsewhere else _recorded_places(record, recorded, home)),
        }
    )
    # Hashes are not looked up but computed: this is the proof.
    cache = home / "hashes"
    model = resolve_model(record.model.variant, config, hash_cache=cache)
    for name in _MODEL_FILES:
        _require_same(getattr(model, name), getattr(record.model, name), f"the {name.replace('_', ' ')}")
    adapters = [_verified_adapter(adapter, config, cache) for adapter in record.adapters]
    _require_same_job(record, config, model, adapters)
    return config


def _recorded_config(record: Record) -> RunConfig:
    return parse_config(record.config, origin=f"the configuration in the record of {record.scenario_id}")


def _places_in(config: RunConfig) -> dict[str, Any]:
    return {"checkpoints": config.checkpoints, "adapters": config.adapters}


def _recorded_places(record: Record, config: RunConfig, home: Path) -> dict[str, Any]:
    """Where the record's files lay; what the registry knows and is gone from there is fetched again."""
    assert record.model is not None, "a complete record has its model"
    files = {name: _place(getattr(record.model, name), config, home) for name in _MODEL_FILES}
    adapters = {
        adapter.name: AdapterConfig(
            path=_place(adapter.file.model_copy(update={"version": adapter.version}), config, home),
            **adapter.model_dump(include={"rank", "alpha", "target_modules", "source_adapter", "allow_inert"}),
        )
        for adapter in record.adapters
    }
    # A file is known by its content here, so its name may say what it likes.
    checkpoints = config.checkpoints.model_copy(update=files | {"force_variant": True})
    return {"checkpoints": checkpoints, "adapters": adapters}


def _place(file: FileVersion, config: RunConfig, home: Path) -> Path:
    path = Path(file.path)
    registry = find_registry(configured=config.registry)
    if path.exists() or file.version is None or registry is None:
        return path
    version = open_registry(registry).resolve(file.version)
    return Path(bring_model(version, file.version, home=home).path)


def _verified_adapter(recorded: AdapterVersion, config: RunConfig, cache: Path) -> AdapterVersion:
    if recorded.name not in config.adapters:
        raise CheckpointMissing(
            f"adapter {recorded.name!r} is not in the configuration", fix=f"Give adapters.{recorded.name}.path in it"
        )
    found = resolve_adapter(recorded.name, config.adapters[recorded.name], hash_cache=cache)
    if found.file.sha256 != recorded.file.sha256:
        raise AdapterMismatch(
            f"{found.file.path} is not the adapter {recorded.version or recorded.name} of the record",
            got=f"sha256 {found.file.sha256}",
            expected=recorded.file.sha256,
            fix="Put the old file back, or give --config with where it lies now",
        )
    return found


def _require_same(found: FileVersion, recorded: FileVersion, what: str) -> None:
    if found.sha256 != recorded.sha256:
        raise CheckpointMismatch(
            f"{found.path} is not {what} of the record",
            got=f"sha256 {found.sha256}",
            expected=recorded.sha256,
            fix="Put the old file back, or give --config with where it lies now",
        )


def _require_same_job(record: Record, config: RunConfig, model: ModelVersion, adapters: list[AdapterVersion]) -> None:
    assert record.prompts is not None, "a complete record has its prompts"
    assert record.input_sha256 is not None, "a complete record has its input"
    identity = job_identity(
        record.scenario,
        input_sha256=record.input_sha256,
        prompt=record.prompts.refined,
        config=config,
        model=model,
        adapters=adapters,
        policy_sha256=load_policy(find_config_file(config.policy)).sha256,
        lexicon_sha256=load_lexicon(find_config_file(config.lexicon)).sha256,
    )
    if changes := identity_changes(record.identity, identity):
        commit = record.code.commit
        raise BadRequest(
            f"the job of {record.scenario_id} is not what it was",
            got=changes,
            expected=f"job {record.job_id}",
            fix=f"Run it with the code and the files of then{f' (commit {commit[:12]})' if commit else ''}",
        )
