"""The trainer's own environment: built once for each set of dependencies, then cached."""

import contextlib
import hashlib
import logging
import platform
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TextIO

from runctl.agent.instance.archive import ENVIRONMENT, unpack
from runctl.agent.ports import Blobs
from runctl.agent.prepare.dependencies import Declared
from runctl.agent.prepare.installed import installed_versions
from runctl.agent.prepare.installer import Installer, Tools
from runctl.agent.prepare.pinning import install, installed_as_pinned
from runctl.agent.prepare.relocation import make_relocatable, pack_environment
from runctl.agent.prepare.sources import files_of_editables, keep_built, put_back
from runctl.model import identity
from runctl.model.errors import (
    NotFoundError,
    RefusedError,
    RequestError,
    RunctlError,
    TransientError,
    UnexpectedAwsError,
)
from runctl.model.versions import Versions

FORMAT = "2"

logger = logging.getLogger(__name__)


class Environments:
    """Environments on this instance, with a cache in S3 that all runs share."""

    def __init__(
        self,
        blobs: Blobs,
        folder: Path,
        *,
        tools: Tools,
        log: Callable[[], TextIO],
        wait: Callable[[float], None] = time.sleep,
    ) -> None:
        self._blobs = blobs
        self._folder = folder
        self._tools = tools
        self._installer = Installer(tools, folder, log=log, wait=wait)
        self._storing: list[threading.Thread] = []
        self._compiling: subprocess.Popen[bytes] | None = None

    def prepare(
        self, declared: Declared, pinned: Versions | None = None, *, is_fresh: bool = False
    ) -> Path:
        """Return the environment's folder, from this instance, from S3, or newly built.

        `pinned` are the versions that the run has installed before; an environment with others is
        not used. Without them, one that `is_fresh` is always built. Raises RequestError with the
        last words of pip if it cannot be built. A network failure is reported as such, after
        several tries.
        """
        self._installer.check_python(declared.declaration.python)
        is_fresh = is_fresh and pinned is None
        found = None if is_fresh else self._found(declared, pinned)
        target = found or self._built(declared, pinned, is_fresh=is_fresh)
        if declared.installs:
            put_back(target, declared.project)
            self._compile(target)
        return target

    def finish(self, seconds: float) -> None:
        """Wait at most `seconds` until a new environment is in the cache; stop all other work."""
        until = time.monotonic() + seconds
        for storing in self._storing:
            storing.join(max(0.0, until - time.monotonic()))
        self._stop_compiling()

    def _stop_compiling(self) -> None:
        if self._compiling is not None:
            self._compiling.kill()
            self._compiling.wait()
            self._compiling = None

    def _found(self, declared: Declared, pinned: Versions | None) -> Path | None:
        """Return an environment that exists already and has the right versions."""
        for fingerprint in self._fingerprints(declared, pinned):
            target = self._folder / fingerprint
            if not (target / "ready").exists() and not self._fetched(declared, fingerprint):
                continue
            if pinned is None or installed_as_pinned(target, pinned):
                return target
            logger.info("an environment with other versions than the run's is not used")
            shutil.rmtree(target, ignore_errors=True)  # it may be large
        return None

    def _built(
        self, declared: Declared, pinned: Versions | None, *, is_fresh: bool = False
    ) -> Path:
        fingerprint = next(self._fingerprints(declared, pinned), self._fingerprint(declared))
        target = self._folder / fingerprint
        if is_fresh:  # an earlier run on this instance may have left one
            shutil.rmtree(target, ignore_errors=True)
        with _removed_on_failure(target):
            self._installer.create(target, declared.source)
            if declared.installs:
                before = files_of_editables(declared.project, declared.declaration)
                began = time.monotonic()
                logger.info("building the environment for %s", declared.source)
                install(self._installer, target, declared, pinned, scratch=self._folder)
                logger.info("built it in %.1f s", time.monotonic() - began)
                after = files_of_editables(declared.project, declared.declaration)
                keep_built(target, declared.project, after - before)
                make_relocatable(target)
            (target / "ready").touch()
        if declared.installs:
            # The trainer need not wait for the cache.
            key = self._key_of_new(declared, pinned, target, is_fresh=is_fresh)
            storing = threading.Thread(
                target=self._store, args=(key, target), name="environment", daemon=True
            )
            self._storing.append(storing)
            storing.start()
        return target

    def _key_of_new(
        self, declared: Declared, pinned: Versions | None, target: Path, *, is_fresh: bool
    ) -> str:
        if is_fresh or (pinned is None and declared.declaration.references.is_moving):
            # Only a run that is pinned to these versions may use it; the next run resolves them.
            return self._fingerprint(declared, installed_versions(target, attempt=0))
        return target.name

    def _fingerprints(self, declared: Declared, pinned: Versions | None) -> Iterator[str]:
        """Yield the names that a suitable existing environment may have, the best first."""
        if pinned is not None:
            yield self._fingerprint(declared, pinned)
        if pinned is not None or not declared.declaration.references.is_moving:
            yield self._fingerprint(declared)

    def _fingerprint(self, declared: Declared, pinned: Versions | None = None) -> str:
        # The interpreter's path counts: an environment's python is a link to it.
        facts = (FORMAT, platform.machine(), platform.libc_ver(), sys.version, self._tools.python)
        digest = hashlib.sha256(repr(facts).encode() + declared.fingerprint)
        if pinned is not None:
            digest.update(pinned.digest)
        return digest.hexdigest()

    def _fetched(self, declared: Declared, fingerprint: str) -> bool:
        """Get an environment from the cache if it is stored there."""
        if not declared.installs:
            return False
        target = self._folder / fingerprint
        archive = self._folder / f"{fingerprint}.tar.gz"
        try:
            if not self._download(fingerprint, archive):
                return False
            with _removed_on_failure(target):
                self._installer.create(target, declared.source)
                unpack(archive, target, ENVIRONMENT)
                (target / "ready").touch()
        except RequestError as exc:
            logger.warning("the cached environment cannot be used: %s", exc)
            return False
        finally:
            archive.unlink(missing_ok=True)
        logger.info("the environment came from the cache")
        return True

    def _download(self, fingerprint: str, archive: Path) -> bool:
        try:
            with self._blobs.open(identity.environment_key(fingerprint)) as blob:
                ENVIRONMENT.check_packed(blob.size_bytes)
                with archive.open("wb") as stream:
                    for chunk in blob.chunks:
                        stream.write(chunk)
        except NotFoundError:
            return False
        except RefusedError as exc:
            # S3 also refuses to read a missing object if the role may not list the bucket.
            logger.info("there is no cached environment: %s", exc)
            return False
        except (TransientError, UnexpectedAwsError) as exc:
            logger.warning("the cached environment cannot be read: %s", exc)
            return False
        return True

    def _compile(self, target: Path) -> None:
        """Compile to bytecode in the background: an instance that waits for its token has time."""
        self._stop_compiling()
        command = ["nice", "-n", "19", str(target / "bin/python"), "-I", "-m", "compileall", "-q"]
        with contextlib.suppress(OSError):
            self._compiling = subprocess.Popen(
                [*command, str(target / "lib")],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=dict(self._tools.environ),
            )

    def _store(self, fingerprint: str, target: Path) -> None:
        """Cache the environment unless it is cached already; training does not depend on it."""
        archive = self._folder / f"{fingerprint}.tar.gz"
        try:
            names = [
                name for name in ("lib", "lib64", "bin", "share", "etc") if _is_own(target, name)
            ]
            pack_environment(archive, target, names)
            with archive.open("rb") as stream:
                self._blobs.put_if_absent(identity.environment_key(fingerprint), stream)
        except (RunctlError, OSError) as exc:
            logger.warning("the environment could not be cached: %s", exc)
        finally:
            archive.unlink(missing_ok=True)


@contextlib.contextmanager
def _removed_on_failure(target: Path) -> Iterator[None]:
    """Start from nothing, and remove an incomplete environment after a failure.

    An incomplete environment is useless, and on a full disk the error message needs the space.
    """
    shutil.rmtree(target, ignore_errors=True)
    try:
        yield
    except BaseException:
        shutil.rmtree(target, ignore_errors=True)
        raise


def _is_own(target: Path, name: str) -> bool:
    return (target / name).is_dir() and not (target / name).is_symlink()
