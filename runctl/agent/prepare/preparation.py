"""The preparation: code, environment, inputs and newest checkpoint, as early as possible."""

import contextlib
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from runctl.agent.instance import processes
from runctl.agent.instance.disk import FULL, room, says_full
from runctl.agent.instance.ownership import give_to, remove_link, require_inside
from runctl.agent.instance.settings import Settings
from runctl.agent.ports import Blobs, Inputs
from runctl.agent.prepare.code import fetch_code
from runctl.agent.prepare.committing import EnvironmentCommitter
from runctl.agent.prepare.container import ReadyContainer
from runctl.agent.prepare.curves import restore_curves
from runctl.agent.prepare.dependencies import find_dependencies
from runctl.agent.prepare.environment import Environments, Place
from runctl.agent.prepare.inputs import InputStager
from runctl.agent.prepare.installed import installed_bytes
from runctl.agent.prepare.installer import Installer, find_tools
from runctl.agent.prepare.pinned_environments import PinnedEnvironments
from runctl.agent.prepare.prefetch import CheckpointPrefetch
from runctl.agent.prepare.prepared import Prepared
from runctl.agent.prepare.shared_environments import SharedEnvironments
from runctl.agent.prepare.subjects import SubjectLoader
from runctl.agent.reporting.progress import Progress
from runctl.agent.runtime.environment import base_environment
from runctl.agent.runtime.trainer_user import TrainerUser
from runctl.agent.signals.waiting import RETRY, CancellableWait
from runctl.aws.checkpoints import CheckpointStore
from runctl.aws.environments import EnvironmentStore
from runctl.aws.versions import VersionStore
from runctl.beneath.changes import clear
from runctl.checkpoint.candidates import PREVIOUS, Trust
from runctl.checkpoint.restore import Fetched, Restorer
from runctl.model.agent_ledger import AgentLedger
from runctl.model.checkpoint import name_of
from runctl.model.errors import (
    DamagedCheckpointError,
    NewerCheckpointError,
    RequestError,
    RunctlError,
)
from runctl.model.index_variables import index_variables
from runctl.model.kinds import PROCESS
from runctl.model.request import RunRequest
from runctl.model.run import Run
from runctl.model.subject import Subject
from runctl.policy.environment_areas import area_of
from runctl.policy.interval import Uptime, uptime_of

COMMIT_WAIT = 5.0

Made = TypeVar("Made")

logger = logging.getLogger(__name__)


class Preparation:
    """Prepares all that a trainer needs. An agent that was restarted may repeat any of it."""

    def __init__(
        self,
        ledger: AgentLedger,
        blobs: Blobs,
        versions: VersionStore,
        store: CheckpointStore,
        settings: Settings,
        *,
        inputs: Inputs,
        subjects: SubjectLoader,
        environments: EnvironmentStore,
        vendor: Path,
        progress: Progress,
        wait: CancellableWait,
    ) -> None:
        self._ledger = ledger
        self._blobs = blobs
        self._settings = settings
        self._paths = settings.paths
        self._progress = progress
        self._wait = wait
        self._store = store
        self._restorer = Restorer(store, self._paths.state / "incoming")
        self._environments = PinnedEnvironments(
            self._make_environments(environments, vendor),
            versions,
            attempt=settings.attempt,
            wait=wait,
        )
        self._inputs = InputStager(
            inputs,
            folder=self._paths.inputs,
            state=self._paths.state,
            progress=progress,
            check=wait.check,
        )
        self._subjects = subjects
        self._prefetch = CheckpointPrefetch(self._restorer, wait)
        self._user: TrainerUser | None = None
        self._is_quiet = False  # whether nobody writes to the checkpoint folder

    def _make_environments(self, store: EnvironmentStore, vendor: Path) -> Environments:
        settings, folder = self._settings, self._paths.state / "environments"
        return Environments(
            SharedEnvironments(store, settings.run_id, folder),
            Place(
                folder=folder,
                bucket=settings.bucket,
                region=settings.region,
                run_id=settings.run_id,
            ),
            installer=Installer(
                find_tools(vendor, base_environment(os.environ)),
                folder,
                log=lambda: self._paths.trainer_output.open("a"),
            ),
            committer=EnvironmentCommitter(
                environ=os.environ, is_ending=lambda: self._wait.is_ending
            ),
        )

    def read_run(self) -> Run:
        """Return the run, as soon as the ledger can be read."""
        while True:
            try:
                run = self._ledger.find_run(self._settings.run_id)
            except RunctlError as exc:
                # This includes permissions that have not propagated: a new role's take a few
                # seconds.
                logger.warning("the ledger cannot be read at the moment: %s", exc)
                run = None
            if run is not None:
                return run
            self._wait.pause(RETRY)

    def read_uptime(self) -> Uptime:
        """Return how long the run has trained before, and how often a machine was taken.

        Only the interval of checkpoints depends on it, so it is read only once.
        """
        try:
            return uptime_of(self._ledger.attempts(self._settings.run_id))
        except RunctlError as exc:
            logger.warning("the earlier attempts cannot be read: %s", exc)
            return Uptime()

    def end_what_an_earlier_agent_left(self, request: RunRequest) -> None:
        """End the trainer of an agent that was killed: it may still write to the folder."""
        marker = f"RUNCTL_CHECKPOINT_DIR={self.checkpoint_folder(request)}"
        if request.kind == PROCESS:  # each shard has a folder of its own
            marker = f"RUNCTL_METRICS_FILE={self._paths.metrics}"
        if killed := processes.end_leftovers(marker):
            logger.warning("ended %d processes that an earlier agent left", len(killed))
        self._remove_messages()

    def run_as(self, user: TrainerUser | None, request: RunRequest) -> None:
        """Run what the project brings along, such as the builds of packages, as a user.

        The request decides for whom environments are stored, as it decides about permissions.
        """
        self._user = user
        self._environments.run_as(user)
        self._environments.keep_in(area_of(request, self._settings.run_id))

    def _remove_messages(self) -> None:
        """Remove what an earlier trainer and the agent wrote for each other."""
        for path in (self._paths.metrics, self._paths.saved, self._paths.checkpoint_request):
            path.unlink(missing_ok=True)

    def prepare(
        self,
        request: RunRequest,
        *,
        generation: int = 0,
        container: "Future[ReadyContainer] | None" = None,
        indexes: Mapping[str, str] | None = None,
        subject: Subject | None = None,
    ) -> Prepared:
        """Fetch the code and make its environment; stage the inputs meanwhile.

        `generation` is the run's generation of environments, and `indexes` are the variables that
        name package indexes, with their secrets. With a `container`, whose image has
        everything, none is made. `subject` is the checkpoint that the run evaluates.
        """
        self._is_quiet = True  # what an earlier agent left has ended
        staging = self._wait.start(lambda: self._stage_inputs(request, subject))
        self._progress.enter("environment")
        with self._reporting_full_disk("the code and its environment"):
            script = self._with_room(
                lambda: self._wait.retry(
                    lambda: fetch_code(self._blobs, request, self._paths.project)
                )
            )
            environment = self._paths.state / "environments"
            if self._user is not None:
                give_to(self._user.owner, [self._paths.project])
            if container is None:
                environment = self._prepare_environment(
                    request, script, generation=generation, indexes=indexes or {}
                )
        if container is not None:
            self._progress.enter("image")
        prepared = Prepared(
            script=script,
            environment=environment,
            container=None if container is None else container.result(),
            checkpoint=self.checkpoint_folder(request),
            user=self._user,
            subject=subject,
        )
        if not staging.done():
            self._progress.enter("inputs")
        staging.result()
        return prepared

    def _prepare_environment(
        self, request: RunRequest, script: str, *, generation: int, indexes: Mapping[str, str]
    ) -> Path:
        named = index_variables(request.program.env)
        declared = find_dependencies(self._paths.project, script, indexes=named)
        self._environments.use_indexes(indexes)
        environment = self._with_room(
            lambda: self._environments.prepare(
                declared,
                generation=generation,
                is_fresh=request.program.fresh_environment,
            )
        )
        if declared.installs:
            # The trainer need not wait for it.
            self._wait.start(lambda: self._progress.note_environment(installed_bytes(environment)))
        return environment

    def _stage_inputs(self, request: RunRequest, subject: Subject | None) -> None:
        with self._reporting_full_disk("the inputs"):
            self._with_room(
                lambda: self._wait.retry(lambda: self._inputs.stage(request.staged_inputs))
            )
            if subject is not None:
                self._with_room(lambda: self._load(subject))
        if request.staged_inputs or subject is not None:
            self._progress.mark("inputs_ready")

    def _load(self, subject: Subject) -> None:
        try:
            self._wait.retry(lambda: self._subjects.load(subject))
        except DamagedCheckpointError as exc:
            raise RequestError(
                f"the checkpoint of {subject.name} of {subject.run_id} cannot be restored: {exc}"
            ) from exc

    def _with_room(self, prepare: Callable[[], Made]) -> Made:
        """Prepare something; repeat it once if the prefetched checkpoint has taken its space.

        From then on nothing is prefetched: what is too large for the disk is then known.
        """
        try:
            return prepare()
        except (RequestError, OSError) as exc:
            if not (says_full(exc) or FULL in str(exc)):
                raise
            if not self._prefetch.give_way():
                raise
            logger.warning("discarded the prefetched checkpoint, to make room: %s", exc)
        return prepare()

    @contextlib.contextmanager
    def _reporting_full_disk(self, what: str) -> Iterator[None]:
        """Turn a full disk into a RequestError; another try would find the same disk."""
        try:
            yield
        except OSError as exc:
            if not says_full(exc):
                raise
            # The last words, which name the cause, need some space too.
            self._restorer.discard()
            raise RequestError(
                f"{what} do not fit: the instance's disk is full ({exc.strerror}); "
                f"without them {room(self._paths.state)}"
            ) from exc

    def prefetch(self, run: Run) -> None:
        """Fetch the checkpoint to restore in the background before the token arrives, only once.

        What the folder has already is not fetched. So this waits until nobody writes to it.
        """
        if run.newest is None:
            return
        folder = self.checkpoint_folder(run.request)
        if self._is_quiet or not folder.is_dir() or not any(folder.iterdir()):
            self._prefetch.begin(run.newest, Trust.of(run), reuse=folder)

    def restore(self, request: RunRequest, prepared: Prepared) -> Prepared:
        """Put the newest whole checkpoint in place; only now is it certain which one that is."""
        self._progress.enter("restore")
        run = self.read_run()
        restored = self._restore_whole(run, request, prepared.checkpoint)
        partial = self._restore_partial(restored)
        # The program creates the folder: some expect an empty one for their outputs.
        if self._settings.attempt > 1:
            restore_curves(self._blobs, self._settings.run_id, self._paths.tensorboard)
        return replace(prepared, run=run, restored=restored, partial=partial)

    def restore_before(
        self, request: RunRequest, prepared: Prepared, tried: frozenset[str]
    ) -> Prepared | None:
        """Put the newest checkpoint before those `tried` in place; return None if there is none.

        Before the run's first checkpoint comes the beginning. A later one never falls back to it.
        """
        self._progress.enter("restore")
        run = self.read_run()
        given = prepared.restored
        remove_link(prepared.checkpoint, self._paths.state)  # another machine would not have it
        try:
            restored = self._put_in_place(run, prepared.checkpoint, tried=tried)
        except (DamagedCheckpointError, RequestError) as exc:
            logger.warning("no earlier checkpoint can be restored: %s", exc)
            if given is None or given.manifest.metadata.get(PREVIOUS):
                return None
            self._return_to_beginning(request, prepared.checkpoint)
            restored = None
        self._remove_messages()
        partial = self._restore_partial(restored)
        return replace(prepared, run=run, restored=restored, partial=partial)

    def _return_to_beginning(self, request: RunRequest, folder: Path) -> None:
        clear(folder)
        if request.saving.checkpoint.dir:  # the project may have files there
            self._wait.retry(lambda: fetch_code(self._blobs, request, self._paths.project))
            folder.mkdir(parents=True, exist_ok=True)
        self._progress.resume_from(step=None, save=0)

    def _restore_whole(self, run: Run, request: RunRequest, folder: Path) -> Fetched | None:
        require_inside(folder, self._paths.state)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError) as exc:
            raise RequestError(
                f"checkpoint.dir: {request.saving.checkpoint.dir} is a file of the project, but "
                "must be a folder; choose another path"
            ) from exc
        if run.newest is None:
            if not request.saving.checkpoint.dir:
                clear(folder)
            return None
        self._prefetch.finish()
        try:
            return self._put_in_place(run, folder)
        except NewerCheckpointError as exc:
            raise RequestError(
                f"the newest checkpoint needs a newer runctl than the deployment: {exc}; deploy "
                f"that version, then `runctl resume {self._settings.run_id}`"
            ) from exc
        except DamagedCheckpointError as exc:
            raise RequestError(f"no checkpoint of the run can be restored: {exc}") from exc

    def _put_in_place(
        self, run: Run, folder: Path, *, tried: frozenset[str] = frozenset()
    ) -> Fetched:
        newest, trust = run.newest or "", Trust.of(run, tried=tried)
        with self._reporting_full_disk(f"the files of the checkpoint {newest}"):
            fetched = self._wait.retry(lambda: self._restorer.fetch(newest, trust, reuse=folder))
            self._restorer.put_in_place(fetched.manifest, folder)
        manifest = fetched.manifest
        self._progress.resume_from(step=manifest.step, save=manifest.save)
        self._progress.mark("restored")
        logger.info("restored %s from %s", name_of(manifest.step, manifest.save), fetched.key)
        if fetched.key != newest:
            logger.warning(
                "the newest checkpoint, %s, was not restored: %s",
                newest,
                "a trainer died from it" if newest in trust.suspects else "it is damaged",
            )
        return fetched

    def _restore_partial(self, whole: Fetched | None) -> Path | None:
        """Fetch the files of an unfinished checkpoint if it is newer than the whole one.

        Nothing depends on it, so an error is only logged.
        """
        clear(self._paths.partial)
        restorer = Restorer(self._store, self._paths.state / "incoming-partial")
        try:
            for key in self._store.partial_keys()[:1]:
                if whole is not None and self._store.get_manifest(key).taken_at < (
                    whole.manifest.taken_at
                ):
                    return None
                restorer.put_in_place(restorer.fetch(key).manifest, self._paths.partial)
                logger.info("the files of an unfinished checkpoint are in %s", self._paths.partial)
                return self._paths.partial
        except (RunctlError, OSError) as exc:
            logger.warning("the unfinished checkpoint cannot be fetched: %s", exc)
        return None

    def begin_evaluation(self, prepared: Prepared, subject: Subject) -> Prepared:
        """Put the next checkpoint of another run in place.

        Raises DamagedCheckpointError if it is gone or damaged, RequestError if it does not fit.
        What the program saved while it evaluated another one is removed.
        """
        self._progress.enter("restore")
        outputs = self._paths.output / subject.name.replace(" ", "-")
        with self._reporting_full_disk(f"the files of {subject.name}"):
            self._wait.retry(lambda: self._subjects.load(subject))
            clear(prepared.checkpoint)
            clear(outputs)
            self._paths.tensorboard.mkdir(exist_ok=True)  # a container mounts it
        self._remove_messages()
        return replace(prepared, subject=subject, outputs=outputs, restored=None, partial=None)

    def checkpoint_folder(self, request: RunRequest) -> Path:
        """Return the folder that the trainer saves to."""
        if request.saving.checkpoint.dir:
            return self._paths.project / request.saving.checkpoint.dir
        return self._paths.checkpoint

    def wait_until_stored(self) -> str:
        """Wait until the environment is stored; return why it is not, else nothing."""
        return self._environments.wait_until_stored()

    def finish(self) -> None:
        """Give the commit of a new environment a moment to end; the next one continues it."""
        self._environments.finish(COMMIT_WAIT)
