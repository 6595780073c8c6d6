"""GPUs: which machines have them, and which CUDA versions run with a driver."""

from __future__ import annotations

import pytest

from runctl.policy.gpus import Driver, has_nvidia_gpus, problem_with_cuda

DRIVER = Driver(version="550.127.08", cuda="12.4")
# As the image nvidia/cuda:12.4.1-base-ubuntu22.04 has it, shortened.
REQUIRES_12_4 = (
    "cuda>=12.4 brand=tesla,driver>=470,driver<471 brand=unknown,driver>=470,driver<471 "
    "brand=tesla,driver>=535,driver<536"
)


@pytest.mark.parametrize(
    ("instance_type", "expected"),
    [
        ("g5.xlarge", True),
        ("gr6.4xlarge", True),
        ("p4d.24xlarge", True),
        ("g5g.xlarge", True),
        ("g4ad.xlarge", False),
        ("m7i.xlarge", False),
        ("inf2.xlarge", False),
        ("unknown", False),
    ],
)
def test_machines_with_gpus_by_nvidia_are_known_by_their_family(
    instance_type: str, expected: bool
) -> None:
    assert has_nvidia_gpus(instance_type) is expected


@pytest.mark.parametrize(
    ("environment", "driver"),
    [
        ({}, DRIVER),
        ({"CUDA_VERSION": "12.8.1"}, DRIVER),
        ({"CUDA_VERSION": "11.8.0"}, DRIVER),
        ({"CUDA_VERSION": "not a version"}, DRIVER),
        ({"NVIDIA_REQUIRE_CUDA": REQUIRES_12_4}, DRIVER),
        ({"NVIDIA_REQUIRE_CUDA": REQUIRES_12_4}, Driver(version="535.183.01", cuda="12.2")),
        ({"NVIDIA_REQUIRE_CUDA": REQUIRES_12_4}, Driver(version="470.57.02", cuda="11.4")),
        ({"NVIDIA_REQUIRE_CUDA": "none", "CUDA_VERSION": ""}, DRIVER),
    ],
)
def test_image_that_may_run_has_no_problem(environment: dict[str, str], driver: Driver) -> None:
    assert problem_with_cuda(environment, driver) == ""


@pytest.mark.parametrize(
    ("environment", "driver", "words"),
    [
        (
            {"CUDA_VERSION": "12.8.1"},
            Driver(version="470.57.02", cuda="11.4"),
            (
                "the image has CUDA 12.8.1, which needs driver 525.60 or newer, but the machine's "
                "driver is 470.57.02, for CUDA 11.4 and older"
            ),
        ),
        ({"CUDA_VERSION": "13.0"}, DRIVER, "needs driver 580 or newer"),
        (
            {"NVIDIA_REQUIRE_CUDA": REQUIRES_12_4},
            Driver(version="525.105.17", cuda="12.0"),
            "the image needs cuda>=12.4, but the machine's driver is 525.105.17",
        ),
        (
            {"NVIDIA_REQUIRE_CUDA": REQUIRES_12_4},
            Driver(version="471.11", cuda="11.4"),
            "the image needs cuda>=12.4",
        ),
    ],
)
def test_image_that_the_driver_is_too_old_for_is_named_with_both_versions_and_the_remedy(
    environment: dict[str, str], driver: Driver, words: str
) -> None:
    problem = problem_with_cuda(environment, driver)
    assert words in problem
    assert "use an image with an older CUDA" in problem
