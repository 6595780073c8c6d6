"""The files and folders of the agent on its instance."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from runctl.model.identity import TENSORBOARD

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


def read_paths(environ: Mapping[str, str] = os.environ) -> Paths:
    """Return the paths below RUNCTL_ROOT; RUNCTL_STATE_DIR overrides the state folder."""
    state_dir = environ.get("RUNCTL_STATE_DIR")
    return Paths(
        Path(environ.get("RUNCTL_ROOT") or "/"), state_dir=Path(state_dir) if state_dir else None
    )
