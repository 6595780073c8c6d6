"""Instance types that the deployment's images do not support.

AWS Deep Learning AMI release notes, "Base OSS Nvidia Driver GPU AMI": the open kernel modules
support G4dn, G5, G6, Gr6, G6e, G7, P4d, P4de, P5, P5e, P5en and P6, whose GPUs are of Turing or
newer. Older GPUs by NVIDIA need the proprietary driver; those by AMD, and the accelerators of AWS,
Habana and Xilinx, need other images. A type that is not listed here is left to EC2 and the image.
"""

import re
from collections.abc import Iterable, Set

from runctl.model.pool import MachineKind, machine_kind

_OTHER_DRIVERS = {
    "p2": "NVIDIA's proprietary driver",
    "p3": "NVIDIA's proprietary driver",
    "p3dn": "NVIDIA's proprietary driver",
    "g2": "NVIDIA's proprietary driver",
    "g3": "NVIDIA's proprietary driver",
    "g3s": "NVIDIA's proprietary driver",
    "g4ad": "AMD's driver",
}
_OTHER_SERIES = {
    "inf": "the AWS Neuron SDK",
    "trn": "the AWS Neuron SDK",
    "dl": "the software of its accelerators",
    "vt": "the software of its transcoders",
}
_SERIES = re.compile(r"[a-z]+")


def problem_with_images(instance_types: Iterable[str], *, own_images: Set[MachineKind]) -> str:
    """Return which types the images do not support, with the remedy; empty if there are none.

    `own_images` are the kinds of machines for which the deployment has an image of its owner's,
    whose drivers are unknown here.
    """
    for name in instance_types:
        family = name.partition(".")[0]
        series = _SERIES.match(family)
        needed = _OTHER_DRIVERS.get(family) or _OTHER_SERIES.get(series[0] if series else "")
        kind = machine_kind(name)
        if needed and kind not in own_images:
            return (
                f"{name} needs an image with {needed}, which the deployment's image for "
                f"{kind.value} does not have; leave the type out, or deploy with an image that has "
                f"it: cdk deploy --all -c image_{kind.value}=AMI -c root_device_{kind.value}=DEVICE"
            )
    return ""
