"""What all stages of one run share, gathered once at its start."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from cosmos_core.hashing import sha256_json
from tasks.audit import AuditLog
from tasks.config import RunConfig, find_config_file
from tasks.devices import machine_devices
from tasks.guards import Guards
from tasks.job import Job
from tasks.job_identity import job_identity
from tasks.lanes import LanePool
from tasks.lexicon import Lexicon, load_lexicon
from tasks.lineage_dataset import lineage_of
from tasks.lineage_rows import LineageRows
from tasks.manifest import Manifest
from tasks.policy import Policy, load_policy
from tasks.progress import Progress
from tasks.prompts import PromptRefiner, RefinedPrompt
from tasks.refiners import make_refiner
from tasks.run_plan import RunPlan, work_of
from tasks.scenario import Scenario
from tasks.stage_runs import StageRuns
from tasks.storage import Store
from tasks.versions import AdapterVersion, ModelVersion, Variant

__all__ = ["Run", "home_folder"]


def home_folder() -> Path:
    """Where a machine keeps caches, logs and unfinished work: `CROSSROADS_HOME`, or `.crossroads` where it runs."""
    return Path(os.environ.get("CROSSROADS_HOME", ".crossroads")).absolute()


class Run:
    """One execution of the flow over one manifest. Not a dataclass: Prefect would walk through every field."""

    def __init__(
        self,
        *,
        run_id: str,
        config: RunConfig,
        manifest: Manifest,
        store: Store,
        plan: RunPlan,
        guards: Guards,
        progress: Progress,
        home: Path,
    ) -> None:
        self.run_id = run_id
        self.config = config
        self.manifest = manifest
        self.store = store
        self.audit = AuditLog(store)
        self.plan = plan
        self.devices = machine_devices(config.worker)
        self.lanes: LanePool | None = None
        """While something is generated."""
        self.guards = guards
        self.progress = progress
        self.home = home
        self.policy: Policy = load_policy(find_config_file(config.policy))
        guards.require_use(self.policy)
        self.lexicon: Lexicon = load_lexicon(find_config_file(config.lexicon))
        self.refiner: PromptRefiner = make_refiner(
            config, lexicon=self.lexicon, home=home, on_cpu="refiner" in plan.savings
        )
        self.models: dict[Variant, ModelVersion] = {}
        self.adapters: dict[str, AdapterVersion] = {}
        self.stages = StageRuns()
        self.lineage = LineageRows(lineage_of(store, config.lineage), store)

    def work_folder(self, job: Job) -> Path:
        """Where the unfinished work of one job lies on this machine.

        Two scenarios may be the same job; each has a folder of its own, since each ends at a time of its own.
        """
        return self.home / "work" / f"{job.job_id[:32]}-{job.scenario.scenario_id}"

    def planned_device_s(self, scenario: Scenario, num_devices: int) -> float | None:
        """Time of the devices that render a scenario, as planned; None if it is unknown."""
        work = work_of(scenario, self.config.worker)
        return self.plan.of(Variant.of(scenario)).device_seconds(work, num_devices)

    def adapters_of(self, scenario: Scenario) -> tuple[AdapterVersion, ...]:
        """The adapter versions of one scenario, in its order."""
        return tuple(self.adapters[use.name] for use in scenario.adapters)

    def identity(self, scenario: Scenario, *, input_sha256: str, prompt: str) -> dict[str, Any]:
        """All that determines the published pixels of a scenario, JSON-ready."""
        return job_identity(
            scenario,
            input_sha256=input_sha256,
            prompt=prompt,
            config=self.config,
            model=self.models[Variant.of(scenario)],
            adapters=self.adapters_of(scenario),
            policy_sha256=self.policy.sha256,
            lexicon_sha256=self.lexicon.sha256,
        )

    def job_id(self, scenario: Scenario, *, input_sha256: str, refined: RefinedPrompt) -> str:
        """Hash of all that determines the published pixels of a scenario."""
        return sha256_json(self.identity(scenario, input_sha256=input_sha256, prompt=refined.text))
