"""The path to this machine's GPUs, for real: its driver, its engine, and a container of ours.

Where there is no GPU, it says so and checks nothing. The image is one of this machine (`--image`),
or is made of this machine's own libraries.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import threading
from datetime import timedelta
from pathlib import Path

from runctl.agent.instance.gpu import gpu_devices, read_driver
from runctl.agent.instance.paths import Paths
from runctl.agent.prepare.gpu_check import check_container, check_machine
from runctl.agent.prepare.image import read_image
from runctl.agent.runtime.container_runtime import ContainerRuntime
from runctl.agent.runtime.engine import Engine, EngineError
from runctl.agent.runtime.ports import ContainerOptions, Contract
from runctl.model.errors import RequestError
from tests import base_images

TAG = "runctl-gpu-check"
TIMEOUT = 300


def check(image: str, folder: Path) -> str:
    """Return what a container that runctl starts says about the GPUs; raises RequestError."""
    check_machine(os.environ, "this machine")
    driver = read_driver(os.environ)
    print(f"driver {driver.version}, CUDA {driver.cuda}, devices {', '.join(gpu_devices())}")
    paths = Paths(folder)
    paths.make()
    engine = Engine(paths.docker_config, paths.docker_helpers)
    if not image:
        archive, changes = base_images.archive("python")
        image = TAG
        options = [f"--change={change}" for change in changes]
        subprocess.run(["docker", "import", *options, archive, image], check=True)
    found = engine.inspect("image", image)
    if found is None:
        raise RequestError(f"this machine has no image {image}; pull it first")
    check_container(engine, read_image(found), os.environ)
    ended = threading.Event()
    runtime = ContainerRuntime(engine, paths, on_exit=ended.set)
    runtime.open()
    program = runtime.start(
        Contract(
            command=("nvidia-smi", "-L"),
            environment={"NVIDIA_DRIVER_CAPABILITIES": "compute,utility"},
            working_folder=paths.project,
            checkpoint=paths.checkpoint,
            output=paths.trainer_output,
            errors=paths.trainer_errors,
            save_request=paths.checkpoint_request,
            grace=timedelta(0),
            container=ContainerOptions(image=str(found["Id"]), replaces_entry_point=True),
        )
    )
    ended.wait(TIMEOUT)
    program.kill()
    runtime.kill_all()
    runtime.close()
    if program.exit_code:
        raise RequestError(f"exit code {program.exit_code}: {program.last_words()}")
    return paths.trainer_output.read_text()


def main() -> int:
    """Print what was found; return 1 if a GPU is there that a container does not see."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--image", default="", help="an image of this machine")
    arguments = parser.parse_args()
    driver = read_driver(os.environ)
    if driver.problem and not gpu_devices():
        print(f"no GPU on this machine ({driver.problem}): nothing was checked")
        return 0
    with tempfile.TemporaryDirectory(prefix="runctl-gpu-") as folder:
        try:
            print(check(arguments.image, Path(folder)))
        except (RequestError, EngineError) as exc:
            print(exc, file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
