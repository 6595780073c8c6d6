"""How runs, attempts, executions, objects and items are named."""

import hashlib
import re

from runctl.model.errors import SettingsError

RUN_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
DEPLOYMENT_NAME = re.compile(r"[a-z][a-z0-9-]{0,19}")
RUN_ID_RULE = "1 to 64 letters, digits, '_' or '-'"

# Instance metadata serves a tag only when its key has no space and no '/'.
RUN_TAG = "runctl:run-id"
ATTEMPT_TAG = "runctl:attempt"
# Which deployment launched it: an account and region may have several, with runs of the same name.
DEPLOYMENT_TAG = "runctl:deployment"
DEFAULT_DEPLOYMENT = "runctl"
# Until when a machine that somebody asked for lives without a run; an ISO 8601 instant with a zone.
KEEP_ALIVE_TAG = "runctl:keep-alive-until"
# On a machine that was there before the run: its owner lets runctl send it commands.
EXISTING_TAG = "runctl:lent"


def check_deployment_name(name: str) -> str:
    """Return a deployment's name, or raise SettingsError."""
    if not DEPLOYMENT_NAME.fullmatch(name):
        raise SettingsError(
            f"RUNCTL_DEPLOYMENT: {name!r} is not the name of a deployment: a lower-case letter, "
            "then at most 19 lower-case letters, digits and '-' (default: runctl)"
        )
    return name


def continuation_name(run_id: str, number: int) -> str:
    """Return the name of execution `number` (2 and up) of a run.

    A closed execution's name stays taken for 90 days, so each needs its own.
    """
    return f"{run_id}-r{number}"


def client_token(*, deployment: str, run_id: str, attempt: int, launch_try: int) -> str:
    """Return the idempotency token of one CreateFleet request: 64 ASCII characters.

    EC2 knows tokens by account and region, where another deployment may have a run of this name.
    """
    named = f"{deployment}\0{run_id}\0{attempt}\0{launch_try}"
    return hashlib.sha256(named.encode()).hexdigest()


# S3 keys, below the one bucket.


def code_key(sha256: str) -> str:
    """Return where a packed project lives; its name is its content."""
    return f"code/{sha256}.tar.gz"


def environment_key(fingerprint: str) -> str:
    """Return where a built trainer environment is cached."""
    return f"environments/{fingerprint}.tar.gz"


def run_prefix(run_id: str) -> str:
    """Return the prefix below which everything of a run lives."""
    return f"runs/{run_id}/"


def versions_key(run_id: str) -> str:
    """Return where the exact versions of a run's dependencies are recorded."""
    return f"{run_prefix(run_id)}environment/versions.json"


def part_key(run_id: str, sha256: str) -> str:
    """Return where a checkpoint part lives; its name is its content."""
    return f"{run_prefix(run_id)}checkpoints/parts/{sha256}"


def manifest_key(run_id: str, *, save: int, attempt: int, revision: int = 0) -> str:
    """Return where the manifest of a checkpoint lives; keys sort by save, attempt, revision.

    A manifest is never overwritten: a second one with the same number is its next revision. Older
    versions wrote `{step:012d}-…`, which sorts below.
    """
    suffix = f".r{revision:04d}" if revision else ""
    return f"{manifest_prefix(run_id)}s{save:09d}-{attempt:04d}{suffix}.json"


def manifest_prefix(run_id: str) -> str:
    """Return the prefix of a run's manifests."""
    return f"{run_prefix(run_id)}checkpoints/manifests/"


def partial_prefix(run_id: str) -> str:
    """Return the prefix of the manifests of what unfinished checkpoints left."""
    return f"{run_prefix(run_id)}checkpoints/partial/"


def partial_key(run_id: str, attempt: int) -> str:
    """Return where the manifest of an attempt's unfinished checkpoint lives."""
    return f"{partial_prefix(run_id)}{attempt:04d}.json"


def output_prefix(run_id: str) -> str:
    """Return the prefix of what the trainer left in RUNCTL_OUTPUT_DIR."""
    return f"{run_prefix(run_id)}outputs/"


def metrics_prefix(run_id: str, attempt: int) -> str:
    """Return the prefix of an attempt's metric chunks."""
    return f"{run_prefix(run_id)}metrics/{attempt:04d}/"


def boot_log_key(run_id: str, attempt: int) -> str:
    """Return where the agent leaves the log of its own work when an attempt ends."""
    return f"{run_prefix(run_id)}logs/{attempt:04d}-agent.log"


# CloudWatch Logs: one group for all runs, one stream an attempt.


def log_stream(run_id: str, attempt: int) -> str:
    """Return the stream that holds the trainer's output in one attempt."""
    return f"{run_id}/{attempt:04d}"


# Ledger keys. One table: `pk`, `sk`.


def run_key(run_id: str) -> dict[str, str]:
    """Return the key of a run's item."""
    return {"pk": f"RUN#{run_id}", "sk": "RUN"}


def attempt_key(run_id: str, attempt: int) -> dict[str, str]:
    """Return the key of an attempt's item; attempts sort by number."""
    return {"pk": f"RUN#{run_id}", "sk": f"ATTEMPT#{attempt:04d}"}


def execution_key(name: str) -> dict[str, str]:
    """Return the key of the item that says which run an execution belongs to."""
    return {"pk": f"EXECUTION#{name}", "sk": "EXECUTION"}


def instance_key(instance_id: str) -> dict[str, str]:
    """Return the key of the item that says whose an instance is."""
    return {"pk": f"INSTANCE#{instance_id}", "sk": "INSTANCE"}


def pool_key(pool: str) -> dict[str, str]:
    """Return the key of a capacity pool's item."""
    return {"pk": f"POOL#{pool}", "sk": "POOL"}
