"""The function that issues credentials believes only what STS and the ledger say."""

from datetime import timedelta
from typing import Any

import pytest

from runctl.control.issue_credentials import issue_credentials
from runctl.model.caller import BadIdentityError, Caller
from runctl.model.errors import RequestError
from runctl.model.outcome import RunStatus
from runctl.model.session_credentials import SessionCredentials
from runctl.policy.run_access import Grant, Reach
from tests.control.fakes import World
from tests.control.scenes import RUN, prepared, training
from tests.control.steps import launch_instances
from tests.control.test_use_existing_instance import MACHINE, existing

URL, ACCOUNT, ROLE = "https://sts/", "123456789012", "InstanceRole"
SECRET = "a-secret-key"


class Identities:
    """What STS would say of each URL."""

    def __init__(self, **callers: Caller) -> None:
        self.callers = callers

    def verify(self, url: str) -> Caller:
        if url not in self.callers:
            raise BadIdentityError("identity.url: refused by STS")
        return self.callers[url]


class Roles:
    account, own = ACCOUNT, ROLE

    def __init__(self) -> None:
        self.profiles: dict[str, str] = {}

    def role_of(self, instance_id: str) -> str | None:
        return self.profiles.get(instance_id)


class Sessions:
    def __init__(self, now: Any) -> None:
        self.now = now
        self.opened: list[Grant] = []
        self.problem: Exception | None = None

    def open(self, grant: Grant) -> SessionCredentials:
        if self.problem:
            raise self.problem
        self.opened.append(grant)
        return SessionCredentials(
            access_key="AKID",
            secret_key=SECRET,
            token="token",
            expires_at=self.now() + timedelta(hours=1),
        )


def with_access(world: World, session: str, *, role: str = ROLE, account: str = ACCOUNT) -> World:
    caller = Caller(account=account, role=role, session=session)
    world.identities = Identities(**{URL: caller})
    world.instance_roles = Roles()
    world.run_sessions = Sessions(world.clock.now)
    return world


def ask(world: World, *, purpose: Any = "agent", **event: Any) -> dict[str, Any]:
    found = issue_credentials(world, {"identity": {"url": URL}, "purpose": purpose, **event})
    return found.as_document()


def test_the_instance_of_an_attempt_gets_the_session_of_that_attempt():
    world = prepared()
    with_access(world, training(world))
    answer = ask(world)
    assert answer == {
        "status": "issued", "run_id": RUN, "attempt": 1, "rank": 0,
        "credentials": {
            "access_key": "AKID", "secret_key": SECRET, "token": "token",
            "expires_at": "2030-01-01T13:00:00Z",
        },
    }  # fmt: skip
    (grant,) = world.run_sessions.opened
    assert (grant.node.run_id, grant.reach) == (RUN, Reach.RUN)


@pytest.mark.parametrize(
    ("caller", "reason"),
    [
        ({"account": "999999999999"}, "account 999999999999 is not the deployment's"),
        ({"role": "Admin"}, "Admin is not the role of the deployment's instances"),
    ],
)
def test_others_who_name_their_session_like_an_instance_are_refused(caller, reason):
    world = prepared()
    with_access(world, training(world), **caller)
    answer = ask(world)
    assert answer["status"] == "refused"
    assert reason in answer["reason"]
    assert not world.run_sessions.opened


@pytest.mark.parametrize(
    "session", ["tester", "i-0", "i-0123456789abcdef0x", "i-0123456789ABCDEF0"]
)
def test_a_session_that_is_not_an_instances_is_refused(session):
    world = with_access(prepared(), session)
    assert ask(world)["status"] == "refused"


@pytest.mark.parametrize(
    "event",
    [
        {"identity": None}, {"identity": {}}, {"identity": {"url": 7}}, {"identity": "url"},
        {"identity": {"url": "https://elsewhere/"}}, {"identity": {"url": "x" * 9000}},
        {"purpose": "admin"}, {"purpose": None}, {"purpose": ["agent"]},
    ],
)  # fmt: skip
def test_an_event_that_proves_nothing_is_refused(event):
    world = prepared()
    with_access(world, training(world))
    answer = ask(world, **event)
    assert answer["status"] == "refused"
    assert not world.run_sessions.opened


def test_an_existing_instance_is_known_by_the_role_of_its_profile():
    world = with_access(existing(), MACHINE, role="theirs")
    assert ask(world)["status"] == "refused"
    world.instance_roles.profiles[MACHINE] = "theirs"
    assert ask(world)["status"] == "issued"
    world.instance_roles.profiles[MACHINE] = "another"
    assert ask(world)["status"] == "refused"


def test_a_role_of_somebody_is_no_proof_for_an_instance_that_we_launched():
    world = prepared()
    instance_id = training(world)
    with_access(world, instance_id, role="theirs")
    world.instance_roles.profiles[instance_id] = "theirs"
    assert ask(world)["status"] == "refused"


def test_an_existing_instance_may_ask_before_the_ledger_knows_it():
    world = with_access(prepared(), MACHINE, role="theirs")
    world.instance_roles.profiles[MACHINE] = "theirs"
    assert ask(world) == {"status": "unknown"}


def test_an_instance_of_an_ended_run_gets_none_and_reads_why():
    world = prepared()
    with_access(world, training(world))
    world.ledger.end_run(RUN, status=RunStatus.STOPPED, reason="", now=world.clock.now())
    assert ask(world)["status"] == "issued"  # it may be saving
    world.clock.advance(timedelta(minutes=15))
    answer = ask(world)
    assert answer["status"] == "over"
    assert answer["reason"] == f"the run {RUN} has ended: stopped"
    assert "credentials" not in answer


STRAY = "i-0123456789abcdef1"


def test_a_machine_that_was_launched_twice_learns_that_its_attempt_is_elsewhere():
    world = with_access(prepared(), STRAY)
    claimed = {"run_id": RUN, "attempt": 1}
    assert ask(world, claimed=claimed) == {"status": "unknown"}
    launch_instances(world, RUN, 1)
    assert ask(world) == {"status": "unknown"}
    answer = ask(world, claimed=claimed)
    assert answer == {
        "status": "over", "reason": f"attempt 1 of {RUN} is on another instance"
    }  # fmt: skip
    assert not world.run_sessions.opened


@pytest.mark.parametrize(
    "claimed",
    ["x", {"run_id": "a/b", "attempt": 1}, {"run_id": RUN, "attempt": "1"},
     {"run_id": RUN, "attempt": True}, {"run_id": RUN, "attempt": -1}, {"run_id": RUN}],
)  # fmt: skip
def test_a_claim_that_is_not_one_changes_nothing(claimed):
    world = with_access(prepared(), STRAY)
    launch_instances(world, RUN, 1)
    assert ask(world, claimed=claimed) == {"status": "unknown"}


def test_a_claim_of_another_run_is_worth_nothing():
    """An instance that says that it belongs to another run gets the session of its own."""
    world = prepared()
    with_access(world, training(world))
    answer = ask(world, claimed={"run_id": "victim", "attempt": 1})
    assert answer["run_id"] == RUN


def test_a_request_that_names_too_much_is_refused_with_the_remedy():
    world = prepared()
    with_access(world, training(world))
    world.run_sessions.problem = RequestError("inputs: too many; copy them")
    answer = ask(world)
    assert (answer["status"], answer["reason"]) == ("refused", "inputs: too many; copy them")


def test_what_is_logged_of_an_answer_has_no_secret():
    world = prepared()
    with_access(world, training(world))
    found = issue_credentials(world, {"identity": {"url": URL}, "purpose": "agent"})
    assert SECRET not in repr(found)
