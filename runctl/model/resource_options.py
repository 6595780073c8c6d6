"""The options of a request that say where its program runs."""

from dataclasses import dataclass

from runctl.model import request_checks as checks
from runctl.model.disk_options import DiskOptions, check_together
from runctl.model.instance_types import MAX_TYPES, check_instance_types
from runctl.model.request_checks import INSTANCE_ID
from runctl.model.request_fields import (
    Option,
    Syntax,
    an_object,
    choice,
    strings,
    text,
)

UNKNOWN = "unknown"
MARKETS = ("spot", "on-demand", "spot-then-on-demand")
# Half the size, for a run that waits more than it computes.
SMALL_INSTANCE_TYPES = [
    "m7i.large", "m7a.large", "m6i.large", "m6a.large", "m5.large",
    "m5a.large", "c7i.large", "c6i.large", "c6a.large", "r6i.large",
]  # fmt: skip
DEFAULT_INSTANCE_TYPES = (
    "m7i.xlarge", "m7a.xlarge", "m6i.xlarge", "m6a.xlarge", "m5.xlarge",
    "m5a.xlarge", "c7i.xlarge", "c6i.xlarge", "c6a.xlarge", "r6i.xlarge",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class ResourceOptions:
    """Where the program runs."""

    instance_id: str = text(
        "An existing instance for the first attempt only; instances for later attempts are "
        "launched. It is not terminated with the run.",
        check=checks.check_instance_id,
        pattern=f"^{INSTANCE_ID.pattern}$",
    )
    instance_types: tuple[str, ...] = strings(
        "Instance types that the run may use; with ten or more, it is interrupted less often.",
        check=check_instance_types,
        default=DEFAULT_INSTANCE_TYPES,
        limits={"minItems": 1, "maxItems": MAX_TYPES},
        option=Option(
            "--instance-types",
            "Instance types that the run may use, separated by commas; repeatable.",
            "TYPES",
            Syntax.COMMAS,
        ),
        is_setting=True,
        in_repr=True,
    )
    market: str = choice(
        "How capacity is bought.",
        choices=MARKETS,
        noun="market",
        default="spot",
        unknown=UNKNOWN,
        option=Option("--market", "spot, on-demand or spot-then-on-demand.", "MARKET"),
        is_setting=True,
    )
    disk: DiskOptions = an_object(
        "The disk of each instance. Default: that of the deployment.",
        holder=DiskOptions,
        is_setting=True,
        omits_default=True,
        check_together=check_together,
    )
