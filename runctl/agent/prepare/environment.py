"""The trainer's own environment: built once for each set of dependencies, then shared by all."""

import contextlib
import hashlib
import logging
import os
import platform
import shutil
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from runctl.agent.prepare.build_steps import finish_build
from runctl.agent.prepare.built_files import READY
from runctl.agent.prepare.committing import EnvironmentCommitter
from runctl.agent.prepare.dependencies import Declared
from runctl.agent.prepare.environment_commit import CommitJob
from runctl.agent.prepare.installed import installed_versions
from runctl.agent.prepare.installer import Installer
from runctl.agent.prepare.pinning import install, installed_as_pinned
from runctl.agent.prepare.shared_environments import Accepted, SharedEnvironments
from runctl.agent.prepare.sources import BUILT, files_of_editables, fit_to, put_back
from runctl.agent.runtime.trainer_user import TrainerUser
from runctl.model.errors import DamagedCheckpointError, RunctlError
from runctl.model.versions import Versions

FORMAT = "3"

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where the environments of a run are: on this instance, and in the store."""

    folder: Path
    bucket: str
    region: str
    run_id: str


class Environments:
    """Environments on this instance, of one run, with a store that all runs share."""

    def __init__(
        self,
        shared: SharedEnvironments,
        place: Place,
        *,
        installer: Installer,
        committer: EnvironmentCommitter,
    ) -> None:
        self._shared = shared
        self._place = place
        self._folder = place.folder
        self._installer = installer
        self._committer = committer
        self._area = ""
        self._broken: set[str] = set()
        self._committed = ""

    def prepare(
        self,
        declared: Declared,
        pinned: Versions | None = None,
        *,
        generation: int = 0,
        is_fresh: bool = False,
    ) -> Path:
        """Return the environment's folder, from this instance, from the store, or newly built.

        `pinned` are the versions that the run has installed before, in this `generation`; an
        environment with others is not used. Without them, one that `is_fresh` is always built.
        Raises RequestError with the last words of pip if it cannot be built. A network failure is
        reported as such, after several tries.
        """
        self._installer.check_python(declared.declaration.python)
        is_fresh = is_fresh and pinned is None
        target = None if is_fresh else self._found(declared, pinned, generation)
        if target is None:
            target = self._built(declared, pinned, is_fresh=is_fresh)
        if declared.installs:
            self._commit_if_new(declared, pinned, target, generation, is_fresh=is_fresh)
            fit_to(target, declared.project)
            if (target / BUILT).is_dir():
                self._installer.run_step(
                    put_back, target=str(target), project=str(declared.project)
                )
        return target

    def run_as(self, user: TrainerUser | None) -> None:
        """Build environments as a user."""
        self._installer.run_as(user)

    def keep_in(self, area: str) -> None:
        """Store new environments in an area, for the runs of that area only; empty: for all."""
        self._area = area
        self._shared.keep_in(area)

    def use_indexes(self, variables: Mapping[str, str]) -> None:
        """Take packages from the indexes that these variables of pip name, too."""
        self._installer.use(variables)

    def wait_until_stored(self) -> str:
        """Wait until the prepared environment is stored; return why it is not, else nothing.

        Raises what the store raises.
        """
        if not self._committed:
            return ""  # it came from there
        said = self._committer.wait()
        return "" if self._shared.is_stored(self._committed) else said or "its commit ended early"

    def finish(self, seconds: float) -> None:
        """Wait at most `seconds` until a new environment is stored, then stop storing it."""
        self._committer.stop(within=seconds)

    def _found(self, declared: Declared, pinned: Versions | None, generation: int) -> Path | None:
        """Return an environment that exists already and has the right versions."""
        for fingerprint in self._fingerprints(declared, pinned):
            target = self._folder / fingerprint
            if not self._is_there(declared, fingerprint, generation):
                continue
            if pinned is None or installed_as_pinned(target, pinned):
                return target
            logger.info("an environment with other versions than the run's is not used")
            shutil.rmtree(target, ignore_errors=True)  # it may be large
        return None

    def _is_there(self, declared: Declared, fingerprint: str, generation: int) -> bool:
        """Whether an environment is ready on this instance, or could be fetched."""
        ready = self._folder / fingerprint / READY
        digest = ready.read_text() if ready.exists() else None
        if not declared.installs or digest == "":  # built here, and in no store yet
            return digest is not None
        try:
            accepted = self._shared.accepted(fingerprint, generation)
            if accepted is None or accepted.digest == digest:
                return digest is not None
            self._fetch(declared, fingerprint, accepted)
        except DamagedCheckpointError as exc:
            logger.warning("the stored environment cannot be used, so it is built: %s", exc)
            self._broken.add(fingerprint)
        except RunctlError as exc:
            logger.warning("stored environments cannot be read: %s", exc)
            return digest is not None
        else:
            return True
        return False

    def _fetch(self, declared: Declared, fingerprint: str, accepted: Accepted) -> None:
        began = time.monotonic()
        with _removed_on_failure(self._folder / fingerprint) as target:
            self._shared.fetch(fingerprint, accepted, target)
        self._installer.report(
            f"environment of {declared.source}: fetched in {time.monotonic() - began:.1f} s"
        )

    def _built(self, declared: Declared, pinned: Versions | None, *, is_fresh: bool) -> Path:
        fingerprint = next(self._fingerprints(declared, pinned), self._fingerprint(declared))
        target = self._folder / fingerprint
        if is_fresh:  # an earlier run on this instance may have left one
            shutil.rmtree(target, ignore_errors=True)
        with _removed_on_failure(target):
            self._installer.make_place(target)
            self._installer.create(target, declared.source)
            if declared.installs:
                before = files_of_editables(declared.project, declared.declaration)
                began = time.monotonic()
                self._installer.report(f"environment of {declared.source}: building it")
                install(self._installer, target, declared, pinned, scratch=self._folder)
                after = files_of_editables(declared.project, declared.declaration)
                self._installer.run_step(
                    finish_build,
                    target=str(target),
                    project=str(declared.project),
                    built=sorted(after - before),
                )
            self._installer.take_back(target)
            if declared.installs:
                count = len(installed_versions(target, attempt=0).packages)
                self._installer.report(
                    f"environment of {declared.source}: built with {count} "
                    f"package{'s' * (count != 1)} in {time.monotonic() - began:.1f} s"
                )
            (target / READY).touch()
        return target

    def _commit_if_new(
        self,
        declared: Declared,
        pinned: Versions | None,
        target: Path,
        generation: int,
        *,
        is_fresh: bool,
    ) -> None:
        """Store an environment that was built here; the trainer need not wait for it."""
        ready = target / READY
        if ready.read_text():
            return
        fingerprint = target.name
        is_special = is_fresh or declared.declaration.references.is_moving
        if fingerprint in self._broken or (pinned is None and is_special):
            # Only a run that is pinned to these versions may use it; the next run resolves them.
            fingerprint = self._fingerprint(declared, installed_versions(target, attempt=0))
        self._committed = fingerprint
        self._committer.start(
            CommitJob(
                run_id=self._place.run_id,
                generation=generation,
                fingerprint=fingerprint,
                source=declared.source,
                target=str(target),
                scratch=str(self._folder / "bytecode"),
                python=str(self._installer.tools.python),
                built_ns=os.lstat(ready).st_ctime_ns,
                is_guarded=self._installer.user is not None,
                bucket=self._place.bucket,
                region=self._place.region,
                area=self._area,
            )
        )

    def _fingerprints(self, declared: Declared, pinned: Versions | None) -> Iterator[str]:
        """Yield the names that a suitable existing environment may have, the best first."""
        if pinned is not None:
            yield self._fingerprint(declared, pinned)
        if pinned is not None or not declared.declaration.references.is_moving:
            yield self._fingerprint(declared)

    def _fingerprint(self, declared: Declared, pinned: Versions | None = None) -> str:
        # The interpreter's path counts: an environment's python is a link to it.
        python = self._installer.tools.python
        facts = (FORMAT, platform.machine(), platform.libc_ver(), sys.version, python)
        digest = hashlib.sha256(repr(facts).encode() + declared.fingerprint)
        if pinned is not None:
            digest.update(pinned.digest)
        return digest.hexdigest()


@contextlib.contextmanager
def _removed_on_failure(target: Path) -> Iterator[Path]:
    """Start from nothing, and remove an incomplete environment after a failure.

    An incomplete environment is useless, and on a full disk the error message needs the space.
    """
    shutil.rmtree(target, ignore_errors=True)
    try:
        yield target
    except BaseException:
        shutil.rmtree(target, ignore_errors=True)
        raise
