"""An instance: what EC2 reports about it, and why it ended."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path

from runctl.local.core.market import Lifecycle, Pool
from runctl.local.core.records import Profile, Subnet

STATE_CODES = {
    "pending": 0, "running": 16, "shutting-down": 32, "terminated": 48,
    "stopping": 64, "stopped": 80,
}  # fmt: skip


@dataclass(frozen=True)
class End:
    """Why an instance ends, in EC2's words."""

    code: str
    message: str
    transition: str
    journal_reason: str
    state: str = "terminated"


@dataclass
class Maintenance:
    """A scheduled event of an instance; `state` is active, completed or canceled."""

    event_id: str
    code: str
    description: str
    not_before: datetime
    not_after: datetime
    state: str = "active"


RECLAIMED = End("Server.SpotInstanceTermination", "Spot instance termination", "", "reclaimed")
CRASHED = End("Server.InternalError", "Internal error on launch or while running", "", "crashed")


def ended_by_user() -> End:
    """Describe the end caused by TerminateInstances."""
    now = datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M:%S")
    return End(
        "Client.UserInitiatedShutdown",
        "User initiated shutdown",
        f"User initiated ({now} GMT)",
        "terminated by a call",
    )


def ended_by_itself(behavior: str) -> End:
    """Describe the end caused by `shutdown` on the instance."""
    stops = behavior == "stop"
    return End(
        "Client.InstanceInitiatedShutdown",
        "Instance initiated shutdown",
        "",
        "shut down from inside",
        state="stopped" if stops else "terminated",
    )


@dataclass
class Instance:
    """An instance, with everything that EC2 reports about it."""

    instance_id: str
    instance_type: str
    lifecycle: Lifecycle
    subnet: Subnet
    image_id: str
    account: str
    region: str
    user_data: bytes
    root: Path
    private_ip: str
    tags: dict[str, str]
    architecture: str = "x86_64"
    profile: Profile | None = None
    tags_in_metadata: bool = False
    shutdown_behavior: str = "stop"
    security_groups: tuple[str, ...] = ()
    placement_group: str = ""
    fleet_id: str | None = None
    client_token: str = ""
    reservation_id: str = field(default_factory=lambda: f"r-{secrets.token_hex(9)[:17]}")
    launched_at: datetime = field(default_factory=lambda: datetime.now(timezone.utc))
    visible_at: float = 0.0
    state: str = "pending"
    end: End | None = None
    notice: datetime | None = None
    rebalance: datetime | None = None
    impaired: dict[str, datetime] = field(default_factory=dict)
    maintenance: list[Maintenance] = field(default_factory=list)
    agent_ready: bool = False
    metadata_url: str = ""
    supervisor_pid: int | None = None
    has_own_disk: bool = False
    has_own_network: bool = False
    disk_scale: float = 1.0

    @property
    def zone(self) -> str:
        """The availability zone."""
        return self.subnet.zone

    @property
    def pool(self) -> Pool:
        """The capacity pool that it came from."""
        return Pool(self.instance_type, self.zone, self.lifecycle)

    @property
    def reachable_ip(self) -> str:
        """The address at which other instances reach it.

        Without a network of its own, it is one of the many addresses of the machine's loopback.
        """
        if self.has_own_network:
            return self.private_ip
        return f"127.{self.private_ip.partition('.')[2]}"

    @property
    def private_dns(self) -> str:
        """The name that the VPC's DNS would give it."""
        return f"ip-{self.private_ip.replace('.', '-')}.ec2.internal"

    @property
    def arn(self) -> str:
        """Its ARN."""
        return f"arn:aws:ec2:{self.region}:{self.account}:instance/{self.instance_id}"

    @property
    def is_alive(self) -> bool:
        """Whether it is starting or running."""
        return self.state in {"pending", "running"}

    @property
    def console_log(self) -> Path:
        """The file for its user data's output; a full disk of the instance does not affect it."""
        if self.has_own_disk:
            return self.root.with_name(f"{self.root.name}.console.log")
        return self.root / "var/log/cloud-init-output.log"


def new_instance_id() -> str:
    """Make an instance id."""
    return f"i-{secrets.token_hex(9)[:17]}"
