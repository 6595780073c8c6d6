"""The progress of a run that is being stopped."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from runctl.aws.fleet import Ec2Fleet
    from runctl.aws.ledger import DynamoLedger

STOP_LIMIT = timedelta(minutes=15)


class StopSource(Protocol):
    """The source of a stop's progress: the ledger and the instances of one deployment."""

    @property
    def ledger(self) -> DynamoLedger:
        """The runs."""
        ...

    @property
    def fleet(self) -> Ec2Fleet:
        """The instances."""
        ...

    @property
    def pause(self) -> float:
        """The seconds between two reads."""
        ...


@dataclass(frozen=True)
class StopProgress:
    """What is left of a run that is being stopped."""

    has_ended: bool
    instance_ids: tuple[str, ...]

    @property
    def is_done(self) -> bool:
        """Whether the run has ended and none of its instances is left."""
        return self.has_ended and not self.instance_ids


def watch_stop(
    source: StopSource, run_id: str, *, sleep: Callable[[float], None] = time.sleep
) -> Iterator[StopProgress]:
    """Yield what is left of a run until nothing is; TimeoutError after `STOP_LIMIT`."""
    deadline = time.monotonic() + STOP_LIMIT.total_seconds()
    while True:
        run = source.ledger.find_run(run_id)
        # Read the end first: nothing is launched after it.
        has_ended = run is None or run.ended is not None
        left = tuple(machine.instance_id for machine in source.fleet.find_by_run(run_id))
        progress = StopProgress(has_ended, left)
        if not progress.is_done and time.monotonic() > deadline:
            raise TimeoutError(
                f"{run_id} has not stopped within {STOP_LIMIT}; "
                f"instances left: {', '.join(left) or 'none'}"
            )
        yield progress
        if progress.is_done:
            return
        sleep(source.pause)
