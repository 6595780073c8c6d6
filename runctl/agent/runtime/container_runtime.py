"""The container runtime: programs that run in containers of this machine's engine."""

import contextlib
import itertools
import logging
import resource
from collections.abc import Callable
from pathlib import Path

from runctl.agent.instance.adapters import adapter_devices
from runctl.agent.instance.gpu import gpu_devices
from runctl.agent.instance.paths import CONTAINER_VARIABLES, Paths
from runctl.agent.runtime.container_command import (
    LABEL,
    MachineFacts,
    cgroup_parent,
    create_words,
    split_variables,
)
from runctl.agent.runtime.container_process import ContainerProcess
from runctl.agent.runtime.engine import Engine, EngineError
from runctl.agent.runtime.memory import machine_bytes
from runctl.agent.runtime.observer import ProcessObserver
from runctl.agent.runtime.ports import ContainerOptions, Contract
from runctl.agent.runtime.process_program import ProcessProgram
from runctl.agent.runtime.process_table import end_all_but_tools
from runctl.agent.runtime.signal_trace import SignalTrace
from runctl.agent.runtime.systemd_scope import SLICE
from runctl.agent.runtime.written_places import prepare_places
from runctl.model.errors import RequestError

UNFENCED = (
    "the container was ended at once, since nothing keeps it from the credentials of the instance "
    f"role: the engine has not started it below {SLICE}"
)
# The capability by which root may raise its own limits, as a bit of CapEff.
SYS_RESOURCE = 24


logger = logging.getLogger(__name__)


class ContainerRuntime:
    """Starts programs in containers. `on_exit` is called when one has exited."""

    def __init__(self, engine: Engine, paths: Paths, *, on_exit: Callable[[], None]) -> None:
        self._engine = engine
        self._paths = paths
        self._on_exit = on_exit
        self._trace = SignalTrace()
        self._numbers = itertools.count()
        self._facts: MachineFacts | None = None

    def open(self) -> None:
        """Begin to trace signals, and remove the secrets that an earlier agent left."""
        for left in self._paths.runtime.glob(CONTAINER_VARIABLES.format("*")):
            left.unlink(missing_ok=True)
        self._trace.start()

    def start(self, contract: Contract) -> ProcessProgram:
        """Start a program. Raises RequestError if the engine cannot start it."""
        options = contract.container
        if options is None:
            raise ValueError("the contract is not one of a container")
        prepare_places(contract)
        self._paths.had_containers.touch()
        if self._facts is None:
            self._facts = read_facts(self._engine, self._paths)
        facts = self._facts
        container = self._create(contract, options, facts)
        observer = ProcessObserver(self._trace)
        observer.start()
        try:
            process = ContainerProcess(self._engine, container, contract, on_exit=self._on_exit)
            if facts.cgroup_parent and not process.is_below(SLICE):
                process.kill_family(contract.checkpoint)
                raise RequestError(UNFENCED)
        except BaseException:
            observer.stop()
            self._remove(container)
            raise
        observer.adopt(process)
        return ProcessProgram(process, observer, contract, release=lambda: self._remove(container))

    def kill_all(self) -> None:
        """Remove the containers that still run, and SIGKILL what else the attempt has left."""
        with contextlib.suppress(EngineError):
            remove_containers(self._engine, self._paths)
        end_all_but_tools()

    def close(self) -> None:
        """Stop tracing signals."""
        self._trace.stop()

    def _remove(self, container: str) -> None:
        """Remove a container that has ended: an attempt may start one for each of many shards."""
        try:
            self._engine.remove([container])
        except EngineError as exc:
            logger.warning("the container %s cannot be removed: %s", container, exc)

    def _create(self, contract: Contract, options: ContainerOptions, facts: MachineFacts) -> str:
        text, passed = split_variables({**contract.environment, **contract.credentials})
        # Several may start at the same time.
        env_file = self._paths.runtime / CONTAINER_VARIABLES.format(next(self._numbers))
        try:
            # Memory, on EC2: it has secrets, and is gone as soon as the engine has read it.
            env_file.touch(0o600, exist_ok=False)
            env_file.write_text(text)
            words = create_words(
                contract,
                options,
                facts,
                state=self._paths.state,
                env_file=env_file,
                passed=passed,
            )
            return self._engine.call(*words, variables=passed).strip()
        except EngineError as exc:
            if exc.has_no_engine:
                raise
            raise RequestError(f"the container cannot be created: {exc}") from exc
        finally:
            env_file.unlink(missing_ok=True)


def read_facts(engine: Engine, paths: Paths) -> MachineFacts:
    """Return what the limits of a container follow from. Raises EngineError."""
    parent = ""
    if paths.root == Path("/"):  # below another, as on the local cloud, its groups are not ours
        parent = cgroup_parent(engine.call("info", "--format", "{{.CgroupDriver}}").strip())
    return MachineFacts(
        memory_bytes=machine_bytes(),
        open_files=resource.getrlimit(resource.RLIMIT_NOFILE)[1],
        locked_bytes=(
            -1 if _may_raise_limits() else resource.getrlimit(resource.RLIMIT_MEMLOCK)[1]
        ),
        tasks=min(
            int(Path("/proc/sys/kernel", name).read_text()) for name in ("threads-max", "pid_max")
        ),
        has_gpus=bool(gpu_devices()),
        adapters=adapter_devices(),
        cgroup_parent=parent,
    )


def _may_raise_limits() -> bool:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            return bool(int(line.split()[1], 16) >> SYS_RESOURCE & 1)
    return False


def remove_containers(engine: Engine, paths: Paths) -> list[str]:
    """Remove the containers of this state folder, also those of an earlier agent; return them."""
    label = f"label={LABEL}={paths.state}"
    found = engine.call("ps", "--all", "--quiet", "--no-trunc", "--filter", label).split()
    engine.remove(found)
    return found
