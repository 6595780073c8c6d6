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
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from botocore.exceptions import BotoCoreError, ClientError

from runctl.agent.archive import unpack
from runctl.agent.dependencies import NOTHING, Declared
from runctl.agent.relocation import make_relocatable, pack_environment
from runctl.aws.errors import code_of
from runctl.model import identity
from runctl.model.errors import RequestError, TransientError
from runctl.model.excerpt import last_part

FORMAT = "1"
REASON_LINES = 12
REASON_CHARACTERS = 900
ALREADY_THERE = frozenset({"412", "PreconditionFailed", "409", "ConditionalRequestConflict"})
# What pip and uv say when it is the network, and not the project, that is to blame. Without an
# answer from the index pip goes on to say that no version was found, so these decide.
NETWORK = (
    "Retrying (Retry(",
    "Max retries exceeded",
    "NewConnectionError",
    "Temporary failure in name resolution",
    "Connection reset by peer",
    "Connection refused",
    "Read timed out",
    "IncompleteRead",
    "502 Server Error",
    "503 Server Error",
    "504 Server Error",
    "429 Client Error",
)
# Together some ten minutes: longer than most outages of an index, shorter than a lost heartbeat's
# worth of patience with an instance that costs money.
NETWORK_WAITS = (5.0, 15.0, 30.0, 60.0, 120.0, 300.0)

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Tools:
    """What environments are built with: our own interpreter and the vendored pip."""

    python: Path
    pip: Path
    environ: Mapping[str, str]


def find_tools(vendor: Path, environ: Mapping[str, str]) -> Tools:
    """Return this interpreter (below any virtual environment) and the pip in `vendor`."""
    wheels = sorted(vendor.glob("pip-*.whl"))
    pip = wheels[-1] / "pip" if wheels else vendor / "pip"
    base = Path(getattr(sys, "_base_executable", "") or sys.executable)
    return Tools(python=base, pip=pip, environ=environ)


class Environments:
    """Environments on this instance, with a cache in S3 that all runs share."""

    def __init__(
        self,
        client: Any,
        folder: Path,
        *,
        bucket: str,
        tools: Tools,
        log: Callable[[], TextIO],
        wait: Callable[[float], None] = time.sleep,
    ) -> None:
        self._client = client
        self._folder = folder
        self._bucket = bucket
        self._tools = tools
        self._log = log
        self._wait = wait
        self._storing: threading.Thread | None = None
        self._compiling: subprocess.Popen[bytes] | None = None

    def prepare(self, declared: Declared) -> Path:
        """Return the environment's folder, from this instance, from S3, or newly built.

        Raises RequestError with the last words of pip when it cannot be built; that the network
        failed is said, and only after several tries.
        """
        fingerprint = self._fingerprint(declared)
        target = self._folder / fingerprint
        if (target / "ready").exists():
            return target
        shutil.rmtree(target, ignore_errors=True)
        try:
            self._fill(target, declared, fingerprint)
        except BaseException:
            # Half of one is of no use, and on a full disk what tells of it needs the space.
            shutil.rmtree(target, ignore_errors=True)
            raise
        if declared != NOTHING:
            self._compile(target)
        return target

    def _fill(self, target: Path, declared: Declared, fingerprint: str) -> None:
        self._create(target, declared)
        if declared != NOTHING and not self._fetch(fingerprint, target):
            self._check_python(declared)
            self._install(target, declared)
            make_relocatable(target)
            # The trainer need not wait for the cache.
            self._storing = threading.Thread(
                target=self._store, args=(fingerprint, target), name="environment", daemon=True
            )
            self._storing.start()
        (target / "ready").touch()

    def finish(self, seconds: float) -> None:
        """Wait until a new environment is in the cache, at most so long; nothing else goes on."""
        if self._storing is not None:
            self._storing.join(seconds)
        if self._compiling is not None:
            self._compiling.kill()
            self._compiling.wait()

    def _compile(self, target: Path) -> None:
        """Compile to bytecode in the background: an instance that waits for its token has time."""
        command = ["nice", "-n", "19", str(target / "bin/python"), "-I", "-m", "compileall", "-q"]
        with contextlib.suppress(OSError):
            self._compiling = subprocess.Popen(
                [*command, str(target / "lib")],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=dict(self._tools.environ),
            )

    def _fingerprint(self, declared: Declared) -> str:
        # The interpreter's place counts: an environment's python is a link to it.
        facts = (FORMAT, platform.machine(), platform.libc_ver(), sys.version, self._tools.python)
        return hashlib.sha256(repr(facts).encode() + declared.fingerprint).hexdigest()

    def _create(self, target: Path, declared: Declared) -> None:
        # Without pip: `ensurepip` is missing on Ubuntu, and the trainer needs none.
        command = [str(self._tools.python), "-I", "-m", "venv", "--without-pip", str(target)]
        self._run(command, f"the environment for {declared.source} cannot be created")
        for activate in (target / "bin").glob("[aA]ctivate*"):
            activate.unlink()  # they hold the absolute path, and nobody activates here

    def _install(self, target: Path, declared: Declared) -> None:
        began = time.monotonic()
        logger.info("building the environment for %s", declared.source)
        if declared.lock is not None:
            arguments = ["-r", str(self._export(declared.lock.parent, declared))]
        elif declared.file is not None:
            arguments = ["-r", str(declared.file)]
        else:
            arguments = list(declared.requirements)
        if arguments:
            self._pip(target, arguments, f"the dependencies of {declared.source} failed to install")
        logger.info("built it in %.1f s", time.monotonic() - began)

    def _export(self, project: Path, declared: Declared) -> Path:
        """Turn uv.lock into a requirements file, with the uv that pip installs for it."""
        tool = self._folder / "uv"
        if not (tool / "ready").exists():
            shutil.rmtree(tool, ignore_errors=True)
            self._create(tool, declared)
            self._pip(tool, ["uv"], f"uv, which reads {declared.source}, failed to install")
            (tool / "ready").touch()
        target = self._folder / "uv-requirements.txt"
        command = [str(tool / "bin/uv"), "export", "--frozen", "--no-dev", "--no-emit-project"]
        command += ["--project", str(project), "--output-file", str(target), "--quiet"]
        self._run(command, f"{declared.source} cannot be read by uv")
        return target

    def _pip(self, target: Path, arguments: Sequence[str], what: str) -> None:
        command = [str(self._tools.python), "-I", str(self._tools.pip)]
        command += ["--python", str(target / "bin/python"), "install", "--no-input"]
        command += ["--no-cache-dir", "--disable-pip-version-check", "--progress-bar", "off"]
        command += ["--no-warn-script-location", "--no-compile", "--retries", "2", *arguments]
        for wait in (*NETWORK_WAITS, None):
            try:
                self._run(command, what)
            except TransientError as exc:
                if wait is None:
                    raise RequestError(f"{exc} (tried {len(NETWORK_WAITS) + 1} times)") from exc
                logger.warning("%s; trying again in %.0f s", exc, wait)
                self._wait(wait)
            else:
                return

    def _run(self, command: Sequence[str], what: str) -> None:
        last: deque[str] = deque(maxlen=REASON_LINES)
        network = False
        log = self._log()
        try:
            with subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                env=dict(self._tools.environ),
                cwd=self._folder,
            ) as process:
                for line in process.stdout or ():
                    with contextlib.suppress(OSError):  # what fails on a full disk is told by it
                        log.write(line)
                        log.flush()
                    if line.strip():
                        last.append(line.strip())
                    network = network or any(sign in line for sign in NETWORK)
        finally:
            with contextlib.suppress(OSError):
                log.close()
        if process.returncode != 0:
            told = last_part(" | ".join(last), REASON_CHARACTERS)
            if network:
                raise TransientError(f"{what}: the package index cannot be reached: {told}")
            raise RequestError(f"{what}: {told}")

    def _check_python(self, declared: Declared) -> None:
        """Let pip's own reader of version specifiers judge `requires-python`."""
        if not declared.requires_python:
            return
        wheel = str(self._tools.pip.parent)
        program = (
            "import sys; sys.path.insert(0, sys.argv[1]); "
            "from pip._vendor.packaging.specifiers import SpecifierSet as S; "
            "sys.exit(sys.argv[3] not in S(sys.argv[2]))"
        )
        version = platform.python_version()
        command = [str(self._tools.python), "-I", "-c", program, wheel]
        self._run(
            [*command, declared.requires_python, version],
            f"{declared.source} requires Python {declared.requires_python}, "
            f"this instance has {version}",
        )

    def _fetch(self, fingerprint: str, target: Path) -> bool:
        archive = self._folder / f"{fingerprint}.tar.gz"
        try:
            body = self._client.get_object(
                Bucket=self._bucket, Key=identity.environment_key(fingerprint)
            )["Body"]
            with archive.open("wb") as stream:
                for block in body.iter_chunks(1024 * 1024):
                    stream.write(block)
            unpack(archive, target)
        except ClientError as exc:
            # Without s3:ListBucket on the prefix, S3 answers AccessDenied for what is missing.
            if code_of(exc) not in {"NoSuchKey", "404", "AccessDenied"}:
                logger.warning("the cached environment cannot be read: %s", code_of(exc))
            return False
        except (BotoCoreError, RequestError) as exc:
            logger.warning("the cached environment cannot be used: %s", exc)
            return False
        finally:
            archive.unlink(missing_ok=True)
        logger.info("the environment came from the cache")
        return True

    def _store(self, fingerprint: str, target: Path) -> None:
        """Cache the environment unless somebody did; training does not depend on it."""
        archive = self._folder / f"{fingerprint}.tar.gz"
        try:
            names = [
                name for name in ("lib", "lib64", "bin", "share", "etc") if _is_own(target, name)
            ]
            pack_environment(archive, target, names)
            with archive.open("rb") as stream:
                self._client.put_object(
                    Bucket=self._bucket,
                    Key=identity.environment_key(fingerprint),
                    Body=stream,
                    IfNoneMatch="*",
                )
        except ClientError as exc:
            if code_of(exc) not in ALREADY_THERE:
                logger.warning("the environment could not be cached: %s", code_of(exc))
        except (BotoCoreError, OSError) as exc:
            logger.warning("the environment could not be cached: %s", exc)
        finally:
            archive.unlink(missing_ok=True)


def _is_own(target: Path, name: str) -> bool:
    return (target / name).is_dir() and not (target / name).is_symlink()
