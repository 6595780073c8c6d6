"""Capacity pools: instance type × availability zone × market."""

import re
from dataclasses import dataclass
from enum import Enum

# What EC2 did not say about the pool of an error or a machine.
UNKNOWN = "unknown"


@dataclass(frozen=True, order=True)
class Pool:
    """One pool of capacity; EC2 refuses and reclaims pool by pool."""

    instance_type: str
    zone: str
    market: str  # "spot" or "on-demand"

    def __str__(self) -> str:
        return f"{self.instance_type}/{self.zone}/{self.market}"

    @classmethod
    def parse(cls, text: str) -> "Pool":
        """Read `type/zone/market`; ValueError for anything else."""
        parts = text.split("/")
        if len(parts) != 3 or not all(parts):
            raise ValueError(f"{text!r} is not a pool such as m5.large/us-east-1a/spot")
        return cls(*parts)


class MachineKind(str, Enum):
    """Which launch template, and so which image, an instance type boots."""

    X86_GPU = "x86_gpu"
    X86_CPU = "x86_cpu"
    ARM_CPU = "arm_cpu"


_FAMILY = re.compile(r"(?P<series>[a-z]+)(?P<generation>\d+)(?P<options>[a-z0-9-]*)")
_GPU_SERIES = frozenset({"g", "gr", "p"})


def machine_kind(instance_type: str) -> MachineKind:
    """Return the kind of machine of a type, by AWS's naming scheme for instance types.

    A `g` among the options after the generation is Graviton. Raises ValueError for the arm64 GPU
    family (g5g), for which there is no launch template.
    """
    match = _FAMILY.match(instance_type.split(".", maxsplit=1)[0])
    if match is None:
        return MachineKind.X86_CPU
    arm = "g" in match["options"] or instance_type.startswith("a1.")
    if match["series"] in _GPU_SERIES:
        if arm:
            raise ValueError(f"{instance_type} is an arm64 GPU machine, which has no image here")
        return MachineKind.X86_GPU
    return MachineKind.ARM_CPU if arm else MachineKind.X86_CPU
