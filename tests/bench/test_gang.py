"""The benchmark of gangs reads its figures from what the ranks record."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from bench.gang import FULL, NOTICE, SPARE, TORCHRUN, add_ratios, figures, main, missed
from bench.gang_nodes import Facts


def record(folder: Path, process: str, *facts: tuple[str, float, int, int]) -> None:
    lines = [
        json.dumps({"what": what, "at": at, "process": process, "step": step, "world": world})
        for what, at, step, world in facts
    ]
    (folder / f"{process}.jsonl").write_text("\n".join(lines) + "\n")


@pytest.fixture
def facts(tmp_path: Path) -> Facts:
    """Two ranks of which one is lost at 110; rank a ends a step that was in flight."""
    record(tmp_path, "a", ("began", 100, 0, 2), ("step", 109, 9, 2), ("step", 110.1, 10, 2))
    record(tmp_path, "b", ("began", 101.5, 0, 2), ("step", 109, 9, 2))
    return Facts(tmp_path)


def test_a_step_in_flight_at_the_loss_is_not_the_next_step(facts: Facts) -> None:
    assert figures(facts, 110, nodes=2) == {"spread_s": 1.5}


def test_steps_that_the_repaired_gang_repeats_are_lost(facts: Facts) -> None:
    record(facts.folder, "c", ("began", 115, 6, 1), ("step", 116, 6, 1))
    record(facts.folder, "d", ("began", 119, 8, 2), ("step", 120, 8, 2))
    assert figures(facts, 110, nodes=2) == {
        "spread_s": 1.5,
        "next_step_s": 6.0,
        "pause_s": 5.9,
        "lost_steps": 5,
        "full_gang_s": 10.0,
    }


def test_a_line_that_is_still_being_written_is_not_read(facts: Facts) -> None:
    with (facts.folder / "a.jsonl").open("a") as lines:
        lines.write('{"what": "step", "at"')
    assert [step.step for step in facts.steps()] == [9, 9, 10]


def test_missed_targets_are_named() -> None:
    rows = [
        {"name": TORCHRUN, "same_script": True, "next_step_s": 10.0, "lost_steps": 5},
        {"name": SPARE, "same_script": True, "next_step_s": 9.0, "lost_steps": 5, "spread_s": 2.5},
        {"name": FULL, "same_script": True, "next_step_s": 18.0, "lost_steps": 5},
        {"name": NOTICE, "same_script": True, "problem": "it did not start"},
    ]
    add_ratios(rows)
    assert rows[1]["ratio_to_own_restart"] == 0.5
    assert rows[1]["ratio_to_torchrun_restart"] == 0.9
    assert missed(rows) == [
        f"{SPARE}: the nodes began within 2.5 s, not 2.0 s",
        f"{SPARE}: more than a third of a full restart",
        f"{NOTICE}: it did not start",
    ]


def test_a_notice_must_cost_fewer_steps_than_every_other_way() -> None:
    rows = [
        {"name": TORCHRUN, "same_script": True, "lost_steps": 5},
        {"name": NOTICE, "same_script": True, "lost_steps": 5},
        {"name": "torchft", "same_script": False, "lost_steps": 0},
    ]
    assert missed(rows) == [f"{NOTICE}: loses 5 steps, and another way 5"]


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--only", "runctl", "--only", "statik"], "--only: 'statik' is part of none of"),
        (["--nodes", "2"], "--nodes: at least 3"),
    ],
)
def test_options_that_measure_nothing_are_refused(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    reason: str,
) -> None:
    monkeypatch.setattr(sys, "argv", ["gang.py", *options])
    with pytest.raises(SystemExit):
        main()
    assert reason in capsys.readouterr().err
