"""`runctl verify --run`: one small run on spot, which AWS FIS interrupts, and what it cost."""

from __future__ import annotations

import inspect
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.table import Table

from runctl.aws.fault_injection import FaultInjection
from runctl.cli.commands import counting_program
from runctl.cli.commands.aws.request import name_run
from runctl.cli.commands.interrupted_run import (
    ExperimentFailedError,
    FollowedRun,
    interrupt_and_follow,
)
from runctl.cli.project.package import pack_project
from runctl.cli.project.scan import scan_project
from runctl.model.deployment_limits import DeploymentLimits
from runctl.model.errors import RefusedError, RequestError, RunctlError, TransientError
from runctl.model.pool import Pool
from runctl.model.resource_options import SMALL_INSTANCE_TYPES
from runctl.report.machine_time import machine_times
from runctl.report.wording import format_duration

if TYPE_CHECKING:
    from runctl.cli.cloud import Cloud
    from runctl.cli.display.output import Output

SCRIPT = "verify.py"
# Long enough that FIS, which takes up to a minute, interrupts it before its end.
_STEPS, _STEP_SECONDS, _STEP_SECONDS_NEAR = 240, 1.0, 0.25
_MAX_ATTEMPTS = 5
# What the estimate counts: a machine that is interrupted, and its replacement.
_MACHINES, _MACHINE_TIME = 2, timedelta(minutes=10)
# No attempt is launched later.
_LAUNCH_WITHIN = timedelta(minutes=30)
_NO_ROLE = (
    "the deployment has no role with which AWS FIS may interrupt an instance; run "
    "`cdk deploy --all` of this version"
)
_PERMISSIONS = (
    "your own credentials need fis:CreateExperimentTemplate, fis:DeleteExperimentTemplate, "
    "fis:StartExperiment, fis:GetExperiment, iam:PassRole of the deployment's role for FIS and, "
    "once in an account, iam:CreateServiceLinkedRole for fis.amazonaws.com"
)
_ROLE = (
    "run `cdk deploy --all` of this version; if the role for FIS is as it was deployed, a "
    "permissions boundary or an organization's policy denies it, or FIS is not in this region"
)


@dataclass(frozen=True)
class Step:
    """A step of the run, and what is to be done if it failed."""

    name: str
    detail: str
    is_done: bool = True
    remedy: str = ""


@dataclass
class VerifiedRun:
    """What came of the run: `cost` in US dollars, None if a price is not known.

    `left` is what could not be removed; the result of the run counts nevertheless.
    """

    run_id: str
    steps: list[Step] = field(default_factory=list)
    machine_time: timedelta = timedelta(0)
    cost: Decimal | None = None
    was_refused: bool = False
    left: list[str] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Whether every step was done."""
        return all(step.is_done for step in self.steps)

    def as_document(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {
            "run_id": self.run_id,
            "state": "passed" if self.passed else "failed",
            "steps": [
                {
                    "step": step.name,
                    "state": "passed" if step.is_done else "failed",
                    "detail": step.detail,
                    "remedy": step.remedy,
                }
                for step in self.steps
            ],
            "machine_seconds": round(self.machine_time.total_seconds(), 1),
            "left": self.left,
            "cost_usd": None if self.cost is None else round(float(self.cost), 6),
        }

    def page(self) -> list[Table | str]:
        """Return the table of the steps, and the cost below it."""
        table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
        for heading in ("step", "result", "what", "remedy"):
            table.add_column(heading, overflow="fold")
        for step in self.steps:
            table.add_row(
                step.name, "passed" if step.is_done else "failed", step.detail, step.remedy
            )
        price = "not known" if self.cost is None else f"${self.cost:.5f}"
        used = format_duration(self.machine_time)
        cost = f"cost: {price} for {used} of machine time at the current spot prices"
        return [table, cost, *(f"left: {what}" for what in self.left)]


def check_before(cloud: Cloud, *, yes: bool) -> None:
    """Refuse what needs no call: a deployment without the role, or nobody to ask."""
    if not cloud.deployment.fault_injection_role:
        raise RequestError(f"--run: {_NO_ROLE}")
    if not yes and not sys.stdin.isatty():
        raise RequestError("--yes: required with --run where there is no terminal to confirm it")
    _types(cloud)


def confirm(cloud: Cloud) -> bool:
    """Ask whether the run may be started, with its estimated cost; return the answer."""
    prices = _prices(cloud, [Pool(name, zone, "spot") for name, zone in _pools(cloud)])
    hours = Decimal(_MACHINES * _MACHINE_TIME.total_seconds()) / 3600
    cost = f"about ${max(prices.values()) * hours:.3f}" if prices else "an amount that is not known"
    question = (
        f"Run a small job on up to {_MACHINES} spot instances for some minutes? It costs {cost}"
    )
    return typer.confirm(question, err=True)


def _pools(cloud: Cloud) -> list[tuple[str, str]]:
    return [(name, zone) for name in _types(cloud) for zone in cloud.deployment.zones]


def _types(cloud: Cloud) -> list[str]:
    limits = DeploymentLimits.from_document(cloud.deployment.limits)
    if allowed := limits.allowed(SMALL_INSTANCE_TYPES):
        return list(allowed)
    raise RequestError(
        f"--run: the deployment allows none of {', '.join(SMALL_INSTANCE_TYPES)}; add one to "
        "`allowed_instance_types` in the CDK context, and deploy again"
    )


def _prices(cloud: Cloud, pools: list[Pool]) -> dict[Pool, Decimal]:
    """Return the prices that are known; without permission to read them, none."""
    try:
        return cloud.prices.current(pools, now=cloud.clock.now())
    except (RefusedError, TransientError):
        return {}


def run_and_interrupt(cloud: Cloud, output: Output) -> VerifiedRun:
    """Start the run, interrupt it and follow it to its end; it is stopped if that fails."""
    with output.spinner("running a small job on spot") as update:
        return _run_and_interrupt(cloud, update, output.note)


def _run_and_interrupt(
    cloud: Cloud, update: Callable[[str], None], note: Callable[[str], None]
) -> VerifiedRun:
    result = VerifiedRun(name_run(SCRIPT, now=cloud.clock.now()))
    execution_arn = cloud.workflow.execution_arn(result.run_id)
    followed = FollowedRun(cloud, result.run_id, execution_arn)
    faults = FaultInjection(cloud.clients.get("fis"), time.sleep)

    def report(name: str, detail: str) -> None:
        result.steps.append(Step(name, detail))
        update(f"{name}: {detail}")

    try:
        _start(cloud, result.run_id)
        report("started", result.run_id)
        interrupt_and_follow(followed, faults, report, steps=_STEPS)
    except RunctlError as exc:
        if not result.steps:
            # Its start may have been carried out, although the answer was lost.
            note(followed.stop())
            raise
        result.was_refused = isinstance(exc, RefusedError)
        result.steps.append(_failed(exc, result.run_id))
        note(followed.stop())
    except BaseException:
        for line in (followed.stop(), *followed.left):
            note(line)
        raise
    result.left = followed.left
    _add_cost(cloud, result)
    return result


def _failed(error: RunctlError, run_id: str) -> Step:
    remedy = f"see `runctl logs {run_id}`"
    if isinstance(error, RefusedError):
        remedy = _PERMISSIONS
    elif isinstance(error, ExperimentFailedError):
        remedy = _ROLE
    return Step("failed", str(error), is_done=False, remedy=remedy)


def _start(cloud: Cloud, run_id: str) -> None:
    with tempfile.TemporaryDirectory(prefix="runctl-") as scratch:
        folder = Path(scratch) / "project"
        folder.mkdir()
        (folder / SCRIPT).write_text(inspect.getsource(counting_program))
        package = pack_project(scan_project(folder), Path(scratch) / "package.tar.gz")
        cloud.objects.put_if_absent(package.key, package.path)
    seconds = _STEP_SECONDS_NEAR if cloud.is_near else _STEP_SECONDS
    deadline = cloud.clock.now() + _LAUNCH_WITHIN
    request = {
        "script": SCRIPT,
        "args": [str(_STEPS), str(seconds)],
        "code": cloud.objects.uri(package.key),
        "instance_types": _types(cloud),
        "market": "spot",
        "max_attempts": _MAX_ATTEMPTS,
        "deadline": deadline.strftime("%Y-%m-%dT%H:%M:%SZ"),
    }
    cloud.workflow.start_run(run_id, request)


def _add_cost(cloud: Cloud, result: VerifiedRun) -> None:
    """Add the machine time of the run and what it cost at the current prices."""
    attempts = [at for at in cloud.ledger.attempts(result.run_id) if at.was_launched]
    times = machine_times(attempts, now=cloud.clock.now())
    used = [
        (Pool.parse(attempt.pool), sum(time.values(), timedelta(0)))
        for attempt, time in zip(attempts, times, strict=True)
    ]
    result.machine_time = sum((duration for _, duration in used), timedelta(0))
    prices = _prices(cloud, [pool for pool, _ in used])
    if all(pool in prices for pool, _ in used):
        costs = (prices[pool] * Decimal(time.total_seconds()) / 3600 for pool, time in used)
        result.cost = sum(costs, Decimal(0))
