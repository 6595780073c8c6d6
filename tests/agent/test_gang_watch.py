"""An agent's watch over the other nodes of its gang."""

from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from runctl.agent.gang.memory import MIN_SECONDS, GangMemory
from runctl.agent.gang.watch import GangWatch
from runctl.agent.reporting.progress import Progress
from runctl.agent.signals.mailbox import Mailbox, StopCause
from runctl.model.errors import TransientError
from runctl.model.gang import GangReport, NodeEnd, RankPulse
from runctl.model.node import Node, NodeId, NodeProgress
from runctl.model.outcome import Outcome, OutcomeKind, RunStatus
from runctl.model.request_parsing import parse_request
from runctl.model.run import Attempt, AttemptStage, KeptNode, Launched, Run
from runctl.policy.gang_facts import SILENT, Completed, Failed, Hung, Lost, Noticed
from runctl.policy.gang_health import NOBODY_JOINED
from tests.agent_settings import make_settings

START = datetime(2026, 5, 1, tzinfo=timezone.utc)


class Pulses:
    has_launcher = True

    def read(self):
        return (RankPulse(entered=3, left=3),)


class Gang:
    """A ledger with one attempt of three nodes, and the watch of the first over the others."""

    def __init__(self, **request):
        self.now = 1000.0
        self.run = Run(
            run_id="run-1",
            request=parse_request({"script": "s3://bucket/train.py", "nodes": 3, **request}),
            started_at=START,
            execution="e",
            execution_arn="arn",
            fence=1,
        )
        nodes = [
            Node(run_id="run-1", attempt=1, rank=rank, instance_id=f"i-{rank}", heartbeat_at=START)
            for rank in range(4)
        ]
        self.attempt = Attempt(
            run_id="run-1", number=1, stage=AttemptStage.RUNNING, nodes=tuple(nodes)
        )
        self.is_reachable = True
        self.mailbox = Mailbox()
        self.progress = Progress()
        self.watch = GangWatch(
            self,
            make_settings(Path("/")),
            mailbox=self.mailbox,
            progress=self.progress,
            pulses=Pulses(),
            clock=lambda: self.now,
        )

    def find_run(self, _run_id):
        return self.run

    def find_attempt(self, _run_id, _number):
        if not self.is_reachable:
            raise TransientError("throttled")
        return self.attempt

    def change(self, rank, **values):
        nodes = list(self.attempt.nodes)
        nodes[rank] = replace(nodes[rank], **values)
        self.attempt = replace(self.attempt, nodes=tuple(nodes))

    def beat(self, *ranks):
        for rank in ranks:
            self.change(rank, heartbeat_at=START + timedelta(seconds=self.now))

    def report(self, rank, **report):
        self.change(rank, progress=NodeProgress(gang=GangReport(**report)))

    def check(self, *beating, after=3.0):
        self.now += after
        self.beat(*beating)
        self.watch.check()
        return self.watch.verdict


@pytest.fixture
def gang():
    return Gang()


def test_a_node_that_stops_beating_is_lost_and_its_program_is_not_waited_for(gang):
    gang.check(0, 1, 2, 3)
    verdict = None
    for _ in range(4):
        assert verdict is None
        verdict = gang.check(0, 1, 3)
    assert verdict == Lost(reason="node 2 (i-2) has been silent for 12 s", ranks=(2,))
    assert gang.watch.silent == {2}
    stop = gang.mailbox.ending
    assert (stop.cause, stop.reason, stop.lost_ranks) == (StopCause.PEER, verdict.reason, (2,))
    assert stop.kill_at is not None


@pytest.mark.parametrize("phase", [0.0, 0.4, 1.1, 1.9, 2.6, 2.99])
def test_a_dead_node_is_named_within_15_seconds_whenever_it_dies(phase):
    gang = Gang()
    gang.check(0, 1, 2, 3)
    gang.now = gang.watch._due
    gang.watch.check()
    # It reports for the last time somewhere between two readings, and dies at once.
    died = gang.now + phase
    gang.change(2, heartbeat_at=START + timedelta(seconds=died))
    while gang.watch.verdict is None:
        gang.now = gang.watch._due if gang.now >= died else max(gang.watch._due, died)
        gang.beat(0, 1, 3)
        gang.watch.check()
        assert gang.now - died < 15.0
    assert gang.watch.verdict.ranks == (2,)


@pytest.mark.parametrize("phase", [0.0, 0.7, 1.5, 2.2, 2.9])
@pytest.mark.parametrize("step", [0.25, 1.0, 2.0, 5.0, 8.0])
def test_a_node_that_hangs_is_named_within_two_steps_and_30_seconds(phase, step):
    gang = Gang()
    hangs_at = gang.now + 40 + phase

    def report_all():
        """Let all agents report, as they do every 3 s; rank 2 has stopped at `hangs_at`."""
        moved = min(gang.now, hangs_at)
        done, idle = int(moved / step), gang.now - moved
        for rank in range(3):
            waits = idle > 0 and rank != 2
            pulse = RankPulse(
                entered=done + 1 if waits else done, left=done, idle_seconds=idle,
                still_seconds=idle, has_joined=True,
            )  # fmt: skip
            self_report = NodeProgress(gang=GangReport(ranks=(pulse,)), timeline={"started": START})
            gang.change(rank, progress=self_report)
        gang.beat(0, 1, 2, 3)

    reported_at = gang.now + phase
    while gang.watch.verdict is None:
        if reported_at <= gang.watch._due:
            gang.now = reported_at
            report_all()
            reported_at += 3.0
        else:
            gang.now = max(gang.now, gang.watch._due)
            gang.watch.check()
        assert gang.now - hangs_at < 30.0 + 2 * step
    assert gang.now >= hangs_at + 20.0
    assert isinstance(gang.watch.verdict, Hung)
    assert gang.watch.verdict.ranks == (2,)


def test_a_node_that_comes_back_stays_lost(gang):
    gang.check(0, 1, 2, 3)
    for _ in range(4):
        lost = gang.check(0, 1, 3)
    assert gang.check(0, 1, 2, 3) == lost
    assert gang.watch.silent == frozenset()


def test_a_spare_is_not_missed(gang):
    gang.check(0, 1, 2, 3)
    for _ in range(5):
        assert gang.check(0, 1, 2) is None
    assert gang.watch.silent == {3}
    assert gang.mailbox.ending is None


def test_the_fault_of_an_unreachable_ledger_is_nobody_elses(gang):
    gang.check(0, 1, 2, 3)
    gang.is_reachable = False
    for _ in range(5):
        assert gang.check() is None
    gang.is_reachable = True
    assert gang.check(1, 3) is None
    for _ in range(3):
        assert gang.check(1, 3) is None
    assert isinstance(gang.check(1, 3), Lost)


def test_own_silence_is_no_loss(gang):
    for _ in range(6):
        assert gang.check(1, 2, 3) is None
    assert gang.watch.is_lead()


def test_the_next_node_leads_when_the_first_is_silent():
    gang = Gang()
    gang.watch._memory = GangMemory(own_rank=1)
    gang.watch._node = NodeId("run-1", 1, 1)
    assert not gang.watch.is_lead()
    gang.check(0, 1, 2, 3)
    assert not gang.watch.is_lead()
    for _ in range(4):
        gang.check(1, 2, 3)
    assert gang.watch.is_lead()


def test_a_notice_of_another_node_lets_all_save(gang):
    gang.check(0, 1, 2, 3)
    gang.change(1, noticed_at=START)
    assert isinstance(gang.check(0, 1, 2, 3), Noticed)
    stop = gang.mailbox.ending
    assert (stop.cause, stop.kill_at, stop.lost_ranks) == (StopCause.PEER, None, ())
    assert gang.mailbox.noticed_at is None
    # The machine may go before all have saved.
    for _ in range(4):
        gang.check(0, 2, 3)
    stop = gang.mailbox.ending
    assert stop.lost_ranks == (1,)
    assert stop.kill_at is not None


def test_an_own_notice_that_only_the_ledger_knows_has_a_deadline(gang):
    gang.change(0, noticed_at=datetime.now(timezone.utc))
    gang.check(0, 1, 2, 3)
    stop = gang.mailbox.ending
    assert stop.cause is StopCause.NOTICE
    assert stop.time_left() > timedelta(seconds=30)
    assert gang.mailbox.noticed_at is not None


def test_a_gang_that_has_completed_is_not_stopped(gang):
    done = NodeEnd(
        at=START, outcome=Outcome(kind=OutcomeKind.COMPLETED, exit_code=0), is_stored=True
    )
    for rank in range(3):
        gang.report(rank, ended=done)
    assert gang.check(0, 1, 2, 3) == Completed()
    assert gang.mailbox.ending is None


@pytest.mark.parametrize("has_launcher", [True, False])
def test_only_what_torchrun_starts_has_to_join_a_rendezvous(gang, has_launcher):
    gang.watch._pulses.has_launcher = has_launcher
    for rank in range(3):
        gang.change(rank, progress=NodeProgress(timeline={"started": START}))
    verdict = None
    for _ in range(int(NOBODY_JOINED) // 9 + 2):
        verdict = gang.check(0, 1, 2, after=9.0)
    assert isinstance(verdict, Failed) is has_launcher


@pytest.mark.parametrize(
    ("run", "cause"),
    [
        ({"ended": RunStatus.STOPPED}, StopCause.STOP),
        ({"fence": 2}, StopCause.FENCED),
        ({}, StopCause.PEER),
    ],
)
def test_the_end_of_the_attempt_in_the_ledger_stops_every_node(gang, run, cause):
    gang.check(0, 1, 2, 3)
    gang.run = replace(gang.run, **run)
    gang.attempt = replace(gang.attempt, ended=Outcome(kind=OutcomeKind.LOST))
    gang.check(0, 1, 2, 3)
    assert gang.mailbox.ending.cause is cause


def test_the_lead_warns_of_a_slow_node_and_replaces_it_only_when_asked(gang):
    def run_for_a_minute(gang):
        for beat in range(20):
            for rank in range(3):
                pace = 2.0 if rank == 1 else 1.0
                busy = RankPulse(entered=3 * beat, left=3 * beat, busy_seconds=pace * 3 * beat)
                gang.report(rank, ranks=(busy,))
            gang.check(0, 1, 2, 3)

    run_for_a_minute(gang)
    assert "node 1 (i-1) computes 2.00 s" in gang.progress.snapshot().warning
    assert gang.watch.verdict is None
    replacing = Gang(replace_stragglers=True)
    run_for_a_minute(replacing)
    assert replacing.mailbox.ending.lost_ranks == (1,)
    assert replacing.mailbox.ending.kill_at is None


def test_the_thread_reports_the_pulses_and_wakes_who_waits(gang):
    gang.watch.start()
    while gang.watch.attempt is None:
        gang.mailbox.wait(0.05)
    gang.watch.stop()
    report = gang.progress.snapshot().gang
    assert report is not None
    assert report.ranks == (RankPulse(entered=3, left=3),)


# The memory -------------------------------------------------------------------------------------


def test_a_reading_comes_just_after_the_next_silence_would_count():
    gang = Gang()
    memory = GangMemory(own_rank=0)
    assert memory.next_limit(memory.note(gang.attempt, 10.0)) == SILENT
    gang.beat(0, 1)
    assert memory.next_limit(memory.note(gang.attempt, 13.0)) == SILENT - 3.0


def test_the_duration_of_a_step_is_known_from_the_counts():
    gang = Gang()
    memory = GangMemory(own_rank=0)
    for beat in range(int(MIN_SECONDS) // 3 + 2):
        busy = RankPulse(entered=6 * beat, left=6 * beat, busy_seconds=1.5 * beat)
        gang.report(1, ranks=(busy, RankPulse(left=7 * beat, busy_seconds=0.6 * beat)))
        found = memory.note(gang.attempt, 3.0 * beat)[1]
    assert found.step_seconds == pytest.approx(0.5)
    assert found.busy_step == pytest.approx(0.25)


def test_a_new_program_counts_anew():
    gang = Gang()
    memory = GangMemory(own_rank=0)
    for beat, steps in enumerate((100, 200, 0)):
        gang.report(1, ranks=(RankPulse(entered=steps, left=steps),))
        found = memory.note(gang.attempt, 3.0 * beat)[1]
    assert found.step_seconds is None


def test_the_way_to_the_rendezvous_is_measured_from_the_start_of_the_program():
    gang = Gang()
    memory = GangMemory(own_rank=0)
    memory.note(gang.attempt, 1.0)
    timeline = {"started": START}
    gang.change(1, progress=NodeProgress(timeline=timeline))
    memory.note(gang.attempt, 4.0)
    waiting = GangReport(ranks=(RankPulse(),))
    gang.change(1, progress=NodeProgress(timeline=timeline, gang=waiting))
    memory.note(gang.attempt, 7.0)
    joined = GangReport(ranks=(RankPulse(has_joined=True),))
    gang.change(1, progress=NodeProgress(timeline=timeline, gang=joined))
    found = memory.note(gang.attempt, 16.0)[1]
    assert (found.running_for, found.launched_after, found.joined_after) == (12.0, 3.0, 12.0)


def test_a_machine_that_the_gang_has_kept_is_known_as_such():
    gang = Gang()
    attempt = replace(gang.attempt, source=Launched(kept=(KeptNode("i-1"),)))
    found = GangMemory(own_rank=0).note(attempt, 1.0)
    assert [facts.is_kept for facts in found] == [False, True, False, False]


def test_a_kept_machine_is_awaited_from_the_end_of_the_attempt_before():
    gang = Gang()
    gang.change(1, heartbeat_at=None)
    memory = GangMemory(own_rank=0)

    def age(stage, now):
        kept = Launched(kept=(KeptNode("i-1"),))
        return memory.note(replace(gang.attempt, source=kept, stage=stage), now)[1].age

    assert age(AttemptStage.LAUNCHED, 0.0) == 0.0
    assert age(AttemptStage.LAUNCHED, 600.0) == 0.0
    assert age(AttemptStage.RUNNING, 603.0) == 3.0
