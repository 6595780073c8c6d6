"""The settings of the agent, from agent.env and the tags of the instance."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from runctl.agent.instance.assignment import read_assignment
from runctl.agent.instance.imds import Metadata, MetadataError
from runctl.model.errors import SettingsError
from runctl.model.identity import ATTEMPT_TAG, NODES_TAG, RUN_TAG
from runctl.model.node import NodeId
from runctl.model.trackers import TENSORBOARD

# Where the runtime writes the variables of a container for the engine, until that has read them.
CONTAINER_VARIABLES = "container-{}.env"


@dataclass(frozen=True)
class Paths:
    """Every file and folder of ours, below `root` (`/` on AWS).

    `state_dir` is another path of the state folder: the local cloud mounts it where EC2 has it.
    """

    root: Path
    state_dir: Path | None = None

    @property
    def state(self) -> Path:
        """The folder for files that are kept as long as the instance."""
        return self.state_dir or self.root / "var/lib/runctl"

    @property
    def runtime(self) -> Path:
        """The folder for files that are kept until the next boot: requests, the lease."""
        return self.root / "run/runctl"

    @property
    def project(self) -> Path:
        """The trainer's working directory."""
        return self.state / "project"

    @property
    def checkpoint(self) -> Path:
        """RUNCTL_CHECKPOINT_DIR, unless the request names a folder of the project."""
        return self.state / "checkpoint"

    @property
    def tensorboard(self) -> Path:
        """RUNCTL_TENSORBOARD_DIR, a folder of the outputs."""
        return self.output / TENSORBOARD

    @property
    def home(self) -> Path:
        """The home folder of the user that programs run as."""
        return self.state / "home"

    @property
    def partial(self) -> Path:
        """RUNCTL_PARTIAL_DIR, if an earlier attempt left an unfinished checkpoint."""
        return self.state / "partial"

    @property
    def had_containers(self) -> Path:
        """Exists once a container was created, until an agent has removed all that are left."""
        return self.state / "had-containers"

    @property
    def docker_config(self) -> Path:
        """The configuration of the Docker client, with the logins of registries."""
        return self.runtime / "docker"

    @property
    def docker_helpers(self) -> Path:
        """The programs that the Docker client asks for logins."""
        return self.state / "docker-helpers"

    @property
    def requests(self) -> Path:
        """Where `runctl-agent drain|checkpoint|stop` leaves its request."""
        return self.runtime / "requests"

    @property
    def lease(self) -> Path:
        """Touched on each accepted heartbeat; the dead-man timer reads it."""
        return self.runtime / "lease"

    @property
    def notice(self) -> Path:
        """Exists once EC2 has announced that it takes the instance; the dead-man timer reads it."""
        return self.runtime / "notice"

    @property
    def fence(self) -> Path:
        """The result of loading the metadata fence in this boot."""
        return self.runtime / "fence"

    @property
    def log(self) -> Path:
        """The trainer's output and the agent's own log."""
        return self.state / "log"

    @property
    def output(self) -> Path:
        """RUNCTL_OUTPUT_DIR."""
        return self.state / "output"

    @property
    def inputs(self) -> Path:
        """RUNCTL_INPUT_DIR, if the request has inputs."""
        return self.state / "input"

    @property
    def metrics(self) -> Path:
        """RUNCTL_METRICS_FILE."""
        return self.state / "metrics.jsonl"

    @property
    def checkpoint_request(self) -> Path:
        """Where the trainer's helper finds a request to save."""
        return self.runtime / "checkpoint-request"

    @property
    def saved(self) -> Path:
        """The list of saves that the trainer's helper has renamed into place."""
        return self.runtime / "saved.jsonl"

    @property
    def pulses(self) -> Path:
        """RUNCTL_PULSE_DIR, where the ranks of a gang show their signs of life."""
        return self.runtime / "pulses"

    @property
    def reported(self) -> Path:
        """Exists once the attempt's report was accepted."""
        return self.runtime / "reported"

    @property
    def assignment(self) -> Path:
        """The attempt that this instance has, if it is not the one that its tags name."""
        return self.state / "assignment.json"

    @property
    def failures(self) -> Path:
        """The number of times that the agent itself failed, as the length of the file."""
        return self.runtime / "failures"

    @property
    def trainer_output(self) -> Path:
        """The trainer's standard output, after that of building its environment."""
        return self.log / "trainer.out"

    @property
    def trainer_errors(self) -> Path:
        """The trainer's standard error."""
        return self.log / "trainer.err"

    @property
    def agent_log(self) -> Path:
        """The agent's own log."""
        return self.log / "agent.log"

    def make(self) -> None:
        """Create the folders."""
        for folder in (self.state, self.runtime, self.requests, self.log):
            folder.mkdir(parents=True, exist_ok=True)
        # A trainer may print what other users of the machine should not read.
        self.log.chmod(0o700)
        for name in ("project", "checkpoint", "input", "output", "environments"):
            (self.state / name).mkdir(exist_ok=True)


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


def read_paths(environ: Mapping[str, str] = os.environ) -> Paths:
    """Return the paths below RUNCTL_ROOT; RUNCTL_STATE_DIR overrides the state folder."""
    state_dir = environ.get("RUNCTL_STATE_DIR")
    return Paths(
        Path(environ.get("RUNCTL_ROOT") or "/"), state_dir=Path(state_dir) if state_dir else None
    )


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
