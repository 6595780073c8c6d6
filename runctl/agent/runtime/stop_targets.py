"""The targets of SIGTERM among a trainer's processes. Pure.

Every process that handles SIGTERM is a target, except those whose reaction would do harm: launchers
that kill their workers or forward the signal to them, filters at the end of a pipe, workers of a
data loader, language runtimes that catch every signal, and services that only support a trainer.
If no process handles it, the leader is the target, or the programs that it launches.
"""

import signal
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from runctl.agent.runtime.process_table import ProcessInfo, is_below

SHELLS = frozenset({"sh", "bash", "dash", "zsh", "ksh", "ash", "fish", "busybox"})
# Programs that wait for another program and end with it.
WRAPPERS = frozenset(
    {
        "chrt", "conda", "dumb-init", "env", "firejail", "flock", "ionice", "mamba", "micromamba",
        "nice", "nohup", "numactl", "parallel", "pdm", "pipenv", "poetry", "prlimit", "rye",
        "script", "setsid", "setpriv", "stdbuf", "strace", "sudo", "su", "systemd-run", "taskset",
        "time", "timeout", "tini", "unbuffer", "unshare", "uv", "uvx", "watch", "xargs",
        "xvfb-run",
    }
)  # fmt: skip
# Programs that run several others, and end them in their own way if they are signalled.
LAUNCHERS = frozenset(
    {
        "accelerate", "bazel", "colossalai", "composer", "deepspeed", "doit", "fairrun", "gmake",
        "honcho", "horovodrun", "just", "make", "mpiexec", "mpirun", "ninja", "prterun", "prun",
        "orterun", "hydra_pmi_proxy", "snakemake", "srun", "supervisord", "task", "torchrun",
        "torchx",
    }
)  # fmt: skip
LAUNCHER_MODULES = frozenset(
    {
        "accelerate.commands.launch",
        "deepspeed.launcher.launch",
        "deepspeed.launcher.runner",
        "torch.distributed.launch",
        "torch.distributed.run",
    }
)
# Programs that support a trainer: if they ended now, they would miss its last messages.
SERVICES = (
    "dcgm",
    "gpu_stats",
    "jupyter",
    "mlflow",
    "nvidia-smi",
    "resource_tracker",
    "tensorboard",
    "wandb-core",
    "wandb-service",
    "wandb_internal",
)
# torch's workers handle exactly these; a trainer's handlers differ.
LOADER_SIGNALS = (signal.SIGBUS, signal.SIGFPE, signal.SIGSEGV, signal.SIGTERM)
LOADER_NAME = "pt_data_worker"
# Go's runtime catches nearly all signals; programs that do so on purpose catch a few.
MAX_SIGNALS = 20
STANDARD_SIGNALS = 31


@dataclass(frozen=True)
class StopTargets:
    """The processes to signal now, and those to signal only if that does not end the trainer.

    `later` are copies of a process that is signalled: they have inherited its handlers, which means
    nothing, unless they are ranks that wait for a signal of their own.
    """

    now: tuple[int, ...]
    later: tuple[int, ...] = ()


def choose_targets(family: Sequence[ProcessInfo], leader: int) -> StopTargets:
    """Return the targets of SIGTERM in `family`, which has parents before children."""
    handlers = [info for info in family if _may_be_signalled(info, family)]
    if not handlers:
        return StopTargets(tuple(launched_by(family, leader)))
    by_pid = {info.pid: info for info in handlers}
    later = {
        info.pid
        for info in handlers
        if info.is_copy and info.parent in by_pid and by_pid[info.parent].caught == info.caught
    }
    now = [info.pid for info in handlers if info.pid not in later]
    for info in handlers:
        # A shell runs its trap only after the program that it waits for has ended.
        if role_of(info) == "shell" and not _has_handler_below(info, handlers, family):
            now += [pid for pid in launched_by(family, info.pid) if pid not in now]
    return StopTargets(tuple(now), tuple(sorted(later)))


def is_bystander(info: ProcessInfo, family: Sequence[ProcessInfo]) -> bool:
    """Whether a process only supports the trainer, and saves nothing itself."""
    return _is_service(info) or _is_loader(info, family)


def _may_be_signalled(info: ProcessInfo, family: Sequence[ProcessInfo]) -> bool:
    return (
        info.catches(signal.SIGTERM)
        and role_of(info) != "launcher"
        and not _catches_everything(info)
        and not is_bystander(info, family)
        and not _is_filter(info, family)
    )


def _has_handler_below(
    info: ProcessInfo, handlers: Sequence[ProcessInfo], family: Sequence[ProcessInfo]
) -> bool:
    return any(is_below(other, info.pid, family) for other in handlers)


def _is_filter(info: ProcessInfo, family: Sequence[ProcessInfo]) -> bool:
    """Whether it reads the output of a program that handles SIGTERM, and ends with it."""
    if not info.reads:
        return False
    return any(
        info.reads in other.writes
        and other.pid != info.pid
        and other.catches(signal.SIGTERM)
        and not is_below(info, other.pid, family)
        for other in family
    )


def _is_loader(info: ProcessInfo, family: Sequence[ProcessInfo]) -> bool:
    """Whether it is a worker of torch's data loader.

    Its handler ends it unless its parent sent the signal, and then the parent fails in the middle
    of its save. Newer versions give it a name; in older ones its parent handles SIGCHLD.
    """
    if info.name.startswith(LOADER_NAME) or any(LOADER_NAME in word for word in info.words[:1]):
        return True
    parent = next((other for other in family if other.pid == info.parent), None)
    if parent is None or not parent.catches(signal.SIGCHLD):
        return False
    # Python's fault handler catches SIGILL in addition to the others.
    has_own_faults = info.catches(signal.SIGILL) and not parent.catches(signal.SIGILL)
    return info.catches(*LOADER_SIGNALS) and not has_own_faults


def _is_service(info: ProcessInfo) -> bool:
    names = (info.name, *(word.rpartition("/")[2] for word in info.words[:3]))
    return any(name.startswith(SERVICES) for name in names if name) or _serves_multiprocessing(info)


def _serves_multiprocessing(info: ProcessInfo) -> bool:
    """Whether it is a fork server or a resource tracker of Python's multiprocessing.

    What a fork server forks has its command line, and is a rank like any other.
    """
    if info.is_copy:
        return False
    # Options of the interpreter stand before the program.
    _, _, code = " ".join(info.words).partition(" -c from ")
    return code.startswith(("multiprocessing.forkserver", "multiprocessing.resource_tracker"))


def _catches_everything(info: ProcessInfo) -> bool:
    return (info.caught & ((1 << STANDARD_SIGNALS) - 1)).bit_count() >= MAX_SIGNALS


def launched_by(family: Sequence[ProcessInfo], leader: int) -> list[int]:
    """Return the leader, or what it launches if it only launches. Shells with a trap count, too."""
    children: dict[int, list[ProcessInfo]] = {}
    for info in family:
        children.setdefault(info.parent, []).append(info)
    targets: list[int] = []
    queue = [info for info in family if info.pid == leader]
    while queue:
        info = queue.pop(0)
        below = [child for child in children.get(info.pid, []) if not is_bystander(child, family)]
        if role_of(info) == "trainer" or not below:
            targets.append(info.pid)
            continue
        if role_of(info) == "shell" and info.catches(signal.SIGTERM):
            targets.append(info.pid)
        queue += below
    return targets


def is_launcher_of_torch(info: ProcessInfo) -> bool:
    """Whether a process starts the ranks of a node and waits for the other nodes."""
    if Path(info.words[0] if info.words else "").name == "torchrun":
        return True
    words = [*info.words[1:5], ""]
    return info.is_python and any(
        words[at : at + 2] == ["-m", "torch.distributed.run"] or Path(word).name == "torchrun"
        for at, word in enumerate(words)
    )


def role_of(info: ProcessInfo) -> str:
    """Return what a process is by its command line: a trainer, a shell or a launcher."""
    if not info.words:
        return "trainer"
    name = Path(info.words[0]).name.lstrip("-")
    if name in SHELLS:
        return "shell"
    if name in WRAPPERS or name in LAUNCHERS:
        return "launcher"
    if info.is_python:
        return _role_of_python(info.words[1:])
    return "trainer"


def _role_of_python(words: Sequence[str]) -> str:
    for word, following in zip(words, [*words[1:], ""], strict=True):
        if word == "-m":
            known = following in LAUNCHER_MODULES or following in WRAPPERS
            return "launcher" if known else "trainer"
        if not word.startswith("-"):
            name = Path(word).name
            return "launcher" if name in LAUNCHERS or name in WRAPPERS else "trainer"
    return "trainer"
