"""The environment of a trainer: its variables, and what it may see of the agent's own."""

import json
import os
import pwd
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from runctl.agent.runtime.trainer_user import TrainerUser
from runctl.agent.runtime.world import World
from runctl.model.subject import Subject
from runctl.model.trial_options import TrialOptions

PROXIES = ("http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")
# The agent's own variables that a trainer may see: none of AWS, Python or runctl.
PASSED_ON = (
    "HOME", "LANG", "LC_ALL", "LOGNAME", "SHELL", "TERM", "TMPDIR", "TZ", "USER",
    "LD_LIBRARY_PATH", "NVIDIA_VISIBLE_DEVICES", "NVIDIA_DRIVER_CAPABILITIES", *PROXIES,
)  # fmt: skip
DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True, kw_only=True)
class TrainerVariables:
    """The values of the variables that a trainer may rely on: its run and its folders.

    `world` has the other nodes of a gang. `shard` and `shards` are the number of the shard, from 0,
    and that of all shards, where the program is called once for each.
    """

    run_id: str
    attempt: int
    resume_step: int | None
    checkpoint: Path
    outputs: Path
    metrics: Path
    checkpoint_request: Path
    saved: Path
    partial: Path | None = None
    tensorboard: Path | None = None
    inputs: Path | None = None
    port: int | None = None
    trial: TrialOptions | None = None
    evaluated: Subject | None = None
    shard: int | None = None
    shards: int | None = None
    world: World | None = None

    def as_environment(self) -> dict[str, str]:
        """Return the variables by name."""
        step = None if self.evaluated is None else self.evaluated.step
        evaluated = {} if step is None else {"RUNCTL_EVALUATED_STEP": str(step)}
        numbers = {"RUNCTL_SHARD": self.shard, "RUNCTL_SHARDS": self.shards}
        folders = {
            "RUNCTL_PARTIAL_DIR": self.partial,
            "RUNCTL_INPUT_DIR": self.inputs,
            "RUNCTL_TENSORBOARD_DIR": self.tensorboard,
        }
        port = {} if self.port is None else {"RUNCTL_PORT": str(self.port)}
        return {
            **{name: str(folder) for name, folder in folders.items() if folder is not None},
            **port,
            **evaluated,
            **{name: str(number) for name, number in numbers.items() if number is not None},
            "RUNCTL_RUN_ID": self.run_id,
            "RUNCTL_ATTEMPT": str(self.attempt),
            "RUNCTL_RESUME_STEP": "" if self.resume_step is None else str(self.resume_step),
            "RUNCTL_CHECKPOINT_DIR": str(self.checkpoint),
            "RUNCTL_OUTPUT_DIR": str(self.outputs),
            "RUNCTL_METRICS_FILE": str(self.metrics),
            # The helper watches the first for requests, and appends {"step": N} to the second
            # after it has renamed a save into place.
            "RUNCTL_CHECKPOINT_REQUEST": str(self.checkpoint_request),
            "RUNCTL_SAVED_FILE": str(self.saved),
            **self._trial_variables(),
            **({} if self.world is None else self.world.variables()),
        }

    def _trial_variables(self) -> dict[str, str]:
        if self.trial is None or not self.trial.is_trial:
            return {}
        return {
            "RUNCTL_TRIAL": str(self.trial.number),
            "RUNCTL_HYPERPARAMETERS": json.dumps(dict(self.trial.hyperparameters)),
        }


def base_environment(environ: Mapping[str, str], user: TrainerUser | None = None) -> dict[str, str]:
    """Return those of the agent's variables that a program may see, as `user` has them."""
    kept = {name: environ[name] for name in PASSED_ON if name in environ}
    # systemd sets no HOME for a system service without User=; git, bash and caches want one.
    home = pwd.getpwuid(os.getuid()).pw_dir
    named = {} if user is None else user.variables()
    return {"PATH": environ.get("PATH", DEFAULT_PATH), "HOME": home, **kept, **named}


def trainer_environment(
    environ: Mapping[str, str],
    *,
    env: Mapping[str, str],
    variables: TrainerVariables,
    environment: Path,
    project: Path,
    training_path: Path,
    has_credentials: bool = False,
    user: TrainerUser | None = None,
) -> dict[str, str]:
    """Return a trainer's environment, except for its credentials.

    `env` are the request's variables, with their secrets: only its owner and root can read the
    environment of a process, but everybody its command line. `training_path` is the folder with
    the helper, `environment` that with Python, and `has_credentials` says that the trainer is
    given credentials, for which it needs a region.
    """
    base = base_environment(environ, user)
    # The project's own modules come first, so that the helper hides none of them.
    searched = [env.get("PYTHONPATH", _source_of(project)), str(training_path)]
    return {
        **base,
        "PYTHONUNBUFFERED": "1",
        **({} if user is None or has_bytecode(environment) else _own_bytecode(user)),
        **(_aws_variables(environ) if has_credentials else {}),
        **env,
        "PYTHONPATH": ":".join(filter(None, searched)),
        "PATH": f"{environment / 'bin'}:{env.get('PATH', base['PATH'])}",
        "VIRTUAL_ENV": str(environment),
        **variables.as_environment(),
    }


def container_environment(
    environ: Mapping[str, str],
    *,
    env: Mapping[str, str],
    own: Mapping[str, str],
    variables: TrainerVariables,
    project: Path | None,
    training_path: Path,
    has_credentials: bool = False,
    user: TrainerUser | None = None,
) -> dict[str, str]:
    """Return the variables of a container besides `own`, those of its image.

    Nothing of the machine's own environment counts in it but the way to the network. `project` is
    None for the program of the image, which has its own. `user` is ours, if the container runs as
    that: the image does not know it.
    """
    source = "" if project is None else _source_of(project)
    searched = [env.get("PYTHONPATH", source), str(training_path), own.get("PYTHONPATH", "")]
    proxies = {name: environ[name] for name in PROXIES if name in environ}
    return {
        **proxies,
        **({} if user is None else user.variables()),
        "PYTHONUNBUFFERED": "1",
        **(_aws_variables(environ) if has_credentials else {}),
        **env,
        "PYTHONPATH": ":".join(filter(None, searched)),
        **variables.as_environment(),
    }


def has_bytecode(environment: Path) -> bool:
    """Whether the packages of an environment are compiled, or there are none."""
    packages = [*environment.glob("lib/python3*/site-packages")]
    return not any(map(os.listdir, packages)) or any(
        next(folder.glob(pattern), None) is not None
        for folder in packages
        for pattern in ("__pycache__", "*/__pycache__")
    )


def _own_bytecode(user: TrainerUser) -> dict[str, str]:
    """Return where a program keeps its bytecode: the environment belongs to root.

    One that was built here has none, so each process would compile all that it imports.
    """
    return {"PYTHONPYCACHEPREFIX": str(user.home / ".cache/bytecode")}


def _source_of(project: Path) -> str:
    """Return the folder of a project from which its packages are imported, uninstalled."""
    return str(project / "src") if (project / "src").is_dir() else ""


def _aws_variables(environ: Mapping[str, str]) -> dict[str, str]:
    region = environ.get("AWS_DEFAULT_REGION", "")
    variables = {
        "AWS_REGION": region,
        "AWS_DEFAULT_REGION": region,
        # Set on the local cloud, or for an endpoint in the user's own network.
        "AWS_ENDPOINT_URL": environ.get("AWS_ENDPOINT_URL", ""),
    }
    return {name: value for name, value in variables.items() if value}
