"""The check for GPUs before the training: without it, a trainer would use the CPU for hours."""

import logging
import os
from collections.abc import Mapping
from pathlib import Path

from runctl.agent.instance.gpu import read_driver
from runctl.agent.instance.settings import Settings
from runctl.agent.prepare.image import ReadyImage
from runctl.agent.runtime.engine import Engine, EngineError
from runctl.model.errors import RequestError
from runctl.policy.gpus import has_nvidia_gpus, problem_with_cuda

GPU_LINE = "GPU "
NO_TOOLKIT = (
    "no GPU visible in the container: the Docker engine lacks the NVIDIA container toolkit; use a "
    "machine image that has it, as AWS's deep-learning images do, or install "
    "nvidia-container-toolkit and restart Docker"
)

logger = logging.getLogger(__name__)


def check_gpus(settings: Settings) -> None:
    """Raise RequestError if this machine should have GPUs and shows none."""
    # Below another root, as on the local cloud, a machine has none whatever its type.
    if has_nvidia_gpus(settings.instance_type) and settings.paths.root == Path("/"):
        check_machine(os.environ, settings.instance_type)


def check_machine(environ: Mapping[str, str], instance_type: str) -> None:
    """Raise RequestError unless the driver of this machine shows its GPUs."""
    if problem := read_driver(environ).problem:
        raise RequestError(
            f"no GPU visible on this machine ({instance_type}): {problem}; use a machine image "
            "with NVIDIA's driver, or instance types without GPUs"
        )


def check_container(engine: Engine, image: ReadyImage, environ: Mapping[str, str]) -> None:
    """Raise RequestError unless a container of an image sees the GPUs and can use the driver."""
    if problem := problem_with_cuda(image.environment, read_driver(environ)):
        raise RequestError(problem)
    try:
        said = engine.call(*check_words(image.image_id))
    except EngineError as exc:
        if "could not select device driver" in str(exc):
            raise RequestError(f"{NO_TOOLKIT}: {exc}") from exc
        raise RequestError(
            "no GPU visible in the container; check the machine image's driver and NVIDIA "
            f"container toolkit, and the CUDA version of the image: {exc}"
        ) from exc
    if GPU_LINE not in said:
        raise RequestError(
            "no GPU visible in the container: nvidia-smi lists none; check NVIDIA_VISIBLE_DEVICES "
            f"in the Dockerfile, and the machine's driver: {said.strip()}"
        )
    logger.info("the container sees %s", said.strip())


def check_words(image_id: str) -> list[str]:
    """Return the words of `docker` that list the GPUs in a container of an image."""
    words = ["run", "--rm", "--pull", "never", "--network", "none", "--cap-drop", "ALL"]
    words += ["--security-opt", "no-new-privileges", "--no-healthcheck", "--gpus", "all"]
    # An image may leave the tool out, which only this check needs.
    words += ["--env", "NVIDIA_DRIVER_CAPABILITIES=compute,utility"]
    return [*words, "--entrypoint", "nvidia-smi", image_id, "-L"]
