"""The speed of saving and restoring checkpoints, compared with tools that people use for it.

All tools do the same in the same run, in turns, on the same machine, against the same object server
(`bench/object_server.py`, which has no bandwidth limit and, without `--latency-ms`, answers at
once: this measures what the tool itself costs). "plain parallel PUTs" is the upper bound: unsigned,
unchecked requests of 8 MiB over plain sockets; runctl signs, hashes with SHA-256 and verifies. The
folder is where trainers have it, on a disk's file system, written back and still in memory; objects
are in a tmpfs.

Before the second save, a tenth is changed: every tenth of many files, or the first tenth of a
single one. For runctl, the same process makes both saves, the first one untimed, since the agent
lives as long as the trainer and knows what its last save held; the other tools keep nothing in
memory.

With `--file-bytes`, files of that size are also compared with a tar of them, which tar creates and
boto3 sends, and which is fetched and unpacked the same way.

A row's `mib_per_s` counts the bytes of the whole folder, whatever the tool skipped: that is what a
trainer waits for. `peak_mib` is the largest resident size of the tool's process.
"""

import argparse
import contextlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).parents[1]
PEERS = PROJECT / "build/bench/bin/python"
MIB = 1024 * 1024
OPERATIONS = ("first save", "second save", "restore")
CEILING = "plain parallel PUTs"
ONE_TAR = "one tar of them"
# As the agent is started; it does not slow down the others.
AGENT_MALLOC = {"MALLOC_ARENA_MAX": "2", "MALLOC_MMAP_THRESHOLD_": str(MIB)}
Row = dict[str, Any]


@dataclass(frozen=True)
class Data:
    """A folder to save: `count` files of equal size."""

    name: str
    files: int
    file_bytes: int

    @property
    def mebibytes(self) -> float:
        """The size of all of them."""
        return self.files * self.file_bytes / MIB

    def make(self, folder: Path) -> None:
        """Write it with random bytes, so that nothing compresses or repeats."""
        folder.mkdir(parents=True)
        for number in range(self.files):
            with (folder / f"part-{number:05d}.bin").open("wb") as stream:
                left = self.file_bytes
                while left:
                    block = os.urandom(min(left, 8 * MIB))
                    stream.write(block)
                    left -= len(block)

    def change(self, folder: Path) -> None:
        """Change a tenth: every tenth file, or the first tenth of a single one, in place."""
        if self.files == 1:
            with (folder / "part-00000.bin").open("r+b") as stream:
                for _ in range(max(self.file_bytes // MIB // 80, 1)):
                    stream.write(os.urandom(8 * MIB))
            return
        for number in range(0, self.files, 10):
            path = folder / f"part-{number:05d}.bin"
            path.write_bytes(os.urandom(path.stat().st_size))


@contextmanager
def object_server(folder: Path, latency_ms: int = 0) -> Iterator[str]:
    """Serve objects from a tmpfs folder; each answer is delayed by `latency_ms`."""
    folder.mkdir()
    with subprocess.Popen(
        [sys.executable, "-m", "bench.object_server", str(folder), str(latency_ms / 1000)],
        cwd=PROJECT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        yield f"http://127.0.0.1:{int(server.stdout.readline())}"
        server.stdin.close()


def interpreters() -> dict[str, str]:
    """Return the interpreter for each tool that is available."""
    found = dict.fromkeys(("runctl", CEILING, "boto3"), sys.executable)
    if shutil.which("rclone"):
        found["rclone"] = sys.executable
    for tool, module in (("boto3 + awscrt", "awscrt"), ("s3torchconnector", "s3torchconnector")):
        check = [str(PEERS), "-c", f"import {module}"]
        if (
            PEERS.exists()
            and subprocess.run(check, capture_output=True, check=False).returncode == 0
        ):
            found[tool] = str(PEERS)
    return found


def measure(
    python: str, tool: str, operation: str, folder: Path, url: str, *, before: Callable[[], None]
) -> tuple[float, float]:
    """Run an operation in a process of its own; return its seconds and its peak in MiB.

    `before` is called when the process is ready, right before the clock starts.
    """
    command = [python, "-m", "bench.transfers", tool, operation, str(folder), url]
    # A bundle of certificates, which is not needed here, is more than rclone's S3 can handle.
    inherited = {name: value for name, value in os.environ.items() if name != "AWS_CA_BUNDLE"}
    with (
        tempfile.TemporaryFile() as errors,
        subprocess.Popen(
            command,
            cwd=PROJECT,
            env={**inherited, **AGENT_MALLOC, "PYTHONPATH": str(PROJECT)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
        ) as child,
    ):
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdout.readline()
        before()
        os.sync()
        with contextlib.suppress(BrokenPipeError):  # it failed, which is reported below
            child.stdin.write(b"go\n")
            child.stdin.close()
        out = child.stdout.read()
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        if child.returncode != 0:
            errors.seek(0)
            told = errors.read().decode()[-2000:]
            raise RuntimeError(f"{tool} failed to do its {operation}: {told}")
    return float(out), usage.ru_maxrss / 1024


def compare(
    data: Data, tools: dict[str, str], *, rounds: int, latency_ms: int, scratch: Path, objects: Path
) -> Iterator[Row]:
    """Let every tool do everything in turns; yield the medians."""
    seconds: dict[tuple[str, str], list[float]] = {}
    peaks: dict[tuple[str, str], list[float]] = {}
    for number in range(rounds):
        for tool, python in tools.items():
            place = scratch / f"{number}"
            server = partial(object_server, objects / f"{number}", latency_ms)
            print(f"{data.name}: {tool}", file=sys.stderr)
            for operation, (took, peak) in zip(
                OPERATIONS, attempt(data, tool, python, place, server), strict=True
            ):
                seconds.setdefault((tool, operation), []).append(took)
                peaks.setdefault((tool, operation), []).append(peak)
            shutil.rmtree(place)
            shutil.rmtree(objects / f"{number}")
    for (tool, operation), values in seconds.items():
        yield {
            "tool": tool,
            "operation": operation,
            "data": data.name,
            "seconds": round(statistics.median(values), 3),
            "mib_per_s": round(data.mebibytes / statistics.median(values), 1),
            "peak_mib": round(max(peaks[tool, operation]), 1),
        }


def attempt(
    data: Data,
    tool: str,
    python: str,
    place: Path,
    server: Callable[[], AbstractContextManager[str]],
) -> Iterator[tuple[float, float]]:
    """Save, save again and restore with one tool; raise RuntimeError if the data differs."""
    folder = place / "folder"
    data.make(folder)
    names = (f"{path.name} {path.stat().st_size}\n" for path in sorted(folder.iterdir()))
    (place / "names").write_text("".join(names))
    with server() as url:
        measured = partial(measure, python, tool, folder=folder, url=url)
        yield measured("first save", before=lambda: None)
        yield measured("second save", before=lambda: data.change(folder))
        wanted = fingerprint(folder)
        shutil.rmtree(folder)
        folder.mkdir()
        yield measured("restore", before=lambda: None)
        if fingerprint(folder) != wanted:
            raise RuntimeError(f"{tool} restored different data")


def file_system(folder: str) -> str:
    """Return the name of the file system that a folder is on."""
    command = ["stat", "--file-system", "--format=%T", folder]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def fingerprint(folder: Path) -> int:
    """Return a checksum of all files, cheap compared with what is measured."""
    total = 0
    for path in sorted(folder.iterdir()):
        with path.open("rb") as stream:
            while block := stream.read(8 * MIB):
                total = zlib.crc32(block, total)
    return total


def tables(rows: Sequence[Row]) -> Iterator[str]:
    """Yield a table for each data and operation, fastest first, with ratios to runctl."""
    for data in dict.fromkeys(row["data"] for row in rows):
        for operation in OPERATIONS:
            found = [r for r in rows if (r["data"], r["operation"]) == (data, operation)]
            ours = next((row["seconds"] for row in found if row["tool"] == "runctl"), None)
            yield f"\n{operation}, {data}"
            yield f"{'':<22}{'seconds':>9}{'MiB/s':>9}{'runctl is':>12}{'peak MiB':>10}"
            for row in sorted(found, key=lambda row: row["seconds"]):
                ratio = "" if ours is None else f"{row['seconds'] / ours:.2f} ×"
                yield (
                    f"{row['tool']:<22}{row['seconds']:>9}{row['mib_per_s']:>9}{ratio:>12}"
                    f"{row['peak_mib']:>10}"
                )


def folders(arguments: argparse.Namespace) -> list[Data]:
    """Return the requested folders."""
    mib, files, size = arguments.mib, arguments.files, arguments.file_bytes
    if size:
        return [Data(f"{files} files of {size} bytes", files, size)]
    return [
        Data(f"one file of {mib} MiB", 1, mib * MIB),
        Data(f"{files} files, {mib} MiB", files, mib * MIB // files),
    ]


def main() -> None:
    """Print the tables, or the rows with --json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mib", type=int, default=2048, help="the size of each folder")
    parser.add_argument("--files", type=int, default=2000, help="of the folder of many files")
    parser.add_argument(
        "--file-bytes", type=int, default=0, help="only files of this size, in bytes"
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--latency-ms", type=int, default=0, help="before each answer; S3 has some tens"
    )
    parser.add_argument("--tool", action="append", help="only this tool; may be repeated")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    data = folders(arguments)
    tools = interpreters()
    if arguments.file_bytes:
        tools[ONE_TAR] = sys.executable
    for name in arguments.tool or ():
        if name not in tools:
            parser.error(f"--tool: {name!r} is not one of {', '.join(tools)}")
    if arguments.tool:
        tools = {name: python for name, python in tools.items() if name in arguments.tool}
    missing = {"boto3 + awscrt", "s3torchconnector", "rclone"} - tools.keys()
    if missing and not arguments.tool:
        print(
            f"not available: {', '.join(sorted(missing))}; `make build/bench/.installed` and "
            "`apt-get install rclone` provide them",
            file=sys.stderr,
        )
    rows: list[Row] = []
    memory = "/dev/shm" if Path("/dev/shm").is_dir() else None
    with (
        tempfile.TemporaryDirectory(prefix="runctl-bench-") as scratch,
        tempfile.TemporaryDirectory(prefix="runctl-bench-", dir=memory) as objects,
    ):
        kind = file_system(scratch)
        for folder in data:
            rows += compare(
                folder,
                tools,
                rounds=arguments.rounds,
                latency_ms=arguments.latency_ms,
                scratch=Path(scratch),
                objects=Path(objects),
            )
    if arguments.json:
        server = f"bench/object_server.py, one process, tmpfs, {arguments.latency_ms} ms"
        machine = {"cores": os.cpu_count(), "server": server, "folder": kind}
        print(json.dumps({"rows": rows, **machine}))
        return
    print("\n".join(tables(rows)))


if __name__ == "__main__":
    main()
