"""Finding a training process that runctl did not start, and the folder that it saves in."""

import contextlib
import os
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
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
# A folder of one save among others, such as checkpoint-500; the one above it holds them all.
ONE_SAVE = re.compile(r"(?:checkpoint|ckpt|step|epoch|iter)[-_=]?\d+.*", re.IGNORECASE)
MAX_FILES_LISTED = 20_000
DEEPEST = 4


@dataclass(frozen=True, kw_only=True)
class Process:
    """A process as /proc shows it; `born` tells it from a later one with the same pid."""

    pid: int
    parent: int
    born: int
    command: str
    has_gpu: bool = False
    has_framework: bool = False
    share: float = 0.0

    def __str__(self) -> str:
        signs = [
            *(["uses the GPU"] if self.has_gpu else []),
            *(["has a framework loaded"] if self.has_framework else []),
            f"{self.share:.0%} of a processor",
        ]
        return f"{self.pid}: {self.command[:100]} ({', '.join(signs)})"


def find_trainer(*, pid: int = 0, root: str = "") -> Process:
    """Return the one training process of this machine, or the one named by `pid`.

    On the local cloud many machines share /proc: only processes with this `root` count. Raises
    NotFoundError when there is none, RequestError with the list when it could be several.
    """
    if pid:
        found = _look(pid)
        if found is None:
            raise NotFoundError(f"there is no process {pid} on this machine; look at `ps aux`")
        return found
    candidates = choose(_measured(root))
    if not candidates:
        raise NotFoundError(
            "no training process was found: no Python that uses a GPU, has a framework loaded or "
            "keeps a processor busy; name it with --pid"
        )
    if len(candidates) > 1:
        listing = "\n  ".join(str(one) for one in candidates)
        raise RequestError(f"it could be any of these; name one with --pid:\n  {listing}")
    return candidates[0]


def choose(processes: Iterable[Process]) -> list[Process]:
    """Keep what looks most like training, and of each family only the eldest. Pure."""
    known = list(processes)
    likely = (
        [one for one in known if one.has_gpu]
        or [one for one in known if one.has_framework]
        or [one for one in known if one.share >= BUSY_SHARE]
    )
    pids = {one.pid for one in likely}
    parents = {one.pid: one.parent for one in known}

    def has_elder(one: Process) -> bool:
        above = one.parent
        while above in parents and above not in pids:
            above = parents[above]
        return above in pids

    return sorted((one for one in likely if not has_elder(one)), key=lambda one: one.pid)


def is_alive(process: Process) -> bool:
    """Whether that very process still runs."""
    found = _look(process.pid)
    return found is not None and found.born == process.born


def find_folder(process: Process, *, given: str = "") -> Path:
    """Return the folder that the process saves in; RequestError when that cannot be told."""
    if given:
        folder = Path(given)
        if not folder.is_dir():
            raise RequestError(f"--checkpoint-dir: {folder} is no folder on this machine")
        return folder
    try:
        home = (PROC / str(process.pid) / "cwd").readlink()
    except OSError as exc:
        raise NotFoundError(f"the process {process.pid} has ended") from exc
    started = _wall_clock_of(process)
    newest = max(_saves_below(home, since=started), default=None)
    if newest is None or newest[1].parent == home:
        raise RequestError(
            f"it cannot be told where {process.pid} saves its checkpoints: no folder below {home} "
            "has one since it was started; give --checkpoint-dir"
        )
    folder = newest[1].parent
    while ONE_SAVE.fullmatch(folder.name) and folder.parent != home:
        folder = folder.parent
    return folder


def _saves_below(home: Path, *, since: float) -> Iterable[tuple[float, Path]]:
    seen = 0
    for place, folders, files in os.walk(home):
        depth = len(Path(place).relative_to(home).parts)
        folders[:] = [one for one in folders if not one.startswith(".") and depth < DEEPEST]
        for name in files:
            seen += 1
            if seen > MAX_FILES_LISTED:
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
    """Look at every Python of this machine twice, for what it takes of a processor meanwhile."""
    mine = _ancestors(os.getpid())
    found = [
        one
        for pid in _pids()
        if pid not in mine and (one := _look(pid)) and _is_python(pid) and _is_here(pid, root)
    ]
    before = {one.pid: _ticks(one.pid) for one in found}
    time.sleep(SAMPLE_SECONDS)
    per_second = os.sysconf("SC_CLK_TCK")
    return [
        Process(
            pid=one.pid,
            parent=one.parent,
            born=one.born,
            command=one.command,
            has_gpu=_has_gpu(one.pid),
            has_framework=_has_framework(one.pid),
            share=(_ticks(one.pid) - before[one.pid]) / per_second / SAMPLE_SECONDS,
        )
        for one in found
    ]


def _look(pid: int) -> Process | None:
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
        for one in os.scandir(PROC / str(pid) / "fd"):
            with contextlib.suppress(OSError):
                if GPU.match(str(Path(one.path).readlink())):
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
        process = _look(pid)
        pid = process.parent if process else 0
    return found


def _pids() -> list[int]:
    return [int(one.name) for one in PROC.iterdir() if one.name.isdecimal()]


def as_settings(
    process: Process, folder: Path, environ: Mapping[str, str], *, reader: Reader = ROOT
) -> str:
    """Return the lines of the monitor's environment file; `reader` is as whom it reads."""
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
