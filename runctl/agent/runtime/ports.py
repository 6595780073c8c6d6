"""The runtime: the port by which a session runs the user's program, whatever it runs in.

`HostRuntime` runs it as processes of this machine, `ContainerRuntime` in a container.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Protocol

from runctl.agent.runtime.trainer_user import TrainerUser


@dataclass(frozen=True)
class Mount:
    """A file or folder of the machine that a container sees at `target`."""

    source: Path
    target: str
    is_read_only: bool = False


@dataclass(frozen=True, kw_only=True)
class ContainerOptions:
    """The container that a program runs in.

    `image` is the id of an image of this machine. `user` are the numbers of the user and the group
    that it runs as, None for those of the image. `working_folder` is empty for the image's own.
    Unless it `replaces_entry_point`, the command consists of the arguments of the image's entry
    point.
    """

    image: str
    mounts: tuple[Mount, ...] = ()
    user: tuple[int, int] | None = None
    working_folder: str = ""
    replaces_entry_point: bool = False


@dataclass(frozen=True, kw_only=True)
class Contract:
    """The inputs of a program, and what it may rely on.

    `environment` is complete but for `credentials`, the variables by which a program gets the
    AWS credentials of its run, if it asked for them: both may hold secrets. `save_request` is the
    file by which its helper is asked to save, and `grace` how long it may take to save and end
    after it was asked to stop. A program that is started again appends to `output` and `errors`.
    `written` are the files and folders that the program writes to. They are given to `owner`, the
    numbers of the user and the group that it runs as, None for root. `user` is that on the machine
    itself. `container` is for the container runtime only. `is_one_of_many` says that other programs
    run at the same time: it then consists of its own session, and not of all that the agent has
    started.
    """

    command: tuple[str, ...]
    environment: Mapping[str, str] = field(repr=False)
    credentials: Mapping[str, str] = field(default_factory=dict, repr=False)
    working_folder: Path
    checkpoint: Path
    output: Path
    errors: Path
    save_request: Path
    grace: timedelta
    written: tuple[Path, ...] = ()
    owner: tuple[int, int] | None = None
    user: TrainerUser | None = None
    container: ContainerOptions | None = None
    is_one_of_many: bool = False


@dataclass(frozen=True, kw_only=True)
class Killed:
    """The effect of the end of a program on the checkpoint folder.

    `torn` are the files, relative to the folder, that were open for writing when their writer was
    killed. `is_abrupt` says that a writer died without running its own exit, and `missed_grace`
    that it was asked to stop and had not finished.
    """

    torn: frozenset[str] = frozenset()
    is_abrupt: bool = False
    missed_grace: bool = False


@dataclass(frozen=True, kw_only=True)
class HiddenFailure:
    """The failure of a command whose exit code a later command of its pipe has replaced."""

    exit_code: int
    description: str


@dataclass(frozen=True, kw_only=True)
class ProgramExit:
    """The facts about the end of a program, apart from the files that it left.

    `code` is negative for a signal. `stopped_by` describes who else sent it a SIGTERM: it is empty
    if nobody did, and None where that cannot be known. `memory_problem` describes a lack of memory,
    and `last_words` is the end of what it printed. `rank_code` is the exit code of the rank that
    failed first, where torchrun has reported one.
    """

    code: int
    rank_code: int | None = None
    stopped_by: str | None = None
    hidden_failure: HiddenFailure | None = None
    memory_problem: str = ""
    last_words: str = ""


class Program(Protocol):
    """A program that was started, with everything that it has started itself."""

    @property
    def exit_code(self) -> int | None:
        """The exit code, negative for a signal, or None while the program runs."""
        ...

    @property
    def lived(self) -> timedelta:
        """How long the program has run, or ran."""
        ...

    def is_exiting(self) -> bool:
        """Whether it has exited or is about to: its files may be closed already."""
        ...

    def is_busy(self) -> bool:
        """Whether it runs, or something that it started may still be saving."""
        ...

    def observe(self) -> str:
        """Record what cannot be known after the exit; return a new warning, or an empty text.

        Called about once a second while the program runs.
        """
        ...

    def request_save(self) -> None:
        """Ask its helper for a checkpoint. Raises OSError if that is not possible now."""
        ...

    def request_stop(self, *, before_a_kill: Callable[[], None]) -> None:
        """Ask it to save and end.

        If it does not handle such a request and dies of it, `before_a_kill` is called first.
        """
        ...

    def end_waiting_leader(self) -> None:
        """Ask its main process to end, too, if all that were asked have ended without it.

        Called repeatedly after `request_stop`, and only for a program that saves nothing: a parent
        that outlives its ranks may be writing what they have left it.
        """
        ...

    def kill(self) -> Killed:
        """Kill what is left of it."""
        ...

    def pids(self) -> list[int]:
        """Return its living processes by their numbers on this machine."""
        ...

    def writers(self) -> set[str]:
        """Return the files of its checkpoint folder, relative to it, that are open for writing.

        They are compared by device and inode: the program may see the folder at another path.
        """
        ...

    def background_process(self) -> str:
        """Describe the process in which it continues after its exit, or return an empty text."""
        ...

    def last_words(self) -> str:
        """Return the end of its standard error, or of its output if that is empty."""
        ...

    def describe_exit(self) -> ProgramExit:
        """Return what is known about its end, once nothing of it runs any more."""
        ...

    def close(self) -> None:
        """Stop observing it. What is known about its end stays known."""
        ...


class Runtime(Protocol):
    """Starts programs. An attempt opens it once, and may start several.

    At the same time only those whose contracts say that they are some of many.
    """

    def open(self) -> None:
        """Begin, in the background, what takes a while and has to precede the first start."""
        ...

    def start(self, contract: Contract) -> Program:
        """Start a program. Raises RequestError if its command cannot be started."""
        ...

    def kill_all(self) -> None:
        """Kill every process that the attempt has left on this machine."""
        ...

    def close(self) -> None:
        """Release what `open` has taken."""
        ...
