"""The image of a run: pulled or loaded, checked, and recorded so that later attempts run the same.

An instance begins as soon as it has read the run, while the previous attempt may still be saving.
"""

import logging
import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, TextIO

from runctl.agent.ports import Blobs
from runctl.agent.prepare.registry_login import write_login
from runctl.agent.runtime.engine import Engine, EngineError
from runctl.agent.signals.waiting import CancellableWait
from runctl.model.agent_ledger import AgentLedger
from runctl.model.errors import (
    NotFoundError,
    RefusedError,
    RequestError,
    UnexpectedAwsError,
)
from runctl.model.image import ECR_LOGIN, Image
from runctl.model.image_reference import parse_image_reference, pinned
from runctl.model.run import Run
from runctl.model.s3_uri import split_s3_uri
from runctl.policy.pulling import PullContext, explain, failure_of

ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
RETRY = timedelta(seconds=5)
# For so long a registry may be down or limit its pulls.
REGISTRY_TIMEOUT = timedelta(minutes=10)
SHOW_EVERY = 5.0

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class ReadyImage:
    """An image of this machine, with its own settings: what a container of it does by itself."""

    image_id: str
    entry_point: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    working_folder: str = ""
    user: str = ""
    environment: Mapping[str, str]


class Images:
    """Gets the image of a run onto this machine.

    `secret_of` returns the value of a secret by its reference, and `log` opens the log that people
    see, to append to.
    """

    def __init__(
        self,
        engine: Engine,
        ledger: AgentLedger,
        blobs: Blobs,
        *,
        secret_of: Callable[[str], str],
        wait: CancellableWait,
        log: Callable[[], TextIO],
    ) -> None:
        self._engine = engine
        self._ledger = ledger
        self._blobs = blobs
        self._secret_of = secret_of
        self._wait = wait
        self._log = log

    def get(self, run: Run) -> ReadyImage:
        """Return the run's image once it is on this machine, and recorded.

        Raises RequestError if it cannot be pulled, or not be run here.
        """
        image = run.image or requested_image(run)
        secret = self._secret_of(image.login) if image.login.startswith("secret:") else ""
        write_login(self._engine.config, self._engine.helpers, image, secret)
        began = time.monotonic()
        found, image = self._loaded(image) if image.archive else self._pulled(image)
        _check_platform(found, image)
        if run.image is None or not run.image.digest:
            recorded = self._wait.retry(lambda: self._ledger.record_image(run.run_id, image))
            if recorded.digest != image.digest:
                # Another attempt has pulled the tag before it was moved.
                return self.get(replace(run, image=recorded))
        logger.info("the image %s is ready after %.1f s", image.digest, time.monotonic() - began)
        return read_image(found)

    def _pulled(self, image: Image) -> tuple[dict[str, Any], Image]:
        reference = pinned(image.reference, image.digest) if image.digest else image.reference
        found = self._engine.inspect("image", reference) if image.digest else None
        if found is None:
            self._pull(reference, image.login)
            found = self._engine.inspect("image", reference)
        if found is None:
            raise RequestError(f"the image {reference} was pulled, but the engine lacks it")
        digest = image.digest or _digest_of(found, reference)
        return found, replace(image, reference=pinned(image.reference, digest), digest=digest)

    def _pull(self, reference: str, login: str) -> None:
        until = time.monotonic() + REGISTRY_TIMEOUT.total_seconds()
        context = PullContext(reference=reference, login=login, platform=_platform())
        while True:
            with self._log() as log:
                layers = _Layers(f"pulling {reference}", log)
                try:
                    self._engine.stream("pull", reference, on_line=layers.note)
                except EngineError as exc:
                    problem = str(exc)
                else:
                    layers.end()
                    return
            failure = failure_of(problem)
            if not failure.may_pass or time.monotonic() > until:
                raise RequestError(explain(failure, context, problem))
            logger.warning("trying again: %s", explain(failure, context, problem))
            self._wait.pause(RETRY)

    def _loaded(self, image: Image) -> tuple[dict[str, Any], Image]:
        found = self._engine.inspect("image", image.digest) if image.digest else None
        if found is None:
            found = self._load(image.archive)
        digest = str(found["Id"])
        if image.digest not in {"", digest}:
            raise RequestError(
                f"the archive {image.archive} has another image than the run's first attempt "
                f"loaded: {digest}, not {image.digest}; start a new run for it"
            )
        return found, replace(image, digest=digest)

    def _load(self, archive: str) -> dict[str, Any]:
        bucket, key = split_s3_uri(archive)
        names: list[str] = []

        def note(line: str) -> None:
            _, sign, name = line.partition("Loaded image")
            if sign:
                names.append(name.removeprefix(" ID").lstrip(": ").strip())

        def load() -> None:
            with self._log() as log, self._blobs.open(key, bucket=bucket) as blob:
                log.write(f"loading {archive} ({blob.size_bytes / 2**20:,.0f} MiB)\n")
                self._engine.stream("load", on_line=note, body=blob.chunks)

        try:
            self._wait.retry(load)
        except (NotFoundError, RefusedError) as exc:
            raise RequestError(
                f"docker.archive: {archive} does not exist or may not be read by the instance"
            ) from exc
        except UnexpectedAwsError as exc:
            raise RequestError(f"docker.archive: {archive} cannot be read: {exc}") from exc
        except EngineError as exc:
            raise RequestError(f"docker.archive: {archive} cannot be loaded: {exc}") from exc
        found = self._engine.inspect("image", names[-1]) if names else None
        if found is None:
            raise RequestError(f"docker.archive: {archive} has no image")
        return found


def requested_image(run: Run) -> Image:
    """Return the image that a request names. Raises RequestError if it has to be built."""
    docker = run.request.docker
    if docker.image or docker.archive:
        read = parse_image_reference(docker.image)
        # An image of another region's ECR was not looked up before the launch.
        default = ECR_LOGIN if read and read.ecr_account else ""
        return Image(reference=docker.image, login=docker.login or default, archive=docker.archive)
    raise RequestError("the run's image was not built; start the run again")


def _platform() -> str:
    return f"linux/{ARCHITECTURES.get(platform.machine(), platform.machine())}"


def _check_platform(found: Mapping[str, Any], image: Image) -> None:
    own = f"{found.get('Os', 'linux')}/{found.get('Architecture', '')}"
    if own != _platform():
        name = image.archive or image.reference
        raise RequestError(
            f"the image {name} is for {own}, but this machine is {_platform()}; build it for that "
            "platform (docker build --platform), or choose other instance types"
        )


def _digest_of(found: Mapping[str, Any], reference: str) -> str:
    """Return the digest by which the registry knows an image that was just pulled."""
    names = [str(name) for name in found.get("RepoDigests") or ()]
    for name in names:
        repository, _, digest = name.partition("@")
        if pinned(reference, digest) == f"{repository}@{digest}":
            return digest
    # Docker Hub's names may be written in several ways.
    if names:
        return names[-1].partition("@")[2]
    raise RequestError(f"the image {reference} has no digest in its registry")


def read_image(found: Mapping[str, Any]) -> ReadyImage:
    """Read what the engine says about an image."""
    settings = found.get("Config") or {}
    variables = (str(each).partition("=") for each in settings.get("Env") or ())
    return ReadyImage(
        image_id=str(found["Id"]),
        entry_point=tuple(map(str, settings.get("Entrypoint") or ())),
        command=tuple(map(str, settings.get("Cmd") or ())),
        working_folder=str(settings.get("WorkingDir") or ""),
        user=str(settings.get("User") or ""),
        environment={name: value for name, _, value in variables},
    )


class _Layers:
    """The progress of a pull, from the lines of the client."""

    def __init__(self, what: str, log: TextIO) -> None:
        self._what = what
        self._log = log
        self._began = self._shown = time.monotonic()
        self._done: dict[str, bool] = {}
        self._write(f"{what}\n")

    def note(self, line: str) -> None:
        """Read a line; write a line of progress now and then."""
        layer, _, state = line.partition(": ")
        if state in {"Pulling fs layer", "Waiting"}:
            self._done.setdefault(layer, False)
        elif state in {"Pull complete", "Already exists"}:
            self._done[layer] = True
        now = time.monotonic()
        if self._done and now - self._shown >= SHOW_EVERY:
            self._shown = now
            done = sum(self._done.values())
            self._write(f"{self._what}: {done} of {len(self._done)} layers\n")

    def end(self) -> None:
        """Write how long it took."""
        self._write(f"pulled it in {time.monotonic() - self._began:.1f} s\n")

    def _write(self, text: str) -> None:
        self._log.write(text)
        self._log.flush()
