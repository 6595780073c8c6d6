"""The session of an instance: when it is asked for, renewed, replaced and given up."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest

from runctl.aws import issued_credentials
from runctl.aws.credentials_function import Answer, Issued, Over, Refused, Unknown
from runctl.aws.issued_credentials import IssuedCredentials
from runctl.model.errors import FencedError, RefusedError, TransientError
from runctl.model.node import NodeId
from runctl.model.session_credentials import SessionCredentials

START = datetime(2030, 1, 31, 18, tzinfo=timezone.utc)
NODE = NodeId("lm", 1, 0)


class Function:
    """Answers with what is listed, the last of it for ever; its clock moves when it is told to."""

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)
        self.asked = 0
        self.time = START
        self.changed = threading.Condition()

    def now(self) -> datetime:
        return self.time

    def __call__(self) -> Answer:
        with self.changed:
            self.asked += 1
            self.changed.notify_all()
            answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer(self) if callable(answer) else answer

    def wait_for(self, asked: int) -> None:
        with self.changed:
            assert self.changed.wait_for(lambda: self.asked >= asked, 60)


def session(number: int, *, node: NodeId = NODE, hours: float = 1) -> Callable[[Function], Issued]:
    """Issue session `number`, valid for so long from when it is asked for."""
    return lambda function: Issued(
        node=node,
        credentials=SessionCredentials(
            access_key=f"ASIA{number}",
            secret_key=f"secret-{number}",
            token=f"token-{number}",
            expires_at=function.time + timedelta(hours=hours),
        ),
    )


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FIRST_PAUSE", "MAX_POLL", "MAX_PAUSE", "CHECK"):
        monkeypatch.setattr(issued_credentials, name, timedelta(milliseconds=5))


def of(function: Function) -> IssuedCredentials:
    return IssuedCredentials(function, now=function.now).start()


def key(credentials: IssuedCredentials) -> str:
    return credentials.get_frozen_credentials().access_key


def wait_for_key(credentials: IssuedCredentials, wanted: str) -> None:
    for _ in range(6000):
        if key(credentials) == wanted:
            return
        threading.Event().wait(0.01)
    raise TimeoutError(wanted)


def test_a_session_is_asked_for_once_and_used_by_all_threads():
    function = Function(session(1), session(2))
    credentials = of(function)
    found: list[Any] = []
    threads = [
        threading.Thread(target=lambda: found.append(credentials.get_frozen_credentials()))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert {(each.access_key, each.secret_key, each.token) for each in found} == {
        ("ASIA1", "secret-1", "token-1")
    }
    assert credentials.wait_for_node() == NODE
    assert function.asked == 1


def test_an_instance_that_the_ledger_does_not_know_yet_asks_again():
    function = Function(Unknown(), Unknown(), Unknown(), session(1))
    assert of(function).wait_for_node() == NODE
    assert function.asked == 4


def test_failures_are_logged_once_and_followed_by_another_try(caplog):
    caplog.set_level(logging.INFO)
    function = Function(
        TransientError("the function is throttled"),
        TransientError("the function is throttled"),
        RuntimeError("a defect"),
        session(1),
    )
    assert key(of(function)) == "ASIA1"
    assert caplog.text.count("the function is throttled; trying again") == 1
    assert "RuntimeError('a defect')" in caplog.text
    assert "secret-1" not in caplog.text
    assert "token-1" not in caplog.text


def test_a_session_is_renewed_before_it_expires():
    function = Function(session(1), session(2), session(3))
    credentials = of(function)
    assert key(credentials) == "ASIA1"
    function.time += timedelta(minutes=39)
    assert key(credentials) == "ASIA1"
    for number in (2, 3):
        function.time += timedelta(minutes=41)
        wait_for_key(credentials, f"ASIA{number}")
    assert function.asked == 3


def test_a_short_session_is_renewed_after_half_of_its_life_and_not_without_pause():
    function = Function(session(1, hours=0.1), session(2, hours=0.1))
    credentials = of(function)
    assert key(credentials) == "ASIA1"
    function.time += timedelta(minutes=2)
    assert key(credentials) == "ASIA1"
    assert function.asked == 1
    function.time += timedelta(minutes=2)
    wait_for_key(credentials, "ASIA2")
    assert function.asked == 2


def test_while_the_function_fails_the_session_is_used_until_it_expires(monkeypatch):
    monkeypatch.setattr(issued_credentials, "CALL_LIMIT", timedelta(milliseconds=50))
    function = Function(session(1), TransientError("STS is away"))
    credentials = of(function)
    assert key(credentials) == "ASIA1"
    function.time += timedelta(minutes=50)
    function.wait_for(asked=4)
    assert key(credentials) == "ASIA1"
    function.time += timedelta(minutes=11)
    with pytest.raises(TransientError, match="no credentials for 0 s: STS is away"):
        credentials.get_frozen_credentials()
    function.answers = [session(2)]
    wait_for_key(credentials, "ASIA2")


def test_after_the_machine_was_suspended_a_request_waits_for_a_new_session(monkeypatch):
    # No wait elapses while a machine is suspended: the thread that renews does not wake up.
    monkeypatch.setattr(issued_credentials, "CHECK", timedelta(hours=1))
    function = Function(session(1), session(2))
    credentials = of(function)
    assert key(credentials) == "ASIA1"
    function.time += timedelta(days=2)
    assert key(credentials) == "ASIA2"


def test_a_session_that_aws_calls_expired_is_replaced_whatever_the_clock_says(monkeypatch):
    monkeypatch.setattr(issued_credentials, "NEW", timedelta(0))
    function = Function(session(1), session(2))
    credentials = of(function)
    assert key(credentials) == "ASIA1"
    assert credentials.replace_expired() is True
    assert key(credentials) == "ASIA2"


def test_late_complaints_about_the_replaced_session_do_not_replace_the_new_one():
    function = Function(session(1), session(2))
    credentials = of(function)
    assert key(credentials) == "ASIA1"
    assert credentials.replace_expired() is True
    assert key(credentials) == "ASIA1"
    assert function.asked == 1


def test_the_next_attempt_has_a_session_of_its_own_before_anything_goes_on():
    next_node = NodeId("other", 2, 0)
    function = Function(
        session(1), session(2), Unknown(), TransientError("busy"), session(3, node=next_node)
    )
    credentials = of(function)
    assert key(credentials) == "ASIA1"
    credentials.renew("other", 2)
    assert key(credentials) == "ASIA3"
    assert function.asked == 5


def test_a_renewal_for_an_attempt_that_is_over_raises_although_a_session_is_left():
    function = Function(session(1), Over("the run has ended"))
    credentials = of(function)
    assert key(credentials) == "ASIA1"
    with pytest.raises(FencedError, match="the run has ended"):
        credentials.renew("lm", 2)
    assert key(credentials) == "ASIA1"


def test_a_renewal_that_the_ledger_never_confirms_ends(monkeypatch):
    monkeypatch.setattr(issued_credentials, "NEXT_LIMIT", timedelta(milliseconds=100))
    credentials = of(Function(session(1)))
    with pytest.raises(TransientError, match="no credentials for 0 s"):
        credentials.renew("other", 1)
    assert key(credentials) == "ASIA1"


def test_work_that_is_over_ends_the_agent_only_once_its_session_has_expired():
    function = Function(session(1), Over("attempt 2 has taken over"))
    credentials = of(function)
    reasons: list[str] = []
    over = threading.Event()
    credentials.on_over = lambda reason: (reasons.append(reason), over.set())
    assert key(credentials) == "ASIA1"
    function.time += timedelta(minutes=50)
    function.wait_for(asked=4)
    assert key(credentials) == "ASIA1"
    assert reasons == []
    function.time += timedelta(minutes=20)
    with pytest.raises(FencedError, match="attempt 2 has taken over"):
        credentials.get_frozen_credentials()
    assert over.wait(60)
    assert reasons[0] == "attempt 2 has taken over"


def test_an_instance_whose_work_is_over_gets_no_first_session():
    with pytest.raises(FencedError, match="no credentials any more: the run has ended"):
        of(Function(Over("the run has ended"))).wait_for_node()


def test_a_refused_instance_learns_the_reason():
    credentials = of(Function(Refused("the role is not that of the deployment")))
    with pytest.raises(RefusedError, match="the role is not that of the deployment"):
        credentials.wait_for_node()
    with pytest.raises(RefusedError, match="the role is not that of the deployment"):
        credentials.get_frozen_credentials()


def test_an_instance_that_stays_unknown_does_not_wait_for_ever(monkeypatch):
    monkeypatch.setattr(issued_credentials, "FIRST_LIMIT", timedelta(milliseconds=100))
    with pytest.raises(TransientError, match="the ledger does not know this instance yet"):
        of(Function(Unknown())).wait_for_node()


def test_a_stop_ends_the_wait_for_the_first_session():
    stop = threading.Event()
    function = Function(Unknown())
    credentials = of(function)
    threading.Thread(target=lambda: (function.wait_for(asked=3), stop.set())).start()
    assert credentials.wait_for_node(stop.is_set) is None
