"""The session of this instance's attempt: the first one, and that of the attempt that follows."""

import logging
from dataclasses import replace

from runctl.agent.instance.assignment import write_assignment
from runctl.agent.instance.console import write_console
from runctl.agent.instance.forgetting import forget_attempt, forget_run
from runctl.agent.instance.settings import Settings
from runctl.agent.reporting.heartbeat import touch
from runctl.agent.signals.mailbox import Mailbox
from runctl.aws.issued_credentials import IssuedCredentials
from runctl.model.errors import FencedError, RunctlError, TransientError
from runctl.model.node import NodeId

logger = logging.getLogger(__name__)


class NoSessionError(Exception):
    """This instance has no session: it cannot do any more, not even report.

    `may_pass` says that another agent on it might get one.
    """

    def __init__(self, reason: str, *, may_pass: bool) -> None:
        super().__init__(reason)
        self.may_pass = may_pass


def await_first_session(
    credentials: IssuedCredentials, settings: Settings, mailbox: Mailbox
) -> Settings | None:
    """Wait for a session; return the settings of its attempt, None if a stop is requested first.

    An agent that was started again after its instance was given another attempt finds that in the
    ledger, not in its settings. Raises NoSessionError.
    """
    try:
        node = credentials.wait_for_node(lambda: mailbox.ending is not None)
        if node is None:
            return None
        if node[:2] == settings.node[:2]:
            return settings
        if settings.is_existing_instance:
            raise FencedError(f"this instance works on attempt {node.attempt} of {node.run_id} now")
    except RunctlError as exc:
        raise _without_session(settings, exc) from exc
    logger.info("the ledger has another attempt for this instance, %d of %s", *node[1::-1])
    if node.run_id == settings.run_id:
        forget_attempt(settings.paths)
    else:
        forget_run(settings.paths)
    return take_over(settings, node)


def go_on(credentials: IssuedCredentials, settings: Settings, node: NodeId) -> Settings:
    """Wait for the session of the next attempt; return its settings. Raises NoSessionError."""
    settings = take_over(settings, node)
    try:
        credentials.renew(node.run_id, node.attempt)
    except RunctlError as exc:
        raise _without_session(settings, exc) from exc
    return settings


def take_over(settings: Settings, node: NodeId) -> Settings:
    """Take the next attempt; an agent that is started again finds it in a file."""
    paths = settings.paths
    write_assignment(paths.assignment, node)
    paths.failures.unlink(missing_ok=True)
    touch(paths.lease)
    return replace(settings, run_id=node.run_id, attempt=node.attempt, rank=node.rank)


def _without_session(settings: Settings, exc: RunctlError) -> NoSessionError:
    # No log stream and no bucket can be reached without a session.
    logger.error("%s", exc)
    write_console(settings.paths, str(exc))
    return NoSessionError(str(exc), may_pass=isinstance(exc, TransientError))
