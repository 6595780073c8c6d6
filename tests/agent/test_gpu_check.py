"""The check for GPUs, on machines that have none: what is refused, and the exact command."""

from __future__ import annotations

from pathlib import Path

import pytest

from runctl.agent.instance.gpu import gpu_devices, read_driver
from runctl.agent.prepare.gpu_check import check_container, check_machine, check_words
from runctl.agent.prepare.image import ReadyImage
from runctl.agent.runtime.engine import Engine
from runctl.model.errors import RequestError

# As nvidia-smi of a G5 instance begins.
SAID = """\
+-----------------------------------------------------------------------------------------+
| NVIDIA-SMI 550.127.08             Driver Version: 550.127.08     CUDA Version: 12.4     |
|-----------------------------------------+------------------------+----------------------+
"""
NO_DRIVER = (
    "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver. Make sure that "
    "the latest NVIDIA driver is installed and running."
)
IMAGE = ReadyImage(image_id="sha256:0123", environment={})


def machine(
    folder: Path, *, said: str = SAID, code: int = 0, docker: str = "exit 1"
) -> dict[str, str]:
    """Return the environment of a machine with these programs."""
    (folder / "said").write_text(said)
    programs = {"nvidia-smi": f"cat {folder}/said; exit {code}", "docker": docker}
    for name, text in programs.items():
        (folder / name).write_text(f"#!/bin/sh\n{text}\n")
        (folder / name).chmod(0o755)
    return {"PATH": f"{folder}:/usr/bin:/bin"}


def test_driver_is_read_from_what_nvidia_smi_prints(tmp_path: Path) -> None:
    driver = read_driver(machine(tmp_path))
    assert (driver.version, driver.cuda, driver.problem) == ("550.127.08", "12.4", "")


def test_devices_of_gpus_are_counted_and_no_others(tmp_path: Path) -> None:
    for name in ("nvidia0", "nvidia11", "nvidiactl", "nvidia-uvm", "null"):
        (tmp_path / name).touch()
    assert gpu_devices(tmp_path) == ["nvidia0", "nvidia11"]


@pytest.mark.parametrize(
    ("environ", "words"),
    [
        ({"said": NO_DRIVER, "code": 9}, "nvidia-smi failed: NVIDIA-SMI has failed because"),
        ({"said": "No devices were found", "code": 6}, "No devices were found"),
        ({"said": "", "code": 1}, "nvidia-smi failed: exit code 1"),
    ],
)
def test_machine_whose_driver_shows_no_gpu_is_refused(
    tmp_path: Path, environ: dict[str, object], words: str
) -> None:
    with pytest.raises(RequestError, match=r"no GPU visible on this machine \(g5.xlarge\)") as told:
        check_machine(machine(tmp_path, **environ), "g5.xlarge")
    assert words in str(told.value)
    assert "use a machine image with NVIDIA's driver" in str(told.value)


def test_machine_without_a_driver_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="nvidia-smi cannot be run: No such file"):
        check_machine({"PATH": str(tmp_path)}, "g5.xlarge")


def test_container_is_asked_for_its_gpus_by_exactly_this_command() -> None:
    assert check_words("sha256:0123") == [
        "run", "--rm", "--pull", "never", "--network", "none", "--cap-drop", "ALL",
        "--security-opt", "no-new-privileges", "--no-healthcheck", "--gpus", "all",
        "--env", "NVIDIA_DRIVER_CAPABILITIES=compute,utility",
        "--entrypoint", "nvidia-smi", "sha256:0123", "-L",
    ]  # fmt: skip


TOOLKIT = 'could not select device driver "" with capabilities: [[gpu]].'
CUDA = "nvidia-container-cli: requirement error: unsatisfied condition: cuda>=12.8"


@pytest.mark.parametrize(
    ("docker", "words"),
    [
        (f"echo '{TOOLKIT}' >&2; exit 125", "lacks the NVIDIA container toolkit"),
        (f"echo '{CUDA}' >&2; exit 125", "unsatisfied condition: cuda>=12.8"),
        ("echo 'No devices found.'", "nvidia-smi lists none"),
    ],
)
def test_container_that_sees_no_gpu_is_refused_with_the_remedy(
    tmp_path: Path, docker: str, words: str
) -> None:
    environ = machine(tmp_path, docker=docker)
    with pytest.raises(RequestError, match="no GPU visible in the container") as told:
        check_container(Engine(tmp_path, tmp_path, environ), IMAGE, environ)
    assert words in str(told.value)


def test_image_that_the_driver_is_too_old_for_is_refused_before_any_container(
    tmp_path: Path,
) -> None:
    environ = machine(tmp_path, docker=f"touch {tmp_path}/called")
    image = ReadyImage(image_id="i", environment={"NVIDIA_REQUIRE_CUDA": "cuda>=12.8"})
    with pytest.raises(RequestError, match=r"the image needs cuda>=12.8, but the machine's driver"):
        check_container(Engine(tmp_path, tmp_path, environ), image, environ)
    assert not (tmp_path / "called").exists()


def test_container_that_sees_a_gpu_passes(tmp_path: Path) -> None:
    environ = machine(tmp_path, docker="echo 'GPU 0: NVIDIA A10G (UUID: GPU-1)'")
    check_container(Engine(tmp_path, tmp_path, environ), IMAGE, environ)
