"""The logs of the runs of a processing job on several instances."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from runctl.model.request import RunRequest
from runctl.policy.sharding import batch_run_id, divide

if TYPE_CHECKING:
    from runctl.aws.services import AwsServices
    from runctl.report.log_tail import LogEntry
    from runctl.report.run_log import RunLog

# Reads without a new line after the end: the last lines reach the log shortly after it is known.
_QUIET_READS = 2


@dataclass
class JobLog:
    """Reads the logs of those runs of a job that have begun, each line with its run.

    `log_of` returns the log of a run by its name, and `pause` are the seconds between two reads.
    """

    source: AwsServices
    job: str
    log_of: Callable[[str], RunLog]
    pause: float
    sleep: Callable[[float], None] = time.sleep
    _logs: dict[str, RunLog] = field(default_factory=dict)
    _planned: list[str] = field(default_factory=list)

    def read(self) -> Iterator[tuple[str, LogEntry]]:
        """Yield what the logs contain now, one run after the other."""
        for run_id in self._run_ids():
            for entry in self.log_of(run_id).read():
                yield run_id, entry

    def follow(self) -> Iterator[tuple[str, LogEntry]]:
        """Yield lines until the job has ended."""
        quiet = 0
        while True:
            group = self.source.groups.find_group(self.job)
            has_ended = group is None or group.ended is not None
            lines = 0
            for run_id in self._run_ids():
                log = self._logs.setdefault(run_id, self.log_of(run_id))
                for entry in log.read_new():
                    yield run_id, entry
                    lines += 1
            quiet = 0 if lines else quiet + 1
            if has_ended and quiet >= _QUIET_READS:
                for run_id, log in self._logs.items():
                    for entry in log.tail.unfinished():
                        yield run_id, entry
                return
            self.sleep(self.pause)

    def _run_ids(self) -> list[str]:
        """Return the names of the runs that have begun."""
        known = self._logs.keys()
        return [
            name for name in self._names() if name in known or self.source.ledger.find_run(name)
        ]

    def _names(self) -> list[str]:
        if not self._planned:
            group = self.source.groups.find_group(self.job)
            header = self.source.processing_jobs.find_plan(self.job)
            if group is not None and header is not None:
                instances = RunRequest.from_stored(group.request).process.instances
                batches = divide(header.shards, instances=instances)
                self._planned = [batch_run_id(self.job, batch.number) for batch in batches]
        return self._planned
