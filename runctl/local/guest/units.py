"""The subset of systemd's unit files that instances of the local cloud understand."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from runctl.local.guest.environment_files import parse_environment

_SPANS = {
    "": 1, "s": 1, "sec": 1, "second": 1, "seconds": 1, "ms": 0.001, "msec": 0.001,
    "m": 60, "min": 60, "minute": 60, "minutes": 60, "h": 3600, "hr": 3600, "hour": 3600,
    "hours": 3600, "d": 86400, "day": 86400, "days": 86400, "w": 604800, "week": 604800,
}  # fmt: skip
_DEFAULT_STOP = timedelta(seconds=90)
_DEFAULT_RESTART = timedelta(milliseconds=100)


class UnitError(Exception):
    """A unit file is missing, or requires what the local cloud does not have."""


def parse_span(text: str) -> timedelta:
    """Parse a time span as systemd writes it: `5min`, `1h 30min`, `20`."""
    if text.strip() == "infinity":
        return timedelta.max
    parts = re.findall(r"([\d.]+)\s*([a-z]*)", text)
    if not parts or any(unit not in _SPANS for _, unit in parts):
        raise UnitError(f"{text!r} is not a time span")
    return timedelta(seconds=sum(float(number) * _SPANS[unit] for number, unit in parts))


Sections = Mapping[str, Mapping[str, list[str]]]


def parse_unit_file(text: str) -> Sections:
    """Parse a unit file into sections of keys with all their values, in order."""
    sections: dict[str, dict[str, list[str]]] = {}
    current: dict[str, list[str]] = {}
    for raw in text.replace("\\\n", " ").splitlines():
        line = raw.strip()
        if not line or line[0] in "#;":
            continue
        if line.startswith("[") and line.endswith("]"):
            current = sections.setdefault(line[1:-1], {})
            continue
        key, _, value = line.partition("=")
        if value.strip():
            current.setdefault(key.strip(), []).append(value.strip())
        else:
            current[key.strip()] = []  # an empty assignment resets the list
    return sections


@dataclass(frozen=True)
class Service:
    """A parsed [Service] section."""

    name: str
    kind: str
    commands: tuple[tuple[str, bool], ...]
    before: tuple[tuple[str, bool], ...]
    after: tuple[tuple[str, bool], ...]
    environment: tuple[str, ...]
    environment_files: tuple[str, ...]
    working_directory: str | None
    restart: str
    restart_after: timedelta
    kill_mode: str
    kill_signal: str
    stop_timeout: timedelta
    remain_after_exit: bool
    output: str | None

    def restarts_after(self, status: int) -> bool:
        """Return whether systemd would restart it after this exit status."""
        failed = status != 0
        return {
            "always": True,
            "on-failure": failed,
            "on-abnormal": status > 128,
            "on-success": not failed,
        }.get(self.restart, False)

    def environ(self, base: Mapping[str, str]) -> dict[str, str]:
        """Return the environment of the unit's programs."""
        env = dict(base)
        for line in self.environment:
            for pair in shlex.split(line):
                key, _, value = pair.partition("=")
                env[key] = value
        for name in self.environment_files:
            path = Path(name.removeprefix("-"))
            if not path.exists() and name.startswith("-"):
                continue
            env.update(read_environment_file(path))
        return env


@dataclass(frozen=True)
class Timer:
    """A parsed [Timer] section."""

    name: str
    unit: str
    on_boot: tuple[timedelta, ...]
    on_active: tuple[timedelta, ...]
    on_unit_active: tuple[timedelta, ...]
    on_unit_inactive: tuple[timedelta, ...]


def read_environment_file(path: Path) -> dict[str, str]:
    """Read KEY=value lines, without quotes."""
    try:
        return parse_environment(path.read_text())
    except OSError as exc:
        raise UnitError(f"Failed to load environment file {path}: {exc.strerror}") from exc


def load(directory: Path, name: str) -> Service | Timer | None:
    """Read a unit; return None for a slice, a target or another unit that runs nothing."""
    path = directory / name
    instance = ""
    if not path.exists() and "@" in name:
        stem, _, rest = name.partition("@")
        instance, _, suffix = rest.rpartition(".")
        path = directory / f"{stem}@.{suffix}"
    if not path.exists():
        raise UnitError(f"Unit {name} not found.")
    text = path.read_text().replace("%%", "\0")
    for specifier, value in {"%n": name, "%i": instance, "%I": instance}.items():
        text = text.replace(specifier, value)
    sections = parse_unit_file(text.replace("\0", "%"))
    if name.endswith(".timer"):
        return _timer(name, sections.get("Timer", {}))
    if name.endswith(".service"):
        return _service(name, sections.get("Service", {}))
    return None


def _command(line: str) -> tuple[str, bool]:
    """Split off the prefixes; the flag states whether a failure is ignored."""
    match = re.match(r"[-+!@:]*", line)
    prefix = match.group() if match else ""
    return line[len(prefix) :], "-" in prefix


def expand(command: str, env: Mapping[str, str]) -> list[str]:
    """Split a command line and expand its variables, `$NAME` as words and `${NAME}` in place."""
    words: list[str] = []
    for word in shlex.split(command.replace("$$", "\0")):
        if (match := re.fullmatch(r"\$(\w+)", word)) is not None:
            words += env.get(match.group(1), "").split()
        else:
            words.append(re.sub(r"\$\{(\w+)\}", lambda found: env.get(found.group(1), ""), word))
    return [word.replace("\0", "$") for word in words]


def _service(name: str, section: Mapping[str, list[str]]) -> Service:
    def last(key: str, default: str) -> str:
        return (section.get(key) or [default])[-1]

    def commands(key: str) -> tuple[tuple[str, bool], ...]:
        return tuple(_command(line) for line in section.get(key, []))

    def span(key: str, default: timedelta) -> timedelta:
        values = section.get(key)
        return parse_span(values[-1]) if values else default

    kind = last("Type", "simple")
    if kind not in {"simple", "exec", "oneshot", "idle", "notify"}:
        raise UnitError(f"{name}: the local cloud does not support Type={kind}")
    return Service(
        name=name,
        kind=kind,
        commands=commands("ExecStart"),
        before=commands("ExecStartPre"),
        after=commands("ExecStopPost"),
        environment=tuple(section.get("Environment", [])),
        environment_files=tuple(section.get("EnvironmentFile", [])),
        working_directory=last("WorkingDirectory", "") or None,
        restart=last("Restart", "no"),
        restart_after=span("RestartSec", _DEFAULT_RESTART),
        kill_mode=last("KillMode", "control-group"),
        kill_signal=last("KillSignal", "SIGTERM"),
        stop_timeout=span("TimeoutStopSec", span("TimeoutSec", _DEFAULT_STOP)),
        remain_after_exit=last("RemainAfterExit", "no") in {"yes", "true", "1", "on"},
        output=last("StandardOutput", "") or None,
    )


def _timer(name: str, section: Mapping[str, list[str]]) -> Timer:
    if "OnCalendar" in section:
        raise UnitError(f"{name}: the local cloud does not support OnCalendar=")

    def spans(*keys: str) -> tuple[timedelta, ...]:
        return tuple(parse_span(value) for key in keys for value in section.get(key, []))

    return Timer(
        name=name,
        unit=(section.get("Unit") or [name.removesuffix(".timer") + ".service"])[-1],
        on_boot=spans("OnBootSec", "OnStartupSec"),
        on_active=spans("OnActiveSec"),
        on_unit_active=spans("OnUnitActiveSec"),
        on_unit_inactive=spans("OnUnitInactiveSec"),
    )
