"""What each measured way of getting an environment does, in a child process.

`python -m bench.environment_steps STEP` reads a JSON document with the folders and addresses from
standard input and prints another with the seconds, those of the processors, and the peak memory of
the process in MiB.
"""

import gzip
import hashlib
import json
import os
import resource
import shutil
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

BUCKET = "bench"
GETS = 8
Job = Callable[[], object]
# The agent's program signs with credentials that a function has issued to its instance.
COMMIT_PROGRAM = (
    "import json, sys; document = json.load(sys.stdin); sys.path[:] = document['path']; "
    "from runctl.agent.prepare.environment_commit import main; "
    "from runctl.aws.clients import Clients, Connection; "
    "sys.exit(main(document, clients=lambda: Clients(Connection(region='us-east-1'))))"
)


class FileRange(NamedTuple):
    """A part of a file: where it goes in the file, and where it lies in the stored part."""

    path: str
    at: int
    offset: int
    size: int


def _venv(target: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(target)], check=True)


def _run(*words: object, **variables: str) -> None:
    done = subprocess.run(
        [str(word) for word in words],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(done.stdout + done.stderr)


def pip_install(given: Mapping[str, Any]) -> Job:
    """Install with pip into a new environment, without its cache."""
    target = Path(given["target"])

    def job() -> None:
        _venv(target)
        _run(
            sys.executable, "-m", "pip", "--python", target / "bin/python", "install", "-q",
            "--no-cache-dir", "--disable-pip-version-check", "-r", given["requirements"],
        )  # fmt: skip

    return job


def uv_install(given: Mapping[str, Any]) -> Job:
    """Install with uv into a new environment, with an empty cache on the same file system."""
    target = Path(given["target"])
    uv = Path(sys.prefix) / "bin/uv"

    def job() -> None:
        _venv(target)
        _run(
            uv, "pip", "install", "-q", "--python", target / "bin/python", "--cache-dir",
            target.with_name("uv-cache"), "--index-strategy", "unsafe-best-match", "-r",
            given["requirements"], **given["uv"],
        )  # fmt: skip

    return job


def tar_pack(given: Mapping[str, Any]) -> Job:
    """Pack an environment as earlier versions did, and send it as one object."""
    target, archive = Path(given["source"]), Path(given["target"])

    def job() -> None:
        with (
            archive.open("wb") as raw,
            gzip.GzipFile(filename="", mode="wb", fileobj=raw, compresslevel=6, mtime=0) as packed,
            tarfile.open(fileobj=packed, mode="w") as tar,
        ):
            tar.add(target / "lib", "lib")
        connection = HTTPConnection(urlsplit(given["endpoint"]).netloc)
        with archive.open("rb") as body:
            length = {"Content-Length": str(archive.stat().st_size)}
            connection.request("PUT", f"/{BUCKET}/environment.tar.gz", body=body, headers=length)
        connection.getresponse().read()

    return job


def tar_unpack(given: Mapping[str, Any]) -> Job:
    """Fetch that object and unpack it as earlier versions did."""
    target = Path(given["target"])

    def job() -> None:
        connection = HTTPConnection(urlsplit(given["endpoint"]).netloc)
        connection.request("GET", f"/{BUCKET}/environment.tar.gz")
        answer = connection.getresponse()
        archive = target.with_suffix(".tar.gz")
        with archive.open("wb") as stream:
            shutil.copyfileobj(answer, stream, 1024 * 1024)
        _venv(target)
        with tarfile.open(archive) as tar:
            tar.extractall(target, filter="data")

    return job


def plain_gets(given: Mapping[str, Any]) -> Job:
    """Fetch the same parts over plain sockets and write the files; nothing is verified."""
    from runctl.model.checkpoint import Manifest

    target = Path(given["target"])
    manifest = Manifest.from_json(Path(given["manifest"]).read_bytes())
    host = urlsplit(given["endpoint"]).netloc
    local = threading.local()
    files = [entry for entry in manifest.entries if entry.kind == "file"]
    ranges: dict[str, list[FileRange]] = {}
    for entry in files:
        done = 0
        for part in entry.parts:
            size = entry.size_bytes if entry.offset is not None else part.size_bytes
            placed = FileRange(entry.path, done, entry.offset or 0, size)
            ranges.setdefault(part.sha256, []).append(placed)
            done += size

    def get(digest: str) -> None:
        held = getattr(local, "connection", None)
        if held is None:
            held = local.connection = HTTPConnection(host)
        held.request("GET", f"/{BUCKET}/environments/parts/{digest}")
        body = memoryview(held.getresponse().read())
        for placed in ranges[digest]:
            descriptor = os.open(f"{target}/{placed.path}", os.O_WRONLY | os.O_CREAT, 0o644)
            os.pwrite(descriptor, body[placed.offset : placed.offset + placed.size], placed.at)
            os.close(descriptor)

    def job() -> None:
        for entry in manifest.entries:
            if entry.kind == "dir":
                (target / entry.path).mkdir(parents=True, exist_ok=True)
        with ThreadPoolExecutor(GETS) as pool:
            list(pool.map(get, ranges))

    return job


def _environments(given: Mapping[str, Any]) -> tuple[Any, Any]:
    import pip

    from runctl.agent.prepare.committing import NICENESS, EnvironmentCommitter
    from runctl.agent.prepare.dependencies import find_dependencies
    from runctl.agent.prepare.environment import Environments, Place
    from runctl.agent.prepare.installer import Installer, Tools
    from runctl.agent.prepare.shared_environments import SharedEnvironments
    from runctl.aws.clients import Clients, Connection
    from runctl.aws.environments import EnvironmentStore

    os.environ["AWS_REQUEST_CHECKSUM_CALCULATION"] = "when_required"
    os.environ["AWS_RESPONSE_CHECKSUM_VALIDATION"] = "when_required"
    os.environ["AWS_ENDPOINT_URL"] = given["endpoint"]
    os.environ.update(AWS_ACCESS_KEY_ID="bench", AWS_SECRET_ACCESS_KEY="bench")
    folder = Path(given["target"])
    folder.mkdir(parents=True, exist_ok=True)
    store = EnvironmentStore(Clients(Connection(region="us-east-1")).get("s3"), bucket=BUCKET)
    environments = Environments(
        SharedEnvironments(store, given["run"], folder),
        Place(folder=folder, bucket=BUCKET, region="us-east-1", run_id=given["run"]),
        installer=Installer(
            Tools(
                python=Path(sys.executable).resolve(),
                pip=Path(pip.__file__).parent,
                environ={"PATH": os.environ["PATH"], "HOME": str(folder)},
                uv=Path(sys.prefix) / "bin/uv",
            ),
            folder,
            log=lambda: (folder.parent / "log").open("a"),
        ),
        committer=EnvironmentCommitter(
            environ=os.environ,
            niceness=NICENESS if given.get("gives_way", True) else 0,
            program=COMMIT_PROGRAM,
        ),
    )
    return environments, find_dependencies(Path(given["project"]), "train.py")


def our_build(given: Mapping[str, Any]) -> Job:
    """Build with runctl; the commit begins, and is ended at once."""
    environments, declared = _environments(given)

    def job() -> None:
        environments.prepare(declared)

    given["after"].append(lambda: environments.finish(0))
    return job


def our_commit(given: Mapping[str, Any]) -> Job:
    """Commit what was built before, with the agent's own process, for so many seconds at most."""
    environments, declared = _environments(given)

    def job() -> None:
        environments.prepare(declared)
        environments.finish(given["within"])

    return job


def our_restore(given: Mapping[str, Any]) -> Job:
    """Fetch with runctl, as the next attempt does."""
    environments, declared = _environments(given)
    return lambda: environments.prepare(declared)


STEPS: dict[str, Callable[[Mapping[str, Any]], Job]] = {
    "pip install": pip_install,
    "uv pip install": uv_install,
    "one .tar.gz: pack and send": tar_pack,
    "one .tar.gz: fetch and unpack": tar_unpack,
    "plain parallel GETs": plain_gets,
    "runctl: build": our_build,
    "runctl: commit": our_commit,
    "runctl: restore": our_restore,
}


def spin() -> None:
    """Take steps until standard input ends, and print their number each 0.1 s: a trainer."""
    threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()
    block, steps, since = bytes(200_000), 0, time.monotonic()
    while True:
        hashlib.sha256(block).digest()
        steps += 1
        if time.monotonic() - since > 0.1:
            print(time.monotonic(), steps, flush=True)
            steps, since = 0, time.monotonic()


def _processor_seconds() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


def main() -> None:
    """Do one step."""
    if sys.argv[1] == "spin":
        spin()
    after: list[Job] = []
    job = STEPS[sys.argv[1]]({**json.load(sys.stdin), "after": after})
    began, busy = time.perf_counter(), _processor_seconds()
    job()
    seconds, used = time.perf_counter() - began, _processor_seconds() - busy
    for last in after:
        last()
    peaks = [
        resource.getrusage(who).ru_maxrss / 1024
        for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    ]
    print(
        json.dumps(
            {
                "seconds": seconds,
                "processor_seconds": used,
                "peak_mib": peaks[0],
                "children_mib": peaks[1],
            }
        )
    )


if __name__ == "__main__":
    main()
