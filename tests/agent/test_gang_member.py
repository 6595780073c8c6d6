"""The end of a node's part, who reports it, and the stay between two attempts, without agents."""

import socket
import threading
from dataclasses import replace
from datetime import datetime, timedelta, timezone

import pytest

from runctl.agent.gang.member import GangMember
from runctl.agent.gang.network import first_port, interface_of, reserve_port
from runctl.agent.gang.place import find_node
from runctl.agent.gang.prints import explain_differences, oldest_checkpoint
from runctl.agent.gang.pulses import Pulses
from runctl.agent.gang.rendezvous import Rendezvous
from runctl.agent.gang.stay import GangStay
from runctl.agent.reporting.progress import Progress
from runctl.agent.runtime.world import World
from runctl.agent.signals.mailbox import Mailbox, StopCause, StopRequest
from runctl.agent.signals.waiting import CancellableWait
from runctl.model.errors import TransientError
from runctl.model.gang import GangReport, NodeEnd
from runctl.model.gang_options import GangOptions
from runctl.model.node import Node, NodeId, NodeProgress
from runctl.model.outcome import Outcome, OutcomeKind, RunStatus
from runctl.model.request import RunRequest
from runctl.model.run import Attempt, AttemptStage, KeptNode, Launched, Run
from runctl.policy.gang_facts import Completed, Lost, Noticed
from tests.agent_settings import make_settings
from tests.control.memory_ledger import MemoryLedger

NOW = datetime(2030, 1, 1, tzinfo=timezone.utc)
COMPLETED = Outcome(kind=OutcomeKind.COMPLETED, exit_code=0)
INTERRUPTED = Outcome(kind=OutcomeKind.INTERRUPTED, reason="EC2 takes the instance")


def ended(outcome=COMPLETED, *, is_stored=True):
    return GangReport(ended=NodeEnd(at=NOW, outcome=outcome, is_stored=is_stored))


def node(rank, report=None, *, instance_id=""):
    progress = NodeProgress(gang=report)
    name = instance_id or f"i-{rank}"
    return Node(run_id="run", attempt=1, rank=rank, instance_id=name, progress=progress)


class Others:
    """The other nodes, as a test wants them to be."""

    interval = 3.0

    def __init__(self, *reports):
        self.is_first = True
        self.verdict = None
        self.silent = frozenset()
        self.attempt = None
        self.show(*reports)

    def show(self, *reports):
        nodes = tuple(node(rank, report) for rank, report in enumerate(reports))
        self.attempt = Attempt(run_id="run", number=1, stage=AttemptStage.LAUNCHED, nodes=nodes)

    def start(self):
        pass

    def stop(self):
        pass

    def is_lead(self):
        return self.is_first


class Part:
    """The part of one node, which ends in a thread of its own."""

    def __init__(self, view, tmp_path, *, rank=0, nodes=2, earlier=None):
        self.mailbox, self.progress, self.view = Mailbox(), Progress(), view
        settings = settings_of(tmp_path, rank=rank)
        wait = CancellableWait(self.mailbox)
        self.member = GangMember(
            view,
            Rendezvous(settings, view, progress=self.progress, wait=wait),
            Pulses(tmp_path / "pulses"),
            rank=rank,
            mailbox=self.mailbox,
            progress=self.progress,
            earlier=earlier or NodeProgress(),
        )
        self.member.begin(GangOptions(nodes=nodes))
        self.reported = []
        self.has_stored = threading.Event()

    def conclude(self, own):
        def run():
            self.reported.append(self.member.conclude(own, store=self.has_stored.set))

        self.thread = threading.Thread(target=run, daemon=True)
        self.thread.start()
        assert self.has_stored.wait(30)

    def result(self):
        self.thread.join(30)
        return self.reported[0]

    def take(self, *, seconds=120.0, cause=StopCause.NOTICE):
        now = datetime.now(timezone.utc)
        self.mailbox.end(
            StopRequest(
                cause=cause, reason="", detected=now, deadline=now + timedelta(seconds=seconds)
            )
        )


def settings_of(tmp_path, *, instance_id="i-0", **changes):
    return make_settings(tmp_path, run_id="run", instance_id=instance_id, is_gang=True, **changes)


def test_the_lead_reports_once_all_nodes_have_stored_their_end(tmp_path):
    part = Part(Others(ended(), GangReport()), tmp_path)
    part.conclude(COMPLETED)
    part.view.show(ended(), ended(is_stored=False))
    part.thread.join(0.5)
    assert part.thread.is_alive()
    assert part.progress.gang.ended.is_stored
    part.view.verdict = Completed()
    part.view.show(ended(), ended())
    assert part.result().kind is OutcomeKind.COMPLETED


def test_a_node_that_is_not_the_lead_waits_for_the_end_and_takes_over(tmp_path):
    view = Others(ended(), ended())
    view.verdict, view.is_first = Completed(), False
    part = Part(view, tmp_path, rank=1)
    part.conclude(COMPLETED)
    part.thread.join(0.5)
    assert part.thread.is_alive()
    view.is_first = True
    assert part.result().kind is OutcomeKind.COMPLETED


def test_nobody_reports_an_attempt_that_has_ended(tmp_path):
    view = Others(ended(), GangReport())
    part = Part(view, tmp_path)
    part.conclude(COMPLETED)
    view.attempt = replace(view.attempt, ended=INTERRUPTED)
    assert part.result() is None


def test_a_silent_node_is_not_awaited_and_the_verdict_counts(tmp_path):
    view = Others(ended(), GangReport())
    view.silent, view.verdict = frozenset({1}), Lost(reason="node 1 is gone", ranks=(1,))
    part = Part(view, tmp_path)
    part.conclude(Outcome(kind=OutcomeKind.FAILED, reason="connection closed", exit_code=1))
    outcome = part.result()
    assert (outcome.kind, outcome.lost_ranks) == (OutcomeKind.LOST, (1,))
    assert outcome.reason == "node 1 is gone"
    assert part.member.may_stay(outcome)


def test_a_lead_that_is_taken_reports_before_its_deadline_without_the_others(tmp_path):
    view = Others(ended(), GangReport())
    view.verdict = Noticed(reason="EC2 takes node 0", ranks=(0,))
    part = Part(view, tmp_path)
    part.take(seconds=6)
    part.conclude(INTERRUPTED)
    assert part.progress.gang.ended.outcome.lost_ranks == (0,)
    assert part.result().kind is OutcomeKind.INTERRUPTED
    assert not part.member.may_stay(INTERRUPTED)


def test_spares_are_not_awaited(tmp_path):
    view = Others(ended(), ended(), GangReport())
    view.verdict = Completed()
    part = Part(view, tmp_path)
    part.conclude(COMPLETED)
    assert part.result().kind is OutcomeKind.COMPLETED
    assert not part.member.may_stay(COMPLETED)


def test_a_fenced_node_reports_nothing(tmp_path):
    part = Part(Others(), tmp_path)
    assert part.member.conclude(None, store=lambda: None) is None
    assert part.member.may_stay(None)


@pytest.mark.parametrize(
    ("earlier", "kind"),
    [
        (NodeProgress(), None),
        (NodeProgress(gang=GangReport(is_ready=True)), None),
        (NodeProgress(timeline={"started": NOW}), OutcomeKind.INTERRUPTED),
        (NodeProgress(timeline={"started": NOW}, gang=ended()), OutcomeKind.COMPLETED),
    ],
)
def test_an_agent_that_is_started_again_starts_no_second_program(tmp_path, earlier, kind):
    part = Part(Others(), tmp_path, earlier=earlier)
    outcome = part.member.earlier_outcome
    assert (outcome and outcome.kind) is kind
    assert (part.progress.gang.ended is None) is (kind is None)


def test_what_differs_is_named_with_its_node():
    usual = GangReport(prints={"code": "a", "environment": "x"})
    other = GangReport(prints={"code": "a", "environment": "y"})
    assert explain_differences([node(0, usual), node(1, usual)]) == ""
    assert explain_differences([node(0, other), node(1, usual), node(2, usual)]) == (
        "node 0 (i-0) has another environment than the others (y instead of x)"
    )
    assert "node 1 (i-1) has another environment" in explain_differences(
        [node(0, usual), node(1, other)]
    )


@pytest.mark.parametrize(
    ("keys", "oldest"),
    [
        (("s2", "s2"), None),
        (("s2", "s1", "s3"), "s1"),
        (("s1", "s2"), "s1"),
        # Without any, the beginning would lose all that the others have.
        (("s2", "none"), None),
        ((None, "s2"), None),
    ],
)
def test_all_nodes_go_back_to_the_oldest_checkpoint_that_one_has_restored(keys, oldest):
    nodes = [
        node(rank, GangReport(prints={"checkpoint": key} if key else {}))
        for rank, key in enumerate(keys)
    ]
    assert oldest_checkpoint(nodes) == oldest


def test_each_attempt_has_another_port_and_the_next_free_one_is_taken():
    first = NodeId("run", 1, 0)
    assert first_port(first) != first_port(NodeId("run", 2, 0))
    with reserve_port(first) as held, reserve_port(first) as other:
        assert held.getsockname()[1] != other.getsockname()[1]
        with socket.socket() as late, pytest.raises(OSError, match="in use"):
            late.bind(("127.0.0.1", held.getsockname()[1]))


def test_the_interface_of_an_address_is_found():
    assert interface_of("127.0.0.1") == interface_of("127.3.0.9") == "lo"
    assert interface_of("203.0.113.7") == ""


def test_threads_are_limited_only_where_ranks_share_a_machine(tmp_path):
    def world(processes, *, has_launcher=True):
        return World(
            rank=1, nodes=2, processes=processes, address="10.0.0.1", port=29500, interface="",
            has_gpus=True, pulses=tmp_path, has_launcher=has_launcher,
        )  # fmt: skip

    assert world(1).defaults() == {}
    assert int(world(2).defaults()["OMP_NUM_THREADS"]) >= 1
    assert world(2, has_launcher=False).defaults()["NPROC_PER_NODE"] == "2"
    assert world(1).variables()["RUNCTL_BACKEND"] == "nccl"


class Ledger(MemoryLedger):
    """A run of two nodes, in whose first attempt this instance was i-0."""

    def __init__(self):
        super().__init__()
        request = RunRequest.of(script="train.py", code="s3://b/code.tar.gz", nodes=2)
        self.create_run(
            Run(run_id="run", request=request, started_at=NOW, execution="run", execution_arn="a")
        )
        self.launch(1, "i-0", "i-1")

    def open(self, number, *instance_ids, kept=()):
        keeps = tuple(KeptNode(each, "a/b/spot") for each in kept)
        self.open_attempt(
            "run", number, launch_try=1, source=Launched("{}", kept=keeps), now=NOW,
            count=len(instance_ids) + len(kept),
        )  # fmt: skip
        return keeps

    def launch(self, number, *instance_ids, kept=()):
        keeps = self.open(number, *instance_ids, kept=kept)
        self.record_launch(
            "run", number, instance_ids=list(instance_ids), pool="a/b/spot", now=NOW, kept=keeps
        )


class Stay:
    def __init__(self, ledger, tmp_path):
        self.mailbox, self.ends = Mailbox(), []
        self.stay = GangStay(
            ledger, settings_of(tmp_path), end_reports=lambda: self.ends.append(True)
        )

    def wait(self):
        return self.stay.wait(self.mailbox, is_noticed=lambda: False)


def test_a_machine_joins_the_latest_attempt_that_has_it(tmp_path):
    ledger = Ledger()
    ledger.launch(2, "i-2", kept=("i-0",))
    ledger.end_attempt("run", 2, outcome=INTERRUPTED, now=NOW)
    ledger.launch(3, "i-3", kept=("i-2", "i-0"))
    stay = Stay(ledger, tmp_path)
    assert stay.wait() == NodeId("run", 3, 1)
    assert stay.ends == [True]


def test_a_machine_waits_until_the_next_attempt_is_launched(tmp_path):
    ledger = Ledger()
    keeps = ledger.open(2, "i-2", kept=("i-0",))
    stay = Stay(ledger, tmp_path)
    found = []
    thread = threading.Thread(target=lambda: found.append(stay.wait()), daemon=True)
    thread.start()
    thread.join(1.5)
    assert thread.is_alive()
    ledger.record_launch("run", 2, instance_ids=["i-2"], pool="a/b/spot", now=NOW, kept=keeps)
    thread.join(30)
    assert found == [NodeId("run", 2, 0)]


def test_a_machine_leaves_when_an_attempt_is_launched_without_it(tmp_path):
    ledger = Ledger()
    ledger.launch(2, "i-7", "i-8")
    assert Stay(ledger, tmp_path).wait() is None


def test_a_machine_leaves_with_the_end_of_the_run(tmp_path):
    ledger = Ledger()
    ledger.end_run("run", status=RunStatus.STOPPED, reason="", now=NOW)
    assert Stay(ledger, tmp_path).wait() is None


def test_a_notice_ends_the_stay_and_is_recorded(tmp_path):
    ledger = Ledger()
    stay = Stay(ledger, tmp_path)
    stay.mailbox.end(StopRequest(cause=StopCause.NOTICE, reason="", detected=NOW))
    assert stay.wait() is None
    assert ledger.find_attempt("run", 1).nodes[0].noticed_at == NOW


def test_a_rank_is_found_by_the_instance_and_a_stranger_leaves(tmp_path):
    ledger = Ledger()
    found = find_node(settings_of(tmp_path, instance_id="i-1"), ledger, Mailbox())
    assert found is not None
    assert found.rank == 1
    stranger = settings_of(tmp_path, instance_id="i-9")
    assert find_node(stranger, ledger, Mailbox()) is None


class Patient(Mailbox):
    """Waits for nothing, notes for how long it would have, and is stopped in the end."""

    def __init__(self, times):
        super().__init__()
        self.times, self.waits = times, []

    def wait(self, seconds):
        self.waits.append(seconds)
        if len(self.waits) == self.times:
            self.end(StopRequest(cause=StopCause.STOP, reason="", detected=NOW))


class Unreadable(Ledger):
    def find_attempt(self, run_id, number):
        raise TransientError("throttled")


@pytest.mark.parametrize("make_ledger", [Ledger, Unreadable])
def test_the_machines_of_a_gang_read_the_ledger_ever_less_often(tmp_path, make_ledger):
    ledger, mailbox = make_ledger(), Patient(30)
    ledger.open(2, "i-0", "i-1")
    assert find_node(settings_of(tmp_path, attempt=2), ledger, mailbox) is None
    assert sum(mailbox.waits[:4]) < 4
    assert len(mailbox.waits) == 30
    assert min(mailbox.waits[20:]) > 5
    assert max(mailbox.waits) <= 12
