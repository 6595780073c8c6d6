"""Knobs: what tests and demonstrations may set on a running local cloud."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from runctl.model.quota import QUOTAS


@dataclass
class Knobs:
    """Delays in seconds; events by detail type, with `*` for all; quotas by code, in vCPUs."""

    boot_delay: float = 0.5
    agent_delay: float = 0.3
    shutdown_grace: float = 10.0
    not_found_for: float = 0.0
    keep_roots: bool = True
    disk_bytes: int = 0
    own_networks: bool = False
    own_user: bool = False
    first_process: str = ""
    shared_folders: list[str] = field(default_factory=list)
    heartbeat_scale: float = 1.0
    wait_scale: float = 1.0
    build_timeout_scale: float = 1.0
    max_builds: int = 60
    placement_group_room: int = 100
    image_age_days: int = 20
    environment: dict[str, str] = field(default_factory=dict)
    vcpu_quotas: dict[str, int] = field(default_factory=dict)
    drop_events: list[str] = field(default_factory=list)
    delay_events: dict[str, float] = field(default_factory=dict)
    duplicate_events: dict[str, int] = field(default_factory=dict)

    def update(self, values: Mapping[str, Any]) -> None:
        """Set knobs by name, all or none; the ValueError names the invalid one."""
        checked = {name: self._checked(name, value) for name, value in values.items()}
        for name, value in checked.items():
            setattr(self, name, value)

    def _checked(self, name: str, value: Any) -> Any:
        known = sorted(field.name for field in fields(self))
        if name not in known:
            raise ValueError(unknown("knob", name, known))
        kind = type(getattr(self, name))
        if kind is float and type(value) is int:
            value = float(value)
        # A bool is an int to isinstance.
        if type(value) is not kind:
            raise ValueError(f"{name}: {value!r} is not a {kind.__name__}")
        for number in _numbers(value):
            if not math.isfinite(number) or number < 0:
                raise ValueError(f"{name}: {number} is not a number of at least 0")
        _CHECKS.get(name, lambda _: None)(value)
        return value


def _numbers(value: Any) -> list[float]:
    found = value.values() if isinstance(value, dict) else [value]
    return [number for number in found if isinstance(number, int | float)]


def _check_environment(value: dict[Any, Any]) -> None:
    for name, text in value.items():
        if not isinstance(text, str) or not name or "=" in name or "\0" in name + text:
            raise ValueError(f"environment: {name}={text!r} is not a variable with a string value")


def _check_shared_folders(value: list[Any]) -> None:
    for folder in value:
        if (
            not isinstance(folder, str)
            or not Path(folder).is_absolute()
            or not Path(folder).is_dir()
        ):
            raise ValueError(f"shared_folders: {folder!r} is not the absolute path of a folder")


def _check_first_process(value: str) -> None:
    if value and not (Path(value).is_absolute() and Path(value).is_file()):
        raise ValueError(f"first_process: {value!r} is not the absolute path of a file")


def _check_quotas(value: dict[Any, Any]) -> None:
    for code, allowed in value.items():
        if code not in QUOTAS:
            raise ValueError(f"vcpu_quotas: {unknown('quota', str(code), QUOTAS)}")
        if type(allowed) is not int:
            raise ValueError(f"vcpu_quotas: {allowed!r} for {code} is not a number of vCPUs")


def _check_event_list(value: list[Any]) -> None:
    for event in value:
        _check_event("drop_events", event)


def _check_delays(value: dict[Any, Any]) -> None:
    for event, seconds in value.items():
        _check_event("delay_events", event)
        if type(seconds) not in {int, float}:
            raise ValueError(f"delay_events: {seconds!r} for {event} is not a number of seconds")


def _check_copies(value: dict[Any, Any]) -> None:
    for event, copies in value.items():
        _check_event("duplicate_events", event)
        if type(copies) is not int:
            raise ValueError(f"duplicate_events: {copies!r} for {event} is not a number of copies")


def _check_event(knob: str, detail_type: Any) -> None:
    known = (*EVENTS, BUILD_EVENT, "*")
    if detail_type not in known:
        raise ValueError(f"{knob}: {unknown('event', str(detail_type), known)}")


# The detail types of source aws.ec2: instances publish the first three, `send_event` any.
EVENTS = (
    "EC2 Instance State-change Notification",
    "EC2 Spot Instance Interruption Warning",
    "EC2 Instance Rebalance Recommendation",
    "EC2 Capacity Reservation Instance Interruption Warning",
    "EC2 Spot Instance Request Fulfillment",
    "EBS Volume Notification",
    "EBS Snapshot Notification",
)
BUILD_EVENT = "CodeBuild Build State Change"
_MAX_LISTED = 20
_CHECKS: Mapping[str, Callable[[Any], None]] = {
    "environment": _check_environment,
    "first_process": _check_first_process,
    "shared_folders": _check_shared_folders,
    "vcpu_quotas": _check_quotas,
    "drop_events": _check_event_list,
    "delay_events": _check_delays,
    "duplicate_events": _check_copies,
}


def unknown(kind: str, name: str, known: Collection[str]) -> str:
    """Return a message that a name is unknown, with the most similar or all known names."""
    near = difflib.get_close_matches(name, known, n=1)
    if near:
        return f"{name!r} is not a known {kind}; did you mean {near[0]!r}?"
    listed = sorted(known)
    shown = ", ".join(listed) if len(listed) <= _MAX_LISTED else f"{len(listed)} others"
    return f"{name!r} is not a known {kind} (known: {shown or 'none'})"


@dataclass(frozen=True)
class Setup:
    """The settings with which a local cloud was started.

    `shares_paths`, `shares_network`, `shares_user` and `no_engine` are why instances cannot have
    paths, networks, a user for programs and Docker engines of their own, or empty.
    """

    knobs: Knobs
    shares_paths: str = ""
    shares_network: str = ""
    shares_user: str = ""
    no_engine: str = ""
