"""The time to get a trainer's environment, compared with other ways to get the same packages.

All of them in one session, in turns, on the same machine: pip and uv from the machine's index
without a cache, one .tar.gz as earlier versions of runctl stored it, `docker pull` of an image with
the same packages from a registry on loopback, plain parallel GETs of the same parts that write the
files and verify nothing, and runctl's own build and restore. Objects come from
`bench/object_server.py` in a tmpfs, folders are on a disk's file system.

A busy machine makes everything take longer; the time of processors shows by how much. It is that of
the tool, without the server's, and none is known of Docker, whose engine does the work.

During a commit, a trainer takes steps in as many processes as there are processors; its steps per
second are compared with those before the commit.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench.checkpoint import PROJECT, object_server
from runctl.agent.prepare.uv_settings import uv_variables

SMALL = "numpy==2.2.6\nscikit-learn==1.7.2\n"
LARGE = "torch\n"
RESTORE = "runctl: restore"
COMMIT = "runctl: commit"
BASELINE_SECONDS = 5.0
# A commit is slow while a trainer occupies all processors.
MAX_SECONDS = 40.0
# As the agent is started.
AGENT_MALLOC = {"MALLOC_ARENA_MAX": "2", "MALLOC_MMAP_THRESHOLD_": str(1024 * 1024)}


def step(name: str, given: Mapping[str, Any]) -> dict[str, float]:
    """Do a step in a child process."""
    done = subprocess.run(
        [sys.executable, "-m", "bench.environment_steps", name],
        input=json.dumps(given),
        capture_output=True,
        text=True,
        cwd=PROJECT,
        env={**os.environ, **AGENT_MALLOC},
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"{name} failed:\n{done.stderr}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


class Trainer:
    """Processes that take steps."""

    def __init__(self) -> None:
        self._processes = [
            subprocess.Popen(
                [sys.executable, "-m", "bench.environment_steps", "spin"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                cwd=PROJECT,
            )
            for _ in range(os.cpu_count() or 1)
        ]

    def end(self) -> list[tuple[float, int]]:
        """End them, and return all times with the steps until then."""
        said = [process.communicate()[0].splitlines() for process in self._processes]
        return [(float(line.split()[0]), int(line.split()[1])) for lines in said for line in lines]


@contextmanager
def training() -> Iterator[Trainer]:
    """Run a trainer, which has warmed up."""
    trainer = Trainer()
    time.sleep(1)
    yield trainer


def kept_steps(given: Mapping[str, Any]) -> tuple[dict[str, float], float]:
    """Commit while a trainer runs; return the measurement and the share of steps that it keeps."""
    with training() as trainer:
        began = time.monotonic()
        time.sleep(BASELINE_SECONDS)
        middle = time.monotonic()
        measured = step(COMMIT, given)
        ended = time.monotonic()
        time.sleep(BASELINE_SECONDS)
        last = time.monotonic()
        steps = trainer.end()

    def rate(start: float, end: float) -> float:
        return sum(count for at, count in steps if start < at <= end) / (end - start)

    alone = (rate(began, middle) + rate(ended, last)) / 2
    return measured, rate(middle, ended) / alone


def docker_pull(environment: Path) -> float | None:
    """Return the seconds of `docker pull` of an image with these files; None without an engine."""
    from tests import docker_engine

    if not (docker_engine.CAN_RUN and docker_engine.HAS_REGISTRY):
        return None
    with docker_engine.serving_engine() as engine, docker_engine.serving_registry() as registry:
        engine.import_base("busybox", "base")
        (environment.parent / "Dockerfile").write_text(f"FROM base\nCOPY {environment.name} /env\n")
        image = registry.name("environment")
        engine.docker("build", "-q", "-t", image, environment.parent)
        engine.docker("push", "-q", image)
        engine.docker("rmi", "-f", image)
        began = time.perf_counter()
        engine.docker("pull", "-q", image)
        return time.perf_counter() - began


def uv_settings() -> dict[str, str]:
    """Return the machine's settings of pip, for uv."""
    command = [sys.executable, "-m", "pip", "config", "list"]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return uv_variables(listed.splitlines()) or {}


def measure(requirements: str, rounds: int, scratch: Path, objects: Path) -> dict[str, Any]:
    """Measure all ways; return the seconds of each and what else was seen."""
    project = scratch / "project"
    project.mkdir()
    (project / "train.py").touch()
    (project / "requirements.txt").write_text(requirements)
    times: dict[str, list[float]] = {}
    processors: dict[str, list[float]] = {}
    found: dict[str, Any] = {}
    with object_server(objects) as endpoint:
        given = {
            "project": str(project),
            "requirements": str(project / "requirements.txt"),
            "endpoint": endpoint,
            "uv": uv_settings(),
        }
        for number in range(rounds):
            place = scratch / str(number)
            place.mkdir()

            run = {**given, "run": f"run-{number}"}

            def time_step(
                name: str, run: Mapping[str, Any] = run, more: Mapping[str, str] | None = None
            ) -> dict[str, float]:
                measured = step(name, {**run, **(more or {})})
                times.setdefault(name, []).append(measured["seconds"])
                processors.setdefault(name, []).append(measured["processor_seconds"])
                return measured

            time_step("pip install", more={"target": str(place / "pip")})
            time_step("uv pip install", more={"target": str(place / "uv")})
            ours = str(place / "ours")
            time_step("runctl: build", more={"target": ours})
            if not number:
                commit = {**run, "target": ours, "within": MAX_SECONDS}
                measured, kept = kept_steps(commit)
                found.update(kept_steps=kept, beside_seconds=measured["seconds"])
                found["commit_peak_mib"] = measured["children_mib"]
                # What that has not stored in its time, with nothing to give way to.
                measured = step(COMMIT, {**commit, "within": 3600, "gives_way": False})
                found["rest_seconds"] = measured["seconds"]
                manifest = scratch / "manifest.json"
                manifest.write_bytes(stored_manifest(endpoint, Path(ours)))
                found["docker pull"] = docker_pull(place / "pip")
            archive = {"source": str(place / "pip"), "target": str(place / "archive")}
            time_step("one .tar.gz: pack and send", more=archive)
            time_step("one .tar.gz: fetch and unpack", more={"target": str(place / "tar")})
            time_step(
                "plain parallel GETs",
                more={"target": str(place / "plain"), "manifest": str(manifest)},
            )
            measured = time_step(RESTORE, more={"target": str(place / "restored")})
            found["restore_peak_mib"] = max(found.get("restore_peak_mib", 0), measured["peak_mib"])
    document = json.loads(manifest.read_bytes())
    found["files"] = sum(entry["kind"] == "file" for entry in document["entries"])
    found["mib"] = sum(part["size_bytes"] for part in document["parts"]) / 1024 / 1024
    found["seconds"] = {name: statistics.median(values) for name, values in times.items()}
    found["processor_seconds"] = {
        name: statistics.median(values) for name, values in processors.items()
    }
    if found["docker pull"] is not None:
        found["seconds"]["docker pull"] = found["docker pull"]
    return found


def stored_manifest(endpoint: str, environments: Path) -> bytes:
    """Return what was stored of the only environment in a folder."""
    from urllib.request import urlopen

    (folder,) = (path for path in environments.iterdir() if (path / "ready").exists())
    digest = (folder / "ready").read_text()
    key = f"environments/manifests/{folder.name}/{digest}.json"
    with urlopen(f"{endpoint}/bench/{key}") as answer:
        return bytes(answer.read())


def main() -> None:
    """Measure, and print a table or JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--large", action="store_true", help="torch instead of scikit-learn")
    parser.add_argument("--requirements", type=Path, help="a file instead of these packages")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    requirements = LARGE if arguments.large else SMALL
    if arguments.requirements:
        requirements = arguments.requirements.read_text()
    memory = "/dev/shm" if Path("/dev/shm").is_dir() else None
    with (
        tempfile.TemporaryDirectory(prefix="runctl-bench-") as scratch,
        tempfile.TemporaryDirectory(prefix="runctl-bench-", dir=memory) as objects,
    ):
        found = measure(requirements, arguments.rounds, Path(scratch), Path(objects) / "o")
    if arguments.json:
        print(json.dumps({**found, "cores": os.cpu_count(), "load": os.getloadavg()[0]}))
        return
    print(f"{found['files']:,} files, {found['mib']:,.0f} MiB stored")
    ours = found["seconds"][RESTORE]
    for name, seconds in found["seconds"].items():
        busy = found["processor_seconds"].get(name)
        used = "" if busy is None else f"{busy:8.2f} s of processors"
        print(f"{name:32} {seconds:8.2f} s {seconds / ours:8.2f} x restore {used}")
    print(
        f"{COMMIT:32} {found['beside_seconds']:8.2f} s beside a trainer on all processors, "
        f"{found['rest_seconds']:.2f} s for the rest alone"
    )
    print(f"the trainer keeps {found['kept_steps']:.1%} of its steps per second meanwhile")
    print(
        f"peak memory: restore {found['restore_peak_mib']:.0f} MiB, "
        f"a process of the commit {found['commit_peak_mib']:.0f} MiB"
    )


if __name__ == "__main__":
    main()
