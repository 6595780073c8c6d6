"""The digests of what has to be equal on all nodes of a gang, and what differs."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from runctl.agent.instance.settings import Settings
from runctl.agent.prepare.code import read_digest
from runctl.agent.prepare.installed import installed_versions
from runctl.agent.prepare.preparation import Prepared
from runctl.model.node import Node

SHOWN = 12
CODE, ENVIRONMENT, IMAGE, CHECKPOINT = "code", "environment", "image", "checkpoint"


def take_prints(settings: Settings, prepared: Prepared) -> dict[str, str]:
    """Return the digests of what a node has prepared."""
    prints = {CODE: read_digest(settings.paths.project)[:SHOWN]}
    if prepared.container is None:
        versions = installed_versions(prepared.environment, attempt=settings.attempt)
        prints[ENVIRONMENT] = f"{versions.digest.hex()[:SHOWN]}, Python {versions.python}"
    else:
        prints[IMAGE] = prepared.container.image.image_id
    restored = prepared.restored
    prints[CHECKPOINT] = "none" if restored is None else restored.key
    return prints


def explain_differences(nodes: Sequence[Node]) -> str:
    """Return which nodes have something else than most, and what; empty if all are equal."""
    return "; ".join(_differences(nodes))


def _differences(nodes: Sequence[Node]) -> Iterator[str]:
    prints = [(node, _prints(node)) for node in nodes]
    names = sorted({name for _, found in prints for name in found})
    for name in names:
        counted = Counter(found.get(name, "none") for _, found in prints)
        # Of equally many, those of the lowest rank count as usual.
        usual = counted.most_common(1)[0][0]
        for node, found in prints:
            if (own := found.get(name, "none")) != usual:
                yield (
                    f"node {node.rank} ({node.instance_id}) has another {name} than the others "
                    f"({own} instead of {usual})"
                )


def _prints(node: Node) -> Mapping[str, str]:
    gang = node.progress.gang
    return {} if gang is None else gang.prints
