"""The kernel's counts of processes killed for lack of memory, in both versions of cgroups."""

from __future__ import annotations

from pathlib import Path

import pytest

from runctl.agent.runtime.memory import MIB, MemoryWatch


def write(folder: Path, files: dict[str, object]) -> None:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{content}\n")


def watch_of(pid: int, top: Path, *, exiting: tuple[int, ...] = ()) -> MemoryWatch:
    return MemoryWatch(
        pid, proc=top / "proc", cgroups=top / "groups", is_exiting=lambda pid: pid in exiting
    )


@pytest.mark.parametrize("version", [1, 2])
def test_kills_are_counted_from_the_start_with_the_lowest_limit(
    tmp_path: Path, version: int
) -> None:
    if version == 2:
        names = ("memory.events", "memory.max", "memory.peak")
        write(tmp_path, {"proc/7/cgroup": "0::/slice/scope", "groups/cgroup.controllers": "memory"})
        outer, inner = tmp_path / "groups/slice", tmp_path / "groups/slice/scope"
    else:
        names = ("memory.oom_control", "memory.limit_in_bytes", "memory.max_usage_in_bytes")
        write(tmp_path, {"proc/7/cgroup": "0::/\n4:memory:/slice/scope"})
        outer, inner = tmp_path / "groups/memory/slice", tmp_path / "groups/memory/slice/scope"
    write(tmp_path, {"proc/vmstat": "oom_kill 5", "proc/meminfo": "MemTotal: 16777216 kB"})
    write(outer, {names[1]: 500 * MIB})
    unlimited = "max" if version == 2 else 9223372036854771712
    write(inner, {names[0]: "under_oom 0\noom_kill 2", names[1]: unlimited, names[2]: 498 * MIB})
    watch = watch_of(7, tmp_path)
    watch.follow(7)
    assert watch.news() == ""
    write(tmp_path, {"proc/vmstat": "oom_kill 6"})
    assert watch.describe() == ""  # a kill of another program
    write(inner, {names[0]: "under_oom 0\noom_kill 4"})
    text = (
        "the kernel killed 2 processes of the trainer for lack of memory: limit 500 MiB, "
        "at most 498 MiB used; the machine has 16.0 GiB"
    )
    assert watch.news() == text
    assert watch.news() == ""
    assert watch.describe() == text


def test_count_of_the_machine_replaces_that_of_a_group_that_is_gone(
    tmp_path: Path,
) -> None:
    group = tmp_path / "groups/scope"
    write(tmp_path, {"proc/7/cgroup": "0::/scope", "groups/cgroup.controllers": "memory"})
    write(tmp_path, {"proc/vmstat": "oom_kill 0", "proc/meminfo": "MemTotal: 1048576 kB"})
    write(group, {"memory.events": "oom_kill 0", "memory.max": 64 * MIB})
    watch = watch_of(7, tmp_path)
    watch.follow(7)
    for path in group.iterdir():
        path.unlink()
    group.rmdir()
    (tmp_path / "proc/7/cgroup").unlink()
    assert watch.describe() == ""
    write(tmp_path, {"proc/vmstat": "oom_kill 1"})
    assert watch.describe() == (
        "the kernel killed 1 process of the trainer for lack of memory: limit 64 MiB; "
        "the machine has 1.0 GiB"
    )


@pytest.mark.parametrize("counted_by", ["the agent's group", "the machine"])
def test_trainer_that_is_killed_before_it_was_ever_found_is_counted(
    tmp_path: Path, counted_by: str
) -> None:
    group = tmp_path / "groups/agent"
    write(tmp_path, {"proc/1/cgroup": "0::/agent", "groups/cgroup.controllers": "memory"})
    write(tmp_path, {"proc/vmstat": "oom_kill 3", "proc/meminfo": "MemTotal: 1048576 kB"})
    write(group, {"memory.events": "oom_kill 1", "memory.max": 64 * MIB})
    # The kernel has moved the rest of it to the top, where nothing was counted.
    write(tmp_path, {"proc/7/cgroup": "0::/", "groups/memory.events": "oom_kill 0"})
    watch = watch_of(1, tmp_path, exiting=(7,))
    watch.follow(7)
    assert watch.describe() == ""
    write(tmp_path, {"proc/vmstat": "oom_kill 4"})
    if counted_by == "the agent's group":
        write(group, {"memory.events": "oom_kill 2"})
    assert watch.describe().startswith("the kernel killed 1 process of the trainer")


def test_machine_without_counters_is_not_a_failure(tmp_path: Path) -> None:
    watch = MemoryWatch(7, proc=tmp_path, cgroups=tmp_path)
    assert watch.news() == watch.describe() == ""
