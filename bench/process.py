"""The processing of shards, compared with the script alone, GNU parallel and joblib.

`python -m bench.process` calls one script for each file of an input in all ways: by hand in a loop,
by the agent's session with one worker and with two (files and results go through
`bench/object_server.py` on loopback, without the verification of inputs), by GNU parallel and by
joblib with two jobs, where they are X

`python -m bench.process --kill 10000` processes that many shards while workers are killed with
SIGKILL, and then counts: shards lost, shards completed twice, results that are wrong.
"""

import argparse
import contextlib
import importlib.util
import json
import logging
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config

from runctl.agent.instance import processes
from runctl.agent.processing.session import ProcessingContext, ProcessingSession
from runctl.agent.processing.shard_folder import ShardFolder
from runctl.agent.reporting.progress import Progress
from runctl.agent.runtime.host_runtime import HostRuntime
from runctl.agent.runtime.ports import Contract
from runctl.agent.signals.mailbox import Mailbox
from runctl.aws.inputs import InputStore
from runctl.aws.processing_jobs import ProcessingJobs
from runctl.aws.shards import ShardStore
from runctl.model.input_sources import InputSource, StoredObject, parse_input
from runctl.model.object_checksums import Checksum
from runctl.model.processing_options import ProcessingOptions
from runctl.model.shard import PlanHeader
from runctl.policy.sharding import plan_shards

PROJECT = Path(__file__).parents[1]
BUCKET = "bench"
INPUT, OUTPUT = f"s3://{BUCKET}/inputs/raw/", f"s3://{BUCKET}/outputs/clean/"
# Without imports, so that the start of Python is all that is not work.
SCRIPT = """
import os
folder, out = os.environ["RUNCTL_INPUT_DIR"], os.environ["RUNCTL_OUTPUT_DIR"]
for name in os.listdir(folder):
    total = 0
    for number in range(int(os.environ["WORK"])):
        total += number * number % 7
    with open(os.path.join(folder, name)) as source:
        text = source.read()
    with open(os.path.join(out, name), "w") as target:
        target.write(text.upper())
"""
SHELL = 'for f in "$RUNCTL_INPUT_DIR"/*; do tr a-z A-Z < "$f" > "$RUNCTL_OUTPUT_DIR/${f##*/}"; done'
JOBLIB = """
import os, subprocess, sys
import joblib

def call(name):
    environment = {**os.environ, "RUNCTL_INPUT_DIR": f"{sys.argv[1]}/{name}",
                   "RUNCTL_OUTPUT_DIR": sys.argv[2]}
    subprocess.run([sys.executable, sys.argv[3]], env=environment, check=True)

joblib.Parallel(n_jobs=2)(joblib.delayed(call)(name) for name in sorted(os.listdir(sys.argv[1])))
"""


class UnverifiedInputs(InputStore):
    """Reads without verification: the object server gives all objects the same ETag."""

    def find_checksum(self, _source: InputSource, _found: StoredObject) -> Checksum:
        """Return that nothing is known of the content."""
        return Checksum()


class CountingStore(ShardStore):
    """Counts how often each shard is completed."""

    def __init__(self, client: Any, *, job: str) -> None:
        super().__init__(client, bucket=BUCKET, job=job)
        self.commits: Counter[int] = Counter()

    def commit(self, shard: int, line: str, *, attempt: int) -> bool:
        """Complete a shard."""
        is_done = super().commit(shard, line, attempt=attempt)
        self.commits[shard] += is_done
        return is_done


class Bench:
    """An object server with an input of `files` files, and a folder with the same files."""

    def __init__(self, folder: Path, files: int) -> None:
        self.folder = folder
        self.files = files
        (folder / "objects").mkdir()
        self._server = subprocess.Popen(
            [sys.executable, "-m", "bench.object_server", str(folder / "objects")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=PROJECT,
        )
        assert self._server.stdout is not None
        port = int(self._server.stdout.readline())
        self.client = boto3.client(
            "s3",
            endpoint_url=f"http://127.0.0.1:{port}",
            region_name="us-east-1",
            aws_access_key_id="bench",
            aws_secret_access_key="bench",
            config=Config(
                max_pool_connections=64,
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
            ),
        )
        self.script = folder / "script.py"
        self.script.write_text(SCRIPT)
        (folder / "joblib_call.py").write_text(JOBLIB)
        for number in range(files):
            name = f"n{number:06d}.txt"
            self.client.put_object(Bucket=BUCKET, Key=f"inputs/raw/{name}", Body=name.encode())
            (folder / "local" / name).mkdir(parents=True)
            (folder / "local" / name / name).write_text(name)
        self._jobs = 0

    def close(self) -> None:
        """End the server."""
        assert self._server.stdin is not None
        self._server.stdin.close()
        self._server.wait()

    def process(
        self, words: list[str], work: int, *, workers: int, retries: int = 0, kill: float = 0.0
    ) -> tuple[float, CountingStore, int]:
        """Process the input with the agent's session; return seconds, store and kills."""
        self._jobs += 1
        state = self.folder / f"state-{self._jobs}"
        state.mkdir()
        job = f"job-{self._jobs}"
        output = f"{OUTPUT}{job}/"
        store = CountingStore(self.client, job=job)
        self._plan(job, output)
        mailbox = Mailbox()
        runtime = HostRuntime(on_exit=mailbox.wake)

        def contract_of(place: ShardFolder, worker: int, shards: int) -> Contract:
            return Contract(
                command=tuple(words),
                environment={
                    **os.environ,
                    "WORK": str(work),
                    "RUNCTL_INPUT_DIR": str(place.inputs),
                    "RUNCTL_OUTPUT_DIR": str(place.outputs),
                    "RUNCTL_SHARD": str(place.number),
                    "RUNCTL_SHARDS": str(shards),
                },
                working_folder=self.folder,
                checkpoint=place.checkpoint,
                output=state / f"{worker}.out",
                errors=state / f"{worker}.err",
                save_request=place.checkpoint_request,
                grace=timedelta(seconds=5),
                is_one_of_many=True,
            )

        session = ProcessingSession(
            ProcessingContext(
                run_id=job,
                attempt=1,
                first_attempt=1,
                is_part=False,
                options=ProcessingOptions(
                    input=INPUT, output=output, workers=workers, retries=retries
                ),
                grace=timedelta(seconds=5),
                state=state,
                store=store,
                inputs=UnverifiedInputs(self.client),
                runtime=runtime,
                contract_of=contract_of,
                progress=Progress(),
                mailbox=mailbox,
                mask=str,
            )
        )
        with _killing(kill) as killed:
            began = time.perf_counter()
            outcome = session.run()
            took = time.perf_counter() - began
        if outcome is None or outcome.kind.value != "completed":
            raise SystemExit(f"the session ended with {outcome}")
        shutil.rmtree(state)
        return took, store, len(killed)

    def _plan(self, job: str, output: str) -> None:
        found = list(InputStore(self.client).list_objects(parse_input(INPUT)))
        shards = [shard.as_line() for shard in plan_shards(found, most_files=1)]
        header = PlanHeader(
            run_id=job,
            started_at=datetime.now(timezone.utc),
            input=INPUT,
            output=output,
            shards=len(shards),
            files=len(found),
            size_bytes=1,
            largest_bytes=1,
        )
        ProcessingJobs(self.client, bucket=BUCKET).put_plan(header, shards)

    def by_hand(self, work: int) -> float:
        """Call the script for each file, one after the other; return the seconds."""
        out = self._fresh()
        began = time.perf_counter()
        for folder in sorted((self.folder / "local").iterdir()):
            subprocess.run(
                [sys.executable, str(self.script)],
                env={
                    **os.environ,
                    "WORK": str(work),
                    "RUNCTL_INPUT_DIR": str(folder),
                    "RUNCTL_OUTPUT_DIR": str(out),
                },
                check=True,
            )
        return time.perf_counter() - began

    def gnu_parallel(self, work: int) -> float | None:
        """Do the same with GNU parallel and two jobs; None if it is not installed."""
        program = shutil.which("parallel")
        if program is None:
            return None
        out, local = self._fresh(), self.folder / "local"
        call = f"RUNCTL_INPUT_DIR={local}/{{}} {sys.executable} {self.script}"
        began = time.perf_counter()
        subprocess.run(
            [
                program,
                "--will-cite",
                "-j2",
                call,
                ":::",
                *sorted(path.name for path in local.iterdir()),
            ],
            env={**os.environ, "WORK": str(work), "RUNCTL_OUTPUT_DIR": str(out)},
            check=True,
            stdin=subprocess.DEVNULL,
        )
        return time.perf_counter() - began

    def joblib(self, work: int) -> float | None:
        """Do the same with joblib and two processes; None if it is not installed."""
        found = _joblib_path(self.folder)
        if found is None:
            return None
        out = self._fresh()
        words = [str(self.folder / "joblib_call.py"), str(self.folder / "local"), str(out)]
        began = time.perf_counter()
        subprocess.run(
            [sys.executable, *words, str(self.script)],
            env={**os.environ, "WORK": str(work), "PYTHONPATH": found},
            check=True,
        )
        return time.perf_counter() - began

    def _fresh(self) -> Path:
        out = self.folder / "out"
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir()
        return out


def _joblib_path(folder: Path) -> str | None:
    """Return the path to import joblib from: installed, or the wheels that `make setup` has."""
    if importlib.util.find_spec("joblib") is not None:
        return os.environ.get("PYTHONPATH", "")
    target = folder / "joblib"
    for name in ("joblib", "cloudpickle"):
        for wheel in (PROJECT / "build/wheels").glob(f"{name}-*.whl"):
            zipfile.ZipFile(wheel).extractall(target)
    return str(target) if target.exists() else None


@contextlib.contextmanager
def _killing(every: float) -> Iterator[list[int]]:
    """Kill a random worker at an interval in seconds; 0 kills none."""
    killed: list[int] = []
    stop = threading.Event()

    def kill() -> None:
        while not stop.wait(every):
            # The object server is a child as well, in the session of this process.
            workers = [pid for pid in _children() if _leads_session(pid)]
            if workers:
                victim = random.choice(workers)
                with contextlib.suppress(ProcessLookupError):
                    os.kill(victim, signal.SIGKILL)
                    killed.append(victim)

    thread = threading.Thread(target=kill, daemon=True)
    if every:
        thread.start()
    try:
        yield killed
    finally:
        stop.set()
        if every:
            thread.join()


def _children() -> list[int]:
    found: list[int] = []
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(OSError):
            found += map(int, (task / "children").read_text().split())
    return found


def _leads_session(pid: int) -> bool:
    with contextlib.suppress(ProcessLookupError):
        return os.getsid(pid) == pid
    return False


def compare(files: int, rounds: int, seconds: float) -> dict[str, Any]:
    """Return the throughput of each way for CPU-bound work, and the overhead of a shard."""
    work = _calibrate(seconds)
    with tempfile.TemporaryDirectory(dir=_fast_folder()) as scratch:
        bench = Bench(Path(scratch), files)
        words = [sys.executable, str(bench.script)]
        ways: dict[str, Callable[[], float | None]] = {
            "by hand, one after the other": lambda: bench.by_hand(work),
            "runctl, 1 worker": lambda: bench.process(words, work, workers=1)[0],
            "runctl, 2 workers": lambda: bench.process(words, work, workers=2)[0],
            "GNU parallel, 2 jobs": lambda: bench.gnu_parallel(work),
            "joblib, 2 jobs": lambda: bench.joblib(work),
        }
        try:
            for way in ways.values():
                way()
            times: dict[str, list[float | None]] = {name: [] for name in ways}
            for _ in range(rounds):
                for name, way in ways.items():
                    times[name].append(way())
        finally:
            bench.close()
    medians = {
        name: None if None in found else statistics.median(filter(None, found))
        for name, found in times.items()
    }
    hand, single, double = (medians[name] or 0.0 for name in list(ways)[:3])
    return {
        "files": files,
        "seconds_a_file": seconds,
        "rounds": rounds,
        "load": os.getloadavg()[0],
        "rows": [
            {
                "way": name,
                "seconds": None if value is None else round(value, 3),
                "a_second": None if value is None else round(files / value, 2),
            }
            for name, value in medians.items()
        ],
        "speedup_of_two_workers": round(single / double, 2),
        "overhead_ms_a_shard": round((single - hand) / files * 1000, 1),
    }


def kill_workers(shards: int, workers: int, every: float) -> dict[str, Any]:
    """Process shards while workers are killed; return what went wrong."""
    with tempfile.TemporaryDirectory(dir=_fast_folder()) as scratch:
        bench = Bench(Path(scratch), shards)
        try:
            took, store, killed = bench.process(
                ["sh", "-c", SHELL], 0, workers=workers, retries=100, kill=every
            )
            job = "job-1"
            body = bench.client.get_object(Bucket=BUCKET, Key=f"outputs/clean/{job}/_index.jsonl")[
                "Body"
            ]
            index = [json.loads(line) for line in body.read().splitlines()]
            done = Counter(line["shard"] for line in index if line["status"] == "done")
            wrong = sum(not _is_right(bench.client, job, line) for line in index)
        finally:
            bench.close()
    return {
        "shards": shards,
        "workers": workers,
        "seconds": round(took, 1),
        "killed": killed,
        "tries": sum(line["tries"] for line in index),
        "lost": shards - len(done),
        "done_twice": sum(count > 1 for count in store.commits.values()),
        "wrong": wrong,
    }


def _is_right(client: Any, job: str, line: dict[str, Any]) -> bool:
    (source,) = line["inputs"]
    name = source["key"].rpartition("/")[2]
    if [output["name"] for output in line["outputs"]] != [name]:
        return False
    stored = client.get_object(Bucket=BUCKET, Key=f"outputs/clean/{job}/{name}")["Body"].read()
    return bool(stored.decode() == name.upper())


def _calibrate(seconds: float) -> int:
    """Return how many steps of the script's work take so long."""
    count = 200_000
    began = time.perf_counter()
    total = 0
    for number in range(count):
        total += number * number % 7
    return max(1, round(count * seconds / (time.perf_counter() - began)))


def _fast_folder() -> str | None:
    return "/dev/shm" if Path("/dev/shm").is_dir() else None


def main() -> None:
    """Print the table or, with --json, the document."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=0.25, help="of work in each file")
    parser.add_argument("--kill", type=int, default=0, metavar="SHARDS")
    parser.add_argument("--kill-every", type=float, default=0.05, metavar="SECONDS")
    parser.add_argument("--workers", type=int, default=4, help="with --kill")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    processes.become_subreaper()
    logging.basicConfig(level=os.environ.get("BENCH_LOG", "CRITICAL"))
    if options.kill:
        found = kill_workers(options.kill, options.workers, options.kill_every)
    else:
        found = compare(options.files, options.rounds, options.seconds)
    if options.json:
        print(json.dumps(found))
        return
    for row in found.pop("rows", ()):
        seconds = "not installed" if row["seconds"] is None else f"{row['seconds']:8.2f} s"
        rate = "" if row["a_second"] is None else f"{row['a_second']:8.2f} files a second"
        print(f"{row['way']:32} {seconds} {rate}")
    for name, value in found.items():
        print(f"{name.replace('_', ' ')}: {value}")


if __name__ == "__main__":
    main()
