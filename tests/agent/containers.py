"""Programs in containers of a real engine, without an agent around them."""

from __future__ import annotations

import contextlib
import os
import textwrap
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta

from runctl.agent.instance.paths import Paths
from runctl.agent.runtime.container_runtime import ContainerRuntime, remove_containers
from runctl.agent.runtime.engine import Engine, EngineError
from runctl.agent.runtime.ports import ContainerOptions, Contract, Mount
from runctl.agent.runtime.process_program import ProcessProgram
from tests import docker_engine
from tests.agent.machine import wait_until


def make_client(engine: docker_engine.Engine) -> Engine:
    """Return the agent's client of an engine."""
    environ = {"DOCKER_HOST": engine.host, "PATH": os.environ["PATH"]}
    return Engine(engine.folder / "client", engine.folder / "helpers", environ)


@dataclass
class Containers:
    """A machine whose programs run in containers."""

    engine: docker_engine.Engine
    paths: Paths
    exited: threading.Event = field(default_factory=threading.Event)
    programs: list[ProcessProgram] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.paths.make()
        self.client = make_client(self.engine)
        self.runtime = ContainerRuntime(self.client, self.paths, on_exit=self.exited.set)
        self.runtime.open()

    def build(self, dockerfile: str, **files: str) -> str:
        """Build an image from a Dockerfile on the base `python`; return its id."""
        context = self.paths.root / "context"
        context.mkdir(exist_ok=True)
        for name, text in {"Dockerfile": dockerfile, **files}.items():
            (context / name).write_text(textwrap.dedent(text))
        return self.engine.docker("build", "--quiet", context).strip()

    def contract(
        self,
        *command: str,
        image: str = "python",
        env: Mapping[str, str] | None = None,
        credentials: Mapping[str, str] | None = None,
        user: tuple[int, int] | None = None,
        working_folder: str | None = None,
        replaces_entry_point: bool = False,
    ) -> Contract:
        paths = self.paths
        writable = (paths.project, paths.checkpoint, paths.output, paths.metrics, paths.saved)
        writable = (*writable, paths.checkpoint_request)
        options = ContainerOptions(
            image=image,
            mounts=(
                *(Mount(path, str(path)) for path in writable),
                Mount(paths.inputs, str(paths.inputs), is_read_only=True),
            ),
            working_folder=str(paths.project) if working_folder is None else working_folder,
            replaces_entry_point=replaces_entry_point,
        )
        return Contract(
            command=command,
            environment={"CHECKPOINT": str(paths.checkpoint), **(env or {})},
            credentials=credentials or {},
            working_folder=paths.project,
            checkpoint=paths.checkpoint,
            output=paths.trainer_output,
            errors=paths.trainer_errors,
            save_request=paths.checkpoint_request,
            grace=timedelta(seconds=10),
            written=writable,
            owner=user,
            container=options,
        )

    def start(self, program: str, **options: object) -> ProcessProgram:
        """Run a Python program in a container."""
        (self.paths.project / "train.py").write_text(textwrap.dedent(program))
        return self.run(self.contract("python3", "train.py", **options))

    def run(self, contract: Contract) -> ProcessProgram:
        self.programs.append(self.runtime.start(contract))
        return self.programs[-1]

    def said(self) -> str:
        return self.paths.trainer_output.read_text()

    def wait_for(self, text: str) -> None:
        wait_until(lambda: text in self.said(), why=self.paths.trainer_errors.read_text())

    def wait_for_exit(self, program: ProcessProgram) -> int:
        wait_until(lambda: program.exit_code is not None)
        code = program.exit_code
        assert code is not None
        return code

    def close(self) -> None:
        for program in self.programs:
            program.kill()
            program.close()
        # Not `kill_all`, which would end the engine, too: here it descends from the agent.
        with contextlib.suppress(EngineError):
            remove_containers(self.client, self.paths)
        self.runtime.close()
