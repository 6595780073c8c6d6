"""A run in which everything happened, for tests of reports and of their displays."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

from runctl.model.outcome import Outcome, OutcomeKind
from runctl.model.request import RunRequest
from runctl.model.run import AttemptStage, Existing, Launched, Run
from runctl.model.saving import Saving
from runctl.model.versions import PackageVersion, Versions
from tests.attempts import make_attempt

NOW = datetime(2026, 11, 28, 12, tzinfo=timezone.utc)
TRACEBACK = "exit code 1: Traceback (most recent call last):\n  line 3\nValueError: <no> & more"


def ago(**since: float) -> datetime:
    return NOW - timedelta(**since)


RUN = Run(
    run_id="lm",
    request=RunRequest.from_stored(
        {
            "script": "train.py",
            "args": ["--epochs", "3", "--api-key", "hunter2"],
            "code": "s3://bucket/code/a.tar.gz",
            "env": {"MODE": "fast"},
            "retry": {"exit_codes": [1], "max_failures": 2},
        }
    ),
    started_at=ago(hours=5),
    execution="lm-r2",
    execution_arn="arn:aws:states:us-east-1:123456789012:execution:runctl-train:lm-r2",
    executions=2,
    first_attempt=4,
    fence=5,
    step=450,
    save=9,
    best_step=450,
    newest="runs/lm/checkpoints/manifests/000000000009-0005.json",
    committed_at=ago(minutes=3),
)
ATTEMPTS = (
    make_attempt(
        1,
        run_id="lm",
        stage=AttemptStage.ENDED,
        source=Launched("{}"),
        instance_id="i-0000000000000001",
        pool="g5.xlarge/us-east-1a/spot",
        has_token=True,
        launched_at=ago(hours=5),
        running_at=ago(hours=4, minutes=58),
        heartbeat_at=ago(hours=3),
        noticed_at=ago(hours=3, minutes=1),
        ended_at=ago(hours=3),
        phase="done",
        step=400,
        timeline={"booted": ago(hours=4, minutes=59), "exited": ago(hours=3)},
        saving=Saving(missed_grace=timedelta(seconds=30)),
        ended=Outcome(kind=OutcomeKind.INTERRUPTED, reason="EC2 takes the instance", step=412),
    ),
    make_attempt(
        2,
        run_id="lm",
        stage=AttemptStage.ENDED,
        source=Launched("{}"),
        ended_at=ago(hours=2, minutes=50),
        ended=Outcome(kind=OutcomeKind.NO_CAPACITY, reason="no pool has capacity"),
    ),
    make_attempt(
        3,
        run_id="lm",
        stage=AttemptStage.ENDED,
        source=Existing("i-0000000000000002"),
        instance_id="i-0000000000000002",
        pool="g5.2xlarge/us-east-1b/on-demand",
        launched_at=ago(hours=2, minutes=49),
        running_at=ago(hours=2, minutes=48),
        ended_at=ago(hours=2),
        resume_step=412,
        resume_save=7,
        warning="the disk is nearly full",
        saving=Saving(missed_grace=timedelta(seconds=30)),
        ended=Outcome(kind=OutcomeKind.FAILED, exit_code=1, reason=TRACEBACK, save=8),
    ),
    make_attempt(
        4,
        run_id="lm",
        stage=AttemptStage.ENDED,
        source=Launched("{}"),
        instance_id="i-0000000000000004",
        pool="g5.xlarge/us-east-1a/spot",
        launched_at=ago(hours=1, minutes=50),
        ended_at=ago(minutes=30),
        resume_save=8,
        ended=Outcome(kind=OutcomeKind.LOST, reason="silence"),
    ),
    make_attempt(
        5,
        run_id="lm",
        stage=AttemptStage.RUNNING,
        source=Launched("{}"),
        instance_id="i-0000000000000005",
        pool="g5.xlarge/us-east-1c/spot",
        has_token=True,
        launched_at=ago(minutes=29),
        running_at=ago(minutes=27),
        heartbeat_at=ago(seconds=9),
        phase="train",
        resume_save=8,
        step=455,
        metrics={"loss": 0.125, "step": 455.0, "epoch": 4.0},
        timeline={"booted": ago(minutes=28), "started": ago(minutes=27)},
        saving=Saving(
            every=timedelta(minutes=4, seconds=10),
            cost=timedelta(seconds=2.125),
            uptime=timedelta(hours=2, minutes=10),
            size_bytes=1_200_000_000,
            bytes_per_second=56e6,
            last_save=timedelta(seconds=24),
            notice=timedelta(seconds=110),
        ),
        warning="an instance type has no spare capacity",
    ),
)
VERSIONS = Versions(
    attempt=1,
    python="3.12.3",
    platform="x86_64",
    packages=(PackageVersion(name="torch", version="2.8.0"),),
)
