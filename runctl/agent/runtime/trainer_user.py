"""The user that programs run as, unless the request wants root.

The trainer, pip, uv and the builds of packages run code that somebody else wrote. As a user of
their own they cannot reach what belongs to the agent, and the metadata fence recognizes them.
"""

import contextlib
import logging
import os
import pwd
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from runctl.agent.instance import as_user, processes
from runctl.agent.instance.left_ipc import remove_ipc_of
from runctl.agent.instance.left_records import remove_records_of
from runctl.agent.instance.ownership import give_to, remove_files_of
from runctl.agent.instance.paths import Paths
from runctl.agent.instance.settings import Settings
from runctl.agent.runtime.systemd_scope import CONTROL_GROUP, scope
from runctl.beneath.kernel_calls import open_memory
from runctl.model.errors import RequestError
from runctl.model.request import RunRequest

# Everybody may write there, or the system does for a user; what a program leaves must not reach the
# next run.
SHARED_FOLDERS = (
    *("tmp", "var/tmp", "dev/shm", "dev/mqueue", "run/lock", "run/screen"),
    # Of Ubuntu: reports and memory of programs that crashed. Of the deep-learning images: disks.
    *("var/crash", "var/metrics", "var/lib/apport/coredump", "opt/dlami/nvme"),
)
SHELL = "/bin/sh"

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class TrainerUser:
    """A user with its groups and its home folder."""

    name: str
    uid: int
    gid: int
    groups: tuple[int, ...] = ()
    home: Path

    @property
    def owner(self) -> tuple[int, int]:
        """The numbers of the user and its group."""
        return self.uid, self.gid

    def variables(self) -> dict[str, str]:
        """Return the variables that name the user."""
        named = dict.fromkeys(("USER", "LOGNAME"), self.name)
        return {"HOME": str(self.home), "SHELL": SHELL, **named}


# Compiling executes nothing of the modules. It takes place while the trainer runs, which must not
# change the result before it is stored, as the same user could.
COMPILER = TrainerUser(name="nobody", uid=65534, gid=65534, home=Path("/nonexistent"))


@dataclass(frozen=True)
class Start:
    """How a command is started: its words, its environment and its standard input."""

    words: list[str]
    environment: dict[str, str]
    stdin: "int | IO[bytes]" = subprocess.DEVNULL


def find_user(settings: Settings) -> TrainerUser | None:
    """Return the user of this machine's programs, None where there is none or we may not use it."""
    if os.geteuid() != 0 or not settings.trainer_user:
        return None
    try:
        entry = pwd.getpwnam(settings.trainer_user)
    except KeyError:
        return None
    if entry.pw_uid == 0:
        return None
    groups = os.getgrouplist(entry.pw_name, entry.pw_gid)
    return TrainerUser(
        name=entry.pw_name,
        uid=entry.pw_uid,
        gid=entry.pw_gid,
        groups=tuple(groups),
        home=settings.paths.home,
    )


def user_of(settings: Settings, request: RunRequest) -> TrainerUser | None:
    """Return the user that the programs of a request run as, None for the agent's own.

    Raises RequestError if a machine of EC2 has no such user: nothing would keep a program from what
    belongs to the agent.
    """
    user = find_user(settings)
    if request.program.root:
        logger.warning("root: true: the programs of this run are root, as the request demands")
        return None
    if user is not None:
        logger.info("the programs of this run are %s (%d)", user.name, user.uid)
        return user
    if settings.paths.root == Path("/") and os.geteuid() == 0:
        raise RequestError(
            "no program was started, since the machine has no user for it: the bootstrap could not "
            "create it, as the beginning of the boot log says; the instance's image needs useradd, "
            "or the request `root: true`, with which nothing protects the agent from the program"
        )
    logger.warning(
        "programs run as the agent's user (%d) here: nothing on this machine keeps them from the "
        "agent's files, memory and credentials",
        os.geteuid(),
    )
    return None


@contextlib.contextmanager
def starting(
    user: TrainerUser | None,
    command: Sequence[str],
    environment: Mapping[str, str],
    *,
    keeps_input: bool = False,
) -> Iterator[Start]:
    """Yield how a command is started as a user, or as ours, in a scope of the trainers' slice.

    The tools that still run as root get no variable of the command, and no command line has one:
    they come by standard input. So a command that `keeps_input` may have no variables of its own.
    """
    if user is None:
        yield Start([*scope(), *command], dict(environment))
        return
    if keeps_input:
        yield Start([*scope(), *as_user_words(user), *command], dict(environment))
        return
    words = [*scope(), *as_user_words(user, source=as_user.FROM_INPUT), *command]
    ours = {"PATH": os.environ.get("PATH", os.defpath)}
    with os.fdopen(open_memory("variables"), "w+b") as variables:
        for name, value in environment.items():
            variables.write(os.fsencode(f"{name}={value}") + b"\0")
        variables.seek(0)
        yield Start(words, ours, variables)


def as_user_words(user: TrainerUser, *, source: str = as_user.OWN) -> list[str]:
    """Return the words that start a command as a user, with its variables from `source`."""
    groups = ",".join(map(str, user.groups))
    words = [sys.executable, "-I", "-S", as_user.__file__, str(user.uid), str(user.gid), groups]
    return [*words, source]


def end_processes(user: TrainerUser | None) -> int:
    """SIGKILL whatever runs as the user on this machine; return how many processes that were.

    On a machine that is not ours, the containers of others may use the same number.
    """
    if user is None:
        return 0
    killed = processes.end_all(lambda: processes.of_user(user.uid, control_group=CONTROL_GROUP))
    return len(killed.pids)


def begin_anew(user: TrainerUser | None, paths: Paths) -> None:
    """End what an earlier program has left running, and remove what it left in shared folders."""
    if user is None:
        return
    if count := end_processes(user):
        logger.warning("ended %d processes of %s that an earlier run left", count, user.name)
    folders = [paths.root / folder for folder in SHARED_FOLDERS]
    remove_files_of(user.uid, folders, kept=paths.state)
    remove_records_of(user.uid, paths.root)
    remove_ipc_of(user.uid)
    user.home.mkdir(mode=0o700, exist_ok=True)
    give_to(user.owner, [user.home])
