"""The preparation of a container: the engine, the image, and what its programs need to know."""

import contextlib
import logging
import os
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path

from runctl.agent.instance.settings import Settings
from runctl.agent.prepare.engine_setup import require_engine
from runctl.agent.prepare.gpu_check import check_container
from runctl.agent.prepare.image import Images, ReadyImage
from runctl.agent.prepare.image_facts import find_python, find_user
from runctl.agent.reporting.progress import Progress
from runctl.agent.runtime.container_runtime import remove_containers
from runctl.agent.runtime.engine import Engine, EngineError
from runctl.agent.runtime.trainer_user import TrainerUser
from runctl.agent.signals.waiting import CancellableWait
from runctl.model.run import Run
from runctl.policy.gpus import has_nvidia_gpus

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class ReadyContainer:
    """Everything about the image of a run that its programs are started with.

    `python` is the name by which the image has it, for a script, and `user` are the numbers of the
    user and the group, None for root. They are those of this machine's user for programs if it
    `is_ours`: the image's programs would be root.
    """

    image: ReadyImage
    python: str
    user: tuple[int, int] | None
    is_ours: bool = False


class ContainerPreparation:
    """Prepares the containers of a run, in the background and only once."""

    def __init__(
        self,
        engine: Engine,
        images: Images,
        settings: Settings,
        *,
        progress: Progress,
        wait: CancellableWait,
    ) -> None:
        self._engine = engine
        self._images = images
        self._settings = settings
        self._progress = progress
        self._wait = wait

    def end_leftovers(self) -> None:
        """Remove the containers of an agent that was killed, whatever its run was."""
        if not self._settings.paths.had_containers.exists():
            return
        with contextlib.suppress(EngineError):  # without an engine there is no container either
            if found := remove_containers(self._engine, self._settings.paths):
                logger.warning("removed %d containers that an earlier agent left", len(found))
        self._settings.paths.had_containers.unlink(missing_ok=True)

    def begin(self, run: Run, user: TrainerUser | None) -> Future[ReadyContainer] | None:
        """Begin to get the image of a run, unless it runs on the machine itself.

        Its programs run as `user` where the image would let them be root.
        """
        if run.image is None and not run.request.docker.is_used:
            return None
        return self._wait.start(lambda: self._get(run, user))

    def _get(self, run: Run, user: TrainerUser | None) -> ReadyContainer:
        settings = self._settings
        require_engine(self._engine, settings.paths, may_install=not settings.is_existing_instance)
        image = self._images.get(run)
        is_local = self._settings.paths.root != Path("/")
        if has_nvidia_gpus(self._settings.instance_type) and not is_local:
            check_container(self._engine, image, os.environ)
        needs_python = bool(run.request.program.script) and not run.request.program.command
        own = find_user(self._engine, image)
        is_ours = own is None and user is not None
        ready = ReadyContainer(
            image=image,
            python=find_python(self._engine, image) if needs_python else "",
            user=user.owner if user is not None and is_ours else own,
            is_ours=is_ours,
        )
        self._progress.mark("image_ready")
        return ready
