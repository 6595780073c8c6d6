"""The fields of a run request about several nodes: their number, and what replaces a lost one."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from runctl.model.errors import Problem
from runctl.model.kinds import TRAIN
from runctl.model.request_fields import Field, Option, Syntax, boolean, entry, whole_number

# A transaction of DynamoDB has at most 100 writes, and the launch of a node takes two or three.
MAX_NODES = 32
MAX_PROCESSES = 64
AUTO = "auto"


def check_processes(value: Any) -> str | None:
    """Check the number of processes on a node."""
    if value == AUTO or (type(value) is int and 1 <= value <= MAX_PROCESSES):
        return None
    return f"{value!r} is not a whole number from 1 to {MAX_PROCESSES}, or {AUTO}"


def _read_processes(value: Any) -> int:
    if value == AUTO:
        return 0
    if type(value) is not int:
        raise TypeError(f"{value!r} is not a whole number")
    return value


@dataclass(frozen=True, kw_only=True)
class GangOptions:
    """The nodes of each attempt.

    `min_nodes` is 0 where the run needs all of `nodes`; `processes_per_node` is 0 for one process
    for each GPU, or one on a machine without any.
    """

    nodes: int = whole_number(
        "Number of instances that train together (a gang), each with the whole program. They are "
        "launched in one zone, all or none.",
        least=1,
        most=MAX_NODES,
        default=1,
        option=Option(
            "--nodes",
            "Number of instances that train together, launched in one zone, all or none.",
            "N",
            Syntax.NUMBER,
        ),
        is_setting=True,
        kind=TRAIN,
    )
    min_nodes: int = whole_number(
        "Continue with this many nodes, at least, while a lost one cannot be replaced; 0 if all "
        "are needed. The program has to resume with another number of ranks.",
        least=0,
        most=MAX_NODES,
        default=0,
        option=Option(
            "--min-nodes",
            "Continue with this many nodes, at least, while a lost one cannot be replaced; the "
            "program has to resume with another number of ranks (default: all are needed).",
            "N",
            Syntax.NUMBER,
        ),
        is_setting=True,
        kind=TRAIN,
    )
    spares: int = whole_number(
        "Number of further nodes, which are prepared and take the place of a lost one at once. "
        "They cost as much as the others.",
        least=0,
        most=4,
        default=0,
        option=Option(
            "--spares",
            "Number of further nodes, prepared to take the place of a lost one at once; they cost "
            "as much as the others.",
            "N",
            Syntax.NUMBER,
        ),
        is_setting=True,
        kind=TRAIN,
    )
    processes_per_node: int = entry(
        0,
        Field(
            schema={
                "oneOf": [
                    {"type": "integer", "minimum": 1, "maximum": MAX_PROCESSES},
                    {"const": AUTO},
                ],
                "default": AUTO,
                "description": "Number of processes (ranks) on each node; `auto` is one for each "
                "GPU, or one on a machine without any.",
            },
            check=check_processes,
            read=_read_processes,
            write=lambda value: value or None,
            option=Option(
                "--processes-per-node",
                "Number of processes (ranks) on each node, or auto (default): one for each GPU, "
                "or one on a machine without any.",
                "N",
                Syntax.NUMBER_OR_AUTO,
            ),
            is_setting=True,
            kind=TRAIN,
        ),
    )
    replace_stragglers: bool = boolean(
        "Replace a node whose ranks take much longer for a step than the others. It is reported "
        "in any case.",
        default=False,
        option=Option(
            "--replace-stragglers",
            "Replace a node whose ranks take much longer for a step than the others.",
            syntax=Syntax.SWITCH,
        ),
        is_setting=True,
        kind=TRAIN,
    )

    @property
    def is_gang(self) -> bool:
        """Whether an attempt has several nodes."""
        return self.nodes > 1

    @property
    def fewest(self) -> int:
        """The number of nodes without which it does not train."""
        return self.min_nodes or self.nodes


def gang_contradictions(document: Mapping[str, Any]) -> Iterator[Problem]:
    """Check the fields about nodes against each other and against the rest of the request."""
    nodes, fewest = _number(document, "nodes", 1), _number(document, "min_nodes", 0)
    spares = _number(document, "spares", 0)
    if fewest > nodes:
        yield Problem(
            "min_nodes", f"{fewest} is more than nodes ({nodes}); lower it, or raise nodes"
        )
    if nodes == 1:
        for name in ("min_nodes", "spares", "replace_stragglers"):
            if document.get(name):
                yield Problem(name, "only for several nodes; give nodes, or remove it")
        return
    if nodes + spares > MAX_NODES:
        yield Problem(
            "spares",
            f"nodes and spares together are {nodes + spares}; at most {MAX_NODES} can be used",
        )
    if document.get("instance_id"):
        yield Problem("instance_id", "not allowed with several nodes, which are launched at once")
    if document.get("group"):
        yield Problem(
            "group", "a run of several nodes cannot belong to a group; remove one of them"
        )


def _number(document: Mapping[str, Any], name: str, default: int) -> int:
    value = document.get(name, default)
    return value if type(value) is int else default
