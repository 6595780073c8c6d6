"""The session of this instance's attempt: issued by a function, and renewed before it expires."""

import logging
import random
import threading
import time
from collections.abc import Callable
from datetime import datetime, timedelta, timezone

from botocore.credentials import ReadOnlyCredentials, RefreshableCredentials

from runctl.aws.credentials_function import Answer, Issued, Over, Refused, error_of
from runctl.model.errors import RunctlError, TransientError
from runctl.model.node import NodeId
from runctl.model.session_credentials import SessionCredentials

# A session lasts one hour; a function or an STS that fails meanwhile is asked again in time.
RENEW_BEFORE = timedelta(minutes=20)
FIRST_PAUSE = timedelta(milliseconds=150)
GROWTH = 1.3
# While the ledger does not know the instance, or its next attempt; after that, while AWS fails.
MAX_POLL = timedelta(seconds=2)
MAX_PAUSE = timedelta(seconds=30)
# A machine that was launched twice, or whose launch was never recorded, does not wait for ever.
FIRST_LIMIT = timedelta(minutes=10)
NEXT_LIMIT = timedelta(minutes=2)
# How long a request waits for a session before it fails; its caller may repeat it.
CALL_LIMIT = timedelta(seconds=60)
# A machine may be suspended, and in that time no wait elapses.
CHECK = timedelta(seconds=60)

# Several requests that were signed with an expired session fail one after the other.
NEW = timedelta(seconds=30)
_NEVER = datetime.min.replace(tzinfo=timezone.utc)

logger = logging.getLogger(__name__)
_RANDOM = random.SystemRandom()


def _utc_now() -> datetime:
    return datetime.now(timezone.utc)


class IssuedCredentials(RefreshableCredentials):
    """The credentials of all clients of a process, as botocore expects them.

    A thread asks for the first session and renews it: a request waits only while there is none, or
    the last one has expired. While the function fails, the session is used until it expires.
    """

    def __init__(
        self, ask: Callable[[], Answer], *, now: Callable[[], datetime] = _utc_now
    ) -> None:
        super().__init__("", "", "", _NEVER, dict, "runctl", time_fetcher=now)
        self._ask = ask
        self._now = now
        self._changed = threading.Condition()
        self._node: NodeId | None = None
        self._session: SessionCredentials | None = None
        self._since = float("-inf")
        self._renew_at = _NEVER
        self._refusal: RunctlError | None = None
        self._problem = ""
        # The run and the attempt that `renew` waits for.
        self._wanted: tuple[str, int] | None = None
        self._pause = FIRST_PAUSE
        self.on_over: Callable[[str], None] = lambda _reason: None
        """Called with the reason once the work of this instance is over, and its session, too."""
        self._thread = threading.Thread(target=self._keep, name="issued-credentials", daemon=True)

    def start(self) -> "IssuedCredentials":
        """Begin to ask in the background."""
        self._thread.start()
        return self

    def load(self) -> "IssuedCredentials":
        """Return what clients sign with."""
        return self

    def wait_for_node(self, is_ending: Callable[[], bool] = lambda: False) -> NodeId | None:
        """Wait for the first session; return the node that this instance is.

        The result is None if `is_ending` becomes true first. Raises RefusedError if the instance is
        refused, FencedError if its work is over, and TransientError if nothing is known of it for
        ten minutes.
        """
        return self._wait_for(self._is_valid, FIRST_LIMIT, is_ending)

    def renew(self, run_id: str, attempt: int) -> None:
        """Wait for a session of that attempt, with which this instance goes on.

        Raises RefusedError if the instance is refused, FencedError if its work is over, and
        TransientError if there is no such session for two minutes.
        """
        wanted = (run_id, attempt)
        with self._changed:
            self._wanted, self._refusal, self._pause = wanted, None, FIRST_PAUSE
            self._changed.notify_all()
        try:
            self._wait_for(lambda: self._node is not None and self._node[:2] == wanted, NEXT_LIMIT)
        finally:
            self._wanted = None

    def replace_expired(self) -> bool:
        """Replace a session that AWS calls expired, whatever the clock of this machine says.

        The next request waits for the new one. One that is new already was not meant.
        """
        with self._changed:
            if time.monotonic() - self._since > NEW.total_seconds():
                logger.warning("AWS calls the session of this instance expired; asking for another")
                self._session = None
                self._changed.notify_all()
        return True

    def get_frozen_credentials(self) -> ReadOnlyCredentials:
        """Return the credentials to sign a request with, as soon as there are any.

        Raises RefusedError and FencedError if there will be none, TransientError if there are none
        for a minute.
        """
        with self._changed:
            self._refresh()
            session = self._session
        if session is None:
            raise TransientError("the session of this instance has just expired")
        return ReadOnlyCredentials(session.access_key, session.secret_key, session.token)

    def _refresh(self) -> None:
        """Wait for a valid session; botocore calls this before it reads one of its attributes."""
        if not self._is_valid():
            with self._changed:
                self._changed.notify_all()
            self._wait_for(self._is_valid, CALL_LIMIT)

    def _is_valid(self) -> bool:
        session = self._session
        return session is not None and session.expires_at > self._now()

    def _wait_for(
        self,
        is_there: Callable[[], bool],
        limit: timedelta,
        is_ending: Callable[[], bool] = lambda: False,
    ) -> NodeId | None:
        until = time.monotonic() + limit.total_seconds()
        with self._changed:
            while True:
                if is_there():
                    return self._node
                if self._refusal is not None:
                    raise self._refusal
                if is_ending():
                    return None
                left = until - time.monotonic()
                if left <= 0:
                    raise TransientError(
                        f"this instance got no credentials for {limit.total_seconds():.0f} s: "
                        f"{self._problem or 'the function has not answered'}"
                    )
                self._changed.wait(min(left, 1))

    def _keep(self) -> None:
        while True:
            with self._changed:
                while not self._is_due():
                    left = (self._renew_at - self._now()).total_seconds()
                    self._changed.wait(max(min(left, CHECK.total_seconds()), 0.01))
            try:
                longest = self._take(self._ask())
            except RunctlError as exc:
                longest = MAX_PAUSE
                self._note(str(exc), level=logging.WARNING)
            except Exception as exc:  # noqa: BLE001 - whatever it is, the next try may do better
                longest = MAX_PAUSE
                self._note(f"asking for credentials failed: {exc!r}", level=logging.ERROR)
            if longest is not None:
                self._rest(longest)

    def _rest(self, longest: timedelta) -> None:
        """Wait before the next try, longer each time; `renew` ends the wait."""
        with self._changed:
            pause = min(self._pause, longest)
            self._pause = min(pause * GROWTH, MAX_PAUSE)
            jitter = _RANDOM.uniform(0.8, 1.2)
            wanted = self._wanted
            self._changed.wait_for(
                lambda: self._wanted not in {None, wanted}, pause.total_seconds() * jitter
            )

    def _is_due(self) -> bool:
        return self._wanted is not None or not self._is_valid() or self._now() >= self._renew_at

    def _take(self, answer: Answer) -> timedelta | None:
        """Keep what was issued; return how long to wait at most if it is not what is wanted."""
        if isinstance(answer, Issued):
            return self._take_session(answer)
        error = error_of(answer)
        if not isinstance(answer, Over | Refused):
            self._note(str(error), level=logging.INFO)
            return MAX_POLL
        self._note(str(error), level=logging.WARNING)
        with self._changed:
            is_final = not self._is_valid()
            if is_final or self._wanted is not None:
                self._refusal, self._wanted = error, None
            self._changed.notify_all()
        if is_final and isinstance(answer, Over):
            self.on_over(answer.reason)
        return MAX_PAUSE

    def _take_session(self, issued: Issued) -> timedelta | None:
        session, now = issued.credentials, self._now()
        life = session.expires_at - now
        with self._changed:
            self._session, self._node = session, issued.node
            self._since = time.monotonic()
            self._renew_at = now + max(life - RENEW_BEFORE, life / 2)
            self.access_key, self.secret_key = session.access_key, session.secret_key
            self.token = session.token
            self._refusal, self._problem = None, ""
            is_wanted = self._wanted in {None, issued.node[:2]}
            if is_wanted:
                self._wanted, self._pause = None, FIRST_PAUSE
            self._changed.notify_all()
        logger.info(
            "credentials for attempt %d of %s until %s",
            issued.node.attempt,
            issued.node.run_id,
            session.expires_at.isoformat(timespec="seconds"),
        )
        return None if is_wanted and life > timedelta(0) else MAX_POLL

    def _note(self, problem: str, *, level: int) -> None:
        """Log a problem once, not with each try."""
        if problem != self._problem:
            logger.log(level, "%s; trying again", problem)
        self._problem = problem
