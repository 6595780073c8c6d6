"""Subjects: checkpoints of other runs that are evaluated, and the pins that keep them."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from runctl.model.checkpoint import Manifest, is_step, name_of


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A checkpoint of a run, by the key of its manifest."""

    run_id: str
    key: str
    step: int | None = None
    save: int = 0
    size_bytes: int = 0

    @property
    def name(self) -> str:
        """The name for people: its step, or the number of its save."""
        return name_of(self.step, self.save)

    def as_document(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {
            "run_id": self.run_id,
            "key": self.key,
            "step": self.step,
            "save": self.save,
            "size_bytes": self.size_bytes,
        }

    @classmethod
    def from_stored(cls, document: Mapping[str, Any]) -> "Subject | None":
        """Read the JSON form; None for anything else."""
        run_id, key = document.get("run_id"), document.get("key")
        step, save, size = (document.get(name) for name in ("step", "save", "size_bytes"))
        if not isinstance(run_id, str) or not isinstance(key, str) or not key:
            return None
        return cls(
            run_id=run_id,
            key=key,
            step=step if is_step(step) else None,
            save=save if is_step(save) else 0,
            size_bytes=size if isinstance(size, int) else 0,
        )


def subject_of(key: str, manifest: Manifest) -> Subject:
    """Return the subject that a manifest describes."""
    return Subject(
        run_id=manifest.run_id,
        key=key,
        step=manifest.step,
        save=manifest.save,
        size_bytes=manifest.size_bytes,
    )


def pin_of(key: str, *, by: str) -> str:
    """Return the pin by which the run `by` keeps a checkpoint; neither name has a space."""
    return f"{by} {key}"


def pins_by(pins: Iterable[str], run_id: str) -> frozenset[str]:
    """Return the pins of a run."""
    return frozenset(pin for pin in pins if pin.startswith(f"{run_id} "))


def pinned_keys(pins: Iterable[str]) -> frozenset[str]:
    """Return the keys of the checkpoints that are pinned."""
    return frozenset(pin.partition(" ")[2] for pin in pins)
