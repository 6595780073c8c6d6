"""The function that issues credentials to instances, as an instance asks it."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

from runctl.aws.errors import translated
from runctl.model.errors import (
    FencedError,
    RefusedError,
    RunctlError,
    TransientError,
    UnexpectedAwsError,
)
from runctl.model.node import NodeId
from runctl.model.session_credentials import SessionCredentials

AGENT, TRAINER = "agent", "trainer"


@dataclass(frozen=True, kw_only=True)
class Issued:
    """A session, and the node that this instance is according to the ledger."""

    node: NodeId
    credentials: SessionCredentials


@dataclass(frozen=True)
class Unknown:
    """The ledger does not know the instance yet."""


@dataclass(frozen=True)
class Over:
    """The work of the instance is over."""

    reason: str


@dataclass(frozen=True)
class Refused:
    """The function does not accept the identity of the instance."""

    reason: str


Answer = Issued | Unknown | Over | Refused


class CredentialsFunction:
    """Asks the function `name`, with `client` for Lambda and `prove` for the identity.

    `claim` returns the run and the attempt that the instance takes for its own, empty where it
    cannot know. The function needs them if an attempt was launched twice: the ledger knows only
    one of the two instances.
    """

    def __init__(
        self,
        name: str,
        *,
        client: Callable[[], Any],
        prove: Callable[[], Mapping[str, str]],
        claim: Callable[[], Mapping[str, Any]] = dict,
    ) -> None:
        self.name = name
        self._client = client
        self.prove = prove
        self._claim = claim
        self._was_unknown = False

    def ask(self, purpose: str) -> Answer:
        """Ask for a session.

        A lost answer costs nothing: an unused session expires. Raises TransientError if the
        function fails or cannot be reached, RefusedError if the role of the instance may not
        invoke it, and UnexpectedAwsError if its answer cannot be read.
        """
        event: dict[str, Any] = {"identity": self.prove(), "purpose": purpose}
        # Mostly the first answer is a session: what the instance claims need not be looked up.
        if self._was_unknown and (claim := self._claim()):
            event["claimed"] = claim
        with translated():
            answer = self._client().invoke(
                FunctionName=self.name, Payload=json.dumps(event).encode()
            )
            body = answer["Payload"].read()
        if "FunctionError" in answer:
            raise TransientError(f"the function {self.name} failed: {_type_of(body)}")
        try:
            document = json.loads(body)
        except ValueError as exc:
            raise UnexpectedAwsError(f"the function {self.name} answered no JSON") from exc
        read = read_answer(document)
        self._was_unknown = isinstance(read, Unknown)
        return read

    def session_of_trainer(self) -> SessionCredentials:
        """Return a new session for the trainer of this instance.

        Raises RefusedError if it gets none, FencedError if its work is over, and the errors of
        `ask`.
        """
        answer = self.ask(TRAINER)
        if isinstance(answer, Issued):
            return answer.credentials
        raise error_of(answer)


def error_of(answer: Unknown | Over | Refused) -> RunctlError:
    """Return what an answer without a session means."""
    match answer:
        case Unknown():
            return TransientError("the ledger does not know this instance yet")
        case Over(reason):
            return FencedError(f"this instance gets no credentials any more: {reason}")
        case Refused(reason):
            return RefusedError(f"this instance gets no credentials: {reason}")


def read_answer(document: Any) -> Answer:
    """Read an answer, which may be that of a newer version, with more fields.

    Raises UnexpectedAwsError without showing the answer, which may contain a secret.
    """
    try:
        status = document["status"]
        match status:
            case "issued":
                return _read_session(document)
            case "unknown":
                return Unknown()
            case "over":
                return Over(str(document.get("reason", "")))
            case "refused":
                return Refused(str(document.get("reason", "")))
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError) as exc:
        raise UnexpectedAwsError(
            f"the answer with the credentials cannot be read: {type(exc).__name__}"
        ) from None
    raise UnexpectedAwsError(f"the answer has the status {str(status)[:40]!r}, which is unknown")


def _read_session(document: Mapping[str, Any]) -> Issued:
    held = document["credentials"]
    given = {name: str(held[name]) for name in ("access_key", "secret_key", "token")}
    if not all(given.values()):
        raise ValueError
    expires_at = datetime.fromisoformat(str(held["expires_at"]).replace("Z", "+00:00"))
    if expires_at.tzinfo is None:
        expires_at = expires_at.replace(tzinfo=timezone.utc)
    return Issued(
        node=NodeId(
            str(document["run_id"]), int(document["attempt"]), int(document.get("rank", 0))
        ),
        credentials=SessionCredentials(**given, expires_at=expires_at),
    )


def _type_of(body: bytes) -> str:
    """Return the type of a function's error; its message could contain the request."""
    try:
        return str(json.loads(body)["errorType"])[:100]
    except (KeyError, TypeError, ValueError):
        return "for an unknown reason"
