"""Following a run, as a real process: announcements, exit codes and Ctrl-C."""

from io import StringIO

import pytest

from runctl.aws.deployment import read_deployment
from runctl.cli.cloud import Cloud
from runctl.cli.display.console import PrintableConsole
from runctl.cli.display.following import PlainDisplay
from runctl.model.outcome import OutcomeKind, RunStatus
from runctl.model.run import AttemptStage
from runctl.model.shard_progress import ShardProgress
from runctl.report.follower import CHECKPOINT_SECONDS, Follower
from tests.attempts import make_attempt
from tests.cli.deployed import now


def start(start_runctl, *words):
    return start_runctl("aws", "train", "--name", "x", *words, "train.py")


def test_ctrl_c_leaves_the_run_running_and_prints_how_to_attach_again(
    project, deployed, start_runctl
):
    with start(start_runctl) as process:
        process.wait_for("x has started")
        deployed.begin("x")
        deployed.train("x", 1)
        deployed.say("x", 1, "a line of the trainer")
        process.wait_for("a line of the trainer")
        process.interrupt()
        done = process.finish()
    assert done.code == 130
    assert "left x running" in done.stderr
    assert "`runctl logs x -f`" in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert deployed.workflow.is_running(deployed.workflow.execution_arn("x"))


def test_ctrl_c_with_json_still_prints_one_document(project, deployed, start_runctl):
    with start(start_runctl, "--json") as process:
        process.wait_for("x has started")
        deployed.begin("x")
        deployed.train("x", 1)
        process.wait_for("attempt 1")
        process.interrupt()
        done = process.finish()
    assert done.code == 130
    assert (done.document["run_id"], done.document["status"]) == ("x", "running")


def test_the_events_of_a_run_are_announced_in_order(project, deployed, start_runctl):
    with start(start_runctl, "--json") as process:
        process.wait_for("x has started")
        deployed.begin("x")
        deployed.train("x", 1)
        deployed.progress("x", 1, 10)
        process.wait_for("attempt 1 trains on m5.large/us-east-1a/spot from the beginning")
        deployed.commit("x", 1, 10)
        process.wait_for("checkpoint of step 10")
        deployed.notice("x", 1)
        process.wait_for("attempt 1 has an interruption notice")
        deployed.end_attempt("x", 1, OutcomeKind.INTERRUPTED, "reclaimed by EC2")
        process.wait_for("attempt 1 interrupted: reclaimed by EC2")
        deployed.train("x", 2)
        deployed.progress("x", 2, 12, start=10)
        process.wait_for("attempt 2 trains on m5.large/us-east-1a/spot from step 10")
        deployed.say("x", 2, "the last words")
        deployed.end_attempt("x", 2, OutcomeKind.COMPLETED)
        deployed.end("x", RunStatus.COMPLETED, "the trainer is done")
        done = process.finish()
    lines = done.stderr.splitlines()
    assert (done.code, done.document["status"], done.document["interruptions"]) == (
        0,
        "completed",
        1,
    )
    assert lines.index("the last words") < lines.index("── attempt 2 completed")
    # An unchanged state is announced once.
    assert len(lines) == len(set(lines))


class Patient(Cloud):
    """A deployment of which every read is due for an announcement."""

    pause = CHECKPOINT_SECONDS


def test_shards_are_announced_while_an_attempt_is_at_them(deployed):
    process = {"input": "s3://data/raw/", "output": "s3://data/clean/"}

    def progress(number: int, **counts: float) -> None:
        deployed.progress("x", number, 0, shards=ShardProgress(total=6, **counts))

    def first() -> None:
        deployed.train("x", 1)
        progress(1)

    def lost() -> None:
        # The last shards of an attempt may be reported together with its end.
        progress(1, done=3, per_second=0.5)
        deployed.end_attempt("x", 1, OutcomeKind.LOST, "silence")

    def second() -> None:
        deployed.train("x", 2)
        progress(2, done=3, found=3)

    def completed() -> None:
        progress(2, done=6, found=3, per_second=0.5)
        deployed.end_attempt("x", 2, OutcomeKind.COMPLETED, "all 6 shards are done")

    steps = iter(
        [
            first,
            lambda: progress(1, done=2, per_second=0.5),
            lost,
            lambda: None,
            second,
            lambda: progress(2, done=5, found=3, per_second=0.05),
            completed,
            lambda: None,
            lambda: deployed.end("x", RunStatus.COMPLETED, "all 6 shards are done"),
        ]
    )
    console = PrintableConsole(file=StringIO(), width=100, markup=False)
    cloud = Patient(deployed.clients, read_deployment(deployed.clients.get("ssm")), is_near=True)
    arn = deployed.begin("x", kind="process", process=process).execution_arn
    Follower(
        cloud, "x", arn, PlainDisplay(console), sleep=lambda _: next(steps, lambda: None)()
    ).follow()
    where = "processes shards on m5.large/us-east-1a/spot"
    assert console.file.getvalue().splitlines() == [
        f"── attempt 1 {where}",
        "── shards [--------------------] 0 of 6",
        "── shards [######--------------] 2 of 6, 30 a minute, 8s left",
        "── attempt 1 lost: silence",
        f"── attempt 2 {where}",
        "── shards [##########----------] 3 of 6",
        "── shards [################----] 5 of 6, 3 a minute, 20s left",
        "── attempt 2 completed: all 6 shards are done",
    ]


def test_a_request_refused_by_prepare_run_exits_2_with_the_cause(
    project, deployed, runctl, monkeypatch
):
    from runctl.aws.workflow import Execution, StepFunctions

    def refused(self: StepFunctions, arn: str) -> Execution:
        return Execution(
            arn=arn, name="x", status="FAILED", started_at=now(), ended_at=now(),
            error="InvalidRequestError", cause="market: 'x' is not a valid market",
        )  # fmt: skip

    monkeypatch.setattr(StepFunctions, "find_execution", refused)
    done = runctl("aws", "train", "--name", "x", "train.py")
    assert (done.code, "market: 'x' is not a valid market" in done.stderr) == (2, True)


def test_an_execution_stopped_before_the_run_began_is_reported(project, deployed, start_runctl):
    with start(start_runctl) as process:
        process.wait_for("x has started")
        deployed.workflow.stop_run(deployed.workflow.execution_arn("x"), cause="somebody")
        done = process.finish()
    assert (done.code, "ended as ABORTED before the run began" in done.stderr) == (1, True)


def test_a_temporary_network_failure_does_not_end_following(project, deployed, runctl, monkeypatch):
    from runctl.aws.ledger import DynamoLedger
    from runctl.model.errors import TransientError

    monkeypatch.setattr("runctl.cli.cloud.POLL_SECONDS", 0.01)
    find, failures = DynamoLedger.find_run, iter(range(4))

    def find_run(self: DynamoLedger, run_id: str):
        found = find(self, run_id)
        if found is not None and next(failures, None) is not None:
            raise TransientError("AWS cannot be reached")
        return found

    start_run = type(deployed.workflow).start_run

    def start_and_end(self, name, document):
        arn = start_run(self, name, document)
        deployed.begin("x")
        deployed.end("x", RunStatus.COMPLETED)
        monkeypatch.setattr(DynamoLedger, "find_run", find_run)
        return arn

    monkeypatch.setattr(type(deployed.workflow), "start_run", start_and_end)
    done = runctl("aws", "train", "--name", "x", "train.py")
    assert done.code == 0
    assert done.stderr.count("cannot be reached; trying again") == 1


@pytest.mark.parametrize("status", ["TIMED_OUT", "ABORTED"])
def test_an_execution_without_clean_up_is_not_followed_forever(
    project, deployed, runctl, monkeypatch, status
):
    from datetime import timedelta

    from runctl.aws.workflow import Execution, StepFunctions

    def ended(self: StepFunctions, arn: str) -> Execution:
        deployed.ledger.find_run("x") or deployed.ledger.create_run(held)
        long_ago = now() - timedelta(hours=1)
        return Execution(arn=arn, name="x", status=status, started_at=long_ago, ended_at=long_ago)

    held = deployed.begin("x2")
    held = type(held)(
        run_id="x", request=held.request, started_at=now(), execution="x",
        execution_arn=deployed.workflow.execution_arn("x"),
    )  # fmt: skip
    monkeypatch.setattr("runctl.cli.cloud.POLL_SECONDS", 0.01)
    monkeypatch.setattr(StepFunctions, "find_execution", ended)
    done = runctl("aws", "train", "--name", "x", "train.py")
    assert (done.code, "clean-up did not run" in done.stderr) == (1, True)


def test_the_live_view_fits_a_narrow_terminal_and_shows_what_matters(deployed):
    from io import StringIO

    from rich.console import Console

    from runctl.cli.display.following import following_view
    from runctl.report.run_document import document_of

    run = deployed.begin("a-run-with-a-rather-long-name-20261124-064512-ab12")
    attempt = make_attempt(
        3, run_id=run.run_id, stage=AttemptStage.RUNNING, instance_id="i-1",
        pool="g5.2xlarge/eu-central-1b/spot", launched_at=now(), phase="train", step=4200,
        metrics={"loss": 0.123456, "step": 4200, "accuracy": 0.987654},
    )  # fmt: skip
    console = Console(file=StringIO(), width=60, force_terminal=False)
    document = document_of(run, [attempt], now=now())
    console.print(following_view(run.run_id, document))
    shown = console.file.getvalue()
    assert all(len(line) <= 60 for line in shown.splitlines())
    for expected in ("running", "attempt 3", "step 4200", "loss 0.1235", "none yet", "Ctrl-C"):
        assert expected in " ".join(shown.split())
