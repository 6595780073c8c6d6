"""The root volume that a request asks for: its size and its speed."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from runctl.model.request_fields import Option, Syntax, optional_number

# The limits of gp3 volumes, according to the EC2 API reference.
MAX_GIB = 65_536
BASE_THROUGHPUT, MAX_THROUGHPUT = 125, 2000
BASE_IOPS, MAX_IOPS = 3000, 80_000
# According to the EBS user guide: 0.25 MiB/s for each IOPS, and 500 IOPS for each GiB.
IOPS_PER_MIB = 4
IOPS_PER_GIB = 500


@dataclass(frozen=True, kw_only=True)
class DiskOptions:
    """The root volume of every instance of a run; 0 stands for the deployment's own value."""

    gib: int = optional_number(
        "Size of the instance's disk in GiB, at least the deployment's. It is enlarged where the "
        "known sizes need more.",
        least=1,
        most=MAX_GIB,
        option=Option("--disk-gib", "Size of the instance's disk in GiB.", "N", Syntax.NUMBER),
    )
    throughput: int = optional_number(
        "Throughput of the disk in MiB/s.",
        least=BASE_THROUGHPUT,
        most=MAX_THROUGHPUT,
        option=Option(
            "--disk-throughput",
            f"Throughput of the disk in MiB/s, from {BASE_THROUGHPUT} to {MAX_THROUGHPUT}.",
            "N",
            Syntax.NUMBER,
        ),
    )
    iops: int = optional_number(
        "I/O operations per second of the disk. Default: as many as the throughput needs.",
        least=BASE_IOPS,
        most=MAX_IOPS,
        option=Option(
            "--disk-iops",
            f"I/O operations per second of the disk, from {BASE_IOPS} to {MAX_IOPS}.",
            "N",
            Syntax.NUMBER,
        ),
    )


def check_together(disk: Mapping[str, Any]) -> str | None:
    """Check values that are each valid against each other: EC2 limits their ratios."""
    gib, throughput, iops = (_number(disk, name) for name in ("gib", "throughput", "iops"))
    if iops and throughput > iops // IOPS_PER_MIB:
        return (
            f"a throughput of {throughput} MiB/s needs at least {throughput * IOPS_PER_MIB} iops, "
            f"and iops is {iops}; raise iops, or remove it"
        )
    if gib and iops > gib * IOPS_PER_GIB:
        return (
            f"{iops} iops need a disk of at least {-(-iops // IOPS_PER_GIB)} GiB, and gib is "
            f"{gib}; raise gib, or lower iops"
        )
    needed = throughput * IOPS_PER_MIB
    if gib and not iops and throughput > BASE_THROUGHPUT and needed > gib * IOPS_PER_GIB:
        return (
            f"a throughput of {throughput} MiB/s needs {needed} iops and with them a disk of at "
            f"least {-(-needed // IOPS_PER_GIB)} GiB, and gib is {gib}; raise gib"
        )
    return None


def _number(disk: Mapping[str, Any], name: str) -> int:
    value = disk.get(name)
    return value if type(value) is int else 0
