"""Groups of runs, and the instances that go from one run of a group to the next."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import Enum
from typing import Any

from runctl.model.node import NodeId
from runctl.model.outcome import RunStatus

# How long an instance waits for its next run: longer than the next one takes to begin, and short
# compared to what booting a machine costs.
KEEP_SECONDS = 120


@dataclass(frozen=True, kw_only=True)
class Group:
    """Runs that one parent execution starts, such as the trials of a sweep.

    `group_id` is the name of its first execution; `execution` is the current one. `request` is what
    the parent was started with. `ended` holds the final status, None while it may still move.
    `stop_requested` says that no further member is to be started. `is_settled` says that nothing of
    an ended group is left to be cleaned up. `keep_seconds` is how long an instance waits for its
    next run.
    """

    group_id: str
    kind: str
    execution: str
    execution_arn: str
    started_at: datetime
    request: Mapping[str, Any] = field(default_factory=dict)
    ended: RunStatus | None = None
    ended_at: datetime | None = None
    reason: str = ""
    stop_requested: bool = False
    is_settled: bool = False
    keep_seconds: int = KEEP_SECONDS

    @property
    def keeps_instances(self) -> bool:
        """Whether its instances may wait for a further run."""
        return self.ended is None and not self.stop_requested


class WarmStage(str, Enum):
    """The stages of a warm instance. From `claimed` it returns to `offered` with its next end."""

    OFFERED = "offered"  # its agent has nothing to do any more; its run has not ended yet
    WAITING = "waiting"  # a run of the group may claim it
    CLAIMED = "claimed"  # it has its next attempt
    LEFT = "left"  # nothing may claim it any more: it ends


@dataclass(frozen=True, kw_only=True)
class WarmInstance:
    """An instance that waits for another run of its group, instead of ending with its last one.

    `node` is what it did last or, once claimed, does next. `pool` is where it was launched, and
    `disk_bytes` the size of the file system that runs write on. `since` is when it began to wait,
    None while it does not, `left_at` when it ended its wait without a run, and `waited` the time of
    its earlier waits.
    """

    group_id: str
    instance_id: str
    node: NodeId
    stage: WarmStage = WarmStage.OFFERED
    pool: str = ""
    disk_bytes: int = 0
    since: datetime | None = None
    left_at: datetime | None = None
    waited: timedelta = timedelta(0)
    keep_seconds: int = KEEP_SECONDS

    @property
    def is_idle(self) -> bool:
        """Whether it has no attempt now, and may have another one."""
        return self.stage in {WarmStage.OFFERED, WarmStage.WAITING}
