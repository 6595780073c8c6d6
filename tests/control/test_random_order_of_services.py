"""The same faults for a service, whose attempts overlap: at most two neighbours serve.

The rules, the state machine and the faults are those of training; agents serve instead.
"""

from typing import ClassVar

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import invariant, precondition, rule

from runctl.model.node import NodeId, NodeProgress
from runctl.model.service import Service
from tests.control.test_random_order import FAILS, RUN, Training


class Serving(Training):
    """One service from start to end."""

    more_of_the_request: ClassVar[dict] = {"kind": "serve"}

    def __init__(self) -> None:
        super().__init__()
        self.serving: set[str] = set()

    def the_trainers_failures_are_retried_only_so_often(self):
        """Services retry all of their failures."""

    @invariant()
    def only_the_attempt_with_the_fence_and_the_next_one_serve(self):
        run = self.world.ledger.find_run(RUN)
        if run is None:
            return
        # Below the fence are those that do not know yet that they have lost it.
        numbers = {
            agent.attempt
            for agent in self.agents.values()
            if agent.instance_id in self.serving and agent.attempt >= run.fence
        }
        assert numbers <= {run.fence, run.fence + 1}, (numbers, run.fence)

    @precondition(lambda self: self.live_agents())
    @rule(times=st.integers(1, 3))
    def replacements_get_a_notice_as_soon_as_they_are_launched(self, times):
        for _ in range(times):
            for agent in self.live_agents():
                self.act(agent, "train")
            newest = max(self.live_agents(), key=lambda agent: agent.attempt, default=None)
            if newest is None or self.machine_of(newest).pool.market != "spot":
                return
            newest.noticed = True
            self.deliver({"kind": "warning", "instance_id": newest.instance_id}, None)
        for agent in self.live_agents():
            self.act(agent, "train")

    def machine_of(self, agent):
        return self.world.fleet.machines[agent.instance_id]

    def is_ready(self, number):
        attempt = self.world.ledger.find_attempt(RUN, number)
        service = None if attempt is None or attempt.ended is not None else attempt.service
        return service is not None and service.is_ready

    def come_to_train(self):
        for _ in range(12):
            execution = self.execution
            if execution is None:
                return None
            for agent in self.live_agents():
                self.act(agent, "train")
                is_at_work = agent.instance_id in self.serving and not agent.noticed
                if (
                    is_at_work
                    and agent.attempt == execution.attempt
                    and execution in self.waiting()
                ):
                    return agent
            if execution in self.waiting() and not self.live_agents():
                self.expire(execution)
            self.advance(execution)
        return None

    def act(self, agent, action):
        if not agent.alive:
            return
        if agent.reported:
            if not agent.noticed:
                self.go(agent, "Client.InstanceInitiatedShutdown")
            return
        ledger, number = self.world.ledger, agent.attempt
        run, attempt = ledger.find_run(RUN), ledger.find_attempt(RUN, number)
        is_serving = agent.instance_id in self.serving
        stop = (agent.instance_id, "stop") in [sent[:2] for sent in self.world.commands.sent]
        not_mine = attempt.ended is not None or (
            attempt.instance_ids and agent.instance_id not in attempt.instance_ids
        )
        if not (self.agents_help or is_serving or stop) and (not_mine or run.ended is not None):
            return
        if run.fence > number or run.ended is not None or stop or not_mine:
            self.serving.discard(agent.instance_id)
            if attempt.has_token and run.fence <= number:
                self.report(agent, attempt, "stopped")
            if not agent.noticed:
                self.go(agent, "Client.InstanceInitiatedShutdown")
            return
        if agent.instance_id not in attempt.instance_ids:
            return
        if not is_serving:
            if run.fence >= number - 1:
                self.start_to_serve(agent)
            return
        if agent.taken and (agent.instance_id, "drain") in self.world.commands.sent:
            agent.noticed = True
        if not attempt.has_token or (action == "train" and not (agent.noticed or agent.leaves)):
            return
        if agent.noticed and action == "train" and not self.is_ready(number + 1):
            return  # it serves until its deadline
        kind, details = FAILS.get(action, ({"complete": "completed"}.get(action, action), {}))
        if agent.noticed or agent.leaves:
            kind, details = "interrupted", {}
        self.serving.discard(agent.instance_id)
        agent.reported = self.report(agent, attempt, kind, **details)

    def start_to_serve(self, agent):
        self.serving.add(agent.instance_id)
        now = self.world.clock.now()
        service = Service(port=8080, is_ready=True, since=now)
        progress = NodeProgress(phase="serve", service=service, timeline={"ready": now})
        self.world.ledger.record_progress(NodeId(RUN, agent.attempt, 0), progress, now=now)

    def report(self, agent, attempt, kind, **details):
        outcome = {"kind": kind, "reason": "", **details}
        return self.world.workflow.report(self.token_of(attempt), {"outcome": outcome})

    def go(self, agent, reason):
        self.serving.discard(agent.instance_id)
        super().go(agent, reason)

    def teardown(self):
        # Nothing but a stop ends a service.
        for execution in self.running():
            for _ in range(3):
                if execution.state == "prepare":
                    self.advance(execution)
            if execution in self.running():
                self.stop(execution)
        super().teardown()


TestServing = Serving.TestCase
TestServing.settings = settings(
    max_examples=150,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
