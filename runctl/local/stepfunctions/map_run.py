# ruff: noqa: SLF001 - it keeps its records where ministack keeps them
"""A Map Run: the children of a Distributed Map, how many run at once, and when it has failed."""

from __future__ import annotations

import contextvars
import threading
import uuid
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any

from ministack.services import stepfunctions as sfn

from runctl.local.stepfunctions.executions import Execution, StopFlags, StoppedError, role_of
from runctl.local.stepfunctions.map_items import ChildInput
from runctl.local.stepfunctions.redrive import next_life, why_not_redrivable

# Each running child needs a thread. AWS has 10,000 running at once where no bound is stated.
_RUNNING_AT_ONCE = 1_000
# The count of DescribeMapRun for each status.
_COUNTED = {
    "": "pending",
    "PENDING_REDRIVE": "pendingRedrive",
    "RUNNING": "running",
    "SUCCEEDED": "succeeded",
    "FAILED": "failed",
    "TIMED_OUT": "timedOut",
    "ABORTED": "aborted",
}
_UNSUCCESSFUL = ("FAILED", "TIMED_OUT", "ABORTED")


@dataclass
class Child:
    """A child; `status` is empty until it has started, and PENDING_REDRIVE before a redrive."""

    given: ChildInput
    arn: str = ""
    status: str = ""

    @property
    def execution(self) -> Execution:
        """The record of its execution."""
        found: Execution = sfn._executions[self.arn]
        return found


@dataclass(frozen=True)
class Bounds:
    """How many children may run at once, and how many items may fail; None: not stated."""

    concurrency: int = 0
    failure_count: float | None = None
    failure_percentage: float | None = None

    def are_exceeded(self, *, failed: int, total: int) -> bool:
        """Return whether too many items have failed. Without a bound, one is too many."""
        exceeded = []
        if self.failure_count is not None:
            exceeded.append(failed > self.failure_count)
        if self.failure_percentage is not None:
            exceeded.append(failed * 100 > self.failure_percentage * total)
        return any(exceeded) if exceeded else failed > 0


@dataclass
class MapRun:
    """A run of a Distributed Map.

    `machine` is the state machine `NAME/LABEL` of its children, `life` the number of the redrive
    of the parent in which it last began. `children` is None until the items have been read.
    """

    arn: str
    machine: str
    state: str
    definition: str
    stop_flags: StopFlags
    bounds: Bounds
    parent: Execution
    life: int = 0
    status: str = "RUNNING"
    children: list[Child] | None = None
    redrives: int = 0
    redriven_at: str = ""
    started_at: str = field(default_factory=sfn.now_iso)
    stopped_at: str = ""
    written: int = 0
    executions: Counter[str] = field(default_factory=Counter)
    items: Counter[str] = field(default_factory=Counter)
    changed: threading.Condition = field(default_factory=threading.Condition)

    @property
    def is_redrivable(self) -> bool:
        """Whether a redrive of its parent continues it."""
        return self.status in ("FAILED", "ABORTED") and self.children is not None

    def add(self, inputs: Sequence[ChildInput]) -> None:
        """Add the children, none of which has started."""
        with self.changed:
            self.children = [Child(given) for given in inputs]
            self.executions[""] = len(self.children)
            self.items[""] = sum(child.given.items for child in self.children)

    def finish(self, status: str) -> None:
        """Record the end."""
        with self.changed:
            self.status, self.stopped_at = status, sfn.now_iso()
            self.changed.notify_all()

    def wait_for_end(self) -> None:
        """Wait until the end is recorded; a redrive may overtake the end of a stopped parent."""
        with self.changed:
            self.changed.wait_for(lambda: self.status != "RUNNING")

    def begin_again(self, parent: Execution) -> None:
        """Continue after a redrive of the parent: what did not succeed will run again."""
        self.parent, self.life = parent, parent.get("redriveCount", 0)
        self.status, self.stopped_at = "RUNNING", ""
        self.redrives, self.redriven_at = self.redrives + 1, sfn.now_iso()
        machine, now = sfn._state_machines.get(self.machine), datetime.now(timezone.utc)
        for child in self.children or []:
            if child.status in _UNSUCCESSFUL and not why_not_redrivable(
                child.execution, machine, now=now
            ):
                self._set(child, "PENDING_REDRIVE")

    def run(self) -> bool:
        """Run all children; return whether as many succeeded as had to.

        Raises StoppedError if the parent was stopped. All children have ended in any case.
        """
        self.stop_flags.when_stopped(self.parent, self._wake)
        waiting = deque(
            child for child in self.children or [] if child.status in ("", "PENDING_REDRIVE")
        )
        while child := self._next(waiting):
            self._start(child)
        if self.stop_flags.stopped(self.parent).is_set():
            self._stop_children()
            raise StoppedError
        if self._has_failed():
            self._stop_children()
            return False
        return True

    def update(self, **bounds: Any) -> None:
        """Change bounds while it runs."""
        with self.changed:
            self.bounds = Bounds(**{**self.bounds.__dict__, **bounds})
            self.changed.notify_all()

    def described(self) -> dict[str, Any]:
        """Return what DescribeMapRun answers."""
        described = {
            "mapRunArn": self.arn,
            "executionArn": self.parent["executionArn"],
            "status": self.status,
            "startDate": self.started_at,
            "maxConcurrency": self.bounds.concurrency,
            "toleratedFailurePercentage": self.bounds.failure_percentage or 0,
            "toleratedFailureCount": int(self.bounds.failure_count or 0),
            "itemCounts": self._counts(of_items=True),
            "executionCounts": self._counts(of_items=False),
            "redriveCount": self.redrives,
        }
        if self.stopped_at:
            described["stopDate"] = self.stopped_at
        if self.redriven_at:
            described["redriveDate"] = self.redriven_at
        return described

    def _counts(self, *, of_items: bool) -> dict[str, int]:
        with self.changed:
            known = Counter(self.items if of_items else self.executions)
        counts = {name: known[status] for status, name in _COUNTED.items()}
        return {
            **counts,
            "total": sum(known.values()),
            "resultsWritten": min(self.written, sum(known.values())),
            "failuresNotRedrivable": 0,
        }

    def _has_failed(self) -> bool:
        failed = sum(self.items[status] for status in _UNSUCCESSFUL)
        return self.bounds.are_exceeded(failed=failed, total=sum(self.items.values()))

    def _running_at_once(self) -> int:
        return min(self.bounds.concurrency or _RUNNING_AT_ONCE, _RUNNING_AT_ONCE)

    def _wake(self) -> None:
        with self.changed:
            self.changed.notify_all()

    def _set(self, child: Child, status: str) -> None:
        for tally, size in ((self.executions, 1), (self.items, child.given.items)):
            tally[child.status] -= size
            tally[status] += size
        child.status = status

    def _next(self, waiting: deque[Child]) -> Child | None:
        """Wait until a child may start; None if none has to, or may, start any more."""
        stopped = self.stop_flags.stopped(self.parent)
        with self.changed:
            while not (stopped.is_set() or self._has_failed()):
                running = self.executions["RUNNING"]
                if waiting and running < self._running_at_once():
                    child = waiting.popleft()
                    self._set(child, "RUNNING")
                    return child
                if not waiting and not running:
                    return None
                self.changed.wait()
        return None

    def _start(self, child: Child) -> None:
        execution = next_life(child.execution) if child.arn else self._new_execution(child)
        self.stop_flags.when_stopped(execution, lambda: self._settle(child, execution))
        # The thread needs the account and region of the request.
        context = contextvars.copy_context()
        threading.Thread(
            target=context.run, args=(self._walk, child, execution), daemon=True
        ).start()

    def _new_execution(self, child: Child) -> Execution:
        name, now = str(uuid.uuid4()), sfn.now_iso()
        child.arn = f"{self.machine.replace(':stateMachine:', ':execution:')}:{name}"
        details = {"input": child.given.text, "roleArn": role_of(self.parent)}
        execution = {
            "executionArn": child.arn,
            "stateMachineArn": self.machine,
            "mapRunArn": self.arn,
            "name": name,
            "status": "RUNNING",
            "startDate": now,
            "stopDate": None,
            "input": child.given.text,
            "inputDetails": {"included": True},
            "output": None,
            "outputDetails": {"included": True},
            "testCase": self.parent.get("testCase"),
            "mockAttempts": {},
            "definition": self.definition,
            "events": [],
        }
        sfn._executions[child.arn] = execution
        sfn._add_event(execution, "ExecutionStarted", {"executionStartedEventDetails": details})
        sfn._emit_execution_status_event(execution)
        return execution

    def _walk(self, child: Child, execution: Execution) -> None:
        try:
            sfn._run_execution(execution["executionArn"])
        finally:
            self.stop_flags.forget_actions(execution)
            self._settle(child, execution)

    def _settle(self, child: Child, execution: Execution) -> None:
        """Record how an execution has ended, once; it may be stopped while its thread works."""
        with self.changed:
            if child.status == "RUNNING" and child.execution is execution:
                status = execution["status"]
                self._set(child, "FAILED" if status == "RUNNING" else status)
                self.changed.notify_all()

    def _stop_children(self) -> None:
        for child in self.children or []:
            if child.status == "RUNNING":
                sfn._stop_execution({"executionArn": child.arn})
        with self.changed:
            while self.executions["RUNNING"]:
                self.changed.wait()
