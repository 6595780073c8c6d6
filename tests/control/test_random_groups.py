"""Runs of a group on instances that go from one to the next, with loss and repetition.

Whatever happens: an instance has one live attempt at most, works only for the node that the ledger
names, is not ended or asked to stop while it is wanted, and none is left at the end. Functions stop
before or after any of their calls and are repeated; events are lost, late and duplicated.
"""

from dataclasses import dataclass, field
from datetime import timedelta

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from runctl.control.ending_groups import end_group
from runctl.control.execution_start import ExecutionStart
from runctl.model.errors import RequestError, RunctlError, TransientError
from runctl.model.group import Group, WarmInstance, WarmStage
from runctl.model.node import NodeId
from runctl.model.outcome import RunStatus
from runctl.model.pool import Pool
from tests.attempts import change
from tests.control.fakes import START, World
from tests.control.faulty_worlds import CrashError, Fragile, Overtaken
from tests.control.steps import (
    clean_up,
    confirm_checkpoint,
    decide_next,
    finish_run,
    handle_instance_change,
    handle_interruption,
    launch_instances,
    prepare_run,
    reconcile,
    train,
)

GROUP = "group"
MEMBERS = 8
AT_ONCE = 2
MAX_REFUSALS = 3
TYPES = ("m5.large", "c5.large")
FAILURES = {
    "ends before it": (False, ""),
    "ends after it": (True, ""),
    "throttled": (False, "Rate exceeded"),
    "answer lost": (True, "Read timeout"),
}
# What may happen while a function is between two of its calls.
OVERTAKERS = ("another member", "a repetition", "an agent leaves", "an agent", "an event")
crashes = st.none() | st.tuples(
    st.integers(1, 14), st.sampled_from([*sorted(FAILURES), *OVERTAKERS])
)
ENDS = {
    "completes": {"kind": "completed", "exit_code": 0},
    "fails": {"kind": "failed", "exit_code": 3, "reason": "diverged"},
    "is pruned": {"kind": "stopped", "exit_code": 143},
    "cannot start": {"kind": "failed", "reason": "no such script"},
}


@dataclass
class Member:
    """The execution of one run of the group."""

    run_id: str
    types: tuple[str, ...]
    state: str = "prepare"
    attempt: int = 0
    outcome: dict = field(default_factory=dict)
    end: dict = field(default_factory=dict)
    token: str = ""
    handed_over: bool = False

    @property
    def arn(self) -> str:
        return f"arn:{self.run_id}"


@dataclass
class Agent:
    """The program on an instance: with an attempt, or waiting for the next one."""

    instance_id: str
    node: NodeId
    is_waiting: bool = False
    has_offered: bool = False
    noticed: bool = False
    refusals: int = 0  # of its report, by a token that is spent


class Groups(RuleBasedStateMachine):
    """A parent that starts members, and everything that may happen to them."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World(zones=("us-east-1a",))
        self.members: list[Member] = []
        self.agents: dict[str, Agent] = {}
        self.events: list[tuple] = []
        self.tokens = 0
        self.is_over = False
        self.wrongs: list[str] = []
        # Recorded between two calls of a function, which may have read the attempt before.
        self.noticed_meanwhile: set[str] = set()
        self.really_terminate, self.really_send = (
            self.world.fleet.terminate, self.world.commands.send,
        )  # fmt: skip
        self.world.fleet.terminate = self.terminate
        self.world.commands.send = self.send
        self.is_reconciled = True

    @initialize(is_reconciled=st.booleans(), keep=st.sampled_from([60, 120]))
    def begin(self, is_reconciled, keep):
        self.is_reconciled = is_reconciled
        self.world.groups.create_group(
            Group(
                group_id=GROUP,
                kind="sweep",
                execution=GROUP,
                execution_arn=f"arn:{GROUP}",
                started_at=START,
                keep_seconds=keep,
            )
        )
        self.world.workflow.running.add(f"arn:{GROUP}")

    # What is true at every moment.

    @invariant()
    def an_instance_has_one_live_attempt(self):
        found = [
            node.instance_id
            for attempt in self.world.ledger.attempt_items.values()
            if attempt.ended is None
            for node in attempt.nodes
            if node.instance_id
        ]
        assert len(found) == len(set(found)), found

    @invariant()
    def an_instance_works_for_the_node_that_the_ledger_names(self):
        for agent in self.agents.values():
            if agent.instance_id in self.live_ids() and not agent.is_waiting:
                owner = self.world.ledger.find_instance(agent.instance_id)
                assert owner in {None, agent.node}, (owner, agent)

    @invariant()
    def nothing_is_ended_while_it_is_wanted(self):
        assert self.wrongs == []

    def terminate(self, instance_ids):
        for instance_id in instance_ids:
            machine = self.world.fleet.machines[instance_id]
            agent = self.agents.get(instance_id)
            young = self.world.clock.now() - machine.launched_at < timedelta(hours=1)
            if machine.is_live and self.is_wanted(instance_id):
                self.wrongs.append(f"{instance_id} was terminated at work")
            is_known = self.is_noticed(instance_id) and instance_id not in self.noticed_meanwhile
            if machine.is_live and agent and young and is_known:
                self.wrongs.append(f"{instance_id} was terminated after a notice")
        self.really_terminate(instance_ids)

    def is_noticed(self, instance_id):
        known = self.world.ledger.find_instance(instance_id)
        attempt = known and self.world.ledger.find_attempt(known.run_id, known.attempt)
        return bool(attempt and attempt.noticed_at)

    def send(self, instance_id, action, *, deadline=None):
        if action == "stop" and self.is_wanted(instance_id):
            self.wrongs.append(f"{instance_id} was asked to stop at work")
        return self.really_send(instance_id, action, deadline=deadline)

    def is_wanted(self, instance_id):
        node = self.world.ledger.find_instance(instance_id)
        attempt = node and self.world.ledger.find_attempt(node.run_id, node.attempt)
        run = node and self.world.ledger.find_run(node.run_id)
        return bool(attempt and attempt.ended is None and run and run.ended is None)

    # The parent.

    @precondition(lambda self: not self.is_over)
    @rule(types=st.sampled_from([TYPES, TYPES, TYPES[:1]]))
    def the_parent_starts_a_member(self, types):
        self.start_member(types)

    def start_member(self, types):
        if self.is_over or self.world.groups.find_group(GROUP).stop_requested:
            return
        if len(self.members) < MEMBERS and len(self.running()) < AT_ONCE:
            member = Member(f"{GROUP}-{len(self.members) + 1:04d}", types)
            self.members.append(member)
            self.world.workflow.running.add(member.arn)

    @rule(crash=crashes, really=st.sampled_from([True, False, False, False]))
    def the_group_ends(self, crash, really):
        if really and len(self.members) > 1 and not self.running() and not self.is_over:
            self.is_over = True
            self.world.workflow.running.discard(f"arn:{GROUP}")
            self.world.workflow.ended[f"arn:{GROUP}"] = "SUCCEEDED"
            self.end(crash)

    def end(self, crash):
        try:
            end_group(
                self.services(crash), GROUP, status=RunStatus.COMPLETED, reason="all trials ended"
            )
        except (CrashError, TransientError):
            self.events.append(("end",))

    @rule(really=st.sampled_from([True, False, False, False, False]))
    def the_user_stops_the_group(self, really):
        if not really or self.is_over or len(self.members) < 2:
            return
        self.is_over = True
        self.world.workflow.running.discard(f"arn:{GROUP}")
        self.world.workflow.ended[f"arn:{GROUP}"] = "ABORTED"
        self.events.append(("execution", GROUP, "ABORTED"))

    @rule(really=st.sampled_from([True, False, False]))
    def no_further_member_is_wanted(self, really):
        if really and len(self.members) > 2:
            self.world.groups.request_stop(GROUP)

    # The members.

    def running(self):
        for member in self.members:
            if member.state != "over" and member.arn in self.world.workflow.ended:
                member.state = "over"
                self.events.append(
                    ("execution", member.run_id, self.world.workflow.ended[member.arn])
                )
        return [member for member in self.members if member.state != "over"]

    def services(self, crash):
        if crash is None:
            return self.world
        if crash[1] in OVERTAKERS:
            return Overtaken(self.world, at=crash[0], meanwhile=lambda: self.overtake(crash[1]))
        after, message = FAILURES[crash[1]]
        error = TransientError(message) if message else None
        return Fragile(self.world, fuse=crash[0], after=after, error=error)

    def overtake(self, what):
        unnoticed = {each for each in self.agents if not self.is_noticed(each)}
        self.do_meanwhile(what)
        self.noticed_meanwhile |= {each for each in unnoticed if self.is_noticed(each)}

    def do_meanwhile(self, what):
        members, idle = self.running(), [each for each in self.living() if each.is_waiting]
        if what == "another member":
            for _ in range(3):
                for member in members[1:]:
                    self.advance(member)
        elif what == "a repetition" and members:
            self.advance(members[0])
        elif what == "an agent leaves" and idle:
            self.give_up(idle[0])
        elif what == "an agent":
            for agent in self.living():
                self.act(agent, "completes")
        elif what == "an event" and self.events:
            self.deliver(self.events.pop(0))

    @precondition(lambda self: self.running())
    @rule(data=st.data(), crash=crashes)
    def step_functions_goes_on(self, data, crash):
        self.advance(data.draw(st.sampled_from(self.running())), crash)

    @rule(
        ends=st.lists(st.sampled_from(["", "completes", *ENDS]), min_size=4, max_size=16),
        late=st.integers(0, 3),
        troubles=st.lists(crashes, max_size=8),
        seconds=st.sampled_from([0, 20, 100]),
    )
    def members_go_on_for_a_while(self, ends, late, troubles, seconds):
        """Take many steps at once; the events that are then more than `late` arrive."""
        for end in ends:
            self.start_member(TYPES)
            for member in self.running():
                self.advance(member, troubles.pop() if troubles else None)
            self.world.clock.advance(timedelta(seconds=seconds))
            for agent in self.living():
                self.act(agent, end)
            while len(self.events) > late:
                self.deliver(self.events.pop(0))
            self.an_instance_works_for_the_node_that_the_ledger_names()
            self.an_instance_has_one_live_attempt()

    def advance(self, member, crash=None):
        if member not in self.running():
            return
        services = self.services(crash)
        try:
            getattr(self, f"do_{member.state}")(member, services)
        except (CrashError, TransientError):
            return  # Step Functions tries the same state again
        except RequestError:
            self.finish(member, "FAILED")
        except RunctlError:
            member.state = "clean_up"

    def do_prepare(self, member, services):
        run = self.world.ledger.find_run(member.run_id)
        at = run.started_at if run else self.world.clock.now()
        started = ExecutionStart(arn=member.arn, name=member.run_id, started_at=at)
        request = {
            "command": ["train"], "group": GROUP, "instance_types": list(member.types),
            "max_attempts": 4,
        }  # fmt: skip
        member.attempt = prepare_run(services, started, request)["attempt"]
        member.state = "launch"

    def do_launch(self, member, services):
        launch = launch_instances(services, member.run_id, member.attempt)
        member.handed_over = False
        member.outcome = launch.get("outcome", {})
        member.state = "train" if launch["launched"] else "confirm"

    def do_train(self, member, services):
        if member.handed_over:
            report = self.world.workflow.reports.get(member.token)
            if report is not None:
                member.outcome, member.state = report["outcome"], "confirm"
            return
        self.world.workflow.valid.discard(member.token)
        self.tokens += 1
        member.token = f"token-{self.tokens}"
        self.world.workflow.valid.add(member.token)
        train(services, member.run_id, member.attempt, token=member.token, execution_arn=member.arn)
        member.handed_over = True

    def do_confirm(self, member, services):
        confirmed = confirm_checkpoint(services, member.run_id, member.attempt, member.outcome)
        member.outcome, member.state = confirmed["outcome"], "decide"

    def do_decide(self, member, services):
        decided = decide_next(services, member.run_id, member.attempt, member.outcome)
        if decided["decision"] == "relaunch":
            member.attempt, member.state = decided["attempt"], "launch"
        else:
            member.end = {"status": decided["status"], "reason": decided["reason"]}
            member.state = "finish"

    def do_finish(self, member, services):
        result = finish_run(services, member.run_id, execution_arn=member.arn, **member.end)
        self.finish(member, "FAILED" if result["status"] == "failed" else "SUCCEEDED")

    def do_clean_up(self, member, services):
        clean_up(services, execution_arn=member.arn, name=member.run_id, status="FAILED")
        self.finish(member, "FAILED")

    def finish(self, member, status):
        member.state = "over"
        self.world.workflow.valid.discard(member.token)
        if member.arn in self.world.workflow.running:
            self.world.workflow.running.discard(member.arn)
            self.world.workflow.ended[member.arn] = status
            if status != "SUCCEEDED":
                self.events.append(("execution", member.run_id, status))

    @precondition(lambda self: self.running())
    @rule(data=st.data(), really=st.sampled_from([True, False, False]))
    def a_member_is_stopped(self, data, really):
        if really:
            self.finish(data.draw(st.sampled_from(self.running())), "ABORTED")

    @precondition(lambda self: self.waiting_for_reports())
    @rule(data=st.data())
    def a_heartbeat_expires(self, data):
        self.expire(data.draw(st.sampled_from(self.waiting_for_reports())))

    def waiting_for_reports(self):
        return [
            member
            for member in self.running()
            if member.state == "train"
            and member.handed_over
            and member.token in self.world.workflow.valid
        ]

    def expire(self, member):
        self.world.workflow.valid.discard(member.token)
        member.outcome = {"kind": "lost", "reason": "the heartbeat expired"}
        member.state = "confirm"

    # The instances.

    def live_ids(self):
        return {machine.instance_id for machine in self.world.fleet.running()}

    def living(self):
        for machine in self.world.fleet.running():
            if machine.instance_id not in self.agents:
                node = NodeId(machine.run_id, machine.attempt, 0)
                self.agents[machine.instance_id] = Agent(machine.instance_id, node)
        return [agent for agent in self.agents.values() if agent.instance_id in self.live_ids()]

    @precondition(lambda self: self.living())
    @rule(data=st.data(), end=st.sampled_from(["", "", "completes", "completes", *ENDS]))
    def an_agent_acts(self, data, end):
        self.act(data.draw(st.sampled_from(self.living())), end)

    def act(self, agent, end):
        if agent.is_waiting:
            self.poll(agent)
            return
        ledger = self.world.ledger
        run = ledger.find_run(agent.node.run_id)
        attempt = ledger.find_attempt(agent.node.run_id, agent.node.attempt)
        if attempt is None:
            return
        not_mine = attempt.instance_ids and agent.instance_id not in attempt.instance_ids
        if run.ended or attempt.ended or not_mine or run.fence > agent.node.attempt:
            self.go(agent)
            return
        if not attempt.has_token or not attempt.instance_ids:
            return
        outcome = {"kind": "interrupted"} if agent.noticed else ENDS.get(end)
        if outcome is None:
            return
        if "exit_code" in outcome and not agent.has_offered:
            offer = WarmInstance(
                group_id=GROUP, instance_id=agent.instance_id, node=agent.node, disk_bytes=1
            )
            held = self.world.groups.offer_warm(offer)
            agent.has_offered = held.stage is not WarmStage.LEFT
        token = ledger.find_token(*agent.node[:2])
        if not self.world.workflow.report(token, {"outcome": outcome}):
            # A retry of Train may be about to store a newer token, for which agents wait.
            agent.refusals += 1
            if agent.refusals < MAX_REFUSALS:
                return
        agent.refusals = 0
        if agent.has_offered:
            agent.is_waiting, agent.has_offered = True, False
        else:
            self.go(agent)

    def poll(self, agent):
        held = self.world.groups.find_warm(GROUP, agent.instance_id)
        if agent.noticed:
            self.give_up(agent)
        elif held is None or held.stage is WarmStage.LEFT:
            self.go(agent)
        elif held.node != agent.node:
            agent.node, agent.is_waiting = held.node, False

    def give_up(self, agent):
        held = self.world.groups.withdraw_offer(
            GROUP, agent.instance_id, node=agent.node, now=self.world.clock.now()
        )
        if held is None or held.node == agent.node:
            self.go(agent)
        else:
            agent.node, agent.is_waiting = held.node, False

    def go(self, agent, reason="Client.InstanceInitiatedShutdown"):
        if agent.noticed and reason.startswith("Client"):
            return  # EC2 takes it
        self.world.fleet.end(agent.instance_id, reason=reason)
        self.events.append(("change", agent.instance_id))

    @precondition(lambda self: any(agent.is_waiting for agent in self.living()))
    @rule(data=st.data())
    def an_idle_agent_gives_up(self, data):
        idle = [agent for agent in self.living() if agent.is_waiting]
        self.give_up(data.draw(st.sampled_from(idle)))

    @precondition(lambda self: self.living())
    @rule(data=st.data())
    def ec2_gives_notice(self, data):
        agent = data.draw(st.sampled_from(self.living()))
        agent.noticed = True
        self.events.append(("warning", agent.instance_id))

    @precondition(lambda self: self.living())
    @rule(data=st.data(), really=st.booleans())
    def ec2_takes_an_instance(self, data, really):
        if really:
            agent = data.draw(st.sampled_from(self.living()))
            self.go(agent, "Server.SpotInstanceTermination")

    # Events and time.

    @precondition(lambda self: self.events)
    @rule(data=st.data(), crash=crashes, again=st.booleans())
    def an_event_arrives(self, data, crash, again):
        index = data.draw(st.integers(0, len(self.events) - 1))
        self.deliver(self.events[index] if again else self.events.pop(index), crash)

    @precondition(lambda self: self.events and self.is_reconciled)
    @rule(data=st.data())
    def an_event_is_lost(self, data):
        self.events.remove(data.draw(st.sampled_from(self.events)))

    def deliver(self, event, crash=None):
        services = self.services(crash)
        try:
            if event[0] == "warning":
                handle_interruption(services, event[1])
            elif event[0] == "change":
                handle_instance_change(services, event[1], "terminated")
            elif event[0] == "end":
                self.end(crash)
            else:
                clean_up(services, execution_arn=f"arn:{event[1]}", name=event[1], status=event[2])
        except (CrashError, TransientError):
            self.events.append(event)

    @rule(crash=crashes)
    def reconciliation_comes(self, crash):
        if self.is_reconciled:
            self.beat()
            try:
                reconcile(self.services(crash))
            except (CrashError, TransientError):
                return

    def beat(self):
        ledger, now = self.world.ledger, self.world.clock.now()
        for agent in self.living():
            key = agent.node.run_id, agent.node.attempt
            if not agent.is_waiting and key in ledger.attempt_items:
                ledger.attempt_items[key] = change(ledger.attempt_items[key], heartbeat_at=now)

    @rule(seconds=st.sampled_from([1, 30, 90, 400]))
    def time_passes(self, seconds):
        self.world.clock.advance(timedelta(seconds=seconds))
        if seconds > 200:
            for agent in self.living():
                if agent.is_waiting:
                    self.give_up(agent)

    @rule(scarce=st.booleans())
    def capacity_changes(self, scarce):
        for kind in TYPES:
            pool = Pool(kind, "us-east-1a", "spot")
            self.world.fleet.refusals.pop(pool, None)
            if scarce:
                self.world.fleet.refusals[pool] = "InsufficientInstanceCapacity"

    # At the end.

    def teardown(self):
        self.world.fleet.refusals.clear()
        for _ in range(300):
            if not self.settle():
                break
        else:
            raise AssertionError("the group does not come to rest")
        self.an_instance_has_one_live_attempt()
        self.nothing_is_ended_while_it_is_wanted()
        for _ in range(2 * self.is_reconciled):
            self.world.clock.advance(timedelta(hours=1))
            assert reconcile(self.world)["failed"] == []
        assert not self.world.fleet.running()
        attempts = self.world.ledger.attempt_items.values()
        assert all(attempt.ended is not None for attempt in attempts), attempts
        assert self.world.groups.find_group(GROUP) is None or self.group_has_ended()

    def group_has_ended(self):
        group = self.world.groups.find_group(GROUP)
        return group.ended is not None and not any(
            warm.is_idle for warm in self.world.groups.list_warm(GROUP)
        )

    def settle(self) -> bool:
        moved = bool(self.events)
        for _ in range(len(self.events)):
            self.deliver(self.events.pop(0))
        for agent in self.living():
            before = repr(agent), self.live_ids()
            self.act(agent, "completes")
            if agent.noticed and agent.instance_id in self.live_ids():
                self.go(agent, "Server.SpotInstanceTermination")
            moved |= before != (repr(agent), self.live_ids())
        for member in self.running():
            moved = True
            self.world.clock.advance(timedelta(seconds=20))
            # An agent that waits for another run sends no heartbeats.
            nodes = {
                (agent.node.run_id, agent.node.attempt)
                for agent in self.living()
                if not agent.is_waiting
            }
            is_silent = (member.run_id, member.attempt) not in nodes
            if member in self.waiting_for_reports() and is_silent:
                self.expire(member)
            else:
                self.advance(member)
        if not moved:
            for agent in self.living():
                if agent.is_waiting:  # nothing has claimed it in time
                    self.give_up(agent)
                    moved = True
        if not moved and not self.is_over and self.world.groups.find_group(GROUP):
            self.is_over = moved = True
            self.world.workflow.running.discard(f"arn:{GROUP}")
            self.world.workflow.ended[f"arn:{GROUP}"] = "SUCCEEDED"
            self.end(None)
        return moved


def a_group_whose_train_was_stopped_twice(acts):
    """Start a run whose agent acts while a retry of Train has a token that is not stored yet."""
    groups = Groups()
    groups.begin(is_reconciled=True, keep=60)
    groups.start_member(TYPES)
    (member,) = groups.members
    while member.state != "train":
        groups.advance(member)
    groups.advance(member, (1, "ends after it"))
    groups.advance(member, (1, "ends before it"))
    assert not member.handed_over
    for _ in range(acts):
        for agent in groups.living():
            groups.act(agent, "completes")
    return groups, member


def test_a_report_whose_token_a_retry_of_train_replaces_is_sent_again():
    groups, member = a_group_whose_train_was_stopped_twice(acts=1)
    groups.teardown()
    assert (member.attempt, member.end["status"]) == (1, "completed")


def test_an_agent_that_has_given_up_its_report_leaves_an_attempt_that_is_lost():
    groups, member = a_group_whose_train_was_stopped_twice(acts=MAX_REFUSALS)
    groups.teardown()
    assert (member.attempt, member.end["status"]) == (2, "completed")


TestGroups = Groups.TestCase
TestGroups.settings = settings(
    max_examples=400,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
