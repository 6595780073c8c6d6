"""Marks of checkpoints in the ledger: suspect when a trainer died from one, proven otherwise."""

import logging
from collections.abc import Callable, Iterable
from functools import partial

from runctl.model.agent_ledger import AgentLedger
from runctl.model.errors import FencedError, RunctlError

MAX_TRIES = 3

logger = logging.getLogger(__name__)


class Marks:
    """Sets and clears the marks for one attempt.

    A mark that cannot be set after a few tries is only logged: it is not worth failing a run. The
    marks that were set are remembered, to be cleared if they turn out to be wrong.
    """

    def __init__(self, ledger: AgentLedger, *, run_id: str, attempt: int) -> None:
        self._ledger = ledger
        self._run_id = run_id
        self._attempt = attempt
        self._set: list[str] = []

    def suspect(self, keys: Iterable[str]) -> None:
        """Mark checkpoints that a trainer died from."""
        for key in keys:
            self._set.append(key)  # an answer may be lost after the write
            self._try(
                partial(self._ledger.mark_suspect, self._run_id, self._attempt, key),
                f"the checkpoint {key} could not be marked suspect",
            )

    def clear(self) -> None:
        """Take back what this attempt has marked: the program is at fault."""
        keys, self._set = self._set, []
        if keys:
            self._try(
                lambda: self._ledger.clear_suspects(self._run_id, self._attempt, keys),
                f"{len(keys)} checkpoints remain marked suspect",
            )

    def prove(self, key: str) -> bool:
        """Mark the checkpoint that a trainer has continued from; return whether that worked."""
        return self._try(
            lambda: self._ledger.mark_proven(self._run_id, self._attempt, key),
            f"the checkpoint {key} could not be marked proven",
        )

    def _try(self, write: Callable[[], None], problem: str) -> bool:
        for turn in range(1, MAX_TRIES + 1):
            try:
                write()
            except FencedError as exc:
                logger.warning("%s: %s", problem, exc)
                return False
            except RunctlError as exc:
                logger.warning("%s (try %d): %s", problem, turn, exc)
            else:
                return True
        return False
