"""vCPU quotas of EC2: which one an instance type counts against, and how a person raises it.

Names and families: the user guide's pages on Spot and On-Demand instance quotas
(using-spot-limits.html, ec2-on-demand-instances.html); codes: Service Quotas, service `ec2`.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, order=True)
class VcpuQuota:
    """A quota on the vCPUs of a group of families, per account and region."""

    code: str
    name: str

    def __str__(self) -> str:
        return f"{self.code} ({self.name})"

    def console(self, region: str) -> str:
        """Return the page where the quota is seen and raised."""
        return f"{console(region)}/{self.code}"


def console(region: str) -> str:
    """Return the page with all quotas of EC2."""
    return f"https://{region}.console.aws.amazon.com/servicequotas/home/services/ec2/quotas"


_STANDARD = ("a", "c", "d", "h", "i", "im", "is", "m", "r", "t", "z")
# Families are written as in the types' names: the letters before the generation.
_GROUPS: Mapping[str, tuple[str, ...]] = {
    "standard": _STANDARD,
    "g": ("g", "gr", "vt"),
    "p": ("p",),
    "f": ("f",),
    "x": ("x",),
    "inf": ("inf",),
    "trn": ("trn",),
    "dl": ("dl",),
    "hpc": ("hpc",),
    "u": ("u",),
}
_GROUP_OF = {series: group for group, members in _GROUPS.items() for series in members}
_QUOTAS: Mapping[tuple[str, str], VcpuQuota] = {
    ("standard", "spot"): VcpuQuota(
        "L-34B43A08", "All Standard (A, C, D, H, I, M, R, T, Z) Spot Instance Requests"
    ),
    ("g", "spot"): VcpuQuota("L-3819A6DF", "All G and VT Spot Instance Requests"),
    ("p", "spot"): VcpuQuota("L-7212CCBC", "All P4, P3 and P2 Spot Instance Requests"),
    ("p5", "spot"): VcpuQuota("L-C4BD4855", "All P5 Spot Instance Requests"),
    ("f", "spot"): VcpuQuota("L-88CF9481", "All F Spot Instance Requests"),
    ("x", "spot"): VcpuQuota("L-E3A00192", "All X Spot Instance Requests"),
    ("inf", "spot"): VcpuQuota("L-B5D1601B", "All Inf Spot Instance Requests"),
    ("trn", "spot"): VcpuQuota("L-6B0D517C", "All Trn Spot Instance Requests"),
    ("dl", "spot"): VcpuQuota("L-85EED4F7", "All DL Spot Instance Requests"),
    ("standard", "on-demand"): VcpuQuota(
        "L-1216C47A", "Running On-Demand Standard (A, C, D, H, I, M, R, T, Z) instances"
    ),
    ("g", "on-demand"): VcpuQuota("L-DB2E81BA", "Running On-Demand G and VT instances"),
    ("p", "on-demand"): VcpuQuota("L-417A185B", "Running On-Demand P instances"),
    ("f", "on-demand"): VcpuQuota("L-74FC7D96", "Running On-Demand F instances"),
    ("x", "on-demand"): VcpuQuota("L-7295265B", "Running On-Demand X instances"),
    ("inf", "on-demand"): VcpuQuota("L-1945791B", "Running On-Demand Inf instances"),
    ("trn", "on-demand"): VcpuQuota("L-2C3B7624", "Running On-Demand Trn instances"),
    ("dl", "on-demand"): VcpuQuota("L-6E869C2A", "Running On-Demand DL instances"),
    ("hpc", "on-demand"): VcpuQuota("L-F7808C92", "Running On-Demand HPC instances"),
    ("u", "on-demand"): VcpuQuota("L-43DA4232", "Running On-Demand High Memory instances"),
}
QUOTAS: Mapping[str, VcpuQuota] = {quota.code: quota for quota in _QUOTAS.values()}

_SERIES = re.compile(r"(?P<series>[a-z]+)-?(?P<generation>\d+)")


def quota_of(instance_type: str, market: str) -> VcpuQuota | None:
    """Return the quota that an instance of a type counts against in a market.

    None when it is not known: a new family may be given a quota of its own, as P5 was for Spot.
    """
    match = _SERIES.match(instance_type)
    if match is None:
        return None
    group = _GROUP_OF.get(match["series"], "")
    if group == "p" and market == "spot" and int(match["generation"]) > 4:
        group = f"p{match['generation']}"
    return _QUOTAS.get((group, market))
