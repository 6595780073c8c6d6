"""The settings of the agent, from agent.env and the tags of the instance."""

import os
from collections.abc import Mapping
from dataclasses import dataclass

from runctl.agent.instance.assignment import read_assignment
from runctl.agent.instance.imds import Metadata, MetadataError
from runctl.agent.instance.paths import Paths, read_paths
from runctl.model.errors import SettingsError
from runctl.model.identity import ATTEMPT_TAG, NODES_TAG, RUN_TAG
from runctl.model.node import NodeId


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The settings that the agent was started with; an existing instance outlives the attempt.

    `is_gang` says that its attempt has several nodes, of which the ledger knows the rank, and
    `address` is its private IPv4 address. `instance_type` is empty where it is not known.
    `trainer_user` is the name of the user that programs run as, empty where there is none.
    """

    paths: Paths
    run_id: str
    attempt: int
    instance_id: str
    table: str
    bucket: str
    log_group: str
    region: str
    is_existing_instance: bool = False
    rank: int = 0
    instance_type: str = ""
    is_gang: bool = False
    address: str = ""
    trainer_user: str = ""

    @property
    def node(self) -> NodeId:
        """The node that this machine is."""
        return NodeId(self.run_id, self.attempt, self.rank)


def read_settings(metadata: Metadata, environ: Mapping[str, str] = os.environ) -> Settings:
    """Read agent.env's variables and this instance's tags.

    Raises SettingsError if waiting cannot help, and MetadataError if it may: tags given at launch
    are there from the first moment, but the service itself can be late.
    """
    missing = [
        name
        for name in ("RUNCTL_TABLE", "RUNCTL_BUCKET", "RUNCTL_LOG_GROUP", "RUNCTL_REGION")
        if not environ.get(name)
    ]
    if missing:
        raise SettingsError(f"agent.env lacks {', '.join(missing)}")
    is_existing_instance = bool(environ.get("RUNCTL_RUN_ID"))
    rank = 0
    if is_existing_instance:
        # A machine that existed before the run has no tags of it, or none in its metadata.
        run_id: str | None = environ["RUNCTL_RUN_ID"]
        attempt = int(environ["RUNCTL_ATTEMPT"])
    elif assigned := read_assignment(read_paths(environ).assignment):
        run_id, attempt, rank = assigned
    else:
        run_id, attempt = metadata.get(f"tags/instance/{RUN_TAG}"), _attempt(metadata)
    instance_id = metadata.get("instance-id")
    if not run_id or not instance_id:
        raise MetadataError(f"this instance has no tag {RUN_TAG} in its metadata")
    return Settings(
        paths=read_paths(environ),
        run_id=run_id,
        attempt=attempt,
        instance_id=instance_id,
        table=environ["RUNCTL_TABLE"],
        bucket=environ["RUNCTL_BUCKET"],
        log_group=environ["RUNCTL_LOG_GROUP"],
        region=environ["RUNCTL_REGION"],
        is_existing_instance=is_existing_instance,
        rank=rank,
        instance_type=metadata.get("instance-type") or "",
        is_gang=not is_existing_instance and metadata.get(f"tags/instance/{NODES_TAG}") is not None,
        address=metadata.get("local-ipv4") or "",
        trainer_user=environ.get("RUNCTL_TRAINER_USER", ""),
    )


def _attempt(metadata: Metadata) -> int:
    text = metadata.get(f"tags/instance/{ATTEMPT_TAG}")
    if not text:
        raise MetadataError(f"this instance has no tag {ATTEMPT_TAG} in its metadata")
    if not text.isdigit():
        raise SettingsError(f"tag {ATTEMPT_TAG}: {text!r} is not a valid attempt number")
    return int(text)
