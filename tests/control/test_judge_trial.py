"""The function that judges trials answers an instance about its own trial, and about no other."""

from __future__ import annotations

from typing import Any

import pytest

from runctl.control.sweeps.judge_trial import answer_trial
from runctl.model.caller import Caller
from runctl.model.errors import TransientError
from runctl.model.run import Launched
from tests.control.sweeps import SweepWorld
from tests.control.test_issue_credentials import ACCOUNT, ROLE, URL, Identities, Roles
from tests.control.test_sweep import pruning

FIRST, SECOND, LATER = (f"i-{letter * 17}" for letter in "abc")


def launched(world: SweepWorld, number: int, instance_id: str) -> str:
    run_id = world.trial(number).run_id
    attempt = world.ledger.attempts(run_id)[-1].number
    world.ledger.record_launch(
        run_id,
        attempt,
        instance_ids=[instance_id],
        pool="m5.large/us-east-1a/spot",
        now=world.clock.now(),
    )
    return run_id


@pytest.fixture
def world() -> SweepWorld:
    """Two trials at a rung, each on an instance."""
    world = SweepWorld()
    pruning(world)
    for number, instance_id in ((1, FIRST), (2, SECOND)):
        world.start(number)
        launched(world, number, instance_id)
    return world


def asks(world: SweepWorld, session: str, run_id: str, **changes: Any) -> dict[str, Any]:
    caller = {"account": ACCOUNT, "role": ROLE, "session": session}
    event = {"run_id": run_id, "rung": 2, "value": 0.5, "identity": {"url": URL}}
    for name, value in changes.items():
        (caller if name in caller else event)[name] = value
    world.identities = Identities(**{URL: Caller(**caller)})
    world.instance_roles = Roles()
    return answer_trial(world, event).as_document()


def test_an_instance_is_answered_about_its_trial(world: SweepWorld) -> None:
    assert asks(world, FIRST, "search-0001") == {
        "run_id": "search-0001", "rung": 2, "goes_on": True
    }  # fmt: skip
    assert not asks(world, SECOND, "search-0002", value=0.9)["goes_on"]


def test_a_trial_cannot_decide_about_another_one(world: SweepWorld) -> None:
    answer = asks(world, FIRST, "search-0002", value=1e9)
    assert answer["status"] == "refused"
    assert "does not say that" in answer["reason"]
    assert "goes_on" not in answer
    assert world.trials.rungs == {}


@pytest.mark.parametrize(
    "changes",
    [
        {"session": "i-0123456789abcdef0"},  # an instance that has no attempt
        {"session": "tester"},
        {"role": "Admin"},  # whoever assumes a role chooses the name of the session
        {"account": "999999999999"},
        {"identity": None},
        {"identity": {"url": 7}},
        {"identity": {"url": "https://elsewhere/"}},
        {"identity": {"url": "x" * 9000}},
    ],
)
def test_without_a_proof_nothing_is_answered_and_nothing_recorded(
    world: SweepWorld, changes: dict[str, Any]
) -> None:
    answer = asks(world, **{"session": FIRST, "run_id": "search-0001", **changes})
    assert answer.keys() == {"status", "reason"}
    assert answer["status"] == "refused"
    assert world.trials.rungs == {}


def test_an_agent_of_an_earlier_version_sends_no_proof(world: SweepWorld) -> None:
    world.identities, world.instance_roles = Identities(), Roles()
    event = {"run_id": "search-0001", "rung": 2, "value": 0.5}
    assert answer_trial(world, event).as_document()["status"] == "refused"


def test_the_instance_of_an_earlier_attempt_is_refused(world: SweepWorld) -> None:
    run_id, now = "search-0001", world.clock.now()
    world.ledger.open_attempt(run_id, 2, launch_try=1, source=Launched(), now=now)
    launched(world, 1, LATER)
    arn = world.ledger.find_run(run_id).execution_arn
    world.ledger.record_token(run_id, 2, token="token", execution_arn=arn, now=now)
    answer = asks(world, FIRST, run_id)
    assert answer["status"] == "refused"
    assert "attempt 2 of search-0001 has taken over" in answer["reason"]
    assert world.trials.rungs == {}
    assert asks(world, LATER, run_id)["goes_on"]


def test_if_sts_cannot_be_reached_the_function_fails_and_records_nothing(
    world: SweepWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreachable(_self: Identities, _url: str) -> Caller:
        raise TransientError("STS cannot be reached: TimeoutError")

    monkeypatch.setattr(Identities, "verify", unreachable)
    with pytest.raises(TransientError):
        asks(world, FIRST, "search-0001")
    assert world.trials.rungs == {}
