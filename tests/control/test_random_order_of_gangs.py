"""The same faults for a gang, whose attempts have several machines and keep what is left of them.

The rules, the state machine and the faults are those of training; agents work together instead.
"""

import contextlib
from dataclasses import dataclass
from datetime import timedelta

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, precondition, rule

from runctl.model.errors import FencedError
from runctl.model.node import NodeProgress
from runctl.model.run import AttemptStage
from tests.control.saves import report_of
from tests.control.test_random_order import BEGINNING, FAILS, RUN, Agent, Training

GANGS = (
    {"nodes": 3},
    {"nodes": 2, "spares": 1},
    {"nodes": 3, "min_nodes": 2},
    {"nodes": 3, "min_nodes": 1, "spares": 1},
)


@dataclass
class GangAgent(Agent):
    """The program on a machine of a gang, which goes on with the next attempt that has it.

    `has_worked` says that an attempt of it had a token; `reported_on` is that of its last report.
    """

    has_worked: bool = False
    reported_on: str = ""


class Gang(Training):
    """One run on several machines, from start to end."""

    def __init__(self) -> None:
        super().__init__()
        self.ended_at_work: list[str] = []

    @initialize(gang=st.sampled_from(GANGS), **BEGINNING)
    def begin(self, gang, **beginning):
        self.more_of_the_request = gang
        super().begin(**beginning)

    # What is true at every moment.

    @invariant()
    def each_rank_of_an_attempt_is_one_node_with_a_machine_of_its_own(self):
        for attempt in self.world.ledger.attempts(RUN):
            assert [node.rank for node in attempt.nodes] == list(range(len(attempt.nodes)))
            ids = attempt.instance_ids
            assert len(set(ids)) == len(ids), attempt
            assert len(ids) in {0, len(attempt.nodes)}, attempt

    @invariant()
    def an_attempt_is_launched_once(self):
        gang = self.more_of_the_request
        most = gang.get("nodes", 1) + gang.get("spares", 0)
        for attempt in self.world.ledger.attempts(RUN):
            launched = [
                machine
                for machine in self.world.fleet.machines.values()
                if machine.attempt == attempt.number
            ]
            assert len(launched) <= most, attempt
            if attempt.was_launched:
                assert gang.get("min_nodes") or gang["nodes"] <= len(attempt.nodes) <= most
            assert len(attempt.nodes) <= most

    @invariant()
    def no_two_agents_work_as_one_rank_of_the_attempt_with_the_fence(self):
        run = self.world.ledger.find_run(RUN)
        attempt = run and self.world.ledger.find_attempt(RUN, run.fence)
        if not attempt:
            return
        ranks = [
            attempt.node_of(agent.instance_id).rank
            for agent in self.live_agents()
            if agent.attempt == attempt.number and attempt.node_of(agent.instance_id)
        ]
        assert len(set(ranks)) == len(ranks), ranks

    @invariant()
    def what_an_attempt_has_is_not_ended_while_it_lives(self):
        assert self.ended_at_work == []

    def terminate(self, instance_ids):
        attempts, run = self.world.ledger.attempts(RUN), self.world.ledger.find_run(RUN)
        for instance_id in instance_ids:
            machine = self.world.fleet.machines[instance_id]
            if not machine.is_live:
                continue
            having = [attempt for attempt in attempts if attempt.node_of(instance_id)]
            is_young = self.world.clock.now() - machine.launched_at < timedelta(hours=1)
            if is_young and any(attempt.node_of(instance_id).noticed_at for attempt in having):
                self.ended_too_early.append(instance_id)
            # An execution that continues in another one leaves what was launched inside a notice.
            alive = [a for a in having if a.ended is None and a.number >= run.fence]
            if run.ended is None and alive:
                self.ended_at_work.append(instance_id)
        self.really_terminate(instance_ids)

    # Machines.

    def meet_new_machines(self):
        for machine in self.world.fleet.running():
            if machine.instance_id not in self.agents:
                self.agents[machine.instance_id] = GangAgent(machine.instance_id, machine.attempt)

    def services(self, crash):
        # Agents report every few seconds, so at any moment they have.
        self.agents_beat()
        return super().services(crash)

    def agents_beat(self):
        for agent in self.live_agents():
            attempt = self.world.ledger.find_attempt(RUN, agent.attempt)
            node = attempt.node_of(agent.instance_id)
            if not agent.alive or node is None:
                continue
            with contextlib.suppress(FencedError):
                self.world.ledger.record_progress(
                    node.node_id, NodeProgress(phase="train"), now=self.world.clock.now()
                )

    def come_to_train(self):
        for _ in range(12):
            execution = self.execution
            if execution is None:
                return None
            for _ in range(2):  # they join, and the lead trains
                for agent in self.live_agents():
                    self.act(agent, "train")
            for agent in self.live_agents():
                if agent.trainer and agent.attempt == execution.attempt and not agent.reported:
                    return agent
            if execution in self.waiting() and not self.live_agents():
                self.expire(execution)
            self.advance(execution)
        return None

    def act(self, agent, action):
        if not agent.alive:
            return
        ledger = self.world.ledger
        run, attempt = ledger.find_run(RUN), ledger.find_attempt(RUN, agent.attempt)
        node = attempt.node_of(agent.instance_id)
        if agent.taken and (agent.instance_id, "drain") in self.world.commands.sent:
            agent.noticed = True
        if agent.noticed and node is not None:
            ledger.record_notice(node.node_id, now=self.world.clock.now())
        stop = (agent.instance_id, "stop") in self.world.commands.sent
        if run.ended is not None or stop:
            self.go_away(agent, attempt, is_asked=stop)
        elif node is None:
            if attempt.ended is not None or attempt.was_launched:
                self.go_away(agent, attempt)
        elif attempt.ended is not None or run.fence > attempt.number:
            self.wait_for_the_next_attempt(agent, attempt)
        elif attempt.has_token and agent.reported_on != self.token_of(attempt):
            agent.has_worked, agent.reported = True, False
            self.work(agent, attempt, action)

    def go_away(self, agent, attempt, *, is_asked=False):
        if not (self.agents_help or agent.has_worked or is_asked):
            return
        if agent.trainer and attempt.ended is None:
            if not self.saves.dies(agent.trainer):
                self.saves.commit(agent.trainer)
            self.world.workflow.report(self.token_of(attempt), report_of(agent.trainer, "stopped"))
        if not agent.noticed:
            self.go(agent, "Client.InstanceInitiatedShutdown")

    def wait_for_the_next_attempt(self, agent, attempt):
        owner = self.world.ledger.find_instance(agent.instance_id)
        later = self.world.ledger.attempts(RUN)[attempt.number :]
        if owner.attempt > attempt.number:
            agent.attempt, agent.trainer, agent.reported = owner.attempt, None, False
        elif any(following.was_launched for following in later):
            self.go_away(agent, attempt)

    def work(self, agent, attempt, action):
        active = attempt.nodes[: self.more_of_the_request["nodes"]]
        gone = [node.rank for node in attempt.nodes if self.is_gone(node)]
        lead = next(node for node in attempt.nodes if node.rank not in gone)
        if lead.instance_id != agent.instance_id:
            return
        lost = [node.rank for node in active if node.rank in gone or self.is_announced(node)]
        if lost:
            # What is gone does not save; after a notice all save together.
            if agent.trainer and not set(lost) & set(gone) and not self.saves.dies(agent.trainer):
                agent.trainer.step += 1
                self.saves.commit(agent.trainer)
            kind = "lost" if set(lost) & set(gone) else "interrupted"
            self.send_report(agent, attempt, {"outcome": {"kind": kind, "lost_ranks": lost}})
            return
        if any(self.agents[node.instance_id].attempt != attempt.number for node in active):
            return  # it waits in the rendezvous
        if agent.trainer is None:
            agent.trainer = self.saves.start(attempt.number)
        self.train_on(agent, attempt, action)

    def train_on(self, agent, attempt, action):
        trainer = agent.trainer
        if self.saves.dies(trainer):
            ended = self.saves.fall_back(trainer, noticed=False)
            if ended:
                code = {"exit_code": 1} if ended == "failed" else {}
                self.send_report(agent, attempt, report_of(trainer, ended, **code))
            return
        trainer.step += 1
        if self.saves.commit(trainer) and action != "train":
            kind, details = FAILS.get(action, ({"complete": "completed"}.get(action, action), {}))
            self.send_report(agent, attempt, report_of(trainer, kind, **details))

    def send_report(self, agent, attempt, report):
        token = self.token_of(attempt)
        if self.world.workflow.report(token, report):
            agent.reported, agent.reported_on = True, token

    def is_gone(self, node):
        machine = self.world.fleet.machines[node.instance_id]
        agent = self.agents.get(node.instance_id)
        return not machine.is_live or agent is None or not agent.alive

    def is_announced(self, node):
        agent = self.agents[node.instance_id]
        return node.noticed_at is not None or agent.noticed or agent.leaves

    # What happens to several of them.

    @precondition(lambda self: self.execution is not None)
    @rule(
        how=st.lists(st.sampled_from(["notice", "no notice", "hangs"]), min_size=1, max_size=3),
        when=st.sampled_from(["together", "one after the other"]),
    )
    def nodes_of_a_gang_at_work_are_lost(self, how, when):
        lead = self.come_to_train()
        if lead is None:
            return
        attempt = self.world.ledger.find_attempt(RUN, lead.attempt)
        lost = [self.agents[node.instance_id] for node in attempt.nodes if not self.is_gone(node)]
        for agent, way in zip(reversed(lost), how, strict=False):
            if way == "no notice":
                self.go(agent, "Server.SpotInstanceTermination")
            elif way == "hangs" and self.is_reconciled:
                agent.alive = False
            elif self.world.fleet.machines[agent.instance_id].pool.market == "spot":
                agent.noticed = True
                event = {"kind": "warning", "instance_id": agent.instance_id}
                if when == "together":
                    self.events.append(event)
                else:
                    self.deliver(event, None)

    @precondition(lambda self: self.world.ledger.attempts(RUN))
    @rule()
    def a_machine_of_the_last_attempt_gets_a_notice(self):
        """Mostly that is one that the gang has kept, and that ends the attempt before another."""
        last = self.world.ledger.attempts(RUN)[-1]
        self.meet_new_machines()
        for node in last.nodes:
            if last.stage is not AttemptStage.LAUNCHED or self.is_gone(node):
                continue
            agent = self.agents[node.instance_id]
            if self.world.fleet.machines[node.instance_id].pool.market == "spot":
                agent.noticed = True
                self.deliver({"kind": "warning", "instance_id": node.instance_id}, None)
            return


TestGang = Gang.TestCase
TestGang.settings = settings(
    max_examples=60,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
