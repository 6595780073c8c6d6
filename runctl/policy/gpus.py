"""GPUs: which machines have them, and which CUDA versions run with a driver. Pure."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from runctl.model.pool import MachineKind, machine_kind

# The oldest driver with which any minor version of CUDA runs, by CUDA's major version: NVIDIA's
# "CUDA Compatibility", minor version compatibility.
OLDEST_DRIVERS = {11: (450, 80), 12: (525, 60), 13: (580,)}
# Families whose GPUs are not NVIDIA's.
_OTHERS = frozenset({"g4ad"})
_CONDITION = re.compile(r"(?P<name>\w+)(?P<sign>>=|<=|!=|=|<|>)(?P<value>[\w.]+)")

Version = tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Driver:
    """A machine's driver, with the newest CUDA version that it supports by itself.

    `problem` says why it does not work; then both versions are empty.
    """

    version: str = ""
    cuda: str = ""
    problem: str = ""


def has_nvidia_gpus(instance_type: str) -> bool:
    """Whether machines of a type have GPUs by NVIDIA, by AWS's naming scheme."""
    if instance_type.partition(".")[0] in _OTHERS:
        return False
    try:
        return machine_kind(instance_type) is MachineKind.X86_GPU
    except ValueError:  # a type with GPUs that no launch template boots
        return True


def problem_with_cuda(environment: Mapping[str, str], driver: Driver) -> str:
    """Return why an image's CUDA does not run with a driver, and the remedy; "" if it may run.

    An image states its needs in NVIDIA_REQUIRE_CUDA: alternatives separated by spaces, each a list
    of conditions separated by commas. Otherwise CUDA_VERSION names its version.
    """
    requirement = environment.get("NVIDIA_REQUIRE_CUDA", "").strip()
    wanted = environment.get("CUDA_VERSION", "")
    if requirement and requirement.lower() != "none":
        if any(_is_satisfied(each, driver) for each in requirement.split()):
            return ""
        return _incompatible(f"needs {_first_condition(requirement)}", driver)
    major = next(iter(_numbers(wanted)), 0)
    oldest = OLDEST_DRIVERS.get(major)
    if oldest is None or not driver.version or _numbers(driver.version) >= oldest:
        return ""
    needed = ".".join(map(str, oldest))
    return _incompatible(f"has CUDA {wanted}, which needs driver {needed} or newer", driver)


def _incompatible(what: str, driver: Driver) -> str:
    return (
        f"the image {what}, but the machine's driver is {driver.version}, for CUDA {driver.cuda} "
        "and older; use an image with an older CUDA, or a machine image with a newer driver"
    )


def _is_satisfied(alternative: str, driver: Driver) -> bool:
    return all(_holds(name, sign, value, driver) for name, sign, value in _conditions(alternative))


def _conditions(alternative: str) -> Iterator[tuple[str, str, str]]:
    for text in alternative.split(","):
        if found := _CONDITION.fullmatch(text):
            yield found["name"], found["sign"], found["value"]


def _holds(name: str, sign: str, value: str, driver: Driver) -> bool:
    """Whether a condition holds. One about something else than the driver, as the brand, does."""
    known = {"cuda": driver.cuda, "driver": driver.version}.get(name)
    if not known:
        return True
    wanted = _numbers(value)
    # Only as many numbers count as the condition has: driver 470.57 is not above 470.
    have = _numbers(known)[: len(wanted)]
    have += (0,) * (len(wanted) - len(have))
    return {
        ">=": have >= wanted,
        "<=": have <= wanted,
        "!=": have != wanted,
        "=": have == wanted,
        "<": have < wanted,
        ">": have > wanted,
    }[sign]


def _first_condition(requirement: str) -> str:
    name, sign, value = next(_conditions(requirement.split(maxsplit=1)[0]), ("", "", ""))
    return f"{name}{sign}{value}" if name else requirement.split(maxsplit=1)[0]


def _numbers(text: str) -> Version:
    return tuple(int(part) for part in re.findall(r"\d+", text))
