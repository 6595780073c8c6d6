"""Names of runs, attempts, nodes, executions, objects and items."""

import hashlib
import re
from datetime import date

from runctl.model.errors import SettingsError

RUN_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
DEPLOYMENT_NAME = re.compile(r"[a-z][a-z0-9-]{0,19}")
_SAVE = re.compile(r"/s([0-9]{9,})-[^/]*\.json\Z")
_NODE_MANIFEST = re.compile(r"/checkpoints/nodes/([0-9]{4,9})-([0-9]{3,9})/([0-9]{9,})\.json\Z")
RUN_ID_RULE = "1 to 64 letters, digits, '_' or '-'"

# Instance metadata serves a tag only when its key has no space and no '/'.
RUN_TAG = "runctl:run-id"
ATTEMPT_TAG = "runctl:attempt"
# How many nodes the attempt has, on the machines of a gang: their ranks are in the ledger.
NODES_TAG = "runctl:nodes"
# Which deployment launched it: an account and region may have several, with runs of the same name.
DEPLOYMENT_TAG = "runctl:deployment"
DEFAULT_DEPLOYMENT = "runctl"
# Until when a machine that a person launched is kept without a run: ISO 8601, with a zone.
KEEP_ALIVE_TAG = "runctl:keep-alive-until"
# On a machine that existed before the run: its owner permits runctl to send it commands.
EXISTING_TAG = "runctl:lent"


def check_deployment_name(name: str) -> str:
    """Return a deployment's name, or raise SettingsError."""
    if not DEPLOYMENT_NAME.fullmatch(name):
        raise SettingsError(
            f"RUNCTL_DEPLOYMENT: {name!r} is not a valid name: use a lower-case letter, then "
            "at most 19 lower-case letters, digits and '-' (default: runctl)"
        )
    return name


def continuation_name(run_id: str, number: int) -> str:
    """Return the name of execution `number` (2 and up) of a run.

    The name of an execution that ended stays reserved for 90 days, so each needs its own.
    """
    return f"{run_id}-r{number}"


def client_token(*, deployment: str, run_id: str, attempt: int, launch_try: int) -> str:
    """Return the idempotency token of one CreateFleet request: 64 ASCII characters.

    Tokens belong to an account and region, where another deployment may have a run of this name.
    """
    text = f"{deployment}\0{run_id}\0{attempt}\0{launch_try}"
    return hashlib.sha256(text.encode()).hexdigest()


# S3 keys, below the one bucket.

# Where users put what their runs read; instances also read other runs and code.
INPUTS_PREFIX = "inputs/"
# Where runs write results that outlive them.
OUTPUTS_PREFIX = "outputs/"
READABLE_PREFIXES = (INPUTS_PREFIX, OUTPUTS_PREFIX, "code/", "environments/", "runs/")


def code_key(sha256: str) -> str:
    """Return where a packed project is stored, named by its content."""
    return f"code/{sha256}.tar.gz"


ENVIRONMENTS = "environments/"
ENVIRONMENT_PARTS = f"{ENVIRONMENTS}parts/"
# The areas of runs that may use shared environments and store none; the layout is the same.
OWN_ENVIRONMENTS = f"{ENVIRONMENTS}own/"


def environments_prefix(area: str = "") -> str:
    """Return the prefix of the environments of an area, or of those that all runs share."""
    return f"{OWN_ENVIRONMENTS}{area}/" if area else ENVIRONMENTS


def environment_manifest_key(fingerprint: str, sha256: str, *, area: str = "") -> str:
    """Return where the manifest of an environment is stored, named by its content."""
    return f"{environments_prefix(area)}manifests/{fingerprint}/{sha256}.json"


def current_environment_key(fingerprint: str, *, area: str = "") -> str:
    """Return where it is written which manifest new runs use."""
    return f"{environments_prefix(area)}current/{fingerprint}"


def environment_use_key(fingerprint: str, day: date, *, area: str = "") -> str:
    """Return the marker of a day on which an environment was used."""
    return f"{environments_prefix(area)}uses/{fingerprint}/{day.isoformat()}"


def run_prefix(run_id: str) -> str:
    """Return the prefix of all objects of a run."""
    return f"runs/{run_id}/"


def environment_prefix(run_id: str, generation: int = 0) -> str:
    """Return the prefix of what a run records of its environment.

    A run whose recorded versions were dropped has one record for each generation.
    """
    return f"{run_prefix(run_id)}environment/" + (f"{generation:04d}/" if generation else "")


def versions_key(run_id: str, generation: int = 0) -> str:
    """Return where the exact versions of a run's dependencies are recorded."""
    return f"{environment_prefix(run_id, generation)}versions.json"


def used_environment_key(
    run_id: str, fingerprint: str, generation: int = 0, *, area: str = ""
) -> str:
    """Return where a run records the digest of the manifest that it uses.

    A fingerprint includes the kind of machine, so a run may use more than one environment. Nothing
    below this prefix can be overwritten, unlike what is below the run's own.
    """
    prefix = run_environments_prefix(run_id, area=area)
    return f"{prefix}{generation:04d}/{fingerprint}.json"


def run_environments_prefix(run_id: str, *, area: str = "") -> str:
    """Return the prefix of the records of the environments that a run uses."""
    return f"{environments_prefix(area)}runs/{run_id}/"


def part_key(run_id: str, sha256: str) -> str:
    """Return where a part of a checkpoint is stored, named by its content."""
    return f"{run_prefix(run_id)}checkpoints/parts/{sha256}"


def manifest_key(run_id: str, *, save: int, attempt: int, revision: int = 0) -> str:
    """Return where the manifest of a checkpoint is stored; keys sort by save, attempt, revision.

    A manifest is never overwritten: a second one with the same number is its next revision. Older
    versions wrote `{step:012d}-…`, which sorts below.
    """
    suffix = f".r{revision:04d}" if revision else ""
    return f"{manifest_prefix(run_id)}s{save:09d}-{attempt:04d}{suffix}.json"


def save_of(manifest: str) -> int:
    """Return the number of the save in the key of a manifest, 0 if it has none."""
    found = _SAVE.search(manifest)
    return int(found[1]) if found else 0


def manifest_prefix(run_id: str) -> str:
    """Return the prefix of a run's manifests."""
    return f"{run_prefix(run_id)}checkpoints/manifests/"


def partial_prefix(run_id: str) -> str:
    """Return the prefix of the manifests of unfinished checkpoints."""
    return f"{run_prefix(run_id)}checkpoints/partial/"


def partial_key(run_id: str, attempt: int, rank: int) -> str:
    """Return where the manifest of a node's unfinished checkpoint is stored.

    Older versions wrote `{attempt:04d}.json`; keys still sort by attempt.
    """
    return f"{partial_prefix(run_id)}{_node(attempt, rank)}.json"


def node_manifest_prefix(run_id: str) -> str:
    """Return the prefix of the manifests of what single nodes have stored of a checkpoint."""
    return f"{run_prefix(run_id)}checkpoints/nodes/"


def node_manifest_key(run_id: str, attempt: int, rank: int, number: int) -> str:
    """Return where the manifest of a node's files is stored; `number` counts those of the node.

    It is never overwritten.
    """
    return f"{node_manifest_prefix(run_id)}{_node(attempt, rank)}/{number:09d}.json"


def node_of_manifest(key: str) -> tuple[int, int, int] | None:
    """Return attempt, rank and number of a node's manifest, None for another key."""
    found = _NODE_MANIFEST.search(key)
    return None if found is None else (int(found[1]), int(found[2]), int(found[3]))


def output_prefix(run_id: str) -> str:
    """Return the prefix of what the trainer left in RUNCTL_OUTPUT_DIR."""
    return f"{run_prefix(run_id)}outputs/"


# The folder of the outputs that TensorBoard reads.
TENSORBOARD = "tensorboard"


def shards_prefix(job: str) -> str:
    """Return the prefix of what a processing job records of its shards."""
    return f"{run_prefix(job)}shards/"


def plan_key(job: str) -> str:
    """Return where the plan of a job's shards is stored."""
    return f"{shards_prefix(job)}plan.jsonl"


def result_key(job: str, shard: int) -> str:
    """Return where the result of a shard is stored, which completes it."""
    return f"{shards_prefix(job)}done/{shard:08d}.json"


def failure_key(job: str, shard: int) -> str:
    """Return where the failure of a shard is stored."""
    return f"{shards_prefix(job)}failed/{shard:08d}.json"


def index_part_key(job: str, first_shard: int) -> str:
    """Return where the part of a job's index that begins with a shard is stored."""
    return f"{shards_prefix(job)}index/{first_shard:08d}.jsonl"


def shard_checkpoint_key(job: str, shard: int) -> str:
    """Return where the checkpoint folder of an interrupted shard is stored.

    Agents may remove what is below `checkpoints/`.
    """
    return f"{run_prefix(job)}checkpoints/shards/{shard:08d}.tar.gz"


def all_metrics_prefix(run_id: str) -> str:
    """Return the prefix of the metric objects of all attempts, whose keys sort by attempt."""
    return f"{run_prefix(run_id)}metrics/"


def metrics_prefix(run_id: str, attempt: int, rank: int) -> str:
    """Return the prefix of a node's metric objects.

    It is below `metrics/{attempt:04d}/`, where older versions wrote them.
    """
    return f"{run_prefix(run_id)}metrics/{attempt:04d}/{rank:03d}/"


def is_of_first_rank(metrics_key: str) -> bool:
    """Whether a metric object is of the node of rank 0, whose metrics are those of the attempt."""
    rank = re.search(r"/metrics/\d+/(\d{3})/[^/]+\Z", metrics_key)
    return rank is None or int(rank[1]) == 0


def boot_log_key(run_id: str, attempt: int, rank: int) -> str:
    """Return where the agent of a node stores its log when the attempt ends."""
    return f"{run_prefix(run_id)}logs/{_node(attempt, rank)}-agent.log"


# CloudWatch Logs: one group for all runs, one stream a node, and one for the log of its agent.


def log_stream(run_id: str, attempt: int, rank: int) -> str:
    """Return the stream to which the agent of a node sends the trainer's output."""
    return f"{run_id}/{_node(attempt, rank)}"


def log_streams(run_id: str, attempt: int, rank: int) -> tuple[str, ...]:
    """Return the streams that may hold the trainer's output on a node, the likeliest first.

    Agents of older versions, whose attempts have one machine, name it by the attempt alone.
    """
    stream = log_stream(run_id, attempt, rank)
    return (stream, f"{run_id}/{attempt:04d}") if rank == 0 else (stream,)


def agent_log_stream(stream: str) -> str:
    """Return the stream of the agent's own log, next to that of its trainer."""
    return f"{stream}-agent"


def saved_image_key(image_id: str) -> str:
    """Return where an image that `docker save` wrote is stored; agents may read this prefix."""
    return f"code/images/{image_id.rpartition(':')[2]}.tar.gz"


def build_log_stream(run_id: str) -> str:
    """Return the beginning of the streams with the output of the builds of a run's image.

    CodeBuild appends a slash and the build's id.
    """
    return f"{run_id}/image"


def _node(attempt: int, rank: int) -> str:
    return f"{attempt:04d}-{rank:03d}"


# Ledger keys. One table: `pk`, `sk`.


def run_key(run_id: str) -> dict[str, str]:
    """Return the key of a run's item."""
    return {"pk": f"RUN#{run_id}", "sk": "RUN"}


ATTEMPTS = "ATTEMPT#"  # begins the sort keys of a run's attempts, and of their nodes


def attempt_key(run_id: str, attempt: int) -> dict[str, str]:
    """Return the key of an attempt's item; attempts sort by number."""
    return {"pk": f"RUN#{run_id}", "sk": f"{ATTEMPTS}{attempt:04d}"}


def token_key(run_id: str, attempt: int) -> dict[str, str]:
    """Return the key of the item with the task token of an attempt.

    Its partition has nothing else: permissions cannot distinguish items of one partition, and
    no other attempt may read it.
    """
    return {"pk": f"TOKEN#{run_id}#{attempt:04d}", "sk": "TOKEN"}


def node_key(run_id: str, attempt: int, rank: int) -> dict[str, str]:
    """Return the key of a node's item; nodes follow their attempt, in the order of their ranks."""
    return {"pk": f"RUN#{run_id}", "sk": f"{attempt_key(run_id, attempt)['sk']}#NODE#{rank:03d}"}


def execution_key(name: str) -> dict[str, str]:
    """Return the key of the item that names the run of an execution."""
    return {"pk": f"EXECUTION#{name}", "sk": "EXECUTION"}


def instance_key(instance_id: str) -> dict[str, str]:
    """Return the key of the item that names the node on an instance."""
    return {"pk": f"INSTANCE#{instance_id}", "sk": "INSTANCE"}


def pool_key(pool: str) -> dict[str, str]:
    """Return the key of a capacity pool's item."""
    return {"pk": f"POOL#{pool}", "sk": "POOL"}


# The items of groups. Instances may write to those of warm instances, and not to those of groups.


def group_key(group_id: str) -> dict[str, str]:
    """Return the key of a group's item; what its runs are about is stored next to it."""
    return {"pk": f"GROUP#{group_id}", "sk": "GROUP"}


def group_execution_key(name: str) -> dict[str, str]:
    """Return the key of the item that names the group of an execution.

    Names are unique within a state machine only: a run may have an execution of that name, too.
    """
    return {"pk": f"EXECUTION#{name}", "sk": "GROUP"}


def warm_key(group_id: str, instance_id: str) -> dict[str, str]:
    """Return the key of the item of a warm instance of a group.

    The instance writes this item, and no other instance may: policies cannot distinguish the items
    of one partition, hence the partition of its own.
    """
    return {"pk": f"WARM#{group_id}#{instance_id}", "sk": "OFFER"}


def warm_list_key(group_id: str, instance_id: str) -> dict[str, str]:
    """Return the key of a warm instance in the list of its group, which only functions write."""
    return {"pk": f"WARM#{group_id}", "sk": f"INSTANCE#{instance_id}"}


TRIALS = "TRIAL#"  # begins the sort keys of a sweep's trials


def trial_key(group_id: str, number: int) -> dict[str, str]:
    """Return the key of a trial's item, which is stored next to its group; they sort by number."""
    return {"pk": f"GROUP#{group_id}", "sk": f"{TRIALS}{number:05d}"}


def rung_prefix(rung: int) -> str:
    """Return how the sort keys of the items of a rung begin."""
    return f"RUNG#{rung:010d}#"


def rung_key(group_id: str, rung: int, number: int) -> dict[str, str]:
    """Return the key of the item with a trial's value at a rung."""
    return {"pk": f"GROUP#{group_id}", "sk": f"{rung_prefix(rung)}{number:05d}"}


def sweep_results_key(group_id: str, name: str) -> str:
    """Return where a file with the results of a sweep is stored."""
    return f"groups/{group_id}/{name}"
