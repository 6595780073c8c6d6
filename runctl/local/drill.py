"""The drill: a run on the local cloud is interrupted three times, and compared with another."""

import json
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

from runctl.aws.prices import Ec2Prices
from runctl.local.client import Json
from runctl.local.core.market import ON_DEMAND_PRICES
from runctl.local.testbed import Testbed, wait_for
from runctl.model.pool import Pool
from runctl.model.run import Attempt, Run

EPOCHS = 24
NOTICE_SECONDS = 20
PACE = ("--epoch-seconds", "0.35", "--save-seconds", "0.25")


@dataclass(frozen=True)
class Act:
    """An interruption: when it happens (once the run has committed `after_step`), and how."""

    after_step: int
    how: str
    notice: bool
    mid_save: bool = False


ACTS = (
    Act(after_step=4, how="with a notice", notice=True),
    Act(after_step=10, how="with a notice, in the middle of a save", notice=True, mid_save=True),
    Act(after_step=16, how="without a notice", notice=False),
)


@dataclass(frozen=True, kw_only=True)
class AttemptRow:
    """An attempt, for the table; times in seconds, prices in US dollars, steps in epochs."""

    attempt: int
    pool: str
    outcome: str
    interrupted: str
    resumed_from: int | None
    trained_to: int | None
    steps_lost: int
    changeover_s: float | None
    machine_s: float
    cost_usd: float
    on_demand_usd: float


@dataclass(frozen=True, kw_only=True)
class DrillResult:
    """The result of the drill."""

    run_id: str
    identical: bool
    weights_sha256: str
    accuracy: float
    rows: tuple[AttemptRow, ...] = field(repr=False)

    @property
    def steps_lost(self) -> int:
        """The steps that had to be repeated, over all interruptions."""
        return sum(row.steps_lost for row in self.rows)

    def as_document(self, *, seconds: float) -> dict[str, Any]:
        """Return the JSON form."""
        changeovers = [row.changeover_s for row in self.rows if row.changeover_s is not None]
        return {
            "identical": self.identical,
            "attempts": len(self.rows),
            "interruptions": len(changeovers),
            "steps_lost": self.steps_lost,
            "changeover_s": round(statistics.median(changeovers), 2) if changeovers else None,
            "worst_changeover_s": max(changeovers, default=None),
            "seconds": round(seconds, 1),
            "run_id": self.run_id,
            "weights_sha256": self.weights_sha256,
            "accuracy": self.accuracy,
            "rows": [asdict(row) for row in self.rows],
        }


Announce = Callable[[str], None]
Show = Callable[[Run, Sequence[Attempt]], None]


@dataclass
class Drill:
    """Acts on a testbed; calls `announce` at each event, and `show` when the run changes."""

    testbed: Testbed
    announce: Announce = lambda _: None
    show: Show = lambda _run, _attempts: None

    def perform(self, code: str, *, script: str, name: str) -> DrillResult:
        """Run the trainer of `code` (an s3:// archive) to the end, interrupting it three times."""
        arguments = ["--epochs", str(EPOCHS)]
        request = {"code": code, "script": script}
        self.testbed.workflow.start_run(name, {**request, "args": [*arguments, *PACE]})
        self.announce(f"run {name} started: {EPOCHS} epochs, on spot")
        self._wait_for_step(name, attempt=1, step=1)
        self.announce("the trainer saved its first checkpoint")
        alone = f"{name}-alone"
        self.testbed.workflow.start_run(alone, {**request, "args": arguments})
        for attempt, act in enumerate(ACTS, 1):
            self._wait_for_step(name, attempt=attempt, step=act.after_step)
            self._interrupt(name, attempt, act)
            resumed = self._wait_for_trainer(name, attempt=attempt + 1)
            self.announce(f"attempt {attempt + 1} resumed after epoch {resumed.resume_step}")
        for execution in (name, alone):
            ended = self._wait_for_end(name, execution)
            if ended != "SUCCEEDED":
                raise RuntimeError(f"{execution} ended as {ended}: {self.testbed.story(execution)}")
        self.announce("done; comparing the weights with those of the undisturbed run")
        weights = [self.testbed.output(run_id, "weights.npz") for run_id in (name, alone)]
        result = self.testbed.result(name)
        return DrillResult(
            run_id=name,
            identical=weights[0] == weights[1],
            weights_sha256=result["weights_sha256"],
            accuracy=result["accuracy"],
            rows=tuple(self._rows(name)),
        )

    def _refresh(self, run_id: str) -> list[Attempt]:
        run = self.testbed.ledger.find_run(run_id)
        attempts = self.testbed.attempts(run_id) if run is not None else []
        if run is not None:
            self.show(run, attempts)
        return attempts

    def _wait_for_step(self, run_id: str, *, attempt: int, step: int) -> None:
        def check() -> bool:
            self._refresh(run_id)
            saved = self.testbed.ledger.find_run(run_id)
            return saved is not None and saved.step is not None and saved.step >= step

        self._wait_for_trainer(run_id, attempt=attempt)
        wait_for(check, f"{run_id} to commit step {step}")

    def _wait_for_trainer(self, run_id: str, *, attempt: int) -> Attempt:
        def check() -> Attempt | None:
            for known in self._refresh(run_id):
                if known.number == attempt and "first_step" in known.timeline:
                    return known
            execution = self.testbed.workflow.find_execution(
                self.testbed.workflow.execution_arn(run_id)
            )
            if execution is not None and not execution.is_running:
                raise RuntimeError(f"{run_id} ended early: {self.testbed.story(run_id)}")
            return None

        return wait_for(check, f"attempt {attempt} of {run_id} to train")

    def _wait_for_end(self, run_id: str, execution: str) -> str:
        def check() -> str | None:
            self._refresh(run_id)
            found = self.testbed.execution(execution)
            return None if found.is_running else found.status

        return wait_for(check, f"{execution} to end")

    def _interrupt(self, run_id: str, attempt: int, act: Act) -> None:
        instance_id = self.testbed.wait_for_launch(run_id, attempt=attempt)
        if act.mid_save:
            folder = self._root(instance_id) / "var/lib/runctl/checkpoint"
            wait_for(
                lambda: any(folder.glob("*.partial")),
                "a save to be under way",
                pause=timedelta(milliseconds=5),
            )
        self.testbed.cloud.interrupt(instance_id, notice=act.notice, notice_seconds=NOTICE_SECONDS)
        self.announce(f"EC2 takes {instance_id} {act.how}")

    def _root(self, instance_id: str) -> Path:
        return Path(self.testbed.cloud.instance(instance_id)["root"])

    def _rows(self, run_id: str) -> Iterator[AttemptRow]:
        attempts = [attempt for attempt in self.testbed.attempts(run_id) if attempt.was_launched]
        for attempt, after in zip(attempts, [*attempts[1:], None], strict=True):
            machine = self.testbed.cloud.instance(attempt.instance_ids[0])
            trained_to = last_step(Path(machine["root"]) / "var/lib/runctl/metrics.jsonl")
            lost = 0
            if after is not None and trained_to is not None:
                lost = max(0, trained_to - (after.resume_step or 0))
            pool = Pool.parse(attempt.pool)
            seconds = self._machine_seconds(machine)
            yield AttemptRow(
                attempt=attempt.number,
                pool=attempt.pool,
                outcome=attempt.ended.kind.value
                if attempt.ended is not None
                else attempt.stage.value,
                interrupted=ACTS[attempt.number - 1].how if after is not None else "",
                resumed_from=attempt.resume_step,
                trained_to=trained_to,
                steps_lost=lost,
                changeover_s=self._changeover(attempt, after, machine),
                machine_s=round(seconds, 1),
                cost_usd=round(float(self._spot_price(pool)) * seconds / 3600, 6),
                on_demand_usd=round(ON_DEMAND_PRICES[pool.instance_type] * seconds / 3600, 6),
            )

    def _changeover(self, one: Attempt, after: Attempt | None, machine: Json) -> float | None:
        """Return the time from SIGTERM, or the machine's death, to the next first step."""
        if after is None or "first_step" not in after.timeline:
            return None
        began = one.timeline.get("sigterm") or self._instant(machine, "terminated")
        if began is None:
            return None
        return round((after.timeline["first_step"] - began).total_seconds(), 2)

    def _machine_seconds(self, machine: Json) -> float:
        ended = self._instant(machine, "terminated") or datetime.now().astimezone()
        return (ended - datetime.fromisoformat(machine["launched_at"])).total_seconds()

    def _instant(self, machine: Json, event: str) -> datetime | None:
        for entry in self.testbed.cloud.events():
            if entry["instance_id"] == machine["instance_id"] and entry["what"] == event:
                return datetime.fromisoformat(entry["at"])
        return None

    def _spot_price(self, pool: Pool) -> Decimal:
        prices = Ec2Prices(self.testbed.clients.get("ec2"))
        return prices.current([pool], now=datetime.now().astimezone()).get(pool, Decimal(0))


def last_step(metrics: Path) -> int | None:
    """Return the last step that a trainer wrote to its metrics file, or None."""
    steps = []
    if metrics.exists():
        for line in metrics.read_text().splitlines():
            try:
                steps.append(int(json.loads(line)["step"]))
            except (KeyError, TypeError, ValueError):
                continue  # the last line of a killed program may be torn
    return steps[-1] if steps else None
