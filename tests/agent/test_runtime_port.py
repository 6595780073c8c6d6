"""A whole attempt with another runtime: the session needs only the port of a program."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from runctl.agent.attempt import AttemptRunner
from runctl.agent.instance.paths import Paths
from runctl.agent.reporting.secret_mask import SecretMask
from runctl.agent.signals.mailbox import Mailbox, StopCause, StopRequest
from runctl.aws.checkpoints import CheckpointStore
from runctl.aws.deployment import Deployment
from runctl.aws.services import AwsServices
from runctl.aws.trial_judge import TrialJudge
from runctl.model.node import NodeProgress
from runctl.model.saving_options import CheckpointOptions
from runctl.model.session_credentials import SessionCredentials
from tests.agent.conftest import REGION, make_client
from tests.agent.machine import VENV, Cloud, wait_until
from tests.agent.planting import plant
from tests.agent.recording_runtime import RecordingProgram, RecordingRuntime
from tests.agent_settings import make_settings


class Clients:
    """The clients of a test's cloud, with Step Functions as the double of its tokens."""

    def __init__(self, cloud: Cloud) -> None:
        self._clients = {
            **cloud.clients,
            "stepfunctions": make_client("stepfunctions", cloud.tokens.url),
        }

    def get(self, service: str) -> Any:
        return self._clients[service]


def _no_session() -> SessionCredentials:
    raise AssertionError("these programs request no credentials")


class Attempt:
    """An agent in this process, whose programs do what `setup` says."""

    def __init__(
        self, cloud: Cloud, root: Path, setup: Callable[[RecordingProgram], None], *, number: int
    ) -> None:
        paths = Paths(root)
        paths.make()
        paths.fence.write_text("loaded\n")
        self.mailbox = Mailbox()
        self.runtime = RecordingRuntime(self.mailbox.wake, setup=setup)
        settings = make_settings(
            root, run_id=cloud.run_id, attempt=number, instance_id=f"i-{number}", region=REGION,
            table=cloud.name, bucket=cloud.name, log_group=cloud.name,
        )  # fmt: skip
        deployment = Deployment(
            region=REGION, table=cloud.name, bucket=cloud.name, log_group=cloud.name
        )
        services = AwsServices(Clients(cloud), deployment)
        site = next(VENV.glob("lib/python*/site-packages"))
        self.runner = AttemptRunner(
            settings,
            services,
            lambda _engine: self.runtime,
            mailbox=self.mailbox,
            vendor=site,
            mask=SecretMask(),
            follow=lambda _path: None,
            earlier=NodeProgress(),
            session_of_trainer=_no_session,
            judge=TrialJudge(services.clients.get, prove=_no_session),
        )
        self.shut_down: list[bool] = []
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self) -> None:
        self.shut_down.append(self.runner.run())
        self.runner.finish_background_work()

    @property
    def program(self) -> RecordingProgram:
        """The program that was started last, as soon as there is one."""
        return wait_until(lambda: self.runtime.programs)[-1]

    def stop(self, cause: StopCause, *, seconds: float | None = None) -> None:
        now = datetime.now(timezone.utc)
        deadline = None if seconds is None else now + timedelta(seconds=seconds)
        self.mailbox.end(
            StopRequest(cause=cause, reason=cause.name, detected=now, deadline=deadline)
        )

    def end(self) -> None:
        self.thread.join(120)
        assert not self.thread.is_alive()


Begin = Callable[..., Attempt]


@pytest.fixture
def begin(cloud: Cloud, tmp_path: Path) -> Iterator[Begin]:
    """Start an attempt that already has its token."""
    begun: list[Attempt] = []

    def begin_attempt(
        setup: Callable[[RecordingProgram], None] = lambda _program: None,
        *,
        number: int = 1,
        **request: Any,
    ) -> Attempt:
        if number == 1:
            cloud.create_run("print('not run by this runtime')", **request)
            cloud.open_attempt()
            cloud.give_token()
        begun.append(Attempt(cloud, tmp_path / "machine", setup, number=number))
        return begun[-1]

    yield begin_attempt
    for attempt in begun:
        attempt.stop(StopCause.FENCED)
        attempt.thread.join(60)


def save(program: RecordingProgram, name: str, content: bytes = b"x") -> None:
    (program.contract.checkpoint / name).write_bytes(content)


def files(cloud: Cloud) -> dict[str, int]:
    """Return the files of the newest checkpoint with their sizes."""
    store = CheckpointStore(cloud.clients["s3"], bucket=cloud.name, run_id=cloud.run_id)
    entries = store.get_manifest(cloud.run().newest or "").entries
    return {entry.path: entry.size_bytes for entry in entries if entry.kind == "file"}


def test_program_that_exits_with_0_completes_the_run_with_its_last_save(
    cloud: Cloud, begin: Begin
) -> None:
    attempt = begin(args=("--fast",), env={"SEED": "7"})
    contract = attempt.program.contract
    assert contract.command[-2:] == ("train.py", "--fast")
    assert contract.environment["SEED"] == "7"
    assert contract.environment["RUNCTL_CHECKPOINT_DIR"] == str(contract.checkpoint)
    assert contract.credentials == {}
    save(attempt.program, "step-7.bin")
    attempt.program.exit(0)
    attempt.end()
    assert cloud.outcome() == {"kind": "completed", "reason": "", "exit_code": 0, "step": 7}
    assert files(cloud) == {"step-7.bin": 1}
    assert attempt.program.calls == ["kill", "close"]
    assert attempt.runtime.calls == ["open", "start", "kill_all", "close"]
    assert attempt.shut_down == [True]


def test_checkpoint_request_reaches_the_program(begin: Begin) -> None:
    attempt = begin()
    program = attempt.program
    attempt.mailbox.ask_for_checkpoint()
    wait_until(lambda: "request_save" in program.calls)


def test_program_saves_when_it_is_asked_to_stop(cloud: Cloud, begin: Begin) -> None:
    def setup(program: RecordingProgram) -> None:
        def finish() -> None:
            save(program, "step-9.bin")
            program.exit(0)

        program.when_stopped = finish

    attempt = begin(setup)
    assert attempt.program.exit_code is None
    attempt.stop(StopCause.NOTICE, seconds=60)
    attempt.end()
    outcome = cloud.outcome()
    assert (outcome["kind"], outcome["reason"], outcome["step"]) == ("interrupted", "NOTICE", 9)
    assert attempt.program.calls == ["request_stop", "kill", "close"]
    assert attempt.shut_down == [False], "EC2 takes the instance"


def test_program_that_does_not_end_in_its_grace_is_killed_and_the_file_that_it_writes_is_torn(
    cloud: Cloud, begin: Begin
) -> None:
    def setup(program: RecordingProgram) -> None:
        def begin_save() -> None:
            program.open_files = {"step-2.bin"}
            save(program, "step-2.bin")

        program.when_stopped = begin_save

    attempt = begin(setup, checkpoint=CheckpointOptions(grace_seconds=1))
    save(attempt.program, "step-1.bin")
    wait_until(lambda: cloud.run().step == 1)
    attempt.stop(StopCause.NOTICE, seconds=60)
    attempt.end()
    outcome = cloud.outcome()
    assert (outcome["kind"], outcome["exit_code"], outcome["step"]) == ("interrupted", -9, 1)
    assert files(cloud) == {"step-1.bin": 1}
    saving = cloud.attempt().saving
    assert saving is not None
    assert saving.missed_grace == timedelta(seconds=1)


def test_program_whose_ranks_wait_for_a_lost_node_is_killed_before_the_end_of_its_grace(
    cloud: Cloud, begin: Begin
) -> None:
    attempt = begin(checkpoint=CheckpointOptions(grace_seconds=90))
    save(attempt.program, "step-1.bin")
    wait_until(lambda: cloud.run().step == 1)
    attempt.mailbox.end(
        StopRequest(
            cause=StopCause.PEER,
            reason="node 2 (i-2) is gone",
            detected=datetime.now(timezone.utc),
            lost_ranks=(2,),
            kill_at=time.monotonic(),
        )
    )
    attempt.end()
    outcome = cloud.outcome()
    assert (outcome["kind"], outcome["exit_code"], outcome["step"]) == ("interrupted", -9, 1)
    assert outcome["lost_ranks"] == [2]
    assert attempt.program.calls == ["request_stop", "kill", "close"]


def test_writer_that_lingers_after_the_exit_is_waited_for(cloud: Cloud, begin: Begin) -> None:
    attempt = begin()
    program = attempt.program

    def close() -> None:
        save(program, "step-3.bin", b"whole")
        program.open_files = set()

    save(program, "step-3.bin", b"half")
    program.open_files = {"step-3.bin"}
    program.lingering = [lambda: None, lambda: None, close]
    program.exit(0)
    attempt.end()
    assert (cloud.outcome()["kind"], cloud.outcome()["step"]) == ("completed", 3)
    assert files(cloud) == {"step-3.bin": 5}
    assert program.lingering == []


def test_program_that_continues_in_the_background_has_failed(cloud: Cloud, begin: Begin) -> None:
    attempt = begin(lambda program: setattr(program, "background", "42 (train.py)"))
    attempt.program.exit(0)
    attempt.end()
    assert cloud.outcome()["kind"] == "failed"
    assert "left process 42 (train.py) running" in cloud.outcome()["reason"]


def test_program_of_an_attempt_that_lost_the_run_is_killed_and_nothing_is_reported(
    cloud: Cloud, begin: Begin
) -> None:
    attempt = begin()
    save(attempt.program, "step-1.bin")
    attempt.stop(StopCause.FENCED)
    attempt.end()
    assert attempt.program.calls == ["kill", "close"]
    assert cloud.tokens.reports == []


def test_program_that_dies_from_a_checkpoint_is_restarted_from_the_previous_one(
    cloud: Cloud, begin: Begin
) -> None:
    cloud.create_run("")
    cloud.open_attempt()
    cloud.give_token()
    plant(cloud, {"ckpt-1/a.bin": b"one"}, step=1)
    plant(cloud, {"ckpt-1/a.bin": b"one", "ckpt-2/a.bin": b"two"}, step=2)
    cloud.open_attempt(2)
    cloud.give_token(2)
    found: list[list[str]] = []

    def setup(program: RecordingProgram) -> None:
        found.append(sorted(path.name for path in program.contract.checkpoint.iterdir()))
        program.words = "RuntimeError: the checkpoint cannot be loaded"
        program.lived = timedelta(seconds=1)
        program.when_observed = lambda: program.exit(1 if len(found) == 1 else 0) or ""

    attempt = begin(setup, number=2)
    attempt.end()
    assert found == [["ckpt-1", "ckpt-2"], ["ckpt-1"]]
    assert cloud.outcome()["kind"] == "completed"
    assert attempt.runtime.calls == ["open", "start", "start", "kill_all", "close"]
