"""Whatever is late, lost, duplicated or cut short: one attempt trains, nothing leaks, runs end.

The world moves step by step in an order that Hypothesis chooses. Every function of the control
plane may stop before or after any of its calls, be throttled there or lose the response, and is
then repeated as Step Functions and EventBridge do, or given up. An execution may be stopped and
redriven in any state, continues in another after a few turns, and others may request its run.
Machines and their agents are modeled by their contract.
"""

import contextlib
import itertools
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from typing import ClassVar

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from runctl.control.execution_start import STARTED_BY, ExecutionStart
from runctl.model.errors import RequestError, RunctlError, TransientError
from runctl.model.machine import MachineStatus
from runctl.model.pool import Pool
from runctl.model.run import AttemptStage, derive_status, status_of, summarize
from tests.attempts import change
from tests.control.fakes import World
from tests.control.faulty_worlds import CrashError, Fragile, Overtaken
from tests.control.saves import StoredSaves, Trainer, report_of
from tests.control.steps import (
    clean_up,
    confirm_checkpoint,
    decide_next,
    finish_run,
    handle_change_event,
    handle_event,
    handle_instance_change,
    handle_interruption,
    launch_instances,
    prepare_run,
    reconcile,
    train,
)

RUN = "run-1"
ZONES = ("us-east-1a", "us-east-1b")
TYPES = ("m5.large", "c5.large")

SCARCITY = (
    "InsufficientInstanceCapacity",
    "MaxSpotInstanceCountExceeded",
    "InvalidFleetConfiguration",
)
REFUSALS = (*SCARCITY, "RequestLimitExceeded", "InternalError", "SomethingNew")
# What ends the run at once is drawn less often.
REFUSALS += ("UnauthorizedOperation", *2 * SCARCITY[:1])

MAX_EXECUTIONS = 6
# So that a run of a few attempts has to continue in the next execution.
MAX_TURNS = 2
# Whether the failing call took effect, and whether the function sees the error or stops there.
FAILURES = {
    "ends before it": (False, ""),
    "ends after it": (True, ""),
    "throttled": (False, "Rate exceeded"),
    "answer lost": (True, "Read timeout"),
    "tried too often": (False, "Rate exceeded"),
}
MAX_FAILURES = 2
# How a trainer may fail by itself: in one of two ways with 1, which may be retried, or with 2.
FAILS = {
    f"fails with {code}, {words}": ("failed", {"exit_code": code, "reason": words})
    for code, words in [(1, "no space"), (1, "no network"), (2, "bad usage")]
}
# How an attempt ends in one go; a broken program dies after every restore on its machine.
ENDS = ("lost", "torn save", "torn save", "two torn saves", "broken", *FAILS, *2 * [*FAILS][:2])
# Fields of a foreign or malformed event in addition to the detail of a real one.
STRANGE = [
    None, [], "i-1", {}, {"instance-id": 7}, {"instance-id": "i-0123456789abcdef0"},
    {"instance-id": "i-" + 300 * "0", "state": "terminated"}, {"instance-id": "i-9", "state": None},
    {"instance-id": "i-9", "instance-action": "hibernate", "state": "terminated"},
]  # fmt: skip
WARNINGS = (
    "EC2 Spot Instance Interruption Warning",
    "EC2 Capacity Reservation Instance Interruption Warning",
    "EC2 Instance Rebalance Recommendation",
    "EC2 Something Else",
)
# What may happen while a function is between two of its calls.
OVERTAKERS = ("an event", "a repetition", "a stop", "a reconciliation", "an agent")
# At which of its port calls the function fails or is overtaken, and how.
crashes = st.none() | st.tuples(
    st.integers(1, 9), st.sampled_from([*sorted(FAILURES), *OVERTAKERS])
)


BEGINNING = {
    "market": st.sampled_from(["spot", "spot-then-on-demand"]),
    "auto_resume": st.sampled_from([True, True, True, False]),
    "crashes_at_first": st.lists(crashes, max_size=5),
    "crashes_at_last": st.lists(crashes, max_size=30),
    "agents_help": st.booleans(),
    "is_reconciled": st.sampled_from([True, False, False]),
    "retry": st.sampled_from([{}, {"retry": {"exit_codes": [1], "max_failures": MAX_FAILURES}}]),
}


@dataclass
class Execution:
    """The state machine of stacks/workflows, one state at a time."""

    arn: str
    name: str
    document: dict
    state: str = "prepare"
    stopped_in: str = ""
    child: str = ""
    attempt: int = 0
    outcome: dict = field(default_factory=dict)
    end: dict = field(default_factory=dict)
    token: str = ""
    handed_over: bool = False

    @property
    def is_running(self) -> bool:
        return self.state != "over"


@dataclass
class Agent:
    """The program on a machine, as others see it."""

    instance_id: str
    attempt: int
    alive: bool = True
    noticed: bool = False
    taken: bool = False  # for a capacity reservation: only the command announces it
    leaves: bool = False  # before maintenance
    trainer: Trainer | None = None
    reported: bool = False

    @property
    def step(self) -> int:
        return self.trainer.step if self.trainer else 0


class Training(RuleBasedStateMachine):
    """One run from start to end, with everything that may happen to it."""

    more_of_the_request: ClassVar[dict] = {}

    def __init__(self) -> None:
        super().__init__()
        self.world = World(zones=ZONES)
        self.executions: list[Execution] = []
        self.agents: dict[str, Agent] = {}
        self.events: list[dict] = []
        self.saves = StoredSaves(self.world, RUN)
        self.renewals = 0
        self.tokens = 0
        self.crashes_at_last: list = []
        self.ended_too_early: list[str] = []
        self.scarce: set[Pool] = set()
        self.really_terminate = self.world.fleet.terminate
        self.world.fleet.terminate = self.terminate
        # Otherwise a machine that does not train yet never notices that it is not needed.
        self.agents_help = True
        # Reconciliation hides what the others leave undone. Without it nothing may be lost.
        self.is_reconciled = True

    @initialize(**BEGINNING)
    def begin(
        self,
        market,
        auto_resume,
        crashes_at_first,
        crashes_at_last,
        agents_help,
        is_reconciled,
        retry,
    ):
        self.agents_help = agents_help
        self.is_reconciled = is_reconciled
        self.crashes_at_last = crashes_at_last
        self.start(
            RUN,
            {
                "command": ["train"],
                "instance_types": list(TYPES),
                "market": market,
                "auto_resume": auto_resume,
                "max_attempts": 8,
                **retry,
                **self.more_of_the_request,
            },
        )
        for crash in crashes_at_first:
            if self.execution is not None:
                self.advance(self.execution, crash)

    def start(self, name, document):
        execution = Execution(arn=f"arn:{name}", name=name, document=document)
        self.executions.append(execution)
        self.world.workflow.running.add(execution.arn)

    # What is true at every moment.

    @invariant()
    def at_most_one_attempt_trains(self):
        training = [
            attempt.number
            for attempt in self.world.ledger.attempts(RUN)
            if attempt.stage is AttemptStage.RUNNING
        ]
        assert len(training) <= 1, training

    @invariant()
    def the_summary_agrees_with_the_attempts(self):
        run = self.world.ledger.find_run(RUN)
        if run is not None and run.summary is not None:
            attempts = self.world.ledger.attempts(RUN)
            assert run.summary == summarize(attempts)
            assert status_of(run, run.summary) is derive_status(run, attempts)

    @invariant()
    def proven_checkpoints_stay_and_progress_never_goes_back(self):
        committers = [number for _, number, _ in self.world.ledger.commits]
        assert committers == sorted(committers), committers
        self.saves.check()

    @invariant()
    def the_trainers_failures_are_retried_only_so_often(self):
        run = self.world.ledger.find_run(RUN)
        if run is None:
            return
        codes = [
            attempt.ended.exit_code
            for attempt in self.world.ledger.attempts(RUN)
            if attempt.ended and attempt.ended.exit_code
        ]
        most = MAX_FAILURES if run.request.limits.retry.is_on else 0
        assert codes.count(1) <= most + 1 + self.renewals, codes
        assert codes.count(2) <= 1 + self.renewals, codes

    @invariant()
    def only_scarcity_and_reclaims_cool_a_pool(self):
        had = {machine.pool for machine in self.world.fleet.machines.values()}
        assert set(self.world.ledger.pools) <= self.scarce | had

    @invariant()
    def each_rank_of_an_attempt_is_one_node_with_a_machine_of_its_own(self):
        attempts = self.world.ledger.attempts(RUN)
        for attempt in attempts:
            assert [node.rank for node in attempt.nodes] == [0], attempt
        nodes = [node for attempt in attempts for node in attempt.nodes if node.instance_id]
        machines = self.world.fleet.machines
        assert all(machines[node.instance_id].attempt == node.attempt for node in nodes), nodes
        assert len({node.instance_id for node in nodes}) == len(nodes), nodes

    @invariant()
    def an_attempt_is_launched_once(self):
        numbers = [machine.attempt for machine in self.world.fleet.machines.values()]
        assert len(numbers) == len(set(numbers)), numbers

    @invariant()
    def what_ec2_takes_for_free_is_left_to_it(self):
        assert self.ended_too_early == []

    def terminate(self, instance_ids):
        for instance_id in instance_ids:
            machine = self.world.fleet.machines[instance_id]
            attempt = self.world.ledger.find_attempt(RUN, machine.attempt)
            young = self.world.clock.now() - machine.launched_at < timedelta(hours=1)
            if (
                machine.is_live
                and attempt.noticed_at
                and instance_id in attempt.instance_ids
                and young
            ):
                self.ended_too_early.append(instance_id)
        self.really_terminate(instance_ids)

    # The state machine.

    @precondition(lambda self: self.execution is not None)
    @rule(data=st.data(), crash=crashes)
    def step_functions_goes_on(self, data, crash):
        self.advance(data.draw(st.sampled_from(self.running())), crash)

    @precondition(lambda self: self.execution is not None)
    @rule(steps=st.integers(2, 6))
    def all_goes_well_for_a_while(self, steps):
        for _ in range(steps):
            if self.execution is not None:
                self.advance(self.execution)
            for agent in self.live_agents():
                self.act(agent, "train")
            self.at_most_one_attempt_trains()

    @precondition(lambda self: self.execution is not None)
    @rule(ends=st.lists(st.sampled_from(ENDS), min_size=1, max_size=6))
    def attempts_train_and_end(self, ends):
        """Run many attempts in one step, since saves and failures matter only in sequence."""
        for end in ends:
            agent = self.come_to_train()
            if agent is None or agent.trainer is None:
                return
            if end in {"torn save", "two torn saves"} and not self.saves.dies(agent.trainer):
                for _ in range(1 + (end == "two torn saves")):
                    agent.trainer.step += 1
                    self.saves.commit(agent.trainer, is_torn=True)
            if end == "broken":
                agent.trainer.is_broken = True
            if end in {*FAILS, "broken", "lost"}:
                self.act(agent, end if end in FAILS else "train")
            if end not in FAILS:
                self.go(agent, "Server.SpotInstanceTermination")
            self.proven_checkpoints_stay_and_progress_never_goes_back()
            self.at_most_one_attempt_trains()

    def come_to_train(self) -> Agent | None:
        """Proceed without failures until the execution's attempt trains."""
        for _ in range(12):
            if self.execution is None:
                return None
            execution = self.execution
            for agent in self.live_agents():
                known = agent.attempt == execution.attempt and agent.alive
                if known and execution in self.waiting() and not agent.noticed:
                    self.act(agent, "train")
                    if agent.trainer is not None and not agent.reported:
                        return agent
            if execution in self.waiting() and not self.live_agents():
                self.expire(execution)
            self.advance(execution)
        return None

    def running(self) -> list[Execution]:
        for execution in self.executions:
            if execution.is_running and execution.arn in self.world.workflow.ended:
                # While a function worked for it, or by one of our functions.
                status = self.world.workflow.ended[execution.arn]
                execution.stopped_in = execution.state if status == "ABORTED" else ""
                execution.state = "over"
                self.events.append({"kind": "execution", "execution": execution, "status": status})
        return [execution for execution in self.executions if execution.is_running]

    @property
    def execution(self) -> Execution | None:
        return next(reversed(self.running()), None)

    def services(self, crash):
        if crash is None:
            return self.world
        if crash[1] in OVERTAKERS:
            return Overtaken(self.world, at=crash[0], meanwhile=partial(self.overtake, crash[1]))
        after, message = FAILURES[crash[1]]
        error = TransientError(message) if message else None
        return Fragile(self.world, fuse=crash[0], after=after, error=error)

    def overtake(self, what):
        if what == "an event" and self.events:
            self.deliver(self.events.pop(0), None)
        elif what == "a reconciliation":
            self.reconcile(None)
        elif what == "an agent":
            for agent in self.live_agents():
                self.act(agent, "complete")
        elif (execution := self.execution) is not None:
            if what == "a stop":
                was_known = execution.state != "prepare"
                self.stop(execution)
                # A handler that sees an execution before PrepareRun is done finds no such run;
                # then only reconciliation is left.
                if was_known or self.is_reconciled:
                    self.deliver(self.events.pop(), None)
            elif what == "a repetition":
                # Step Functions has given up on the function and calls it again while it runs.
                self.advance(execution)

    def advance(self, execution, crash=None):
        if execution.state == "train" and execution.handed_over:
            self.take_report(execution)
            return
        try:
            getattr(self, f"do_{execution.state}")(execution, self.services(crash))
        except CrashError:
            return  # Step Functions tries the same state again
        except TransientError:
            # Without a crash EC2 throttled a replay, which Step Functions repeats for long.
            if crash is not None and crash[1] == "tried too often" and self.is_reconciled:
                execution.state = "over" if execution.state == "clean_up" else "clean_up"
            if execution.state == "over":
                self.finish_execution(execution, "FAILED")
        except RequestError:
            self.finish_execution(execution, "FAILED")
        except RunctlError:
            execution.state = "clean_up"

    def do_prepare(self, execution, services):
        asked = ExecutionStart(
            arn=execution.arn, name=execution.name, started_at=self.world.clock.now()
        )
        if execution.name == RUN:
            # A retry has the same start.
            asked = ExecutionStart(arn=asked.arn, name=asked.name, started_at=self.begun_at)
        execution.attempt = prepare_run(services, asked, execution.document)["attempt"]
        execution.state = "launch"

    @property
    def begun_at(self):
        run = self.world.ledger.find_run(RUN)
        return run.started_at if run else self.world.clock.now()

    def do_launch(self, execution, services):
        launch = launch_instances(services, RUN, execution.attempt)
        execution.handed_over = False
        execution.outcome = launch.get("outcome", {})
        execution.state = "train" if launch["launched"] else "confirm"

    def token_of(self, attempt):
        return self.world.ledger.find_token(attempt.run_id, attempt.number)

    def do_train(self, execution, services):
        # Each try of a callback task has its own token, and ends the previous one.
        self.world.workflow.valid.discard(execution.token)
        self.tokens += 1
        execution.token = f"token-{self.tokens}"
        self.world.workflow.valid.add(execution.token)
        train(services, RUN, execution.attempt, token=execution.token, execution_arn=execution.arn)
        execution.handed_over = True

    def take_report(self, execution):
        report = self.world.workflow.reports.get(execution.token)
        if report is not None:
            execution.outcome = report["outcome"]
            execution.state = "confirm"

    def do_confirm(self, execution, services):
        confirmed = confirm_checkpoint(services, RUN, execution.attempt, execution.outcome)
        execution.outcome = confirmed["outcome"]
        execution.state = "decide"

    def do_decide(self, execution, services):
        decided = decide_next(
            services, RUN, execution.attempt, execution.outcome, max_turns=MAX_TURNS
        )
        if "continue_as" in decided:
            execution.child = decided["continue_as"]
            execution.state = "continue"
        elif decided["decision"] == "relaunch":
            self.world.clock.advance(timedelta(seconds=decided["wait_seconds"]))
            execution.attempt = decided["attempt"]
            execution.state = "launch"
        else:
            execution.end = {"status": decided["status"], "reason": decided["reason"]}
            execution.state = "finish"

    def do_continue(self, execution, services):
        child = next((nested for nested in self.executions if nested.name == execution.child), None)
        if child is None:
            self.start(execution.child, {"run_id": RUN, STARTED_BY: execution.arn})
        elif not child.is_running:
            ended = self.world.workflow.ended[child.arn]
            if ended == "SUCCEEDED":
                self.finish_execution(execution, ended)
            else:
                execution.state = "clean_up"

    def do_finish(self, execution, services):
        with self.nothing_changes_for_another_execution_than(execution, services):
            result = finish_run(services, RUN, execution_arn=execution.arn, **execution.end)
        self.finish_execution(execution, "FAILED" if result["status"] == "failed" else "SUCCEEDED")

    @contextlib.contextmanager
    def nothing_changes_for_another_execution_than(self, execution, services):
        ledger, fleet = self.world.ledger, self.world.fleet
        run = ledger.find_run(RUN)
        before = run, ledger.attempts(RUN), list(fleet.terminated)
        try:
            yield
        finally:
            if run and run.execution_arn != execution.arn and services is self.world:
                assert before == (
                    ledger.find_run(RUN),
                    ledger.attempts(RUN),
                    fleet.terminated,
                )

    def do_clean_up(self, execution, services):
        clean_up(services, execution_arn=execution.arn, name=execution.name, status="FAILED")
        self.finish_execution(execution, "FAILED")

    def finish_execution(self, execution, status):
        execution.state = "over"
        if execution.arn not in self.world.workflow.running:
            return
        self.world.workflow.valid.discard(execution.token)
        self.world.workflow.running.discard(execution.arn)
        self.world.workflow.ended[execution.arn] = status
        self.events.append({"kind": "execution", "execution": execution, "status": status})

    def stop(self, execution):
        execution.stopped_in = execution.state
        self.finish_execution(execution, "ABORTED")

    @precondition(lambda self: self.execution is not None and self.world.ledger.attempts(RUN))
    @rule(data=st.data(), really=st.sampled_from([True, False, False]), child_too=st.booleans())
    def the_user_stops_an_execution(self, data, really, child_too):
        if not really:
            return
        stopped = data.draw(st.sampled_from(self.running()))
        self.stop(stopped)
        for child in self.running():
            if child_too and child.name == stopped.child:
                self.stop(child)  # Step Functions' best effort

    @precondition(lambda self: any(execution.stopped_in for execution in self.executions))
    @rule(data=st.data())
    def the_user_redrives_a_stopped_execution(self, data):
        execution = data.draw(
            st.sampled_from([stopped for stopped in self.executions if stopped.stopped_in])
        )
        self.renewals += 1
        execution.state, execution.stopped_in = execution.stopped_in, ""
        execution.handed_over = False
        self.world.workflow.ended.pop(execution.arn)
        self.world.workflow.running.add(execution.arn)

    @precondition(lambda self: len(self.executions) < MAX_EXECUTIONS)
    @rule(patient=st.sampled_from([True, True, True, False]), linked=st.booleans())
    def the_user_resumes(self, patient, linked):
        if patient and self.execution is not None:
            return
        others = {STARTED_BY: "arn:of-a-pipeline"} if linked else {}
        name = f"{RUN}-r{len(self.executions) + 1}"
        if all(execution.name != name for execution in self.executions):
            self.renewals += 1
            self.start(name, {"run_id": RUN, **others})

    @precondition(lambda self: self.waiting())
    @rule()
    def the_heartbeat_expires(self):
        for execution in self.waiting():
            self.expire(execution)

    def waiting(self):
        return [
            execution
            for execution in self.running()
            if execution.state == "train"
            and execution.handed_over
            and execution.token in self.world.workflow.valid
        ]

    def expire(self, execution):
        self.world.workflow.valid.discard(execution.token)
        execution.outcome = {"kind": "lost", "reason": "the heartbeat expired"}
        execution.state = "confirm"

    # Machines.

    def meet_new_machines(self):
        for machine in self.world.fleet.running():
            if machine.instance_id not in self.agents:
                self.agents[machine.instance_id] = Agent(machine.instance_id, machine.attempt)

    def live_agents(self):
        self.meet_new_machines()
        live = {machine.instance_id for machine in self.world.fleet.running()}
        return [agent for agent in self.agents.values() if agent.instance_id in live]

    def go(self, agent, reason):
        self.world.fleet.end(agent.instance_id, reason=reason)
        self.events.append({"kind": "change", "instance_id": agent.instance_id})

    @precondition(lambda self: self.live_agents())
    @rule(data=st.data(), action=st.sampled_from(["train", "train", "train", "complete", *FAILS]))
    def an_agent_acts(self, data, action):
        self.act(data.draw(st.sampled_from(self.live_agents())), action)

    @precondition(lambda self: self.training_agents())
    @rule(data=st.data(), is_torn=st.booleans())
    def a_commit_was_on_its_way_for_long(self, data, is_torn):
        agent = data.draw(st.sampled_from(self.training_agents()))
        if not self.saves.dies(agent.trainer):
            agent.trainer.step += 1
            self.saves.commit(agent.trainer, is_torn=is_torn)

    @precondition(lambda self: self.training_agents())
    @rule(data=st.data())
    def a_program_dies_after_each_restore(self, data):
        data.draw(st.sampled_from(self.training_agents())).trainer.is_broken = True

    def training_agents(self):
        return [agent for agent in self.live_agents() if agent.trainer]

    def act(self, agent, action):
        if not agent.alive:
            return
        if agent.reported:
            if not agent.noticed:
                self.go(agent, "Client.InstanceInitiatedShutdown")
            return
        ledger = self.world.ledger
        run, attempt = ledger.find_run(RUN), ledger.find_attempt(RUN, agent.attempt)
        stop = any(sent == (agent.instance_id, "stop") for sent in self.world.commands.sent)
        not_mine = attempt.ended is not None or (
            attempt.instance_ids and agent.instance_id not in attempt.instance_ids
        )
        if not (self.agents_help or agent.trainer or stop) and (not_mine or run.ended is not None):
            return
        if run.fence > agent.attempt or run.ended is not None or stop or not_mine:
            if agent.trainer and not run.fence > agent.attempt:
                if not self.saves.dies(agent.trainer):
                    self.saves.commit(agent.trainer)
                # Of an ended run too: a redriven execution may wait for it on a newer token.
                self.world.workflow.report(
                    self.token_of(attempt), report_of(agent.trainer, "stopped")
                )
            if not agent.noticed:
                self.go(agent, "Client.InstanceInitiatedShutdown")
            return
        if not attempt.has_token or agent.instance_id not in attempt.instance_ids:
            return
        if agent.trainer is None:
            agent.trainer = self.saves.start(agent.attempt)
        trainer = agent.trainer
        if self.saves.dies(trainer):
            ended = self.saves.fall_back(trainer, noticed=agent.noticed)
            if ended:
                code = {"exit_code": 1} if ended == "failed" else {}
                report = report_of(trainer, ended, **code)
                agent.reported = self.world.workflow.report(self.token_of(attempt), report)
            return
        trainer.step += 1
        if not self.saves.commit(trainer):
            return
        if agent.taken and (agent.instance_id, "drain") in self.world.commands.sent:
            agent.noticed = True
        if agent.noticed or agent.leaves:
            action = "interrupted"
        if action != "train":
            kind, details = FAILS.get(action, ({"complete": "completed"}.get(action, action), {}))
            report = report_of(trainer, kind, **details)
            agent.reported = self.world.workflow.report(self.token_of(attempt), report)

    @precondition(lambda self: self.live_agents())
    @rule(data=st.data())
    def ec2_gives_notice(self, data):
        agent = data.draw(st.sampled_from(self.live_agents()))
        if self.world.fleet.machines[agent.instance_id].pool.market == "spot":
            agent.noticed = True
            self.events.append({"kind": "warning", "instance_id": agent.instance_id})

    @precondition(lambda self: self.live_agents())
    @rule(
        data=st.data(),
        action=st.sampled_from(["terminate", "hibernate", "", None]),
        deadline=st.sampled_from(["2030-01-01T12:02:00Z", "1970-01-01T00:00:00Z", "soon", None]),
    )
    def ec2_takes_a_machine_for_its_reservation(self, data, action, deadline):
        agent = data.draw(st.sampled_from(self.live_agents()))
        agent.taken = True
        detail = {
            "instance-id": agent.instance_id,
            "instance-action": action,
            "instance-termination-time": deadline,
        }
        self.events.append({"kind": "reservation", "detail": detail})

    @precondition(lambda self: self.live_agents())
    @rule(data=st.data())
    def ec2_schedules_a_retirement(self, data):
        data.draw(st.sampled_from(self.live_agents())).leaves = True

    @precondition(lambda self: self.execution is not None)
    @rule(
        minutes=st.sampled_from([0, 6, 600]),
        hangs=st.sampled_from([True, False, False]),
        is_seen=st.sampled_from([True, True, False]),
    )
    def a_status_check_fails(self, minutes, hangs, is_seen):
        agent = self.come_to_train()
        if agent is None:
            return
        since = self.world.clock.now() - timedelta(minutes=minutes)
        self.world.fleet.impaired[agent.instance_id] = MachineStatus(
            instance_id=agent.instance_id, impaired={"instance": since}
        )
        if hangs and self.is_reconciled:
            agent.alive = False
        if is_seen:
            self.reconcile(None)

    @rule(detail=st.sampled_from(STRANGE), kind=st.sampled_from(WARNINGS))
    def an_event_arrives_that_is_not_for_us(self, detail, kind):
        ledger, commands = self.world.ledger, self.world.commands
        before = ledger.find_run(RUN), ledger.attempts(RUN), list(commands.sent)
        event = {"detail-type": kind, "detail": detail}
        for handle in (handle_event, handle_change_event):
            assert handle(self.world, event)["status"] in {"not_ours", "unreadable"}
        assert before == (ledger.find_run(RUN), ledger.attempts(RUN), commands.sent)

    @precondition(lambda self: self.live_agents())
    @rule(
        data=st.data(),
        reason=st.sampled_from(
            ["Server.SpotInstanceTermination", "Server.InternalError", "Client.UserInitiated"]
        ),
    )
    def a_machine_goes(self, data, reason):
        self.go(data.draw(st.sampled_from(self.live_agents())), reason)

    @precondition(lambda self: self.is_reconciled and self.live_agents())
    @rule(data=st.data())
    def an_agent_dies_on_a_machine_that_lives(self, data):
        data.draw(st.sampled_from(self.live_agents())).alive = False

    @rule(
        pool=st.builds(
            Pool,
            st.sampled_from(TYPES),
            st.sampled_from(ZONES),
            st.sampled_from(["spot", "on-demand"]),
        ),
        code=st.sampled_from(["", *REFUSALS]),
        minutes=st.integers(0, 90),
    )
    def capacity_changes_with_time(self, pool, code, minutes):
        self.world.clock.advance(timedelta(minutes=minutes))
        self.world.fleet.refusals.pop(pool, None)
        if code:
            self.refuse(pool, code)

    @rule(is_throttled=st.booleans(), quota=st.sampled_from([None, 0, 64]))
    def ec2_throttles_and_quotas_change(self, is_throttled, quota):
        self.world.fleet.call_error = "RequestLimitExceeded" if is_throttled else ""
        for code in ("L-34B43A08", "L-1216C47A"):
            self.world.quotas.values[code] = quota

    def refuse(self, pool, code):
        self.world.fleet.refusals[pool] = code
        if code in SCARCITY:
            self.scarce.add(pool)

    @rule(market=st.sampled_from(["spot", "on-demand"]), code=st.sampled_from(REFUSALS))
    def a_market_has_nothing_left(self, market, code):
        for kind, zone in itertools.product(TYPES, ZONES):
            self.refuse(Pool(kind, zone, market), code)

    # Events.

    @precondition(lambda self: self.events)
    @rule(data=st.data(), crash=crashes, again=st.booleans())
    def an_event_arrives(self, data, crash, again):
        index = data.draw(st.integers(0, len(self.events) - 1))
        event = self.events[index] if again else self.events.pop(index)
        self.deliver(event, crash)

    @precondition(lambda self: self.is_reconciled and self.events)
    @rule(data=st.data())
    def an_event_is_lost(self, data):
        self.events.remove(data.draw(st.sampled_from(self.events)))

    @rule(crash=crashes)
    def reconciliation_comes(self, crash):
        self.reconcile(crash)

    def reconcile(self, crash):
        if not self.is_reconciled:
            return []
        self.agents_beat()
        with contextlib.suppress(CrashError, TransientError):
            done = reconcile(self.services(crash))
            for instance_id in done.get("replaced", ()):
                assert not self.agents[instance_id].alive, "it beats"
            return done["cleaned"]
        return [RUN]

    def agents_beat(self):
        ledger, now = self.world.ledger, self.world.clock.now()
        for agent in self.live_agents():
            attempt = ledger.find_attempt(RUN, agent.attempt)
            if agent.alive and attempt.stage is AttemptStage.RUNNING:
                ledger.attempt_items[RUN, agent.attempt] = change(attempt, heartbeat_at=now)

    def deliver(self, event, crash):
        try:
            self.handle(event, self.services(crash))
        except (CrashError, TransientError):
            self.events.append(event)  # Lambda tries again

    def handle(self, event, services):
        if event["kind"] == "warning":
            handle_interruption(services, event["instance_id"])
        elif event["kind"] == "reservation":
            handle_event(services, {"detail-type": WARNINGS[1], "detail": event["detail"]})
        elif event["kind"] == "change":
            handle_instance_change(services, event["instance_id"], "terminated")
        else:
            execution = event["execution"]
            with self.nothing_changes_for_another_execution_than(execution, services):
                clean_up(
                    services,
                    execution_arn=execution.arn,
                    name=execution.name,
                    status=event["status"],
                )

    # At the end.

    def teardown(self):
        if not self.executions:
            return
        self.world.fleet.refusals.clear()
        self.world.fleet.call_error = ""
        for _ in range(200):
            if not self.settle():
                break
        else:
            raise AssertionError("the run does not come to rest")
        run = self.world.ledger.find_run(RUN)
        if run is None:
            assert not self.world.fleet.machines
            return
        assert run.ended is not None
        self.an_attempt_is_launched_once()
        self.what_ec2_takes_for_free_is_left_to_it()
        self.proven_checkpoints_stay_and_progress_never_goes_back()
        self.the_trainers_failures_are_retried_only_so_often()
        # Even if an agent is dead: twice, for grace periods and for the first hour after a notice.
        for _ in range(2 * self.is_reconciled):
            self.world.clock.advance(timedelta(hours=1))
            assert reconcile(self.world)["failed"] == []
        assert not self.world.fleet.running()
        attempts = self.world.ledger.attempts(RUN)
        assert all(attempt.ended is not None for attempt in attempts), attempts
        # A throttled message delays nothing; only reconciliation sends it later.
        assert self.world.notices.sent or not self.is_reconciled

    def settle(self) -> bool:
        """Let every pending event happen once; return False if there was none."""
        moved = bool(self.events or self.crashes_at_last)
        moved |= bool(self.reconcile(self.next_crash()))
        for _ in range(len(self.events)):
            if self.events:  # the overtaking function may be one of them
                self.deliver(self.events.pop(0), self.next_crash())
        for agent in self.live_agents():
            before = self.world.fleet.running(), repr(agent.trainer), agent.reported
            self.act(agent, "complete")
            if agent.noticed or agent.taken:
                self.go(agent, "Server.SpotInstanceTermination")
            moved |= before != (self.world.fleet.running(), repr(agent.trainer), agent.reported)
        if execution := self.execution:
            moved = True
            beats = any(
                agent.alive
                and agent.attempt == execution.attempt
                and self.world.ledger.find_token(RUN, agent.attempt) == execution.token
                for agent in self.live_agents()
            )
            if execution in self.waiting() and not beats:
                self.expire(execution)
            else:
                self.advance(execution, self.next_crash())
        return moved

    def next_crash(self):
        return self.crashes_at_last.pop() if self.crashes_at_last else None


TestTraining = Training.TestCase
TestTraining.settings = settings(
    max_examples=250,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
