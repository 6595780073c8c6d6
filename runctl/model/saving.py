"""The saves of an attempt: how often and why, and whether a last one fits into a notice."""

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import timedelta
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Saving:
    """What the agent measured of the saves, and what follows; None if it is not known (yet).

    `every` is the time between two saves that the trainer is asked for, None for a trainer without
    the helper. It follows from `cost`, the time for which a save holds up training, and `uptime`,
    the mean time between interruptions that is expected; both are None where `every` is the
    request's, `is_fixed`, or where no save has shown yet what one costs. A last save of
    `size_bytes` would need `last_save` of the `notice`; without one a machine is not taken.
    `missed_grace` is how long the trainer was given for a final save that it did not finish.
    """

    every: timedelta | None = None
    is_fixed: bool = False
    cost: timedelta | None = None
    uptime: timedelta | None = None
    size_bytes: int | None = None
    bytes_per_second: float | None = None
    last_save: timedelta | None = None
    notice: timedelta | None = None
    missed_grace: timedelta | None = None

    @property
    def fits_notice(self) -> bool | None:
        """Whether a last save that begins with the notice is stored before its end."""
        if self.last_save is None or self.notice is None:
            return None
        return self.last_save <= self.notice

    def as_document(self) -> dict[str, Any]:
        """Return what is known, durations in seconds."""
        document: dict[str, Any] = {}
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, timedelta):
                document[f"{field.name}_seconds"] = value.total_seconds()
            elif value is not None:
                document[field.name] = value
        return document

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> "Saving":
        """Read it back; what another version stored and this one cannot read is left out."""
        values: dict[str, Any] = {}
        for name in (field.name for field in fields(cls)):
            if name in document:
                values[name] = document[name]
            elif f"{name}_seconds" in document:
                with contextlib.suppress(TypeError, OverflowError):
                    values[name] = timedelta(seconds=document[f"{name}_seconds"])
        return cls(**values)
