"""Parsing of unit files."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from runctl.local.guest.units import Service, Timer, UnitError, expand, load, parse_span


@pytest.mark.parametrize(
    ("text", "seconds"), [("20", 20), ("1h 30min", 5400), ("500ms", 0.5), ("2min", 120)]
)
def test_time_spans(text: str, seconds: float) -> None:
    assert parse_span(text) == timedelta(seconds=seconds)


def test_an_invalid_time_span_is_refused() -> None:
    with pytest.raises(UnitError, match="soon"):
        parse_span("soon")


def test_a_service_is_read_with_its_environment(tmp_path: Path) -> None:
    (tmp_path / "env").write_text('# c\nFROM_FILE="two words"\n')
    (tmp_path / "a.service").write_text(
        "[Unit]\nDescription=x\n[Service]\nExecStart=/bin/x \\\n  --flag ${NAME}\n"
        f'Environment="NAME=a b" OTHER=c\nEnvironmentFile={tmp_path}/env\n'
        f"EnvironmentFile=-{tmp_path}/absent\nRestart=on-failure\nRestartSec=2s\nKillMode=mixed\n"
    )
    unit = load(tmp_path, "a.service")
    assert isinstance(unit, Service)
    env = unit.environ({})
    assert env == {"NAME": "a b", "OTHER": "c", "FROM_FILE": "two words"}
    assert expand(unit.commands[0][0], env) == ["/bin/x", "--flag", "a b"]
    assert unit.restarts_after(1)
    assert not unit.restarts_after(0)
    assert unit.kill_mode == "mixed"


def test_a_timer_names_its_service(tmp_path: Path) -> None:
    (tmp_path / "a.timer").write_text("[Timer]\nOnBootSec=1min\nOnUnitInactiveSec=30\n")
    unit = load(tmp_path, "a.timer")
    assert isinstance(unit, Timer)
    assert unit.unit == "a.service"
    assert unit.on_unit_inactive == (timedelta(seconds=30),)


def test_unsupported_unit_settings_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.service").write_text("[Service]\nType=dbus\nExecStart=/bin/true\n")
    with pytest.raises(UnitError, match="Type=dbus"):
        load(tmp_path, "a.service")
    with pytest.raises(UnitError, match="not found"):
        load(tmp_path, "b.service")
