"""Every state of a state machine, tested with mocked results and with each error that it handles.

The walk begins where an execution begins, and enters each state with what the states before it
returned: a state that cannot read its predecessor's output fails. TestState runs nothing.
"""

import json
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from runctl.control.findings import Finding
from runctl.control.verification.mocked_results import CHILDREN, REQUEST, results_of
from runctl.model.deployed import StateAnswer, StateMachine, StateTest

_ARN = "arn:aws:states:us-east-1:123456789012"
_AT = "2026-01-01T00:00:00.000Z"
_CONTEXT: Mapping[str, Any] = {
    "Execution": {"Id": f"{_ARN}:execution:verify:verify", "Input": {}, "Name": "verify",
                  "StartTime": _AT},
    "StateMachine": {"Id": f"{_ARN}:stateMachine:verify", "Name": "verify"},
}  # fmt: skip
_WAITING = (".waitForTaskToken", ".sync", ".sync:2")
_DEFAULT_ATTEMPTS = 3
_ALL = "States.ALL"
# An error of a function arrives as JSON, one of the service as text.
_CAUSES = (json.dumps({"errorMessage": "mocked", "errorType": "Mocked"}), "mocked")
# The errors of a state that cannot evaluate what it reads.
_BROKEN = frozenset({"States.QueryEvaluationError", "States.Runtime", "States.DataLimitExceeded"})
_REMEDY = "run `cdk deploy --all` of this version"
_MAX_CAUSE = 300
Tester = Callable[[StateTest], StateAnswer]


@dataclass(frozen=True)
class StateEntry:
    """How a state is entered: after which state, with which input and variables."""

    state: str
    after: str
    data: Any
    variables: Mapping[str, Any]

    @property
    def key(self) -> str:
        """Identifies the state with its input and variables."""
        return json.dumps([self.state, self.data, self.variables], sort_keys=True)


@dataclass
class Walk:
    """A walk through the states of a definition, or of the processor of one of its Maps."""

    machine: str
    definition: Mapping[str, Any]
    prefix: str
    test: Tester
    tests: int = 0
    findings: list[Finding] = field(default_factory=list)
    _taken: set[tuple[str, str]] = field(default_factory=set)

    @property
    def language(self) -> str:
        """The query language of the states."""
        return str(self.definition.get("QueryLanguage", "JSONPath"))

    def go(self, starts: list[Any]) -> None:
        """Test every state that a start leads to."""
        first = self.definition["StartAt"]
        waiting = deque(StateEntry(first, "the start", data, {}) for data in starts)
        seen: set[str] = set()
        entered: set[str] = set()
        while waiting:
            entry = waiting.popleft()
            if entry.key in seen:
                continue
            seen.add(entry.key)
            state = self.definition["States"][entry.state]
            waiting += self._followers(entry, state, is_new=entry.state not in entered)
            entered.add(entry.state)
        if not self.findings:
            self.findings += self._not_taken(entered)

    def _followers(
        self, entry: StateEntry, state: Mapping[str, Any], *, is_new: bool
    ) -> Iterator[StateEntry]:
        kind = state["Type"]
        if kind not in ("Task", "Map"):
            yield from self._tested(entry, state, "FAILED" if kind == "Fail" else "SUCCEEDED")
            return
        results = results_of(state, prefix=self.prefix)
        if results is None:
            self._report(entry, "this version does not know what its task returns")
            return
        for result in results:
            yield from self._tested(entry, state, "SUCCEEDED", result=result)
        if is_new:
            yield from self._errors(entry, state)
            if kind == "Map":
                self._processor(entry, state)

    def _errors(self, entry: StateEntry, state: Mapping[str, Any]) -> Iterator[StateEntry]:
        retries, catches = state.get("Retry", []), state.get("Catch", [])
        for number, retrier in enumerate(retries):
            # The first retrier that names an error decides.
            own = [
                name
                for name in retrier["ErrorEquals"]
                if not any(_names(earlier, name) for earlier in retries[:number])
            ]
            for name in own:
                list(self._tested(entry, state, "RETRIABLE", error=(name, _CAUSES[1])))
            if not own:
                continue
            last, most = own[-1], _most_tries(retries, own[-1])
            status = "CAUGHT_ERROR" if any(_names(rule, last) for rule in catches) else "FAILED"
            yield from self._tested(entry, state, status, error=(last, _CAUSES[1]), tries=most)
        for catcher in catches:
            for name in catcher["ErrorEquals"]:
                mocked = "Verify.Mocked" if name == _ALL else name
                tries = _most_tries(retries, mocked)
                for cause in _CAUSES:
                    yield from self._tested(
                        entry,
                        state,
                        "CAUGHT_ERROR",
                        error=(mocked, cause),
                        tries=tries,
                        expected=catcher["Next"],
                    )

    def _tested(
        self,
        entry: StateEntry,
        state: Mapping[str, Any],
        wanted: str,
        *,
        result: Any = None,
        error: tuple[str, str] | None = None,
        tries: int = 0,
        expected: str = "",
    ) -> Iterator[StateEntry]:
        """Test a state; yield how the next one is entered, or report what went wrong."""
        is_mocked = state["Type"] in ("Task", "Map")
        answer = self.test(
            StateTest(
                state=_testable(state, self.language),
                data=entry.data,
                variables=entry.variables,
                result=result,
                error=error,
                tries=tries,
                context=_context(entry, state) if is_mocked else None,
            )
        )
        self.tests += 1
        if problem := _problem(answer, state, wanted, error, expected):
            self._report(entry, problem)
            return
        if answer.next_state:
            self._taken.add((entry.state, answer.next_state))
            yield StateEntry(answer.next_state, entry.state, answer.output, answer.variables)

    def _processor(self, entry: StateEntry, state: Mapping[str, Any]) -> None:
        processor = {
            key: value for key, value in state["ItemProcessor"].items() if key != "ProcessorConfig"
        }
        inner = Walk(
            self.machine,
            {"QueryLanguage": self.language, **processor},
            self.prefix,
            self.test,
        )
        children = CHILDREN.get(entry.state)
        if children is None:
            self._report(entry, "this version does not know what its children begin with")
            return
        inner.go([dict(child.data) for child in children])
        self.tests += inner.tests
        self.findings += inner.findings

    def _report(self, entry: StateEntry, problem: str) -> None:
        found = Finding(
            name=f"{self.machine}: {entry.state}",
            why=f"after {entry.after}: {problem}",
            advice=_REMEDY,
        )
        if found not in self.findings:
            self.findings.append(found)

    def _not_taken(self, entered: set[str]) -> Iterator[Finding]:
        for name, state in self.definition["States"].items():
            why = "" if name in entered else "no execution can reach it"
            targets = {state.get("Default"), *(rule["Next"] for rule in state.get("Choices", []))}
            missing = sorted(
                target for target in targets if target and (name, target) not in self._taken
            )
            if not why and missing:
                why = f"no result leads it to {', '.join(missing)}"
            if why:
                yield Finding(name=f"{self.machine}: {name}", why=why, advice=_REMEDY)


def walk_states(machine: StateMachine, *, prefix: str, test: Tester) -> Walk:
    """Test every state of a state machine; `prefix` is that of the deployment's functions."""
    name = machine.arn.rpartition(":")[2]
    walk = Walk(name, machine.definition, prefix, test)
    walk.go([dict(REQUEST)])
    return walk


def _context(entry: StateEntry, state: Mapping[str, Any]) -> dict[str, Any]:
    context = {**_CONTEXT, "State": {"EnteredTime": _AT, "Name": entry.state, "RetryCount": 0}}
    if str(state.get("Resource", "")).endswith(_WAITING):
        context["Task"] = {"Token": "verify"}
    return context


def _names(rule: Mapping[str, Any], error: str) -> bool:
    """Whether a retrier or catcher is for an error."""
    return error in rule["ErrorEquals"] or _ALL in rule["ErrorEquals"]


def _most_tries(retries: list[Mapping[str, Any]], error: str) -> int:
    """Return how often an error is retried."""
    for retrier in retries:
        if _names(retrier, error):
            return int(retrier.get("MaxAttempts", _DEFAULT_ATTEMPTS))
    return 0


def _testable(state: Mapping[str, Any], language: str) -> Mapping[str, Any]:
    """Return a state alone, with a short wait: TestState performs it, for at most five minutes."""
    alone = {"QueryLanguage": language, **state}
    if state["Type"] == "Wait" and isinstance(state.get("Seconds"), int):
        alone["Seconds"] = 1
    return alone


def _problem(
    answer: StateAnswer,
    state: Mapping[str, Any],
    wanted: str,
    error: tuple[str, str] | None,
    expected: str,
) -> str:
    """Return what is wrong with an answer; empty if nothing is."""
    said = f"{answer.error}: {answer.cause[:_MAX_CAUSE]}".strip(": ")
    is_broken = answer.error in _BROKEN and (error is None or answer.error != error[0])
    if answer.status != wanted or is_broken:
        asked = f"the mocked error {error[0]}" if error else "a mocked result"
        asked = asked if state["Type"] in ("Task", "Map") else "its input"
        return f"with {asked} it ends as {answer.status}, not {wanted}" + (
            f" ({said})" if said else ""
        )
    if expected and answer.next_state != expected:
        return f"the error {error[0] if error else ''} leads to {answer.next_state}"
    return ""
