"""The digests of what has to be equal on all nodes of a gang, and what differs."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from runctl.agent.instance.settings import Settings
from runctl.agent.prepare.code import read_digest
from runctl.agent.prepare.installed import installed_versions
from runctl.agent.prepare.prepared import Prepared
from runctl.model.node import Node

SHOWN = 12
CODE, ENVIRONMENT, IMAGE, CHECKPOINT = "code", "environment", "image", "checkpoint"
NONE = "none"


def take_prints(settings: Settings, prepared: Prepared) -> dict[str, str]:
    """Return the digests of what a node has prepared."""
    prints = {CODE: read_digest(settings.paths.project)[:SHOWN]}
    if prepared.container is None:
        versions = installed_versions(prepared.environment, attempt=settings.attempt)
        prints[ENVIRONMENT] = f"{versions.digest.hex()[:SHOWN]}, Python {versions.python}"
    else:
        prints[IMAGE] = prepared.container.image.image_id
    return prints | print_of_checkpoint(prepared)


def print_of_checkpoint(prepared: Prepared) -> dict[str, str]:
    """Return what identifies the checkpoint that a node has restored."""
    restored = prepared.restored
    return {CHECKPOINT: NONE if restored is None else restored.key}


def oldest_checkpoint(nodes: Sequence[Node]) -> str | None:
    """Return the checkpoint that all nodes go back to; None if they have the same, or one has none.

    A node restores an older one where the newest is damaged. The others may still have its files.
    """
    keys = {_prints(node).get(CHECKPOINT, NONE) for node in nodes}
    return None if len(keys) < 2 or NONE in keys else min(keys)


def explain_differences(nodes: Sequence[Node]) -> str:
    """Return which nodes have something else than most, and what; empty if all are equal."""
    return "; ".join(_differences(nodes))


def _differences(nodes: Sequence[Node]) -> Iterator[str]:
    prints = [(node, _prints(node)) for node in nodes]
    names = sorted({name for _, found in prints for name in found})
    for name in names:
        counted = Counter(found.get(name, NONE) for _, found in prints)
        # Of equally many, those of the lowest rank count as usual.
        usual = counted.most_common(1)[0][0]
        for node, found in prints:
            if (own := found.get(name, NONE)) != usual:
                yield (
                    f"node {node.rank} ({node.instance_id}) has another {name} than the others "
                    f"({own} instead of {usual})"
                )


def _prints(node: Node) -> Mapping[str, str]:
    gang = node.progress.gang
    return {} if gang is None else gang.prints
