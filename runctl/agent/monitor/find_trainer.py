"""The search for a training process that runctl did not start, and for its checkpoint folder."""

import contextlib
import os
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from runctl.agent.instance.environment_file import write_environment
from runctl.agent.instance.reader import ROOT, Reader
from runctl.model.errors import NotFoundError, RequestError

PROC = Path("/proc")
FRAMEWORKS = re.compile(
    r"/(?:torch|pytorch_lightning|lightning|tensorflow|jax|jaxlib|mxnet|xgboost|lightgbm|keras)/"
)
GPU = re.compile(r"/dev/(?:nvidia\d|kfd|dri/renderD)")
SAMPLE_SECONDS = 0.5
BUSY_SHARE = 0.5
SAVES = frozenset(
    {".pt", ".pth", ".ckpt", ".safetensors", ".bin", ".h5", ".keras", ".npz", ".pkl", ".msgpack"}
)
# The folder of a single save, such as checkpoint-500; its parent holds all saves.
ONE_SAVE = re.compile(r"(?:checkpoint|ckpt|step|epoch|iter)[-_=]?\d+.*", re.IGNORECASE)
MAX_FILES_LISTED = 20_000
MAX_DEPTH = 4


@dataclass(frozen=True, kw_only=True)
class Process:
    """A process as /proc shows it; `born` distinguishes it from a later process with its pid."""

    pid: int
    parent: int
    born: int
    command: str
    has_gpu: bool = False
    has_framework: bool = False
    cpu_share: float = 0.0

    def __str__(self) -> str:
        signs = [
            *(["uses the GPU"] if self.has_gpu else []),
            *(["has a framework loaded"] if self.has_framework else []),
            f"{self.cpu_share:.0%} of a processor",
        ]
        return f"{self.pid}: {self.command[:100]} ({', '.join(signs)})"


def find_trainer(*, pid: int = 0, root: str = "") -> Process:
    """Return the only training process of this machine, or the process `pid`.

    On the local cloud many machines share /proc: only processes with this `root` count. Raises
    NotFoundError if there is none, and RequestError with a list if there are several candidates.
    """
    if pid:
        found = _read(pid)
        if found is None:
            raise NotFoundError(
                f"--pid: process {pid} does not exist on this machine; see `ps aux`"
            )
        return found
    candidates = choose(_measured(root))
    if not candidates:
        raise NotFoundError(
            "no training process was found: no Python process uses a GPU, has loaded a framework "
            "or keeps a processor busy; give its pid with --pid"
        )
    if len(candidates) > 1:
        listing = "\n  ".join(str(candidate) for candidate in candidates)
        raise RequestError(f"several processes may be training; give --pid:\n  {listing}")
    return candidates[0]


def choose(processes: Iterable[Process]) -> list[Process]:
    """Return the processes that are most likely training, without their descendants. Pure."""
    known = list(processes)
    likely = (
        [process for process in known if process.has_gpu]
        or [process for process in known if process.has_framework]
        or [process for process in known if process.cpu_share >= BUSY_SHARE]
    )
    pids = {process.pid for process in likely}
    parents = {process.pid: process.parent for process in known}

    def has_likely_ancestor(process: Process) -> bool:
        above = process.parent
        while above in parents and above not in pids:
            above = parents[above]
        return above in pids

    return sorted(
        (process for process in likely if not has_likely_ancestor(process)),
        key=lambda process: process.pid,
    )


def is_alive(process: Process) -> bool:
    """Whether the process still runs, and its pid does not belong to another process by now."""
    found = _read(process.pid)
    return found is not None and found.born == process.born


def find_folder(process: Process, *, given: str = "") -> Path:
    """Return the folder that the process saves in. Raises RequestError if it cannot be found."""
    if given:
        folder = Path(given)
        if not folder.is_dir():
            raise RequestError(f"--checkpoint-dir: {folder} is not a folder on this machine")
        return folder
    try:
        home = (PROC / str(process.pid) / "cwd").readlink()
    except OSError as exc:
        raise NotFoundError(f"the process {process.pid} has ended") from exc
    started = _wall_clock_of(process)
    newest = max(_saves_below(home, since=started), default=None)
    if newest is None or newest[1].parent == home:
        raise RequestError(
            f"the checkpoint folder of process {process.pid} was not found: it has saved nothing "
            f"in a folder below {home} since it was started; give --checkpoint-dir"
        )
    folder = newest[1].parent
    while ONE_SAVE.fullmatch(folder.name) and folder.parent != home:
        folder = folder.parent
    return folder


def _saves_below(home: Path, *, since: float) -> Iterable[tuple[float, Path]]:
    listed = 0
    for place, folders, files in os.walk(home):
        depth = len(Path(place).relative_to(home).parts)
        folders[:] = [name for name in folders if not name.startswith(".") and depth < MAX_DEPTH]
        for name in files:
            listed += 1
            if listed > MAX_FILES_LISTED:
                return
            path = Path(place, name)
            if path.suffix in SAVES:
                with contextlib.suppress(OSError):
                    changed = path.stat().st_mtime
                    if changed >= since:
                        yield changed, path


def _wall_clock_of(process: Process) -> float:
    uptime = float((PROC / "uptime").read_text().split()[0])
    age = uptime - process.born / os.sysconf("SC_CLK_TCK")
    return time.time() - age - 1


def _measured(root: str) -> Sequence[Process]:
    """Return every Python process of this machine with its share of a processor, measured now."""
    mine = _ancestors(os.getpid())
    found = [
        process
        for pid in _pids()
        if pid not in mine and (process := _read(pid)) and _is_python(pid) and _is_here(pid, root)
    ]
    before = {process.pid: _ticks(process.pid) for process in found}
    time.sleep(SAMPLE_SECONDS)
    per_second = os.sysconf("SC_CLK_TCK")
    return [
        replace(
            process,
            has_gpu=_has_gpu(process.pid),
            has_framework=_has_framework(process.pid),
            cpu_share=(_ticks(process.pid) - before[process.pid]) / per_second / SAMPLE_SECONDS,
        )
        for process in found
    ]


def _read(pid: int) -> Process | None:
    try:
        text = (PROC / str(pid) / "stat").read_text()
        words = (PROC / str(pid) / "cmdline").read_bytes().split(b"\0")
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()
    if fields[0] in {"Z", "X"}:
        return None
    command = b" ".join(words).decode(errors="replace").strip()
    return Process(pid=pid, parent=int(fields[1]), born=int(fields[19]), command=command)


def _ticks(pid: int) -> int:
    with contextlib.suppress(OSError, ValueError, IndexError):
        fields = (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
        return int(fields[11]) + int(fields[12])
    return 0


def _is_python(pid: int) -> bool:
    with contextlib.suppress(OSError):
        program = (PROC / str(pid) / "exe").readlink().name
        command = (PROC / str(pid) / "cmdline").read_bytes()
        return program.startswith("python") and b"runctl.agent" not in command
    return False


def _is_here(pid: int, root: str) -> bool:
    if not root:
        return True
    with contextlib.suppress(OSError):
        wanted = f"RUNCTL_ROOT={root}".encode()
        return wanted in (PROC / str(pid) / "environ").read_bytes().split(b"\0")
    return False


def _has_gpu(pid: int) -> bool:
    with contextlib.suppress(OSError):
        for descriptor in os.scandir(PROC / str(pid) / "fd"):
            with contextlib.suppress(OSError):
                if GPU.match(str(Path(descriptor.path).readlink())):
                    return True
    return False


def _has_framework(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return FRAMEWORKS.search((PROC / str(pid) / "maps").read_text()) is not None
    return False


def _ancestors(pid: int) -> set[int]:
    found: set[int] = set()
    while pid > 0 and pid not in found:
        found.add(pid)
        process = _read(pid)
        pid = process.parent if process else 0
    return found


def _pids() -> list[int]:
    return [int(path.name) for path in PROC.iterdir() if path.name.isdecimal()]


def as_settings(
    process: Process, folder: Path, environ: Mapping[str, str], *, reader: Reader = ROOT
) -> str:
    """Return the monitor's environment file; `reader` is the user that it reads files as."""
    return write_environment(
        {
            "MONITOR_URI": environ["MONITOR_URI"],
            "MONITOR_PID": str(process.pid),
            "MONITOR_BORN": str(process.born),
            "MONITOR_DIR": str(folder),
            "MONITOR_READER": str(reader),
            "MONITOR_SIGTERM": environ.get("MONITOR_SIGTERM", "no"),
        }
    )
