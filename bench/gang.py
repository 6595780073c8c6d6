"""Repairing one node of four: runctl against the other ways to go on, in the same session.

All train the same model and lose the same node without a notice, midway between two checkpoints.
Nodes are processes of this machine that talk over loopback: an instance of the local cloud for
runctl, a launcher for the peers. `next step` is the time from the loss to the first step of the
repaired gang, `full gang` that to the first step with all nodes, and `pause` the time without a
step, which after a notice is shorter. A step lasts 0.1 s.

A peer reads checkpoints from the disk that its nodes share, and its nodes need no preparation;
`fetched` is what all nodes have read of checkpoints after the loss. runctl's are in S3. Every new
machine after the loss needs `--boot-seconds` before it does anything.

The peers need build/bench (`make build/bench/.installed`); without it only runctl is measured.
"""

import argparse
import contextlib
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Protocol

from bench.gang_nodes import Facts, wait_until
from bench.gang_own import FRAMEWORKS, OwnGang
from bench.gang_peers import PEERS, are_installed
from runctl.local import daemon
from runctl.local.deploy import deploy
from runctl.local.testbed import Testbed

PROJECT = Path(__file__).parents[1]
LOST = 2
TIMEOUT = 180.0
SPARE, WARM, FULL, NOTICE = (
    "runctl, spare",
    "runctl, new machine",
    "runctl, all machines new",
    "runctl, spare, notice",
)
OWN = (SPARE, WARM, FULL, NOTICE)
TORCHRUN = PEERS[0].name
MAX_RATIO, MAX_SPREAD = 1 / 3, 2.0
Row = dict[str, Any]


class Gang(Protocol):
    """What is measured."""

    name: str
    facts: Facts
    has_same_script: bool

    def start(self) -> None: ...
    def is_settled(self) -> bool: ...
    def lose(self, rank: int) -> None: ...
    def replace(self, lost: int, *, boot_seconds: float) -> None: ...
    def fetched_bytes(self, since: float) -> int: ...
    def last_words(self) -> str: ...
    def stop(self) -> None: ...


def say(text: str) -> None:
    """Print a line of progress."""
    print(f"[{time.strftime('%H:%M:%S')}] {text}", file=sys.stderr, flush=True)


def measure(gang: Gang, *, nodes: int, every: int, boot_seconds: float) -> Row:
    """Start a gang, let it lose a node, and return the figures, or why there are none."""
    say(f"{gang.name}: starting")
    row: Row = {"name": gang.name, "same_script": gang.has_same_script}
    try:
        gang.start()
        reached = every + every // 2

        def is_due() -> bool:
            newest = max((step.step for step in gang.facts.steps()), default=0)
            return newest > every and 0 <= newest % every - every // 2 < 5

        if not wait_until(lambda: is_due() and gang.is_settled(), seconds=TIMEOUT):
            return row | {"problem": f"did not reach step {reached}: {gang.last_words()}"}
        say(f"{gang.name}: losing node {LOST}")
        lost_at = time.time()
        gang.lose(LOST)
        gang.replace(LOST, boot_seconds=boot_seconds)
        went_on = wait_until(
            lambda: "full_gang_s" in figures(gang.facts, lost_at, nodes=nodes), seconds=TIMEOUT
        )
        row |= figures(gang.facts, lost_at, nodes=nodes)
        if "next_step_s" in row:
            row["fetched_mib"] = round(gang.fetched_bytes(lost_at) / 2**20, 1)
        if not went_on:
            row["problem"] = f"not all nodes in {TIMEOUT:.0f} s: {gang.last_words()}"
    except (OSError, RuntimeError) as exc:
        row["problem"] = f"{type(exc).__name__}: {exc}"
    finally:
        with contextlib.suppress(TimeoutError):
            gang.stop()
    say(f"{gang.name}: {row}")
    return row


def figures(facts: Facts, lost_at: float, *, nodes: int) -> Row:
    """Return what the recorded steps say."""
    began = [fact["at"] for fact in facts.read("began") if fact["at"] < lost_at][:nodes]
    row: Row = {"spread_s": round(max(began) - min(began), 2)}
    steps = facts.steps()
    # A step in flight at the loss may end after it.
    old = {step.gang for step in steps if step.at <= lost_at}
    last = max(step.step for step in steps if step.gang in old)
    after = [step for step in steps if step.at > lost_at and step.gang not in old]
    if after:
        row["next_step_s"] = round(after[0].at - lost_at, 1)
        row["pause_s"] = round(after[0].at - max(step.at for step in steps if step.gang in old), 1)
        row["lost_steps"] = last - after[0].step + 1
    if full := [step for step in after if step.world == nodes]:
        row["full_gang_s"] = round(full[0].at - lost_at, 1)
    return row


def own_gang(
    name: str, testbed: Testbed, folder: Path, job: dict[str, int], *, boot_seconds: float
) -> Gang:
    """Return one of runctl's ways."""
    return OwnGang(
        name,
        testbed,
        folder / f"gang-{OWN.index(name)}",
        **job,
        spares=int(name in {SPARE, NOTICE}),
        loses_all=name == FULL,
        notice_seconds=120 if name == NOTICE else 0,
        boot_seconds=boot_seconds,
    )


def add_ratios(rows: list[Row]) -> None:
    """Add the ratio of each time to that of a restart of the whole gang, ours and torchrun's."""
    full = {row["name"]: row.get("next_step_s") for row in rows}
    for row in rows:
        for key, name in (("ratio_to_own_restart", FULL), ("ratio_to_torchrun_restart", TORCHRUN)):
            if (base := full.get(name)) and "next_step_s" in row:
                row[key] = round(row["next_step_s"] / base, 2)


def missed(rows: list[Row]) -> list[str]:
    """Return the targets that are missed."""
    found = []
    for row in rows:
        name = row["name"]
        if not name.startswith("runctl"):
            continue
        if "problem" in row:
            found.append(f"{name}: {row['problem']}")
        if row.get("spread_s", 0) > MAX_SPREAD:
            found.append(f"{name}: the nodes began within {row['spread_s']} s, not {MAX_SPREAD} s")
        if name in {SPARE, WARM} and row.get("ratio_to_own_restart", 0) > MAX_RATIO:
            found.append(f"{name}: more than a third of a full restart")
    others = [
        row["lost_steps"]
        for row in rows
        if row["same_script"] and "lost_steps" in row and not row["name"].startswith("runctl")
    ]
    found += [
        f"{NOTICE}: loses {row['lost_steps']} steps, and another way {min(others)}"
        for row in rows
        if row["name"] == NOTICE and others and row.get("lost_steps", -1) >= min(others)
    ]
    return found


def table(rows: list[Row]) -> str:
    """Return the figures as text."""
    columns = {
        "next_step_s": "next step",
        "pause_s": "pause",
        "full_gang_s": "full gang",
        "ratio_to_own_restart": "ratio",
        "ratio_to_torchrun_restart": "to torchrun",
        "lost_steps": "lost steps",
        "fetched_mib": "fetched MiB",
        "spread_s": "spread",
    }
    lines = [f"{'':34}" + "".join(f"{title:>13}" for title in columns.values())]
    for row in rows:
        values = "".join(f"{row.get(key, '–'):>13}" for key in columns)
        lines.append(f"{row['name']:34}{values}")
        if "problem" in row:
            lines.append(f"    {row['problem']}")
    return "\n".join(lines)


def read_options() -> argparse.Namespace:
    """Return the options; those with which nothing would be measured are refused."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--nodes", type=int, default=4)
    parser.add_argument("--every", type=int, default=50, help="steps between checkpoints")
    parser.add_argument("--mebibytes", type=int, default=16, help="size of a checkpoint")
    parser.add_argument("--boot-seconds", type=float, default=0.0)
    parser.add_argument("--only", action="append", help="part of a name; may be repeated")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    names = [*(peer.name for peer in PEERS), *OWN]
    for word in options.only or ():
        if not any(word in name for name in names):
            parser.error(f"--only: {word!r} is part of none of {', '.join(names)}")
    if options.nodes <= LOST:
        parser.error(f"--nodes: at least {LOST + 1}, as node {LOST} is lost")
    return options


def main() -> int:
    """Measure, print, and return 1 if a target is missed."""
    options = read_options()
    job = {"nodes": options.nodes, "every": options.every, "mebibytes": options.mebibytes}
    times = {"nodes": options.nodes, "every": options.every, "boot_seconds": options.boot_seconds}

    def is_wanted(name: str) -> bool:
        return any(word in name for word in options.only or [""])

    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="runctl-bench-") as scratch:
        folder = Path(scratch)
        folder.chmod(0o755)
        if not are_installed():
            say("without the peers: build/bench is missing")
        for number, peer in enumerate(PEERS):
            if are_installed() and is_wanted(peer.name):
                rows.append(measure(peer(folder / f"peer-{number}", **job), **times))
        if own := [name for name in OWN if is_wanted(name)]:
            say("deploying the local cloud")
            endpoint = daemon.start(
                folder / "cloud",
                die_with_parent=True,
                shared_folders=[folder, FRAMEWORKS.resolve()],
            )
            try:
                deploy(endpoint, project=PROJECT)
                testbed = Testbed(endpoint)
                boot = options.boot_seconds
                for name in own:
                    gang = own_gang(name, testbed, folder, job, boot_seconds=boot)
                    rows.append(measure(gang, **times))
            finally:
                daemon.stop(folder / "cloud")
    add_ratios(rows)
    if options.json:
        document = {**job, "boot_seconds": options.boot_seconds, "cores": os.cpu_count()}
        print(json.dumps({**document, "rows": rows, "missed": missed(rows)}))
    else:
        print(table(rows))
        print("\n".join(f"missed: {text}" for text in missed(rows)))
    return 1 if missed(rows) else 0


if __name__ == "__main__":
    sys.exit(main())
