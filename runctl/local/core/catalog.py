"""The instance types and public images that the local cloud knows."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from functools import cache

from runctl.local.core.market import ON_DEMAND_PRICES
from runctl.local.core.protocol import ApiError, service_model

_SIZES = {"nano": 2, "micro": 2, "small": 2, "medium": 2, "large": 2, "xlarge": 4}
_METAL = 96
_GPUS = {
    "g4dn.xlarge": 1, "g4dn.2xlarge": 1, "g4dn.8xlarge": 1, "g4dn.12xlarge": 4, "g5.xlarge": 1,
    "g5.2xlarge": 1, "g5.8xlarge": 1, "g5.12xlarge": 4, "g5.48xlarge": 8, "g6.xlarge": 1,
    "g6.2xlarge": 1, "p3.2xlarge": 1, "p3.8xlarge": 4, "p3.16xlarge": 8, "p4d.24xlarge": 8,
    "p5.48xlarge": 8,
}  # fmt: skip
# As DescribeInstanceTypes answers: the types with several network cards, and those with EFA.
_CARDS = {"p4d.24xlarge": 4, "p5.48xlarge": 32}
_WITH_EFA = frozenset(
    {
        "c5n.18xlarge", "g4dn.8xlarge", "g4dn.12xlarge", "g5.8xlarge", "g5.12xlarge",
        "g5.48xlarge", "p4d.24xlarge", "p5.48xlarge",
    }
)  # fmt: skip
# Burstable and flexible families, and a few old ones.
_NOT_IN_CLUSTERS = re.compile(r"(t\d[a-z]*|[a-z]+\d+i-flex|[cm]1|m[23]|mac.*|vt1)\..+")
# GiB of memory per vCPU, by the letter of the family.
_MEMORY_SHARE = {"c": 2, "m": 4, "r": 8, "t": 2, "g": 4, "p": 12}
_PUBLIC_IMAGES = ("/aws/service/ami-", "/aws/service/canonical/", "/aws/service/deeplearning/",
                  "/aws/service/ecs/", "/aws/service/eks/")  # fmt: skip


@dataclass(frozen=True)
class Network:
    """The network cards of an instance type, and the placement groups that it may be in."""

    cards: int
    has_efa: bool
    strategies: tuple[str, ...]

    @property
    def interface_types(self) -> tuple[str, ...]:
        """The types of network interfaces of each card."""
        return ("interface", "efa", "efa-only") if self.has_efa else ("interface",)


@dataclass(frozen=True)
class InstanceType:
    """The facts about an instance type that callers ask for."""

    name: str
    vcpus: int
    memory_mib: int
    architecture: str
    gpus: int
    network: Network


def known_types() -> list[str]:
    """List the instance types on offer."""
    return sorted(ON_DEMAND_PRICES)


@cache
def existing_types() -> frozenset[str]:
    """List the instance types that EC2 has, on offer here or not."""
    return frozenset(service_model("ec2").shape_for("InstanceType").enum)  # type: ignore[attr-defined]


def architecture(name: str) -> str:
    """Return the processor architecture of an instance type."""
    return "arm64" if re.match(r"[a-z]+\d+g[a-z]*\.", name) else "x86_64"


def look_up(name: str) -> InstanceType:
    """Describe an instance type, or refuse as EC2 does."""
    if name not in ON_DEMAND_PRICES:
        raise ApiError(
            "InvalidInstanceType", f"The following supplied instance types do not exist: [{name}]"
        )
    memory = 1 if name.endswith(".micro") else vcpus(name) * _MEMORY_SHARE[name[0]]
    return InstanceType(
        name=name,
        vcpus=vcpus(name),
        memory_mib=memory * 1024,
        architecture=architecture(name),
        gpus=_GPUS.get(name, 0),
        network=Network(
            cards=_CARDS.get(name, 1),
            has_efa=has_efa(name),
            strategies=(*(("cluster",) if can_cluster(name) else ()), "partition", "spread"),
        ),
    )


def has_efa(name: str) -> bool:
    """Return whether an interface of this type can be an Elastic Fabric Adapter."""
    return name in _WITH_EFA


def can_cluster(name: str) -> bool:
    """Return whether instances of this type can be in a cluster placement group."""
    return _NOT_IN_CLUSTERS.fullmatch(name) is None


def vcpus(name: str) -> int:
    """Return the vCPUs of a type, by its size, on offer here or not."""
    size = name.partition(".")[2]
    multiple = re.fullmatch(r"(?:metal-)?(\d+)xl(?:arge)?", size)
    return int(multiple.group(1)) * 4 if multiple else _SIZES.get(size, _METAL)


def is_image_parameter(name: str) -> bool:
    """Return whether a public parameter names an image."""
    return name.startswith(_PUBLIC_IMAGES)


def resolve_image(parameter: str) -> str:
    """Return the image behind a public parameter, always the same for the same parameter."""
    if not is_image_parameter(parameter):
        raise ApiError("InvalidParameterValue", f"The parameter {parameter} names no image.")
    image_id = f"ami-{hashlib.sha256(parameter.encode()).hexdigest()[:17]}"
    _PARAMETERS[image_id] = parameter
    return image_id


# The images that were resolved so far, with their parameters.
_PARAMETERS: dict[str, str] = {}


def parameter_of_image(image_id: str) -> str | None:
    """Return the public parameter that names an image, None for an image that none named yet."""
    return _PARAMETERS.get(image_id)
