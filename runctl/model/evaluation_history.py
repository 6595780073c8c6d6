"""The history of an evaluation of every checkpoint: one JSON line for each of them."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from runctl.model.checkpoint import is_step, name_of

FILE = "evaluations.jsonl"


@dataclass(frozen=True, kw_only=True)
class Evaluated:
    """A checkpoint that was evaluated: its save, its step if that is known, and its metrics."""

    save: int
    step: int | None = None
    key: str = ""
    at: str = ""
    metrics: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The name of the checkpoint for people."""
        return name_of(self.step, self.save)

    def as_line(self) -> str:
        """Return the stored line, without its end."""
        return json.dumps(vars(self), separators=(",", ":"))


def read_history(content: bytes) -> list[Evaluated]:
    """Read a stored history in the order of the saves; lines that cannot be read are left out.

    Of several lines about one save, the last counts.
    """
    found: dict[int, Evaluated] = {}
    for line in content.decode(errors="replace").splitlines():
        try:
            document = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(document, dict) and is_step(document.get("save")):
            found[document["save"]] = _read(document)
    return [found[save] for save in sorted(found)]


def _read(document: Mapping[str, Any]) -> Evaluated:
    step, metrics = document.get("step"), document.get("metrics")
    return Evaluated(
        save=document["save"],
        step=step if is_step(step) else None,
        key=str(document.get("key", "")),
        at=str(document.get("at", "")),
        metrics=metrics if isinstance(metrics, dict) else {},
    )


def history_text(evaluated: Iterable[Evaluated]) -> bytes:
    """Return the stored form."""
    return "".join(f"{each.as_line()}\n" for each in evaluated).encode()
