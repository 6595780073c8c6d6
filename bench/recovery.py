"""The speed of recovery: a run on the local cloud, interrupted 20 times with a notice.

The trainer keeps a checkpoint of 100 MB and rewrites it when it is asked to stop. Machines boot in
no time here (`--boot-seconds` adds some, which is printed separately), so that the figures show
runctl's own share: bootstrap, environment, restore, trainer start.

With `--docker` the trainer runs in a container. Every machine pulls the image from a registry on
this machine while the previous attempt saves.

With `--requirements FILE` the trainer has an environment of these packages, and imports them before
it trains. The first interruption waits until the environment is stored, and every later machine
fetches it: `environment_s` is what that took, and `imports_s` what the imports alone took.

All figures are in seconds after the notice, except the changeover: from SIGTERM to the trainer to
the first step of the resumed one. `machine_s` is the new machine's part of it: from the agent's
start to the first step; `start_s` is its end: from the restored checkpoint to the first step.
`image_s` is the time of a new machine from the agent's start to a ready image, its engine's start
and the pull included. `first_start_s` is the time from StartExecution to the first step of a new
run; `--starts` sets how many runs it is measured with. No peer can recover on a local cloud; the
targets are shown next to the figures.
"""

import argparse
import contextlib
import itertools
import json
import os
import re
import statistics
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from bench.recovery_project import Program, named_modules, request_of
from bench.recovery_trainer import IMPORTED
from runctl.local import daemon
from runctl.local.client import Json
from runctl.local.deploy import deploy
from runctl.local.testbed import Testbed, wait_for
from runctl.model.run import Attempt
from runctl.report.environment_list import read_environments

PROJECT = Path(__file__).parents[1]
FIGURES = {
    "detected_s": "median ≤ 2, worst ≤ 5",
    "replacement_requested_s": "≤ 1 after detection",
    "committed_s": "",
    "changeover_s": "≤ 3",
}
RUN = "recovery"
WAIT_TIMEOUT = timedelta(minutes=5)
BUILD_TIMEOUT = timedelta(minutes=20)
FETCHED = re.compile(r"environment of .*: fetched in (\S+) s")


@contextlib.contextmanager
def serving_image() -> Iterator[str]:
    """Serve an image with Python from a registry of our own until the end of the block."""
    # Only this needs an engine on the machine itself.
    from tests.docker_engine import serving_engine, serving_registry

    with serving_registry() as registry:
        address = registry.name("recovery")
        with serving_engine() as engine:
            engine.import_base("python", "python")
            engine.push("python", address)
        yield address


def first_starts(testbed: Testbed, program: Program, count: int) -> list[float]:
    """Start runs one after the other; return the seconds until the first step of each."""
    found = []
    for number in range(1, count + 1):
        run_id = f"start-{number}"
        began = datetime.now(timezone.utc)
        testbed.workflow.start_run(run_id, request_of(testbed, program))
        wait_until_trained(testbed, 1, run_id=run_id)
        (attempt,) = testbed.attempts(run_id)
        found.append((attempt.timeline["first_step"] - began).total_seconds())
        testbed.workflow.stop_run(testbed.workflow.execution_arn(run_id), cause="measured")
        print(f"\rstart {number} of {count}", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    return found


def perform(
    testbed: Testbed, program: Program, *, interruptions: int, notice_seconds: float
) -> None:
    """Interrupt a run several times, each time once its attempt has trained for a moment."""
    testbed.workflow.start_run(RUN, request_of(testbed, program))
    if program.requirements is not None:
        wait_until_trained(testbed, 1, timeout=BUILD_TIMEOUT)
        wait_for(lambda: is_stored(testbed), "the environment to be stored", timeout=BUILD_TIMEOUT)
    for number in range(1, interruptions + 1):
        wait_until_trained(testbed, number)
        testbed.interrupt(RUN, attempt=number, notice_seconds=notice_seconds)
        print(f"\rinterruption {number} of {interruptions}", end="", file=sys.stderr, flush=True)
    wait_until_trained(testbed, interruptions + 1)
    print(file=sys.stderr)


def is_stored(testbed: Testbed) -> bool:
    """Return whether the run's environment is in the bucket."""
    entries = read_environments(testbed.environment_catalog).entries
    return any(entry.stored is not None for entry in entries)


def wait_until_trained(
    testbed: Testbed, number: int, *, run_id: str = RUN, timeout: timedelta = WAIT_TIMEOUT
) -> None:
    """Wait until an attempt's trainer has made its first step."""

    def check() -> bool:
        run = testbed.ledger.find_run(run_id)
        if run is not None and run.ended is not None:
            raise RuntimeError(f"the run has ended: {run.reason}")
        attempt = testbed.ledger.find_attempt(run_id, number)
        return attempt is not None and "first_step" in attempt.timeline

    try:
        wait_for(check, f"attempt {number} to train", timeout=timeout)
    except TimeoutError as exc:
        raise TimeoutError(f"{exc}: {testbed.story(run_id)}") from exc


def figures(testbed: Testbed) -> dict[str, list[float]]:
    """Return every figure of every interruption."""
    attempts = testbed.attempts(RUN)
    noticed = {
        entry["instance_id"]: datetime.fromisoformat(entry["at"])
        for entry in testbed.cloud.events()
        if entry["what"] == "notice"
    }
    requested = launches(testbed.cloud.calls())
    names = [*FIGURES, "boot_s", "machine_s", "start_s", "image_s", "environment_s"]
    names.append("imports_s")
    found: dict[str, list[float]] = {name: [] for name in names}
    for attempt, after in itertools.pairwise(attempts):
        began = noticed[attempt.instance_ids[0]]
        for name, instant in instants(attempt, after, requested).items():
            found[name].append((instant - began).total_seconds())
        change = after.timeline["first_step"] - attempt.timeline["sigterm"]
        found["changeover_s"].append(change.total_seconds())
        start = after.timeline["first_step"] - after.timeline["restored"]
        found["start_s"].append(start.total_seconds())
        machine = after.timeline["first_step"] - after.timeline["booted"]
        found["machine_s"].append(machine.total_seconds())
        for line in testbed.log(RUN, after.number):
            if fetched := FETCHED.match(line):
                found["environment_s"].append(float(fetched[1]))
            if line.startswith(IMPORTED):
                found["imports_s"].append(float(line.removeprefix(IMPORTED).split()[0]))
        if "image_ready" in after.timeline:
            pull = after.timeline["image_ready"] - after.timeline["booted"]
            found["image_s"].append(pull.total_seconds())
        if after.launched_at is not None:
            boot = after.timeline["booted"] - after.launched_at
            found["boot_s"].append(boot.total_seconds())
    return found


def instants(
    one: Attempt, after: Attempt, requested: Mapping[int, datetime]
) -> dict[str, datetime]:
    """Return when each thing happened after the notice."""
    detected = [one.timeline.get("detected"), one.noticed_at]
    return {
        "detected_s": min(instant for instant in detected if instant is not None),
        "replacement_requested_s": requested[after.number],
        "committed_s": one.timeline["committed"],
    }


def launches(calls: Sequence[Json]) -> dict[int, datetime]:
    """Return when CreateFleet was called for each attempt."""
    found: dict[int, datetime] = {}
    for call in calls:
        if call["action"] != "CreateFleet":
            continue
        number = int(tags_of(call["params"])["runctl:attempt"])
        found.setdefault(number, datetime.fromisoformat(call["at"]))
    return found


def tags_of(params: Mapping[str, Any]) -> dict[str, str]:
    """Return the instance tags of a CreateFleet call."""
    return {
        tag["Key"]: tag["Value"]
        for tag_specification in params["TagSpecifications"]
        if tag_specification["ResourceType"] == "instance"
        for tag in tag_specification["Tags"]
    }


def history(testbed: Testbed) -> Iterator[Json]:
    """Yield the events of the run's execution."""
    client = testbed.clients.get("stepfunctions")
    pages = client.get_paginator("get_execution_history").paginate(
        executionArn=testbed.workflow.execution_arn(RUN)
    )
    for page in pages:
        yield from page["events"]


def count_transitions(events: Sequence[Json]) -> int:
    """Count the states entered, which is what Step Functions bills."""
    return sum(event["type"].endswith("StateEntered") for event in events)


def lambda_milliseconds(events: Sequence[Json]) -> float:
    """Add up the durations of the state machine's functions, except for the wait in Train."""
    began: dict[str, datetime] = {}
    total = 0.0
    name = ""
    for event in events:
        if event["type"] == "TaskStateEntered":
            name = event["stateEnteredEventDetails"]["name"]
            began[name] = event["timestamp"]
        elif event["type"] == "TaskStateExited":
            name = event["stateExitedEventDetails"]["name"]
            if name != "Train":
                total += (event["timestamp"] - began[name]).total_seconds() * 1000
    return total


def agent_mebibytes(home: Path) -> float:
    """Return the largest resident size that any agent on this local cloud reached."""
    largest = 0
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            command = (status.parent / "cmdline").read_bytes()
            if (
                b"runctl.agent" not in command
                or str(home).encode() not in (status.parent / "environ").read_bytes()
            ):
                continue
            for line in status.read_text().splitlines():
                if line.startswith("VmHWM:"):
                    largest = max(largest, int(line.split()[1]))
        except OSError:
            continue  # it ended meanwhile
    return round(largest / 1024, 1)


def main() -> None:
    """Print the table, or the document with --json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--interruptions", type=int, default=20)
    parser.add_argument("--starts", type=int, default=0, help="of how many runs the start is timed")
    parser.add_argument("--megabytes", type=int, default=100)
    parser.add_argument("--notice-seconds", type=float, default=30.0)
    parser.add_argument("--boot-seconds", type=float, default=0.0)
    parser.add_argument("--docker", action="store_true", help="train in a container")
    parser.add_argument("--requirements", type=Path, help="packages that the trainer imports")
    parser.add_argument("--modules", help="what it imports of them, separated by commas")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    modules = arguments.modules.split(",") if arguments.modules else []
    if arguments.requirements is not None and not modules:
        modules = named_modules(arguments.requirements)
    with (
        serving_image() if arguments.docker else contextlib.nullcontext("") as image,
        tempfile.TemporaryDirectory(prefix="runctl-bench-") as scratch,
    ):
        endpoint = daemon.start(Path(scratch), die_with_parent=True)
        try:
            deploy(endpoint, project=PROJECT)
            testbed = Testbed(endpoint)
            testbed.cloud.set_knobs(boot_delay=arguments.boot_seconds)
            program = Program(
                megabytes=arguments.megabytes,
                image=image,
                requirements=arguments.requirements,
                modules=modules,
            )
            starts = first_starts(testbed, program, arguments.starts)
            perform(
                testbed,
                program,
                interruptions=arguments.interruptions,
                notice_seconds=arguments.notice_seconds,
            )
            rss = agent_mebibytes(Path(scratch))
            measured = {"first_start_s": starts, **figures(testbed)}
            events = list(history(testbed))
            attempts = arguments.interruptions + 1
            testbed.workflow.stop_run(testbed.workflow.execution_arn(RUN), cause="measured")
        finally:
            daemon.stop(Path(scratch))
    document: dict[str, Any] = {
        name: {"median": round(statistics.median(values), 2), "worst": round(max(values), 2)}
        for name, values in measured.items()
        if values
    }
    document |= {
        "transitions_per_attempt": round(count_transitions(events) / attempts, 1),
        "lambda_ms_per_attempt": round(lambda_milliseconds(events) / attempts, 1),
        "agent_rss_mib": rss,
        "interruptions": arguments.interruptions,
        "checkpoint_mb": arguments.megabytes,
        "docker": arguments.docker,
        "modules": modules,
        "cores": os.cpu_count(),
    }
    if arguments.json:
        print(json.dumps(document))
        return
    print(f"{'':<26}{'median':>8}{'worst':>8}   aim")
    for name, row in document.items():
        if not isinstance(row, dict):
            continue
        print(f"{name:<26}{row['median']:>8}{row['worst']:>8}   {FIGURES.get(name, '')}")
    for name, aim in (
        ("transitions_per_attempt", "≤ 40"),
        ("lambda_ms_per_attempt", ""),
        ("agent_rss_mib", "≤ 100"),
    ):
        print(f"{name:<26}{document[name]:>8}{'':>8}   {aim}")


if __name__ == "__main__":
    main()
