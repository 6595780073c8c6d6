"""What tests and demonstrations may set on a running local cloud."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any


@dataclass
class Knobs:
    """Delays in seconds; events by detail type, `*` for every one."""

    boot_delay: float = 0.5
    agent_delay: float = 0.3
    shutdown_grace: float = 10.0
    not_found_for: float = 0.0
    keep_roots: bool = True
    disk_bytes: int = 0
    heartbeat_scale: float = 1.0
    wait_scale: float = 1.0
    environment: dict[str, str] = field(default_factory=dict)
    drop_events: list[str] = field(default_factory=list)
    delay_events: dict[str, float] = field(default_factory=dict)
    duplicate_events: dict[str, int] = field(default_factory=dict)

    def update(self, values: dict[str, Any]) -> None:
        """Set knobs by name; an unknown name or a value of another kind is refused."""
        known = {one.name for one in fields(self)}
        for name, value in values.items():
            if name not in known:
                raise ValueError(f"no knob {name!r}; there are {', '.join(sorted(known))}")
            kind = type(getattr(self, name))
            number = float(value) if kind is float and isinstance(value, int) else value
            if not isinstance(number, kind):
                raise ValueError(f"{name} takes a {kind.__name__}, not {value!r}")  # noqa: TRY004
            setattr(self, name, number)
