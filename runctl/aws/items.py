"""Items of runs, attempts and nodes in DynamoDB, and how every version's are read."""

import contextlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timezone
from typing import Any

from runctl.aws.attributes import (
    Item,
    document_of,
    either_of,
    instant_of,
    text_of,
    whole_number_of,
)
from runctl.model.gang import GangReport
from runctl.model.image import Image
from runctl.model.node import Node, NodeProgress, NodeStage
from runctl.model.outcome import Outcome, RunStatus
from runctl.model.request import RunRequest
from runctl.model.result_metrics import stored_text
from runctl.model.run import (
    Attempt,
    AttemptsSummary,
    AttemptStage,
    Existing,
    KeptNode,
    Launched,
    Run,
    Source,
    Warm,
)
from runctl.model.saving import Saving
from runctl.model.service import Service
from runctl.model.shard_progress import ShardProgress
from runctl.model.staging import Staging
from runctl.model.subject import Subject

# The start of a run whose stored start cannot be read: a listing shows it last.
LONG_AGO = datetime(1970, 1, 1, tzinfo=timezone.utc)

# Attributes that earlier versions store in another form. While a deployment is upgraded, two
# versions write to the same items: a value may be stored in both forms, and the reader joins them.
OLD_NOTIFIED_END, OLD_RUNNING_AT = "told_end", "training_at"
OLD_EXISTING = "lent:"
OLD_STAGES = {"training": AttemptStage.RUNNING}

# An item with this `summary_version` has the summary of the run's attempts; otherwise an earlier
# version created the run, or a newer one changed the summary's form, and the attempts have to be
# read. Changes of an attempt update the attributes whichever version the item has.
SUMMARY_VERSION = 1
SUMMARY_ATTRIBUTES = (
    "last_attempt", "last_pool", "pool_attempt", "running_attempts", "is_recovering",
    "completed_attempts", "interruptions", "failures",
)  # fmt: skip


def run_item(run: Run) -> Item:
    """Return the attributes of a run's item; None is left out, so that it can be conditioned on."""
    item = {
        "listed": "run",
        "unsettled": None if run.is_settled else "run",
        "run_id": run.run_id,
        "request": json.dumps(run.request.as_document(), sort_keys=True),
        "started_at": text_of(run.started_at),
        "execution": run.execution,
        "execution_arn": run.execution_arn,
        "executions": run.executions,
        "first_attempt": run.first_attempt,
        "ancestors": list(run.ancestors),
        "environment_generation": run.environment_generation or None,
        "fence": run.fence,
        "step": run.step,
        "save": run.save or None,
        "best_step": run.best_step,
        "progressed_attempt": run.progressed_attempt,
        "newest": run.newest,
        "proven": run.proven,
        "suspects": set(run.suspects) or None,
        "committed_at": None if run.committed_at is None else text_of(run.committed_at),
        "ended": None if run.ended is None else run.ended.value,
        "ended_at": None if run.ended_at is None else text_of(run.ended_at),
        "reason": run.reason or None,
        "notified_end": None if run.notified_end is None else text_of(run.notified_end),
        "image": None if run.image is None else image_text(run.image),
        "metrics": stored_text(run.metrics) if run.metrics else None,
        "mlflow_run": run.mlflow_run or None,
        "subject": None if run.subject is None else json.dumps(run.subject.as_document()),
        "evaluated_save": run.evaluated_save or None,
        "pins": set(run.pins) or None,
        "input_bytes": run.input_bytes or None,
        "code_bytes": run.code_bytes or None,
        "newest_bytes": run.newest_bytes or None,
        **({} if run.summary is None else summary_values(run.summary)),
    }
    return {name: value for name, value in item.items() if value is not None}


def read_run(item: Mapping[str, Any]) -> Run:
    """Read a run from its item's plain values, whichever version wrote them.

    Never raises for what a newer version may add or change: a listing shows other runs, too.
    """
    return Run(
        run_id=item["run_id"],
        request=RunRequest.from_stored(document_of(item, "request")),
        started_at=instant_of(item, "started_at") or LONG_AGO,
        execution=item.get("execution", ""),
        execution_arn=item.get("execution_arn", ""),
        executions=whole_number_of(item, "executions") or 1,
        first_attempt=whole_number_of(item, "first_attempt") or 1,
        ancestors=tuple(item.get("ancestors", ())),
        environment_generation=whole_number_of(item, "environment_generation") or 0,
        fence=whole_number_of(item, "fence") or 0,
        step=whole_number_of(item, "step"),
        save=whole_number_of(item, "save") or 0,
        # Before version 2 of the manifests steps never went back.
        best_step=whole_number_of(item, "best_step" if "best_step" in item else "step"),
        progressed_attempt=whole_number_of(item, "progressed_attempt"),
        newest=item.get("newest"),
        proven=item.get("proven"),
        suspects=frozenset(item.get("suspects", ())),
        committed_at=instant_of(item, "committed_at"),
        ended=_status(item["ended"]) if "ended" in item else None,
        ended_at=instant_of(item, "ended_at"),
        reason=item.get("reason", ""),
        notified_end=either_of(item, "notified_end", OLD_NOTIFIED_END, max),
        input_bytes=whole_number_of(item, "input_bytes") or 0,
        code_bytes=whole_number_of(item, "code_bytes") or 0,
        newest_bytes=whole_number_of(item, "newest_bytes") or 0,
        summary=_summary(item),
        image=Image.from_stored(document_of(item, "image")),
        metrics=document_of(item, "metrics"),
        mlflow_run=str(item.get("mlflow_run", "")),
        subject=Subject.from_stored(document_of(item, "subject")),
        evaluated_save=whole_number_of(item, "evaluated_save") or 0,
        pins=frozenset(item.get("pins", ())),
    )


def image_text(image: Image) -> str:
    """Return the attribute of a run's item that stores its image."""
    return json.dumps(image.as_document(), sort_keys=True)


def summary_values(summary: AttemptsSummary) -> Item:
    """Return the attributes of a run's item that summarize its attempts; None for no value."""
    return {
        "summary_version": SUMMARY_VERSION,
        "last_attempt": summary.last or None,
        "last_pool": summary.pool or None,
        "pool_attempt": summary.pool_attempt or None,
        "running_attempts": set(summary.running) or None,
        "is_recovering": summary.is_recovering or None,
        "completed_attempts": set(summary.completed) or None,
        "interruptions": summary.interruptions or None,
        "failures": summary.failures or None,
    }


def _summary(item: Mapping[str, Any]) -> AttemptsSummary | None:
    if whole_number_of(item, "summary_version") != SUMMARY_VERSION:
        return None
    return AttemptsSummary(
        last=whole_number_of(item, "last_attempt") or 0,
        pool=item.get("last_pool", ""),
        pool_attempt=whole_number_of(item, "pool_attempt") or 0,
        running=frozenset(int(number) for number in item.get("running_attempts", ())),
        is_recovering=bool(item.get("is_recovering")),
        completed=frozenset(int(number) for number in item.get("completed_attempts", ())),
        interruptions=whole_number_of(item, "interruptions") or 0,
        failures=whole_number_of(item, "failures") or 0,
    )


def source_values(source: Source) -> Item:
    """Return the attributes that say where an attempt's machine comes from.

    Earlier versions recognize an existing instance by its `fleet_request` alone; without it, a
    function that is not upgraded yet would terminate a machine that belongs to its owner.
    """
    if isinstance(source, Launched):
        values: Item = {"fleet_request": source.fleet_request, "plan": source.plan}
        if source.kept:
            values["kept"] = json.dumps([[node.instance_id, node.pool] for node in source.kept])
        return values
    if isinstance(source, Warm):
        return {"fleet_request": "", "plan": source.plan, "warm_instance": source.instance_id}
    return {
        "existing_instance": source.instance_id,
        "fleet_request": f"{OLD_EXISTING}{source.instance_id}",
    }


def read_attempts(items: Iterable[Mapping[str, Any]]) -> list[Attempt]:
    """Read attempts with their nodes from plain values, whichever version wrote them.

    `items` are in the order of their keys: an attempt, then its nodes by rank.
    """
    grouped: list[tuple[Mapping[str, Any], list[Mapping[str, Any]]]] = []
    for item in items:
        if "rank" not in item:
            grouped.append((item, []))
        elif grouped and grouped[-1][0]["number"] == item["number"]:
            grouped[-1][1].append(item)
    return [_read_attempt(item, node_items) for item, node_items in grouped]


def _read_attempt(item: Mapping[str, Any], node_items: Sequence[Mapping[str, Any]]) -> Attempt:
    return Attempt(
        run_id=item["run_id"],
        number=int(item["number"]),
        stage=_stage(item),
        launch_try=whole_number_of(item, "launch_try") or 1,
        source=_source(item),
        has_token=_has_token(item),
        launched_at=instant_of(item, "launched_at"),
        running_at=either_of(item, "running_at", OLD_RUNNING_AT, min),
        ended_at=instant_of(item, "ended_at"),
        ended=Outcome.from_stored(document_of(item, "ended")) if "ended" in item else None,
        nodes=_read_nodes(item, node_items),
    )


def node_values(node: Node) -> Item:
    """Return the attributes of the item of a node that has reported nothing yet.

    `number` is stored for earlier versions, whose query for attempts finds nodes as well and
    expects it.
    """
    return {
        "run_id": node.run_id,
        "number": node.attempt,
        "rank": node.rank,
        "stage": node.stage.value,
        "timeline": {},
    }


def progress_values(progress: NodeProgress) -> Item:
    """Return the attributes of what a node reports, without its timeline; None is not known."""
    return {
        "phase": progress.phase,
        "resume_step": progress.resume_step,
        "resume_save": progress.resume_save,
        "progress_step": progress.step,
        "metrics": json.dumps(dict(progress.metrics))
        if progress.metrics or progress.not_finite
        else None,
        "not_finite": set(progress.not_finite) or None,
        "saving": None if progress.saving is None else json.dumps(progress.saving.as_document()),
        "staging": None if progress.staging is None else json.dumps(progress.staging.as_document()),
        "service": None if progress.service is None else json.dumps(progress.service.as_document()),
        "environment_bytes": progress.environment_bytes or None,
        "shards": None if progress.shards is None else json.dumps(progress.shards.as_document()),
        "gang": None if progress.gang is None else json.dumps(progress.gang.as_document()),
        "warning": progress.warning,
    }


def _read_nodes(
    item: Mapping[str, Any], node_items: Sequence[Mapping[str, Any]]
) -> tuple[Node, ...]:
    """Read the nodes of an attempt.

    Versions without nodes write everything to the attempt's item. Their attempt is read as one with
    a single node, and what their agent writes next to an item of that node is joined with it.
    """
    nodes = tuple(_read_node(node_item) for node_item in node_items)
    if any(node.instance_id for node in nodes):
        # A launch try before the last one may have opened more nodes than the gang has now.
        nodes = tuple(node for node in nodes if node.instance_id)
    stored_with_attempt = _read_node({**item, "rank": 0, "stage": None})
    if not nodes:
        return (stored_with_attempt,)
    return (_join(nodes[0], stored_with_attempt), *nodes[1:])


def _read_node(item: Mapping[str, Any]) -> Node:
    instance_ids = item.get("instance_ids") or [""]
    heartbeat_at = instant_of(item, "heartbeat_at")
    instance_id = item.get("instance_id") or instance_ids[0]
    return Node(
        run_id=item["run_id"],
        attempt=int(item["number"]),
        rank=int(item["rank"]),
        stage=_node_stage(item, instance_id, heartbeat_at),
        instance_id=instance_id,
        pool=item.get("pool", ""),
        heartbeat_at=heartbeat_at,
        noticed_at=instant_of(item, "noticed_at"),
        progress=_read_progress(item),
    )


def _read_progress(item: Mapping[str, Any]) -> NodeProgress:
    metrics = document_of(item, "metrics")
    timeline = {name: instant_of(item["timeline"], name) for name in item.get("timeline", {})}
    return NodeProgress(
        phase=item.get("phase", ""),
        resume_step=whole_number_of(item, "resume_step"),
        resume_save=whole_number_of(item, "resume_save"),
        step=whole_number_of(item, "progress_step"),
        metrics={
            name: float(value) for name, value in metrics.items() if isinstance(value, int | float)
        },
        not_finite=frozenset(map(str, item.get("not_finite", ()))),
        timeline={name: instant for name, instant in timeline.items() if instant is not None},
        saving=Saving.from_document(document_of(item, "saving")) if "saving" in item else None,
        staging=Staging.from_document(document_of(item, "staging")) if "staging" in item else None,
        service=Service.from_document(document_of(item, "service")) if "service" in item else None,
        environment_bytes=whole_number_of(item, "environment_bytes") or 0,
        shards=ShardProgress.from_document(document_of(item, "shards")),
        gang=GangReport.from_document(document_of(item, "gang")),
        warning=item.get("warning", ""),
    )


def _join(node: Node, other: Node) -> Node:
    """Join what two versions wrote about a node: the later report, and the earlier notice."""
    beats = [at for at in (node.heartbeat_at, other.heartbeat_at) if at is not None]
    notices = [at for at in (node.noticed_at, other.noticed_at) if at is not None]
    reports_elsewhere = bool(beats) and other.heartbeat_at == max(beats) != node.heartbeat_at
    is_behind = node.stage is NodeStage.LAUNCHING or (
        node.stage is NodeStage.LAUNCHED and reports_elsewhere
    )
    return replace(
        node,
        stage=other.stage if is_behind else node.stage,
        instance_id=node.instance_id or other.instance_id,
        pool=node.pool or other.pool,
        heartbeat_at=max(beats, default=None),
        noticed_at=min(notices, default=None),
        progress=other.progress if reports_elsewhere else node.progress,
    )


def _node_stage(
    item: Mapping[str, Any], instance_id: str, heartbeat_at: datetime | None
) -> NodeStage:
    """Return the stage; if it is unknown or missing, derive it from the other attributes."""
    with contextlib.suppress(ValueError):
        return NodeStage(item.get("stage"))
    if heartbeat_at is not None:
        return NodeStage.RUNNING
    return NodeStage.LAUNCHED if instance_id else NodeStage.LAUNCHING


def _status(text: str) -> RunStatus:
    try:
        return RunStatus(text)
    except ValueError:
        return RunStatus.UNKNOWN


def _source(item: Mapping[str, Any]) -> Source:
    if "existing_instance" in item:
        return Existing(str(item["existing_instance"]))
    if warm := item.get("warm_instance"):
        return Warm(str(warm), plan=str(item.get("plan", "")))
    request = str(item.get("fleet_request", ""))
    if request.startswith(OLD_EXISTING):
        return Existing(request.removeprefix(OLD_EXISTING))
    return Launched(request, plan=str(item.get("plan", "")), kept=_kept(item))


def _kept(item: Mapping[str, Any]) -> tuple[KeptNode, ...]:
    with contextlib.suppress(ValueError, TypeError):
        stored = json.loads(item.get("kept", "[]"))
        return tuple(KeptNode(str(instance_id), str(pool)) for instance_id, pool in stored)
    return ()


def _has_token(item: Mapping[str, Any]) -> bool:
    # Earlier versions store the token itself with the attempt.
    return bool(item.get("has_token")) or "token" in item


def _stage(item: Mapping[str, Any]) -> AttemptStage:
    """Return the stage; if this version does not know it, derive it from the other attributes."""
    stored = str(item.get("stage"))
    try:
        return OLD_STAGES.get(stored) or AttemptStage(stored)
    except ValueError:
        if "ended" in item:
            return AttemptStage.ENDED
        if _has_token(item):
            return AttemptStage.RUNNING
        return AttemptStage.LAUNCHED if item.get("instance_ids") else AttemptStage.LAUNCHING
