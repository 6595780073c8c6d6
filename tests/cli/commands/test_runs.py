"""The commands about runs: list, status, logs, stop, resume, checkpoints."""

import json
import time
from dataclasses import replace
from datetime import datetime, timedelta, timezone

import pytest

from runctl.agent.reporting.display_lines import DisplayLines
from runctl.aws.versions import VersionStore
from runctl.cli.commands.logs import read_since
from runctl.model.errors import InvalidRequestError
from runctl.model.log_fragments import Fragment, marked
from runctl.model.outcome import Outcome, OutcomeKind, RunStatus
from runctl.model.run import Run
from runctl.model.saving import Saving
from runctl.model.versions import PackageVersion, Versions
from tests.cli.deployed import BUCKET, GROUP, now

NOW = datetime(2026, 11, 24, 12, tzinfo=timezone.utc)


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr("runctl.cli.cloud.POLL_SECONDS", 0.05)


@pytest.fixture
def story(deployed):
    """A run that was interrupted once and is training again."""
    deployed.begin("lm", at=now() - timedelta(hours=2))
    deployed.train("lm", 1, since=7000)
    deployed.progress("lm", 1, 40)
    deployed.commit("lm", 1, 38)
    deployed.say("lm", 1, "one", "two")
    deployed.say("lm", 1, "agent one", suffix="-agent")
    deployed.notice("lm", 1)
    deployed.end_attempt("lm", 1, OutcomeKind.INTERRUPTED, "reclaimed by EC2")
    deployed.train("lm", 2, pool="m5.xlarge/us-east-1b/spot")
    deployed.progress("lm", 2, 50, start=38)
    deployed.say("lm", 2, "three")
    return deployed


def test_a_list_has_the_newest_first_with_derived_statuses(deployed, runctl):
    for number, status in enumerate([RunStatus.COMPLETED, RunStatus.FAILED, None]):
        deployed.begin(f"run-{number}", at=now() - timedelta(hours=9 - number))
        if status:
            deployed.end(f"run-{number}", status)
    deployed.train("run-2", 1)
    found = runctl("list", "--json").document["runs"]
    assert [(run["run_id"], run["status"]) for run in found] == [
        ("run-2", "running"),
        ("run-1", "failed"),
        ("run-0", "completed"),
    ]
    assert [run["run_id"] for run in runctl("list", "--json", "--limit", "2").document["runs"]] == [
        "run-2",
        "run-1",
    ]
    for status, names in {"failed": ["run-1"], "running": ["run-2"], "pending": []}.items():
        listed = runctl("list", "--json", "--status", status).document["runs"]
        assert [run["run_id"] for run in listed] == names
    assert "no runs yet" not in runctl("list").stdout


def test_an_empty_list_suggests_the_first_command(deployed, runctl):
    assert "runctl aws train" in runctl("list").stdout
    assert runctl("list", "--json").document == {"runs": []}


def test_an_unknown_status_is_refused_with_the_known_ones(runctl):
    done = runctl("list", "--status", "dead")
    assert (done.code, "recovering, completed" in done.stderr) == (2, True)


def test_failures_are_counted_apart_from_interruptions(deployed, runctl):
    deployed.begin("lm", retry={"exit_codes": [1], "max_failures": 2})
    for number, outcome in enumerate(
        [
            Outcome(kind=OutcomeKind.INTERRUPTED, reason="reclaimed by EC2"),
            Outcome(kind=OutcomeKind.FAILED, exit_code=1, reason="exit code 1: no network"),
            Outcome(kind=OutcomeKind.FAILED, exit_code=1, reason="exit code 1: no space"),
        ],
        start=1,
    ):
        deployed.train("lm", number)
        deployed.ledger.end_attempt("lm", number, outcome=outcome, now=now())
    document = runctl("status", "lm", "--json").document
    assert (document["interruptions"], document["failures"]) == (1, 2)
    page = runctl("status", "lm").stdout
    assert "2 of the program; up to 2 are retried" in page


def test_status_has_everything_but_the_token(story, runctl):
    done = runctl("status", "lm", "--json")
    document = done.document
    assert (document["status"], document["step"], document["interruptions"]) == ("running", 38, 1)
    first, second = document["attempts"]
    assert first["outcome"] == {"kind": "interrupted", "reason": "reclaimed by EC2", "step": 38}
    assert (second["resume_step"], second["step"], second["stage"]) == (38, 50, "running")
    assert document["request"]["script"] == "train.py"
    assert "secret-token" not in done.stdout


@pytest.mark.parametrize("width", ["80", "140"])
def test_status_is_a_page_that_fits(story, runctl, width):
    done = runctl("status", "lm", env={"COLUMNS": width})
    assert done.code == 0
    assert all(len(line) <= int(width) for line in done.stdout.splitlines())
    for expected in (
        "lm  running",
        "start → 40",
        "38 → 50",
        "m5.xlarge/us-east-1b/spot",
        "step 38",
    ):
        assert expected in done.stdout
    assert "reclaimed by EC2" in done.stdout
    assert "\x1b" not in done.stdout


SAVING = Saving(
    every=timedelta(minutes=4, seconds=10),
    cost=timedelta(seconds=2.1),
    uptime=timedelta(hours=2, minutes=10),
    size_bytes=1_200_000_000,
    bytes_per_second=56e6,
    last_save=timedelta(seconds=24),
    notice=timedelta(seconds=110),
)


@pytest.mark.parametrize(
    ("expected", "lines"),
    [
        (
            {},
            [
                "every 4m 10s: a save costs 2.1s, an interruption every 2h 10m is expected",
                "1.2 GB at 56.0 MB/s fits into a notice: 24s of 1m 50s",
            ],
        ),
        (
            {"cost": None, "uptime": None, "bytes_per_second": None, "last_save": None},
            ["every 4m 10s, until the first save shows the cost of a save", "1.2 GB"],
        ),
        (
            {"is_fixed": True, "last_save": timedelta(seconds=200)},
            ["every 4m 10s, as requested", "does not fit into a notice: 3m 20s of 1m 50s"],
        ),
    ],
)
def test_status_explains_the_save_interval_and_what_fits_into_a_notice(
    story, runctl, expected, lines
):
    story.progress("lm", 2, 51, saving=replace(SAVING, **expected))
    page = runctl("status", "lm", env={"COLUMNS": "100"}).stdout
    for label, line in zip(("interval", "last save"), lines, strict=True):
        assert any(line.startswith(label) and line in line for line in page.splitlines()), page


def test_status_document_has_the_figures_of_the_interval(story, runctl):
    story.progress("lm", 2, 51, saving=SAVING)
    first, second = runctl("status", "lm", "--json").document["attempts"]
    assert first["saving"] is None
    assert second["saving"] == {
        "every_seconds": 250, "is_fixed": False, "cost_seconds": 2.1, "uptime_seconds": 7800,
        "size_bytes": 1_200_000_000, "bytes_per_second": 56e6, "last_save_seconds": 24,
        "notice_seconds": 110, "fits_notice": True,
    }  # fmt: skip


def test_an_ended_attempt_has_no_save_interval(story, runctl):
    story.progress("lm", 2, 51, saving=SAVING)
    story.end_attempt("lm", 2, OutcomeKind.INTERRUPTED)
    assert "interval" not in runctl("status", "lm").stdout


def test_an_unknown_run_is_refused_with_similar_names(story, runctl):
    done = runctl("status", "lmm")
    assert (done.code, "did you mean lm?" in done.stderr) == (4, True)
    assert runctl("status", "zzzzz", "--json").document["error"]["type"] == "NotFoundError"


def test_a_run_that_has_only_just_started_is_reported_as_such(deployed, runctl):
    deployed.workflow.start_run("fresh", {"script": "x"})
    done = runctl("status", "fresh")
    assert (done.code, "has only just started" in done.stderr) == (4, True)


def test_logs_are_the_trainers_lines_and_nothing_else_on_stdout(story, runctl):
    done = runctl("logs", "lm")
    assert done.stdout == "one\ntwo\nthree\n"
    assert "── attempt 2" in done.stderr
    assert runctl("logs", "lm", "--attempt", "1").stdout == "one\ntwo\n"
    assert runctl("logs", "lm", "--agent").stdout == "agent one\n"
    assert runctl("logs", "lm", "--since", "1h").stdout == "one\ntwo\nthree\n"
    lines = runctl("logs", "lm", "--json").document["lines"]
    assert [(line["attempt"], line["text"]) for line in lines] == [
        (1, "one"),
        (1, "two"),
        (2, "three"),
    ]


def test_logs_begin_with_the_output_of_the_build(deployed, runctl):
    deployed.begin("built", docker={"dockerfile": "Dockerfile"})
    deployed.train("built", 1)
    deployed.say("built", 1, "step 1")
    logs = deployed.clients.get("logs")
    logs.create_log_stream(logGroupName=GROUP, logStreamName="built/image/7")
    lines = ["[Container] 2026/11/29 Running command (", "docker build .", ")", "Step 1/2 : FROM a"]
    at = int(time.time() * 1000)
    logs.put_log_events(
        logGroupName=GROUP,
        logStreamName="built/image/7",
        logEvents=[{"timestamp": at, "message": line} for line in lines],
    )
    done = runctl("logs", "built")
    assert done.stdout == "Step 1/2 : FROM a\nstep 1\n"
    assert "── image" in done.stderr
    assert runctl("logs", "built", "--attempt", "1").stdout == "step 1\n"
    assert [line["attempt"] for line in runctl("logs", "built", "--json").document["lines"]] == [
        0,
        1,
    ]


def test_logs_join_the_pieces_of_a_line(story, runctl):
    line = "é" * 700_000
    content = f"{line}\nfour\n{{".encode()
    story.say("lm", 2, *DisplayLines("stdout").feed(content, 0))
    story.say("lm", 2, *marked_as_unfinished("Epoch 1 ..."))
    assert runctl("logs", "lm", "--attempt", "2").stdout == f"three\n{line}\nfour\nEpoch 1 ...\n"
    lines = runctl("logs", "lm", "--json").document["lines"]
    assert [event["text"] for event in lines[2:]] == ["three", line, "four", "Epoch 1 ..."]
    assert {event["attempt"] for event in lines[2:]} == {2}


@pytest.mark.parametrize("as_json", [False, True])
def test_following_logs_joins_a_line_with_others_between(story, start_runctl, as_json):
    lines = DisplayLines("stderr")
    first = [*lines.feed(b"Epoch 1 ...", 0), *lines.feed(b"", 60), "of the other stream"]
    rest = lines.feed(b" done\n", 61)
    with start_runctl("logs", "lm", "-f", *(["--json"] if as_json else [])) as process:
        if as_json:
            # It prints nothing before the end, so the rest may come at any time.
            story.say("lm", 2, *first)
            story.say("lm", 2, *rest)
        else:
            process.wait_for("── attempt 2")
            story.say("lm", 2, *first, *rest)
        story.end_attempt("lm", 2, OutcomeKind.COMPLETED)
        story.end("lm", RunStatus.COMPLETED)
        done = process.finish()
    said = [line["text"] for line in done.document["lines"]] if as_json else done.stdout.split("\n")
    assert said[3:5] == ["of the other stream", "Epoch 1 ... done"]


def marked_as_unfinished(text):
    return [marked(Fragment(text=text, key="stderr:7", is_last=False))]


def test_logs_of_an_unknown_attempt_exit_4(story, runctl):
    assert runctl("logs", "lm", "--attempt", "9").code == 4


def test_following_logs_ends_with_the_run(story, start_runctl):
    with start_runctl("logs", "lm", "-f") as process:
        process.wait_for("── attempt 2")
        story.say("lm", 2, "four")
        story.end_attempt("lm", 2, OutcomeKind.COMPLETED)
        story.end("lm", RunStatus.COMPLETED)
        done = process.finish()
    assert (done.code, done.stdout) == (0, "one\ntwo\nthree\nfour\n")


def test_a_time_is_a_duration_before_now_or_an_instant():
    assert read_since("10m", now=NOW) == NOW - timedelta(minutes=10)
    assert read_since("2026-11-24T11:00:00Z", now=NOW) == NOW - timedelta(hours=1)


@pytest.mark.parametrize("text", ["yesterday", "10", "2026-11-24T11:00:00", "-5m", "5 weeks"])
def test_an_invalid_time_is_refused_with_examples(text):
    with pytest.raises(InvalidRequestError, match=r"--since: .* is not a time; write 10m"):
        read_since(text, now=NOW)


def test_checkpoints_mark_the_newest(story, runctl):
    story.commit("lm", 2, 45)
    document = runctl("checkpoints", "lm", "--json").document
    expected = [
        (checkpoint["step"], checkpoint["attempt"], checkpoint["is_newest"])
        for checkpoint in document["checkpoints"]
    ]
    assert expected == [(45, 2, True), (38, 1, False)]
    assert document["checkpoints"][0]["size_bytes"] == 1_500_000
    page = runctl("checkpoints", "lm").stdout
    assert next(line for line in page.splitlines() if "newest" in line).split()[0] == "45"


def test_a_damaged_manifest_is_reported_and_hides_no_other(story, runctl):
    key = story.commit("lm", 2, 45)
    story.clients.get("s3").put_object(Bucket="runctl-bucket", Key=key, Body=b"{")
    document = runctl("checkpoints", "lm", "--json").document
    assert "cannot be read" in document["checkpoints"][0]["damage"]
    assert document["checkpoints"][1]["step"] == 38
    assert "cannot be read" in runctl("checkpoints", "lm").stdout


def test_a_run_without_checkpoints_is_reported_as_such(deployed, runctl):
    deployed.begin("new")
    assert "no checkpoint yet" in runctl("checkpoints", "new").stdout


# Stop and resume.


def test_stop_stops_the_execution_and_waits_for_the_end(story, start_runctl):
    with start_runctl("stop", "lm", "--json") as process:
        process.wait_for("stopping lm")
        arn = story.workflow.execution_arn("lm")
        assert story.workflow.find_execution(arn).status == "ABORTED"
        story.end_attempt("lm", 2, OutcomeKind.STOPPED)
        story.end("lm", RunStatus.STOPPED, "stopped")
        done = process.finish()
    assert (done.code, done.document["status"]) == (0, "stopped")


def test_ctrl_c_while_waiting_leaves_it_stopping(story, start_runctl):
    with start_runctl("stop", "lm", "--json") as process:
        process.wait_for("stopping lm")
        process.wait_for("waiting for the end of the run")
        process.interrupt()
        done = process.finish()
    assert (done.code, done.document["error"]["type"]) == (130, "KeyboardInterrupt")
    assert "continues to stop" in done.stderr


def test_stop_without_waiting_returns_at_once(story, runctl):
    done = runctl("stop", "lm", "--no-wait", "--json")
    assert (done.code, done.document["status"]) == (0, "running")
    assert not story.workflow.is_running(story.workflow.execution_arn("lm"))


def test_stopping_an_ended_run_is_not_an_error(story, runctl):
    story.end("lm", RunStatus.COMPLETED)
    done = runctl("stop", "lm")
    assert (done.code, "has already ended (completed)" in done.stderr) == (0, True)


def test_a_run_that_has_not_begun_can_be_stopped(deployed, runctl):
    deployed.workflow.start_run("fresh", {"script": "x"})
    done = runctl("stop", "fresh", "--json")
    assert (done.code, done.document) == (0, {"run_id": "fresh", "status": "stopped"})


def test_stopping_an_unknown_run_exits_4(deployed, runctl):
    assert runctl("stop", "nothing").code == 4


def test_resume_starts_the_next_execution_with_the_run_id_only(story, runctl):
    story.end("lm", RunStatus.STOPPED)
    done = runctl("resume", "lm", "--detach", "--json")
    assert (done.code, done.document["execution"]) == (0, "lm-r2")
    arn = story.workflow.execution_arn("lm-r2")
    described = story.clients.get("stepfunctions").describe_execution(executionArn=arn)
    assert described["input"] == '{"run_id": "lm"}'


def test_resume_with_a_fresh_environment_shows_the_versions_of_the_new_generation(story, runctl):
    def record(version: str, generation: int) -> None:
        package = PackageVersion(name="mypkg", version=version)
        store = VersionStore(story.clients.get("s3"), bucket=BUCKET, run_id="lm")
        store.of_generation(generation).record(
            Versions(attempt=1, python="3.12.3", platform="x86_64", packages=(package,))
        )

    record("1.0", 0)
    story.end("lm", RunStatus.STOPPED)
    runctl("resume", "lm", "--fresh-environment", "--detach")
    arn = story.workflow.execution_arn("lm-r2")
    described = story.clients.get("stepfunctions").describe_execution(executionArn=arn)
    assert json.loads(described["input"]) == {"run_id": "lm", "fresh_environment": True}
    assert "mypkg 1.0" in runctl("status", "lm").stdout  # until the execution has begun
    story.ledger.resume_run(
        "lm", execution="lm-r2", execution_arn=arn, first_attempt=3, fresh_environment=True
    )
    assert runctl("--json", "status", "lm").document["versions"] is None
    record("2.0", 1)
    assert "mypkg 2.0" in runctl("status", "lm").stdout


def test_resume_is_refused_until_the_run_has_ended(story, runctl):
    done = runctl("resume", "lm")
    assert (done.code, "has not ended" in done.stderr) == (2, True)
    assert story.executions() == ["lm"]


def test_resume_takes_the_next_name_after_a_refused_execution(story, runctl):
    story.end("lm", RunStatus.STOPPED)
    story.workflow.start_run("lm-r2", {"run_id": "lm"})
    story.workflow.stop_run(story.workflow.execution_arn("lm-r2"), cause="x")
    assert runctl("resume", "lm", "--detach", "--json").document["execution"] == "lm-r3"


def test_resume_says_with_what_a_run_that_processes_data_goes_on(deployed, runctl):
    places = {"input": "s3://data/raw/", "output": "s3://data/clean/"}
    deployed.begin("clean", kind="process", process=places)
    deployed.end("clean", RunStatus.STOPPED)
    done = runctl("resume", "clean", "--detach")
    assert "clean-r2 continues clean with the shards that are not done" in done.stdout


def test_a_second_resume_follows_the_first(story, runctl):
    story.end("lm", RunStatus.STOPPED)
    first = runctl("resume", "lm", "--detach", "--json").document
    assert runctl("resume", "lm", "--detach", "--json").document == first


def test_a_run_without_attempts_has_a_page(deployed, runctl):
    run: Run = deployed.begin("new")
    done = runctl("status", "new")
    assert (done.code, run.run_id in done.stdout, "none yet" in done.stdout) == (0, True, True)


def test_status_lists_the_pinned_versions_of_the_run(deployed, runctl):
    deployed.begin("new")
    assert runctl("--json", "status", "new").document["versions"] is None
    packages = tuple(
        PackageVersion(name=f"p{number}", version="1.0", commit="c0ffee" * 3 if number else "")
        for number in range(2)
    )
    versions = Versions(attempt=1, python="3.12.3", platform="x86_64", packages=packages)
    store = VersionStore(deployed.clients.get("s3"), bucket=BUCKET, run_id="new")
    store.record(versions)
    document = runctl("--json", "status", "new").document["versions"]
    assert Versions.from_document(document) == versions
    assert document["packages"][0] == {"name": "p0", "version": "1.0"}
    expected = "p0 1.0, p1 c0ffeec0ffee (since attempt 1, Python 3.12.3)"
    assert expected in runctl("status", "new").stdout


def test_status_counts_many_versions(deployed, runctl):
    deployed.begin("new")
    packages = tuple(PackageVersion(name=f"p{number}", version="1") for number in range(50))
    versions = Versions(attempt=2, python="3.12.3", platform="x86_64", packages=packages)
    VersionStore(deployed.clients.get("s3"), bucket=BUCKET, run_id="new").record(versions)
    assert "50 packages; see --json (since attempt 2, " in runctl("status", "new").stdout
