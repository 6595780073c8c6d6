"""The command that creates the container of a program. Pure."""

import csv
import io
import string
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from runctl.agent.instance.as_user import OOM_SCORE
from runctl.agent.runtime.ports import ContainerOptions, Contract, Mount
from runctl.agent.runtime.systemd_scope import CONTROL_GROUP, SLICE

MIB = 1 << 20
# What the agent, the engine and the kernel keep of the machine's memory.
RESERVE = 512 * MIB
RESERVE_SHARE = 32
STACK_BYTES = 64 * MIB
OPEN_FILES = 65_536
UNLIMITED = -1
LABEL = "runctl.state"
# A line of an environment file may be this long, and holds neither end of a line.
MAX_LINE_BYTES = 60_000


@dataclass(frozen=True, kw_only=True)
class MachineFacts:
    """The facts about a machine that the limits of a container follow from.

    `open_files` and `locked_bytes` are the highest limits that may be set, -1 for none, and `tasks`
    is the number of threads that the kernel can run. `adapters` are the devices of Elastic Fabric
    Adapters. `cgroup_parent` is the group whose processes the metadata fence keeps from the
    instance role, as the engine's driver names it; empty without a fence.
    """

    memory_bytes: int
    open_files: int
    locked_bytes: int
    tasks: int
    has_gpus: bool
    adapters: tuple[str, ...] = ()
    cgroup_parent: str


def cgroup_parent(driver: str) -> str:
    """Return the slice of trainers as a driver of control groups names it."""
    # systemd's driver knows where the slice is; the other takes a path.
    return SLICE if driver == "systemd" else CONTROL_GROUP


def create_words(
    contract: Contract,
    options: ContainerOptions,
    facts: MachineFacts,
    *,
    state: Path,
    env_file: Path,
    passed: Mapping[str, str],
) -> list[str]:
    """Return the words of `docker` that create a container.

    `env_file` has most of its variables, and those in `passed` come from the client's environment:
    no value is ever a word of a command line.
    """
    words = ["create", "--pull", "never", "--init", "--log-driver", "none", "--no-healthcheck"]
    words += [f"--label={LABEL}={state}"]
    # The rendezvous of nodes, and the endpoint of credentials on 127.0.0.1, need the host's.
    words += ["--network", "host"]
    words += ["--cap-drop", "ALL", "--security-opt", "no-new-privileges"]
    if options.user is not None:
        words += ["--user", ":".join(map(str, options.user))]
    if facts.cgroup_parent:
        words += ["--cgroup-parent", facts.cgroup_parent]
    words += _limits(facts)
    if facts.has_gpus:
        words += ["--gpus", "all"]
    words += [f"--device={device}" for device in facts.adapters]
    for mount in options.mounts:
        words += ["--mount", _mount(mount)]
    words += ["--env-file", str(env_file)]
    for name in passed:
        words += ["--env", name]
    if options.working_folder:
        words += ["--workdir", options.working_folder]
    if options.replaces_entry_point:
        words += ["--entrypoint", ""]
    return [*words, options.image, *contract.command]


def _limits(facts: MachineFacts) -> list[str]:
    memory = facts.memory_bytes - min(
        max(RESERVE, facts.memory_bytes // RESERVE_SHARE), facts.memory_bytes // 2
    )
    most_files = facts.open_files
    soft = OPEN_FILES if most_files == UNLIMITED else min(OPEN_FILES, most_files)
    hard = soft if most_files == UNLIMITED else most_files
    return [
        f"--memory={memory}",
        # As /dev/shm is on the machine itself; it takes memory only for what is in it.
        f"--shm-size={facts.memory_bytes // 2}",
        f"--pids-limit={facts.tasks // 2}",
        f"--oom-score-adj={OOM_SCORE}",
        f"--ulimit=memlock={facts.locked_bytes}",
        f"--ulimit=stack={STACK_BYTES}",
        f"--ulimit=nofile={soft}:{hard}",
    ]


def _mount(mount: Mount) -> str:
    """Return a mount as the engine reads it: fields of CSV."""
    fields = ["type=bind", f"source={mount.source}", f"target={mount.target}"]
    if mount.is_read_only:
        fields.append("readonly")
    line = io.StringIO()
    csv.writer(line, lineterminator="").writerow(fields)
    return line.getvalue()


def split_variables(variables: Mapping[str, str]) -> tuple[str, dict[str, str]]:
    """Return the content of an environment file, and the variables that it cannot hold."""
    lines: list[str] = []
    passed: dict[str, str] = {}
    for name, value in variables.items():
        line = f"{name}={value}"
        if any(end in line for end in "\n\r") or len(line.encode()) > MAX_LINE_BYTES:
            passed[name] = value
        else:
            lines.append(line)
    return "".join(f"{line}\n" for line in lines), passed


def is_program(entry_point: tuple[str, ...]) -> bool:
    """Whether an image's entry point is a program, which would not run one that it is given.

    A shell with `-c` ignores what follows, and an interpreter that is given a script passes it on
    as arguments. Any other entry point is taken for a wrapper that prepares the container and then
    runs its arguments, as those of deep-learning images do.
    """
    if not entry_point:
        return False
    name = Path(entry_point[0]).name.rstrip(string.digits + ".")
    if name in {"python", "pypy"}:
        return True
    return name in {"sh", "bash", "dash", "ash", "zsh"} and "-c" in entry_point[1:2]
