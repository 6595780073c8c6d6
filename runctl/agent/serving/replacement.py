"""The replacement of a service: whether the next attempt's server is ready for its requests."""

import logging
import time

from runctl.model.agent_ledger import AgentLedger
from runctl.model.errors import RunctlError

POLL_SECONDS = 1.0

logger = logging.getLogger(__name__)


class Replacement:
    """The attempt after this one, as the ledger shows it."""

    def __init__(self, ledger: AgentLedger, *, run_id: str, attempt: int) -> None:
        self._ledger = ledger
        self._run_id = run_id
        self._number = attempt + 1
        self._asked_at = float("-inf")
        self._is_ready = False

    def is_ready(self) -> bool:
        """Whether its server is ready; the ledger is asked at most once a second."""
        now = time.monotonic()
        if self._is_ready or now - self._asked_at < POLL_SECONDS:
            return self._is_ready
        self._asked_at = now
        try:
            attempt = self._ledger.find_attempt(self._run_id, self._number)
        except RunctlError as exc:
            logger.warning("the replacement cannot be looked up at the moment: %s", exc)
            return False
        service = None if attempt is None or attempt.ended is not None else attempt.service
        self._is_ready = service is not None and service.is_ready
        return self._is_ready
