"""The attempt that an instance has, if it is not the one that its tags name."""

import contextlib
import json
from pathlib import Path

from runctl.model.node import NodeId


def read_assignment(path: Path) -> NodeId | None:
    """Return the node that was assigned to this instance last, or None."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        document = json.loads(path.read_text())
        return NodeId(str(document["run_id"]), int(document["attempt"]), int(document["rank"]))
    return None


def write_assignment(path: Path, node: NodeId) -> None:
    """Record the node: an agent that is started again, also after a reboot, goes on with it."""
    document = {"run_id": node.run_id, "attempt": node.attempt, "rank": node.rank}
    fresh = path.with_suffix(".new")
    fresh.write_text(json.dumps(document))
    fresh.replace(path)
