"""The contract of the ledger, for the table and for the fake of the control tests."""

import math
from dataclasses import replace
from datetime import timedelta

import pytest

from runctl.aws.ledger import DynamoLedger
from runctl.model.errors import FencedError, NotFoundError, RequestError, RunEndedError
from runctl.model.image import Image
from runctl.model.node import NodeId, NodeProgress, NodeStage
from runctl.model.outcome import Outcome, OutcomeKind, RunStatus
from runctl.model.pool import Pool
from runctl.model.request_parsing import parse_request
from runctl.model.run import AttemptStage, Existing, KeptNode, Launched, Run
from runctl.model.saving import Saving
from runctl.model.subject import Subject, pinned_keys
from tests.attempts import report
from tests.aws.conftest import make_table
from tests.control.fakes import START
from tests.control.memory_ledger import MemoryLedger

NOW = START
LATER = NOW + timedelta(minutes=5)
SAVING = Saving(every=timedelta(minutes=4), cost=timedelta(seconds=2.125), size_bytes=7)
LOST = Outcome(kind=OutcomeKind.LOST, reason="silence")
COMPLETED = Outcome(kind=OutcomeKind.COMPLETED, exit_code=0, step=7)


@pytest.fixture(params=["table", "memory"])
def ledger(request, aws):
    return DynamoLedger(*make_table()) if request.param == "table" else MemoryLedger()


def a_run(run_id="run-1", **changes):
    request = parse_request(
        {
            "script": "train.py",
            "code": "s3://bucket/code/a.tar.gz",
            "args": ["--epochs", "3"],
            "env": {"MODE": "fast"},
            "deadline": "2031-01-01T00:00:00+02:00",
            "checkpoint": {"dir": "saved", "keep_last": 2},
        }
    )
    run = Run(
        run_id=run_id,
        request=request,
        started_at=NOW,
        execution=run_id,
        execution_arn=f"arn:{run_id}",
    )
    return replace(run, **changes)


def launched(ledger, number=1, run_id="run-1"):
    ledger.open_attempt(run_id, number, launch_try=1, source=Launched("{}"), now=NOW)
    return ledger.record_launch(
        run_id, number, instance_ids=[f"i-{number}"], pool="m5.large/z/spot", now=NOW
    )


def training(ledger, number=1, token="token"):
    launched(ledger, number)
    return start(ledger, number, token)


def start(ledger, number, token="token", arn="arn:run-1"):
    return ledger.record_token("run-1", number, token=token, execution_arn=arn, now=NOW)


def end(ledger, status=RunStatus.FAILED, **where):
    return ledger.end_run("run-1", status=status, reason="enough", now=LATER, **where)


def test_a_run_is_read_back_as_it_was_written(ledger):
    assert ledger.create_run(a_run()) == a_run()
    assert ledger.find_run("run-1") == a_run()
    assert ledger.find_run_of_execution("run-1") == "run-1"


def test_the_first_image_that_is_recorded_is_that_of_all_attempts(ledger):
    ledger.create_run(a_run())
    first = Image(
        reference="r/a@sha256:1",
        digest="sha256:1",
        login="ecr",
        platform="linux/amd64",
        size_bytes=7,
        command=("python", "train.py"),
    )
    assert ledger.record_image("run-1", first) == first
    assert ledger.record_image("run-1", Image(reference="r/a@sha256:2")) == first
    assert ledger.find_run("run-1").image == first
    with pytest.raises(NotFoundError):
        ledger.record_image("run-2", first)


def test_only_the_attempt_with_the_fence_stores_the_metrics_of_the_result(ledger):
    ledger.create_run(a_run())
    training(ledger)
    ledger.record_metrics("run-1", 1, {"accuracy": 0.5, "f1": {"cat": "NaN"}})
    ledger.record_metrics("run-1", 1, {"accuracy": 0.75, "f1": {"cat": "NaN"}})
    with pytest.raises(FencedError):
        ledger.record_metrics("run-1", 0, {"accuracy": 0})
    assert ledger.find_run("run-1").metrics == {"accuracy": 0.75, "f1": {"cat": "NaN"}}
    assert ledger.create_run(a_run()).metrics["accuracy"] == 0.75


def test_a_pin_keeps_a_checkpoint_for_the_run_that_needs_it(ledger):
    ledger.create_run(a_run())
    for by, key in (("e1", "m/1"), ("e1", "m/2"), ("e2", "m/2"), ("e2", "m/2"), ("e11", "m/3")):
        ledger.pin_checkpoint("run-1", key, by=by)
    newest = {"step": 4, "save": 4, "manifest": "m/4", "progressed": True, "now": NOW}
    assert ledger.commit_checkpoint("run-1", 0, **newest) == {"m/1", "m/2", "m/3"}
    ledger.remove_pins("run-1", by="e1", keys=["m/1", "m/9"])
    assert pinned_keys(ledger.find_run("run-1").pins) == {"m/2", "m/3"}
    for _ in range(2):
        ledger.remove_pins("run-1", by="e1")
    assert ledger.find_run("run-1").pins == {"e2 m/2", "e11 m/3"}
    ledger.remove_pins("run-2", by="e1")
    with pytest.raises(NotFoundError):
        ledger.pin_checkpoint("run-2", "m/1", by="e1")


def test_an_evaluation_of_every_checkpoint_records_how_far_it_is(ledger):
    subject = Subject(run_id="lm", key="m/3", step=30, save=3, size_bytes=7)
    ledger.create_run(a_run(subject=subject))
    training(ledger)
    ledger.record_evaluated("run-1", 1, save=3, metrics={"accuracy": 0.5})
    ledger.record_evaluated("run-1", 1, save=4, metrics={})
    with pytest.raises(FencedError):
        ledger.record_evaluated("run-1", 0, save=5, metrics={})
    run = ledger.find_run("run-1")
    assert (run.subject, run.evaluated_save, run.metrics) == (subject, 4, {"accuracy": 0.5})
    assert run.progressed_attempt == 1


def test_a_missing_item_is_read_as_none(ledger):
    assert ledger.find_run("run-1") is None
    assert ledger.find_run_of_execution("run-1") is None
    assert ledger.find_attempt("run-1", 1) is None
    assert ledger.find_instance("i-1") is None
    assert ledger.attempts("run-1") == []


def test_creating_a_run_twice_keeps_the_first(ledger):
    ledger.create_run(a_run())
    ledger.commit_checkpoint("run-1", 0, step=3, save=3, manifest="m", progressed=True, now=NOW)
    assert ledger.create_run(a_run(started_at=LATER)).step == 3


def test_a_name_that_continued_one_run_cannot_begin_another(ledger):
    ledger.create_run(a_run())
    end(ledger)
    ledger.resume_run("run-1", execution="run-1-r2", execution_arn="arn:2", first_attempt=2)
    with pytest.raises(RequestError, match="belongs to the run run-1"):
        ledger.create_run(a_run("run-1-r2"))
    assert ledger.find_run("run-1-r2") is None


def test_runs_are_listed_newest_first(ledger):
    for number in range(5):
        ledger.create_run(a_run(f"run-{number}", started_at=NOW + timedelta(seconds=number)))
    assert [run.run_id for run in ledger.list_runs(limit=3)] == ["run-4", "run-3", "run-2"]


def test_unsettled_runs_are_those_without_an_end_or_an_announcement(ledger):
    for number in range(3):
        ledger.create_run(a_run(f"run-{number}"))
    end(ledger)
    assert sorted(ledger.list_unsettled_runs()) == ["run-0", "run-1", "run-2"]
    ledger.record_notified("run-1", end=LATER)
    assert sorted(ledger.list_unsettled_runs()) == ["run-0", "run-2"]
    ledger.resume_run("run-1", execution="run-1-r2", execution_arn="arn:2", first_attempt=2)
    assert sorted(ledger.list_unsettled_runs()) == ["run-0", "run-1", "run-2"]
    ledger.end_run("run-1", status=RunStatus.FAILED, reason="", now=LATER + timedelta(minutes=5))
    assert sorted(ledger.list_unsettled_runs()) == ["run-0", "run-1", "run-2"]


def test_the_first_end_of_a_run_stands(ledger):
    ledger.create_run(a_run())
    assert end(ledger, RunStatus.STOPPED).ended is RunStatus.STOPPED
    held = end(ledger, RunStatus.FAILED)
    assert (held.ended, held.reason, held.ended_at) == (RunStatus.STOPPED, "enough", LATER)


def test_a_run_that_does_not_exist_cannot_end(ledger):
    with pytest.raises(NotFoundError):
        end(ledger)


def test_an_earlier_execution_cannot_end_what_a_later_one_continued(ledger):
    ledger.create_run(a_run())
    end(ledger, execution_arn="arn:run-1")
    ledger.resume_run("run-1", execution="run-1-r2", execution_arn="arn:2", first_attempt=2)
    assert end(ledger, execution_arn="arn:run-1").ended is None
    assert end(ledger, execution_arn="arn:2").ended is RunStatus.FAILED


def test_continuing_clears_the_end_and_counts_the_execution_once(ledger):
    ledger.create_run(a_run())
    end(ledger)
    for _ in range(2):
        run = ledger.resume_run(
            "run-1", execution="run-1-r2", execution_arn="arn:2", first_attempt=2
        )
        assert run == a_run(
            execution="run-1-r2", execution_arn="arn:2", executions=2, first_attempt=2
        )
    assert ledger.find_run_of_execution("run-1-r2") == "run-1"


def test_continuing_with_a_fresh_environment_counts_its_generation_once(ledger):
    ledger.create_run(a_run())
    for number, is_fresh in ((2, True), (3, False), (4, True)):
        end(ledger)
        for _ in range(2):
            run = ledger.resume_run(
                "run-1",
                execution=f"run-1-r{number}",
                execution_arn=f"arn:{number}",
                first_attempt=number,
                fresh_environment=is_fresh,
            )
            assert run.environment_generation == (2 if number == 4 else 1)


def test_an_announced_end_is_remembered_while_it_is_the_end(ledger):
    ledger.create_run(a_run())
    ledger.record_notified("run-1", end=LATER)
    assert ledger.find_run("run-1") == a_run()
    end(ledger)
    ledger.record_notified("run-1", end=NOW)
    assert ledger.find_run("run-1").notified_end is None
    for _ in range(2):
        ledger.record_notified("run-1", end=LATER)
        assert ledger.find_run("run-1").notified_end == LATER


def continue_as_new(ledger, name="run-1-r2", *, parent_arn="arn:run-1", first_attempt=3):
    return ledger.continue_as_new(
        "run-1",
        parent_arn=parent_arn,
        execution=name,
        execution_arn=f"arn:{name}",
        first_attempt=first_attempt,
    )


def test_a_live_run_is_handed_over_once_to_the_execution_that_its_own_execution_started(ledger):
    ledger.create_run(a_run())
    for _ in range(2):
        assert continue_as_new(ledger) == a_run(
            execution="run-1-r2",
            execution_arn="arn:run-1-r2",
            executions=2,
            first_attempt=3,
            ancestors=("arn:run-1",),
        )
    held = continue_as_new(ledger, "run-1-r3", parent_arn="arn:run-1-r2", first_attempt=9)
    assert held.ancestors == ("arn:run-1", "arn:run-1-r2")
    assert ledger.find_run_of_execution("run-1-r3") == "run-1"


def test_a_run_is_handed_over_only_by_the_execution_that_owns_it(ledger):
    ledger.create_run(a_run())
    with pytest.raises(RequestError, match="belongs to the execution run-1"):
        continue_as_new(ledger, parent_arn="arn:somebody")
    assert ledger.find_run("run-1") == a_run()


def test_a_run_that_was_stopped_meanwhile_is_not_handed_over(ledger):
    ledger.create_run(a_run())
    end(ledger, RunStatus.STOPPED)
    with pytest.raises((RequestError, RunEndedError)):
        continue_as_new(ledger)
    assert ledger.find_run("run-1").execution == "run-1"


def test_an_execution_that_handed_its_run_on_cannot_end_it(ledger):
    ledger.create_run(a_run())
    continue_as_new(ledger)
    assert end(ledger, execution_arn="arn:run-1").ended is None
    ledger.open_attempt("run-1", 3, launch_try=1, source=Launched("{}"), now=NOW)
    with pytest.raises(RunEndedError):
        start(ledger, 3)


def test_a_run_that_has_not_ended_cannot_be_continued(ledger):
    ledger.create_run(a_run())
    with pytest.raises(RequestError, match="belongs to the execution run-1"):
        ledger.resume_run("run-1", execution="run-1-r2", execution_arn="arn:2", first_attempt=2)
    assert ledger.find_run_of_execution("run-1-r2") is None


def test_a_run_that_does_not_exist_cannot_be_continued(ledger):
    with pytest.raises(NotFoundError):
        ledger.resume_run("run-1", execution="run-1-r2", execution_arn="arn:2", first_attempt=2)


def test_second_opening_finds_the_request_of_the_first(ledger):
    ledger.create_run(a_run())
    first = ledger.open_attempt("run-1", 1, launch_try=1, source=Launched("first"), now=NOW)
    second = ledger.open_attempt("run-1", 1, launch_try=1, source=Launched("second"), now=LATER)
    assert first == second
    assert (second.stage, second.fleet_request) == (AttemptStage.LAUNCHING, "first")


def test_a_later_try_replaces_the_request_until_something_was_launched(ledger):
    ledger.create_run(a_run())
    ledger.open_attempt("run-1", 1, launch_try=1, source=Launched("first"), now=NOW)
    planned = Launched("second", plan="on-demand, after spot launched nothing")
    held = ledger.open_attempt("run-1", 1, launch_try=2, source=planned, now=NOW)
    assert (held.launch_try, held.source) == (2, planned)
    ledger.record_launch("run-1", 1, instance_ids=["i-1"], pool="a/b/spot", now=NOW)
    held = ledger.open_attempt("run-1", 1, launch_try=3, source=Launched("third"), now=NOW)
    assert (held.launch_try, held.instance_ids) == (2, ("i-1",))


def test_an_earlier_try_does_not_come_back(ledger):
    ledger.create_run(a_run())
    ledger.open_attempt("run-1", 1, launch_try=2, source=Launched("second"), now=NOW)
    held = ledger.open_attempt("run-1", 1, launch_try=1, source=Launched("first"), now=NOW)
    assert held.fleet_request == "second"


def test_nothing_is_opened_or_launched_for_a_run_that_has_ended(ledger):
    ledger.create_run(a_run())
    ledger.open_attempt("run-1", 1, launch_try=1, source=Launched("{}"), now=NOW)
    end(ledger)
    with pytest.raises(RunEndedError, match="failed"):
        ledger.open_attempt("run-1", 2, launch_try=1, source=Launched("{}"), now=NOW)
    with pytest.raises(RunEndedError, match="failed"):
        ledger.record_launch("run-1", 1, instance_ids=["i-1"], pool="a/b/spot", now=NOW)
    assert ledger.find_attempt("run-1", 2) is None
    assert ledger.find_instance("i-1") is None


def test_a_launch_is_known_by_attempt_and_by_instance(ledger):
    ledger.create_run(a_run())
    attempt = launched(ledger)
    assert attempt == ledger.find_attempt("run-1", 1)
    assert (attempt.stage, attempt.instance_ids) == (AttemptStage.LAUNCHED, ("i-1",))
    assert (attempt.pool, attempt.launched_at) == ("m5.large/z/spot", NOW)
    assert ledger.find_instance("i-1") == ("run-1", 1, 0)


def test_the_first_launch_stands_and_the_second_is_refused(ledger):
    ledger.create_run(a_run())
    launched(ledger)
    held = ledger.record_launch("run-1", 1, instance_ids=["i-9"], pool="x/y/spot", now=LATER)
    assert held.instance_ids == ("i-1",)
    assert ledger.find_instance("i-9") is None


def test_a_launch_for_an_attempt_that_has_ended_is_refused(ledger):
    ledger.create_run(a_run())
    ledger.open_attempt("run-1", 1, launch_try=1, source=Launched("{}"), now=NOW)
    ledger.end_attempt("run-1", 1, outcome=LOST, now=NOW)
    held = ledger.record_launch("run-1", 1, instance_ids=["i-1"], pool="a/b/spot", now=NOW)
    assert (held.stage, held.instance_ids) == (AttemptStage.ENDED, ())


def test_the_fence_moves_with_the_token(ledger):
    ledger.create_run(a_run())
    attempt = training(ledger)
    assert (attempt.stage, attempt.has_token, attempt.running_at) == (
        AttemptStage.RUNNING,
        True,
        NOW,
    )
    assert ledger.find_token("run-1", 1) == "token"
    assert ledger.find_run("run-1").fence == 1


def test_a_newer_token_replaces_the_older(ledger):
    ledger.create_run(a_run())
    training(ledger, token="older")
    assert start(ledger, 1, token="newer").has_token
    assert ledger.find_token("run-1", 1) == "newer"


def test_a_token_is_found_only_by_its_own_attempt_and_run(ledger):
    ledger.create_run(a_run())
    training(ledger, 1, token="first")
    training(ledger, 2, token="second")
    assert [ledger.find_token("run-1", number) for number in (1, 2, 3)] == ["first", "second", None]
    assert ledger.find_token("run-2", 1) is None


def test_the_attempts_of_a_run_are_read_without_their_tokens(ledger):
    ledger.create_run(a_run())
    training(ledger, token="secret-token")
    assert "secret-token" not in repr([ledger.find_run("run-1"), *ledger.attempts("run-1")])


def test_a_lower_attempt_gets_no_token_after_a_higher_one(ledger):
    ledger.create_run(a_run())
    training(ledger, 1)
    training(ledger, 2)
    with pytest.raises(FencedError, match="attempt 2 of run-1 has the fence, not 1"):
        start(ledger, 1)


def test_an_attempt_that_has_ended_gets_neither_token_nor_fence(ledger):
    ledger.create_run(a_run())
    launched(ledger)
    ledger.end_attempt("run-1", 1, outcome=LOST, now=NOW)
    attempt = start(ledger, 1)
    assert (attempt.ended, attempt.has_token) == (LOST, False)
    assert ledger.find_token("run-1", 1) is None
    assert ledger.find_run("run-1").fence == 0


def test_no_token_for_a_run_that_has_ended_or_moved_on(ledger):
    ledger.create_run(a_run())
    launched(ledger)
    with pytest.raises(RunEndedError, match="belongs to the execution run-1"):
        start(ledger, 1, arn="arn:other")
    end(ledger)
    with pytest.raises(RunEndedError, match="has ended"):
        start(ledger, 1)


def test_only_the_first_detector_counts(ledger):
    ledger.create_run(a_run())
    launched(ledger)
    assert ledger.record_notice(NodeId("run-1", 1, 0), now=NOW)
    assert not ledger.record_notice(NodeId("run-1", 1, 0), now=LATER)
    assert not ledger.record_notice(NodeId("run-1", 2, 0), now=NOW)
    assert ledger.find_attempt("run-1", 1).noticed_at == NOW


def test_the_first_outcome_of_an_attempt_stands(ledger):
    ledger.create_run(a_run())
    training(ledger)
    assert ledger.end_attempt("run-1", 1, outcome=COMPLETED, now=NOW).ended == COMPLETED
    held = ledger.end_attempt("run-1", 1, outcome=LOST, now=LATER)
    assert (held.ended, held.ended_at, held.stage) == (COMPLETED, NOW, AttemptStage.ENDED)


def test_an_attempt_that_does_not_exist_cannot_end(ledger):
    ledger.create_run(a_run())
    with pytest.raises(NotFoundError):
        ledger.end_attempt("run-1", 1, outcome=LOST, now=NOW)


def test_attempts_come_in_the_order_of_their_numbers(ledger):
    ledger.create_run(a_run())
    ledger.create_run(a_run("run-10"))
    for number in (2, 11, 1):
        launched(ledger, number)
    launched(ledger, 1, run_id="run-10")
    assert [attempt.number for attempt in ledger.attempts("run-1")] == [1, 2, 11]


def test_only_the_holder_of_the_fence_commits(ledger):
    ledger.create_run(a_run())
    training(ledger, 1)
    ledger.commit_checkpoint("run-1", 1, step=5, save=5, manifest="five", progressed=True, now=NOW)
    launched(ledger, 2)
    with pytest.raises(FencedError):
        ledger.commit_checkpoint(
            "run-1", 2, step=6, save=6, manifest="early", progressed=True, now=NOW
        )
    start(ledger, 2)
    with pytest.raises(FencedError):
        ledger.commit_checkpoint(
            "run-1", 1, step=7, save=7, manifest="late", progressed=True, now=NOW
        )
    run = ledger.find_run("run-1")
    assert (run.step, run.newest, run.committed_at) == (5, "five", NOW)


def test_the_pointer_follows_the_fence_to_a_lower_step(ledger):
    ledger.create_run(a_run())
    training(ledger, 1)
    ledger.commit_checkpoint(
        "run-1", 1, step=9, save=9, manifest="damaged", progressed=True, now=NOW
    )
    training(ledger, 2)
    ledger.commit_checkpoint(
        "run-1", 2, step=4, save=4, manifest="whole", progressed=True, now=LATER
    )
    assert ledger.find_run("run-1").newest == "whole"


def test_marks_of_checkpoints_may_be_repeated_and_taken_back(ledger):
    ledger.create_run(a_run())
    training(ledger, 1)
    for key in ("three", "four", "four"):
        ledger.mark_suspect("run-1", 1, key)
    assert ledger.find_run("run-1").suspects == {"three", "four"}
    for _ in range(2):
        ledger.mark_proven("run-1", 1, "three")
    run = ledger.find_run("run-1")
    assert (run.proven, run.suspects) == ("three", frozenset({"four"}))
    for _ in range(2):
        ledger.clear_suspects("run-1", 1, ["four", "five"])
    assert ledger.find_run("run-1").suspects == frozenset()
    ledger.mark_suspect("run-1", 1, "four")
    assert ledger.find_run("run-1").suspects == {"four"}


def test_only_the_holder_of_the_fence_marks_checkpoints(ledger):
    ledger.create_run(a_run())
    training(ledger, 1)
    ledger.mark_suspect("run-1", 1, "kept")
    training(ledger, 2)
    with pytest.raises(FencedError):
        ledger.mark_suspect("run-1", 1, "late")
    with pytest.raises(FencedError):
        ledger.clear_suspects("run-1", 1, ["kept"])
    with pytest.raises(FencedError):
        ledger.mark_proven("run-1", 1, "late")
    run = ledger.find_run("run-1")
    assert (run.proven, run.suspects) == (None, frozenset({"kept"}))


def test_an_attempt_that_falls_back_starts_from_another_checkpoint(ledger):
    ledger.create_run(a_run())
    training(ledger, 1)
    where = {"phase": "restore", "now": NOW}
    report(ledger, "run-1", 1, resume_step=20, resume_save=2, **where)
    report(ledger, "run-1", 1, **where)
    attempt = ledger.find_attempt("run-1", 1)
    assert (attempt.resume_step, attempt.resume_save) == (20, 2)
    for resume_step, resume_save in [(10, 1), (None, 1), (None, 0)]:
        report(ledger, "run-1", 1, resume_step=resume_step, resume_save=resume_save, **where)
        attempt = ledger.find_attempt("run-1", 1)
        assert (attempt.resume_step, attempt.resume_save) == (resume_step, resume_save)


def test_a_run_that_has_ended_still_takes_the_last_checkpoint(ledger):
    ledger.create_run(a_run())
    training(ledger)
    end(ledger, RunStatus.STOPPED)
    ledger.commit_checkpoint(
        "run-1", 1, step=9, save=9, manifest="last", progressed=True, now=LATER
    )
    assert ledger.find_run("run-1").step == 9


def test_progress_accumulates_and_only_the_warning_disappears_with_its_cause(ledger):
    ledger.create_run(a_run())
    training(ledger)
    report(
        ledger,
        "run-1",
        1,
        phase="restore",
        now=NOW,
        resume_step=3,
        step=4,
        metrics={"loss": 0.5, "acc": math.inf},
        timeline={"booted": NOW},
        saving=SAVING,
        warning="slow",
    )
    report(ledger, "run-1", 1, phase="train", now=LATER, timeline={"started": LATER})
    attempt = ledger.find_attempt("run-1", 1)
    assert (attempt.phase, attempt.heartbeat_at) == ("train", LATER)
    assert (attempt.resume_step, attempt.progress_step, attempt.warning) == (3, 4, "")
    assert attempt.metrics == {"loss": 0.5, "acc": math.inf}
    assert attempt.timeline == {"booted": NOW, "started": LATER}
    assert attempt.saving == SAVING


def test_an_attempt_may_report_its_preparations_before_it_has_the_fence(ledger):
    ledger.create_run(a_run())
    training(ledger, 1)
    launched(ledger, 2)
    report(ledger, "run-1", 2, phase="environment", now=NOW)
    assert ledger.find_attempt("run-1", 2).phase == "environment"


def test_progress_of_a_superseded_attempt_is_refused(ledger):
    ledger.create_run(a_run())
    training(ledger, 1)
    training(ledger, 2)
    with pytest.raises(FencedError):
        report(ledger, "run-1", 1, phase="train", now=NOW)
    assert ledger.find_attempt("run-1", 1).phase == ""


def test_progress_of_an_unknown_attempt_is_refused(ledger):
    ledger.create_run(a_run())
    with pytest.raises(NotFoundError):
        report(ledger, "run-1", 1, phase="train", now=NOW)
    with pytest.raises(NotFoundError):
        report(ledger, "run-2", 1, phase="train", now=NOW)


def test_a_pool_cools_until_the_later_instant(ledger):
    pools = [Pool("m5.large", zone, "spot") for zone in ("a", "b", "c")]
    ledger.cool_pool(pools[0], until=LATER)
    ledger.cool_pool(pools[0], until=NOW)
    ledger.cool_pool(pools[1], until=NOW)
    assert ledger.cooling_pools(pools, now=NOW) == {pools[0]: LATER}
    assert ledger.cooling_pools([], now=NOW) == {}


def test_more_pools_than_one_batch_holds_are_all_read(ledger):
    pools = [Pool(f"m{number}.large", "z", "spot") for number in range(230)]
    for pool in pools[::10]:
        ledger.cool_pool(pool, until=LATER)
    assert set(ledger.cooling_pools(pools, now=NOW)) == set(pools[::10])


def test_every_step_of_an_attempt_can_be_repeated(ledger):
    moves = (
        lambda: ledger.create_run(a_run()),
        lambda: ledger.open_attempt("run-1", 1, launch_try=1, source=Launched("{}"), now=NOW),
        lambda: launched(ledger),
        lambda: start(ledger, 1),
        lambda: report(ledger, "run-1", 1, phase="train", now=NOW, step=5),
        lambda: ledger.commit_checkpoint(
            "run-1", 1, step=5, save=5, manifest="five", progressed=True, now=NOW
        ),
        lambda: ledger.end_attempt("run-1", 1, outcome=COMPLETED, now=NOW),
        lambda: end(ledger, RunStatus.COMPLETED),
        lambda: ledger.resume_run(
            "run-1", execution="run-1-r2", execution_arn="arn:2", first_attempt=2
        ),
    )
    for move in moves:
        move()
        before = ledger.find_run("run-1"), ledger.attempts("run-1")
        move()
        assert (ledger.find_run("run-1"), ledger.attempts("run-1")) == before


def use_existing(ledger, run_id, *, number=1, instead_of=None):
    ledger.open_attempt(run_id, number, launch_try=1, source=Existing("i-1"), now=NOW)
    return ledger.record_existing_instance(
        run_id, number, instance_id="i-1", pool="m5.large/z/spot", instead_of=instead_of, now=NOW
    )


def test_an_existing_instance_works_for_one_attempt_at_a_time(ledger):
    ledger.create_run(a_run("run-1"))
    ledger.create_run(a_run("run-2"))
    for _ in range(2):  # the response to the first was lost
        assert use_existing(ledger, "run-1").instance_ids == ("i-1",)
    assert use_existing(ledger, "run-1").is_on_existing_instance
    assert use_existing(ledger, "run-2").stage is AttemptStage.LAUNCHING
    assert ledger.find_instance("i-1") == ("run-1", 1, 0)
    held = use_existing(ledger, "run-2", instead_of=NodeId("run-9", 1, 0))
    assert held.stage is AttemptStage.LAUNCHING
    held = use_existing(ledger, "run-2", instead_of=NodeId("run-1", 1, 0))
    assert held.stage is AttemptStage.LAUNCHED
    assert ledger.find_instance("i-1") == ("run-2", 1, 0)


def test_a_run_that_has_ended_gets_no_existing_instance(ledger):
    ledger.create_run(a_run())
    ledger.open_attempt("run-1", 1, launch_try=1, source=Existing("i-1"), now=NOW)
    ledger.end_run("run-1", status=RunStatus.STOPPED, reason="", now=NOW)
    with pytest.raises(RunEndedError):
        ledger.record_existing_instance(
            "run-1", 1, instance_id="i-1", pool="m5.large/z/spot", instead_of=None, now=NOW
        )
    assert ledger.find_instance("i-1") is None


def node_of(ledger, rank, number=1):
    (found,) = [node for node in ledger.find_attempt("run-1", number).nodes if node.rank == rank]
    return found


def two_nodes(ledger):
    ledger.create_run(a_run())
    ledger.open_attempt("run-1", 1, launch_try=1, source=Launched("{}"), now=NOW, count=2)
    return ledger.record_launch(
        "run-1", 1, instance_ids=["i-1", "i-2"], pool="m5.large/z/spot", now=NOW
    )


def test_nodes_have_the_ranks_of_their_instances(ledger):
    held = two_nodes(ledger)
    assert [(node.rank, node.instance_id, node.stage) for node in held.nodes] == [
        (0, "i-1", NodeStage.LAUNCHED),
        (1, "i-2", NodeStage.LAUNCHED),
    ]
    assert [ledger.find_instance(id_) for id_ in ("i-1", "i-2")] == [
        NodeId("run-1", 1, 0),
        NodeId("run-1", 1, 1),
    ]
    assert ledger.attempts("run-1") == [held]


def test_nodes_report_side_by_side(ledger):
    two_nodes(ledger)
    ledger.record_progress(
        NodeId("run-1", 1, 0), NodeProgress(phase="train", environment_bytes=7), now=NOW
    )
    ledger.record_progress(NodeId("run-1", 1, 1), NodeProgress(phase="restore"), now=LATER)
    assert ledger.record_notice(NodeId("run-1", 1, 1), now=LATER)
    ledger.record_gone(NodeId("run-1", 1, 1))
    first, second = ledger.find_attempt("run-1", 1).nodes
    assert (first.progress.phase, first.heartbeat_at, first.noticed_at) == ("train", NOW, None)
    assert (first.progress.environment_bytes, second.progress.environment_bytes) == (7, 0)
    assert (second.progress.phase, second.heartbeat_at, second.noticed_at) == (
        "restore",
        LATER,
        LATER,
    )
    assert (first.stage, second.stage) == (NodeStage.RUNNING, NodeStage.GONE)


def test_an_attempt_has_its_nodes_before_their_instances_are_known(ledger):
    ledger.create_run(a_run())
    opened = ledger.open_attempt("run-1", 1, launch_try=1, source=Launched("{}"), now=NOW, count=2)
    assert [(node.rank, node.stage) for node in opened.nodes] == [
        (0, NodeStage.LAUNCHING),
        (1, NodeStage.LAUNCHING),
    ]
    assert not opened.was_launched
    assert ledger.record_notice(NodeId("run-1", 1, 0), now=NOW)
    launched(ledger)
    assert node_of(ledger, 0).noticed_at == NOW


def test_a_node_that_was_never_launched_is_not_invented(ledger):
    ledger.create_run(a_run())
    ledger.record_gone(NodeId("run-1", 1, 0))
    assert ledger.find_attempt("run-1", 1) is None


def test_nodes_are_those_of_their_own_attempt(ledger):
    ledger.create_run(a_run())
    for number in (1, 10, 1000):
        launched(ledger, number)
    for number in (1, 10, 1000):
        (node,) = ledger.find_attempt("run-1", number).nodes
        assert (node.attempt, node.instance_id) == (number, f"i-{number}")


def test_the_launch_of_a_gang_keeps_machines_and_follows_their_order(ledger):
    ledger.create_run(a_run())
    kept = (KeptNode("i-3", "a/b/spot"),)
    for launch_try, count in ((1, 3), (2, 2)):
        source = Launched("{}", plan="one is missing", kept=kept)
        opened = ledger.open_attempt(
            "run-1", 1, launch_try=launch_try, source=source, now=NOW, count=count
        )
    assert opened.kept == kept
    held = ledger.record_launch(
        "run-1", 1, instance_ids=["i-9"], pool="x/b/spot", now=LATER, kept=kept
    )
    # The first try was for three nodes.
    assert [(node.rank, node.instance_id, node.pool) for node in held.nodes] == [
        (0, "i-3", "a/b/spot"),
        (1, "i-9", "x/b/spot"),
    ]
    assert ledger.find_instance("i-3") == NodeId("run-1", 1, 0)
