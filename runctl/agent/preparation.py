"""Making ready: request, code, environment, and the newest checkpoint, as early as possible."""

import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from runctl.agent import processes
from runctl.agent.code import fetch_code
from runctl.agent.dependencies import find_dependencies
from runctl.agent.environment import Environments, find_tools
from runctl.agent.patience import RETRY, Patience
from runctl.agent.ports import AgentLedger
from runctl.agent.progress import Progress
from runctl.agent.restore import Fetched, Restorer, clear
from runctl.agent.settings import Settings
from runctl.agent.trainer import base_environment
from runctl.aws.checkpoints import CheckpointStore
from runctl.model.errors import DamagedCheckpointError, RequestError, RunctlError
from runctl.model.request import RunRequest
from runctl.model.run import Run

CACHE_WAIT = 60.0

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """Everything that can be made ready before the token is there."""

    script: str
    environment: Path


class Preparation:
    """What comes before the trainer. All of it may be done again by an agent started again."""

    def __init__(
        self,
        ledger: AgentLedger,
        s3: Any,
        store: CheckpointStore,
        settings: Settings,
        *,
        vendor: Path,
        progress: Progress,
        patience: Patience,
    ) -> None:
        self._ledger = ledger
        self._s3 = s3
        self._settings = settings
        self._paths = settings.paths
        self._progress = progress
        self._patience = patience
        self._restorer = Restorer(store, self._paths.state / "incoming")
        self._environments = Environments(
            s3,
            self._paths.state / "environments",
            bucket=settings.bucket,
            tools=find_tools(vendor, base_environment(os.environ)),
            log=lambda: self._paths.trainer_output.open("a"),
        )
        self._newest: str | None = None

    def read_run(self) -> Run:
        """Return the run, as soon as the ledger gives it."""
        while True:
            try:
                run = self._ledger.find_run(self._settings.run_id)
            except (RunctlError, ClientError, BotoCoreError) as exc:
                # Also permissions that have not spread yet: a new role's take a few seconds.
                logger.warning("the ledger cannot be read for now: %s", exc)
                run = None
            if run is not None:
                return run
            self._patience.pause(RETRY)

    def end_what_an_earlier_agent_left(self, request: RunRequest) -> None:
        """End the trainer of an agent that was killed: it may still write to the folder."""
        folder = self.checkpoint_folder(request)
        if killed := processes.end_leftovers(f"RUNCTL_CHECKPOINT_DIR={folder}"):
            logger.warning("ended %d processes that an earlier agent left", len(killed))
        for path in (self._paths.metrics, self._paths.saved, self._paths.checkpoint_request):
            path.unlink(missing_ok=True)

    def prepare(self, request: RunRequest) -> Prepared:
        """Fetch the code and make its environment."""
        self._progress.enter("environment")
        script = self._patience.retry(lambda: fetch_code(self._s3, request, self._paths.project))
        declared = find_dependencies(self._paths.project, script)
        return Prepared(script=script, environment=self._environments.prepare(declared))

    def prefetch(self, newest: str) -> None:
        """Fetch the newest checkpoint ahead of the token, in the background, each only once."""
        if newest == self._newest:
            return
        self._newest = newest

        def fetch() -> None:
            try:
                self._restorer.fetch(newest)
            except (RunctlError, ClientError, BotoCoreError, OSError) as exc:
                logger.info("fetching ahead failed, the restore will see: %s", exc)

        self._patience.start(fetch)

    def restore(self, request: RunRequest) -> Fetched | None:
        """Put the newest whole checkpoint in place; only now it is certain which that is."""
        self._progress.enter("restore")
        folder = self.checkpoint_folder(request)
        folder.mkdir(parents=True, exist_ok=True)
        newest = self.read_run().newest
        if newest is None:
            if not request.checkpoint.dir:
                clear(folder)
            return None
        try:
            fetched = self._patience.retry(lambda: self._restorer.fetch(newest))
        except DamagedCheckpointError as exc:
            raise RequestError(f"no checkpoint of the run can be restored: {exc}") from exc
        self._restorer.put_in_place(fetched.manifest, folder)
        self._progress.resume_from(fetched.manifest.step)
        self._progress.mark("restored")
        logger.info("restored step %d from %s", fetched.manifest.step, fetched.key)
        return fetched

    def checkpoint_folder(self, request: RunRequest) -> Path:
        """Return the folder that the trainer saves to."""
        if request.checkpoint.dir:
            return self._paths.project / request.checkpoint.dir
        return self._paths.checkpoint

    def finish(self) -> None:
        """Give a new environment time to reach the cache: the next attempt is that much quicker."""
        self._environments.finish(CACHE_WAIT)
