"""The ports in memory: a world small enough to be explored in every order."""

import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

from runctl.model.build_context import BuildContext
from runctl.model.checkpoint import Manifest
from runctl.model.deployment_limits import DeploymentLimits
from runctl.model.errors import (
    DamagedCheckpointError,
    FencedError,
    NotFoundError,
    RefusedError,
    RequestError,
    RunEndedError,
    TransientError,
)
from runctl.model.group import Group, WarmInstance, WarmStage
from runctl.model.identity import (
    ATTEMPT_TAG,
    EXISTING_TAG,
    KEEP_ALIVE_TAG,
    RUN_TAG,
    client_token,
    manifest_prefix,
)
from runctl.model.image import FoundImage, Image, StoredImage
from runctl.model.image_build import BuildPlace, EndedBuild
from runctl.model.image_reference import ImageReference
from runctl.model.input_sources import InputSource, StoredObject
from runctl.model.leftovers import InstantFleet
from runctl.model.machine import LaunchResult, Machine, MachineStatus
from runctl.model.node import Node, NodeId, NodeProgress, NodeStage
from runctl.model.object_checksums import Checksum
from runctl.model.outcome import Outcome, OutcomeKind, RunStatus, is_own_failure
from runctl.model.pool import MachineKind, Pool
from runctl.model.quota import VcpuQuota
from runctl.model.refusal import fatal_code
from runctl.model.root_volume import RootVolume
from runctl.model.run import (
    INTERRUPTIONS,
    Attempt,
    AttemptsSummary,
    AttemptStage,
    KeptNode,
    Run,
    Source,
    best_of,
    summarize,
)
from runctl.model.secret_references import SecretReference
from runctl.model.shard import PlanHeader
from runctl.model.subject import pin_of, pinned_keys, pins_by
from runctl.model.type_network import TypeNetwork
from runctl.policy.session_policy import Place
from runctl.policy.warm import waited

START = datetime(2030, 1, 1, 12, tzinfo=timezone.utc)


class FakeClock:
    def __init__(self) -> None:
        self.time = START

    def now(self) -> datetime:
        return self.time

    def advance(self, by: timedelta) -> None:
        self.time += by


class MemoryLedger:
    """Behaves like DynamoLedger; tests/aws/test_ledger.py runs the same tests on both."""

    def __init__(self) -> None:
        self.runs: dict[str, Run] = {}
        self.executions: dict[str, str] = {}
        self.attempt_items: dict[tuple[str, int], Attempt] = {}
        self.tokens: dict[tuple[str, int], str] = {}
        self.instances: dict[str, NodeId] = {}
        self.pools: dict[Pool, datetime] = {}
        self.commits: list[tuple[str, int, int | None]] = []

    def create_run(self, run: Run) -> Run:
        if self.executions.get(run.execution, run.run_id) != run.run_id:
            owner = self.executions[run.execution]
            raise RequestError(f"the name {run.execution!r} belongs to the run {owner}")
        if run.run_id not in self.runs:
            self.executions[run.execution] = run.run_id
            self.runs[run.run_id] = run
        return self.runs[run.run_id]

    def find_run(self, run_id: str) -> Run | None:
        return self.runs.get(run_id)

    def list_runs(self, *, limit: int = 100) -> list[Run]:
        newest = sorted(self.runs.values(), key=lambda run: run.started_at, reverse=True)
        return newest[:limit]

    def list_unsettled_runs(self) -> list[str]:
        return [run.run_id for run in self.runs.values() if not run.is_settled]

    def find_run_of_execution(self, name: str) -> str | None:
        return self.executions.get(name)

    def continue_as_new(
        self,
        run_id: str,
        *,
        parent_arn: str,
        execution: str,
        execution_arn: str,
        first_attempt: int,
    ) -> Run:
        run = self._run(run_id)
        if run.execution_arn != execution_arn:
            if run.execution_arn != parent_arn or (
                self.executions.get(execution, run_id) != run_id
            ):
                raise RequestError(f"the run {run_id} belongs to the execution {run.execution}")
            if run.ended is None:
                self.executions[execution] = run_id
                self.runs[run_id] = replace(
                    run,
                    execution=execution,
                    execution_arn=execution_arn,
                    executions=run.executions + 1,
                    first_attempt=first_attempt,
                    ancestors=(*run.ancestors, parent_arn),
                )
        if run.ended is not None:
            raise RunEndedError(f"the run {run_id} has ended: {run.ended.value}")
        return self.runs[run_id]

    def resume_run(
        self,
        run_id: str,
        *,
        execution: str,
        execution_arn: str,
        first_attempt: int,
        fresh_environment: bool = False,
    ) -> Run:
        run = self._run(run_id)
        if run.execution_arn == execution_arn:
            return run
        if run.ended is None or self.executions.get(execution, run_id) != run_id:
            raise RequestError(f"the run {run_id} belongs to the execution {run.execution}")
        self.executions[execution] = run_id
        self.runs[run_id] = replace(
            run,
            execution=execution,
            execution_arn=execution_arn,
            executions=run.executions + 1,
            first_attempt=first_attempt,
            environment_generation=run.environment_generation + fresh_environment,
            ancestors=(),
            ended=None,
            ended_at=None,
            reason="",
        )
        return self.runs[run_id]

    def end_run(
        self,
        run_id: str,
        *,
        status: RunStatus,
        reason: str,
        now: datetime,
        execution_arn: str | None = None,
    ) -> Run:
        run = self._run(run_id)
        if run.ended is None and execution_arn in {None, run.execution_arn}:
            self.runs[run_id] = replace(run, ended=status, ended_at=now, reason=reason)
        return self.runs[run_id]

    def record_notified(self, run_id: str, *, end: datetime) -> None:
        run = self.runs.get(run_id)
        if run is not None and run.ended_at == end:
            self.runs[run_id] = replace(run, notified_end=end)

    def record_image(self, run_id: str, image: Image) -> Image:
        held = self._run(run_id)
        self.runs[run_id] = replace(held, image=held.image or image)
        return self.runs[run_id].image

    def attempts(self, run_id: str) -> list[Attempt]:
        mine = [attempt for attempt in self.attempt_items.values() if attempt.run_id == run_id]
        return sorted(mine, key=lambda attempt: attempt.number)

    def find_attempt(self, run_id: str, number: int) -> Attempt | None:
        return self.attempt_items.get((run_id, number))

    def open_attempt(
        self,
        run_id: str,
        number: int,
        *,
        launch_try: int,
        source: Source,
        now: datetime,
        count: int = 1,
    ) -> Attempt:
        self.check_goes_on(run_id)
        held = self.attempt_items.get((run_id, number))
        if held is None or (held.stage is AttemptStage.LAUNCHING and held.launch_try < launch_try):
            self.attempt_items[run_id, number] = replace(
                held or Attempt(run_id=run_id, number=number, stage=AttemptStage.LAUNCHING),
                launch_try=launch_try,
                source=source,
                nodes=tuple(Node(run_id=run_id, attempt=number, rank=at) for at in range(count)),
            )
            self._note_attempt(run_id, number)
        return self.attempt_items[run_id, number]

    def record_launch(
        self,
        run_id: str,
        number: int,
        *,
        instance_ids: Sequence[str],
        pool: str,
        now: datetime,
        kept: Sequence[KeptNode] = (),
    ) -> Attempt:
        self.check_goes_on(run_id)
        held = self._attempt(run_id, number)
        if held.stage is AttemptStage.LAUNCHING:
            instances = [*kept, *(KeptNode(instance_id, pool) for instance_id in instance_ids)]
            nodes = [
                replace(
                    next((node for node in held.nodes if node.rank == rank), held.nodes[0]),
                    rank=rank,
                    stage=NodeStage.LAUNCHED,
                    instance_id=instance.instance_id,
                    pool=instance.pool,
                )
                for rank, instance in enumerate(instances)
            ]
            self.attempt_items[run_id, number] = replace(
                held,
                stage=AttemptStage.LAUNCHED,
                launched_at=now,
                nodes=tuple(nodes),
            )
            self.instances |= {node.instance_id: node.node_id for node in nodes}
            self._note_attempt(run_id, number, pool=nodes[0].pool)
        return self.attempt_items[run_id, number]

    def record_existing_instance(
        self,
        run_id: str,
        number: int,
        *,
        instance_id: str,
        pool: str,
        instead_of: NodeId | None,
        now: datetime,
    ) -> Attempt:
        self.check_goes_on(run_id)
        owner = self.instances.get(instance_id)
        if owner is None or owner[:2] == (instead_of or (run_id, number))[:2]:
            return self.record_launch(
                run_id, number, instance_ids=[instance_id], pool=pool, now=now
            )
        return self._attempt(run_id, number)

    def find_token(self, run_id: str, number: int) -> str | None:
        return self.tokens.get((run_id, number))

    def record_token(
        self, run_id: str, number: int, *, token: str, execution_arn: str, now: datetime
    ) -> Attempt:
        self.check_goes_on(run_id)
        run, held = self._run(run_id), self._attempt(run_id, number)
        if run.execution_arn != execution_arn:
            raise RunEndedError(f"the run {run_id} belongs to the execution {run.execution}")
        if run.fence > number:
            raise FencedError(f"attempt {run.fence} of {run_id} has the fence, not {number}")
        if held.ended is None:
            self.runs[run_id] = replace(run, fence=number)
            self.attempt_items[run_id, number] = replace(
                held,
                stage=AttemptStage.RUNNING,
                has_token=True,
                running_at=held.running_at or now,
            )
            self.tokens[run_id, number] = token
            if run.summary is not None:
                self._summarize(run_id, running=run.summary.running | {number})
        return self.attempt_items[run_id, number]

    def record_notice(self, node: NodeId, *, now: datetime) -> bool:
        held = self._find_node(node)
        if held is None or held.noticed_at is not None:
            return False
        self._put_node(replace(held, noticed_at=now))
        return True

    def record_gone(self, node: NodeId) -> None:
        if held := self._find_node(node):
            self._put_node(replace(held, stage=NodeStage.GONE))

    def end_attempt(self, run_id: str, number: int, *, outcome: Outcome, now: datetime) -> Attempt:
        held = self._attempt(run_id, number)
        if held.ended is None:
            self.attempt_items[run_id, number] = replace(
                held, stage=AttemptStage.ENDED, ended=outcome, ended_at=now
            )
            if (summary := self._run(run_id).summary) is not None:
                self._summarize(
                    run_id,
                    running=summary.running - {number},
                    is_recovering=summary.is_recovering
                    or outcome.kind is not OutcomeKind.NO_CAPACITY,
                    completed=summary.completed
                    | ({number} if outcome.kind is OutcomeKind.COMPLETED else set()),
                    interruptions=summary.interruptions + (outcome.kind in INTERRUPTIONS),
                    failures=summary.failures + is_own_failure(outcome),
                )
        return self.attempt_items[run_id, number]

    def refresh_summary(self, run_id: str) -> bool:
        run, found = self.runs.get(run_id), summarize(self.attempts(run_id))
        if run is None or run.summary == found:
            return False
        self.runs[run_id] = replace(run, summary=found)
        return True

    def _note_attempt(self, run_id: str, number: int, *, pool: str | None = None) -> None:
        summary = self._run(run_id).summary or AttemptsSummary()
        if pool is None and number >= summary.last:
            self._summarize(run_id, last=number)
        elif pool is not None and number >= summary.pool_attempt:
            self._summarize(run_id, pool=pool, pool_attempt=number)

    def _summarize(self, run_id: str, **changes: object) -> None:
        run = self._run(run_id)
        if run.summary is not None:
            self.runs[run_id] = replace(run, summary=replace(run.summary, **changes))

    def find_instance(self, instance_id: str) -> NodeId | None:
        return self.instances.get(instance_id)

    def cool_pool(self, pool: Pool, *, until: datetime) -> None:
        self.pools[pool] = max(until, self.pools.get(pool, until))

    def cooling_pools(self, pools: Sequence[Pool], *, now: datetime) -> dict[Pool, datetime]:
        return {
            pool: self.pools[pool]
            for pool in pools
            if pool in self.pools and self.pools[pool] > now
        }

    def commit_checkpoint(
        self,
        run_id: str,
        number: int,
        *,
        step: int | None,
        save: int,
        manifest: str,
        progressed: bool,
        now: datetime,
        size_bytes: int = 0,
    ) -> frozenset[str]:
        run = self._run(run_id)
        if run.fence != number:
            raise FencedError(f"attempt {run.fence} of {run_id} has the fence, not {number}")
        self.runs[run_id] = replace(
            run,
            step=step,
            save=save,
            best_step=run.best_step if step is None else best_of(run.best_step, step),
            progressed_attempt=number if progressed else run.progressed_attempt,
            newest=manifest,
            newest_bytes=size_bytes,
            committed_at=now,
        )
        self.commits.append((run_id, number, step))
        return pinned_keys(run.pins)

    def mark_suspect(self, run_id: str, number: int, key: str) -> None:
        run = self._fenced(run_id, number)
        self.runs[run_id] = replace(run, suspects=run.suspects | {key})

    def clear_suspects(self, run_id: str, number: int, keys: Iterable[str]) -> None:
        run = self._fenced(run_id, number)
        self.runs[run_id] = replace(run, suspects=run.suspects - set(keys))

    def mark_proven(self, run_id: str, number: int, key: str) -> None:
        run = self._fenced(run_id, number)
        self.runs[run_id] = replace(run, proven=key, suspects=run.suspects - {key})

    def pin_checkpoint(self, run_id: str, key: str, *, by: str) -> None:
        run = self._run(run_id)
        self.runs[run_id] = replace(run, pins=run.pins | {pin_of(key, by=by)})

    def remove_pins(self, run_id: str, *, by: str, keys: Collection[str] | None = None) -> None:
        if (run := self.runs.get(run_id)) is not None:
            found = pins_by(run.pins, by)
            found &= found if keys is None else {pin_of(key, by=by) for key in keys}
            self.runs[run_id] = replace(run, pins=run.pins - found)

    def record_evaluated(
        self, run_id: str, number: int, *, save: int, metrics: Mapping[str, Any]
    ) -> None:
        run = self._fenced(run_id, number)
        self.runs[run_id] = replace(
            run,
            evaluated_save=save,
            progressed_attempt=number,
            metrics=dict(metrics) or run.metrics,
        )

    def record_mlflow_run(self, run_id: str, number: int, mlflow_run: str) -> None:
        self.runs[run_id] = replace(self._fenced(run_id, number), mlflow_run=mlflow_run)

    def record_metrics(self, run_id: str, number: int, metrics: Mapping[str, Any]) -> None:
        self.runs[run_id] = replace(self._fenced(run_id, number), metrics=dict(metrics))

    def _fenced(self, run_id: str, number: int) -> Run:
        run = self._run(run_id)
        if run.fence != number:
            raise FencedError(f"attempt {run.fence} of {run_id} has the fence, not {number}")
        return run

    def record_progress(self, node: NodeId, progress: NodeProgress, *, now: datetime) -> None:
        run = self._run(node.run_id)
        if run.fence > node.attempt:
            raise FencedError(f"attempt {run.fence} of {node.run_id} has the fence")
        held = self._find_node(node)
        if held is None:
            raise NotFoundError(f"the run {node.run_id} has no attempt {node.attempt}")
        before = held.progress
        starts_as_before = progress.resume_step is progress.resume_save is None
        self._put_node(
            replace(
                held,
                stage=NodeStage.RUNNING,
                heartbeat_at=now,
                progress=replace(
                    progress,
                    resume_step=before.resume_step if starts_as_before else progress.resume_step,
                    resume_save=(
                        before.resume_save if progress.resume_save is None else progress.resume_save
                    ),
                    step=before.step if progress.step is None else progress.step,
                    metrics=dict(
                        progress.metrics or ({} if progress.not_finite else before.metrics)
                    ),
                    not_finite=progress.not_finite or before.not_finite,
                    timeline={**before.timeline, **progress.timeline},
                    saving=progress.saving or before.saving,
                ),
            )
        )

    def _find_node(self, node: NodeId) -> Node | None:
        attempt = self.attempt_items.get((node.run_id, node.attempt))
        held = attempt.nodes if attempt else ()
        return next((known for known in held if known.node_id == node), None)

    def _put_node(self, node: Node) -> None:
        attempt = self.attempt_items[node.run_id, node.attempt]
        nodes = tuple(node if held.rank == node.rank else held for held in attempt.nodes)
        self.attempt_items[node.run_id, node.attempt] = replace(attempt, nodes=nodes)

    def _run(self, run_id: str) -> Run:
        if run_id not in self.runs:
            raise NotFoundError(f"there is no run {run_id}")
        return self.runs[run_id]

    def _attempt(self, run_id: str, number: int) -> Attempt:
        if (run_id, number) not in self.attempt_items:
            raise NotFoundError(f"the run {run_id} has no attempt {number}")
        return self.attempt_items[run_id, number]

    def check_goes_on(self, run_id: str) -> None:
        ended = self._run(run_id).ended
        if ended is not None:
            raise RunEndedError(f"the run {run_id} has ended: {ended.value}")


class MemoryGroups:
    """Behaves like DynamoGroupLedger, on the runs of a MemoryLedger."""

    def __init__(self, ledger: MemoryLedger) -> None:
        self._ledger = ledger
        self.groups: dict[str, Group] = {}
        self.executions: dict[str, str] = {}
        self.warm: dict[tuple[str, str], WarmInstance] = {}
        self.listed: dict[tuple[str, str], WarmInstance] = {}

    def create_group(self, group: Group) -> Group:
        owner = self.executions.get(group.execution, group.group_id)
        if owner != group.group_id:
            raise RequestError(f"the name {group.execution!r} belongs to the group {owner}")
        if group.group_id not in self.groups:
            self.executions[group.execution] = group.group_id
            self.groups[group.group_id] = group
        return self.groups[group.group_id]

    def find_group(self, group_id: str) -> Group | None:
        return self.groups.get(group_id)

    def find_group_of_execution(self, name: str) -> str | None:
        return self.executions.get(name)

    def list_groups(self, *, limit: int = 100) -> list[Group]:
        newest = sorted(self.groups.values(), key=lambda group: group.started_at, reverse=True)
        return newest[:limit]

    def list_unsettled_groups(self) -> list[str]:
        return [group.group_id for group in self.groups.values() if not group.is_settled]

    def resume_group(self, group_id: str, *, execution: str, execution_arn: str) -> Group:
        group = self._group(group_id)
        if group.execution_arn == execution_arn:
            return group
        if group.ended is None or self.executions.get(execution, group_id) != group_id:
            raise RequestError(f"{group_id} belongs to the execution {group.execution}")
        self.executions[execution] = group_id
        self.groups[group_id] = replace(
            group,
            execution=execution,
            execution_arn=execution_arn,
            ended=None,
            ended_at=None,
            reason="",
            stop_requested=False,
            is_settled=False,
        )
        return self.groups[group_id]

    def request_stop(self, group_id: str) -> Group:
        group = self._group(group_id)
        if group.ended is None:
            self.groups[group_id] = replace(group, stop_requested=True)
        return self.groups[group_id]

    def end_group(
        self,
        group_id: str,
        *,
        status: RunStatus,
        reason: str,
        now: datetime,
        execution_arn: str | None = None,
    ) -> Group:
        group = self._group(group_id)
        if group.ended is None and execution_arn in {None, group.execution_arn}:
            self.groups[group_id] = replace(group, ended=status, ended_at=now, reason=reason)
        return self.groups[group_id]

    def record_settled(self, group_id: str, *, end: datetime) -> None:
        group = self.groups.get(group_id)
        if group is not None and group.ended_at == end:
            self.groups[group_id] = replace(group, is_settled=True)

    def offer_warm(self, offer: WarmInstance) -> WarmInstance:
        held = self.find_warm(offer.group_id, offer.instance_id)
        if held is None or (held.stage is WarmStage.CLAIMED and held.node == offer.node):
            self.warm[offer.group_id, offer.instance_id] = replace(
                offer,
                stage=WarmStage.OFFERED,
                waited=timedelta(0) if held is None else held.waited,
            )
        return self.warm[offer.group_id, offer.instance_id]

    def keep_warm(
        self,
        group_id: str,
        instance_id: str,
        *,
        node: NodeId,
        pool: str,
        keep_seconds: int,
        now: datetime,
    ) -> bool:
        held = self.find_warm(group_id, instance_id)
        if held is None:
            return False
        if held.stage is WarmStage.OFFERED and held.node == node:
            self.warm[group_id, instance_id] = self.listed[group_id, instance_id] = replace(
                held, stage=WarmStage.WAITING, since=now, keep_seconds=keep_seconds, pool=pool
            )
            return True
        return held.stage is WarmStage.WAITING or held.node != node

    def find_warm(self, group_id: str, instance_id: str) -> WarmInstance | None:
        return self.warm.get((group_id, instance_id))

    def list_warm(self, group_id: str) -> list[WarmInstance]:
        listed = self.list_all_warm(group_id)
        return [warm for warm in listed if warm.stage is not WarmStage.LEFT]

    def list_all_warm(self, group_id: str) -> list[WarmInstance]:
        return [warm for warm in self.listed.values() if warm.group_id == group_id]

    def claim_warm(self, warm: WarmInstance, run_id: str, number: int, *, now: datetime) -> Attempt:
        self._ledger.check_goes_on(run_id)
        key = (warm.group_id, warm.instance_id)
        held = self.warm.get(key)
        attempt = self._ledger.find_attempt(run_id, number)
        if (
            held is not None
            and (held.stage, held.node) == (WarmStage.WAITING, warm.node)
            and attempt is not None
            and attempt.stage is AttemptStage.LAUNCHING
            and self._ledger.find_instance(warm.instance_id) == warm.node
        ):
            self.warm[key] = self.listed[key] = replace(
                held,
                stage=WarmStage.CLAIMED,
                node=NodeId(run_id, number, 0),
                since=None,
                waited=waited(held, now=now),
            )
            return self._ledger.record_launch(
                run_id, number, instance_ids=[warm.instance_id], pool=warm.pool, now=now
            )
        if attempt is None:
            raise NotFoundError(f"the run {run_id} has no attempt {number}")
        return attempt

    def leave_warm(
        self, group_id: str, instance_id: str, *, node: NodeId, now: datetime
    ) -> WarmInstance | None:
        held = self.withdraw_offer(group_id, instance_id, node=node, now=now)
        if (
            held is not None
            and held.stage is WarmStage.LEFT
            and (group_id, instance_id) in self.listed
        ):
            self.listed[group_id, instance_id] = held
        return held

    def withdraw_offer(
        self, group_id: str, instance_id: str, *, node: NodeId, now: datetime
    ) -> WarmInstance | None:
        held = self.warm.get((group_id, instance_id))
        if held is not None and held.stage is not WarmStage.CLAIMED and held.node == node:
            self.warm[group_id, instance_id] = replace(
                held, stage=WarmStage.LEFT, left_at=held.left_at or now
            )
        return self.warm.get((group_id, instance_id))

    def _group(self, group_id: str) -> Group:
        if group_id not in self.groups:
            raise NotFoundError(f"there is no group {group_id}")
        return self.groups[group_id]


class FakeFleet:
    """EC2 with the capacity that a test sets; the same request gets the same response."""

    deployment = "runctl"

    def __init__(self, clock: FakeClock, *, zones: Sequence[str] = ("us-east-1a",)) -> None:
        self._clock = clock
        self.stuck: set[str] = set()
        self._zones = tuple(zones)
        self.own_images: frozenset[MachineKind] = frozenset()
        self.limits = DeploymentLimits()
        self.volumes: dict[MachineKind, RootVolume] = {}
        self.networks: dict[str, TypeNetwork] = {}
        self.machines: dict[str, Machine] = {}
        self.fleets: dict[str, InstantFleet] = {}
        self.refusals: dict[Pool, str] = {}
        # How many machines a pool has at once, as far as that is limited; a placement group has
        # none if it is crowded.
        self.room: dict[Pool, int] = {}
        self.is_crowded = False
        self.call_error = ""
        self.answers: dict[str, LaunchResult] = {}
        self.requests: list[str] = []
        self.terminated: list[str] = []
        self.hidden: set[str] = set()
        self.impaired: dict[str, MachineStatus] = {}
        self.asked_for_statuses: list[list[str]] = []

    def find_lent(self) -> list[Machine]:
        return [
            each for each in self.machines.values() if each.is_live and EXISTING_TAG in each.tags
        ]

    def end_lending(self, machine: Machine) -> None:
        if machine.instance_id in self.stuck:
            raise TransientError("throttled")
        known = self.machines[machine.instance_id]
        if known.tags[EXISTING_TAG] == machine.tags[EXISTING_TAG]:
            self.machines[machine.instance_id] = known.without_tag(EXISTING_TAG)

    def statuses(self, instance_ids: Sequence[str]) -> list[MachineStatus]:
        self.asked_for_statuses.append(list(instance_ids))
        return [
            self.impaired.get(machine.instance_id, MachineStatus(instance_id=machine.instance_id))
            for machine in self.describe(instance_ids)
            if machine.state == "running"
        ]

    def zones(self) -> tuple[str, ...]:
        return self._zones

    def root_volumes(self) -> dict[MachineKind, RootVolume]:
        return self.volumes

    def network_of(self, instance_types: Sequence[str]) -> dict[str, TypeNetwork]:
        return {name: self.networks[name] for name in instance_types if name in self.networks}

    def build_request(
        self,
        *,
        run_id: str,
        attempt: int,
        launch_try: int,
        pools: Sequence[Pool],
        volumes: Mapping[MachineKind, RootVolume] | None = None,
        count: int = 1,
        least: int = 0,
        nodes: int = 1,
        placed: bool = False,
    ) -> str:
        assert nodes == 1 or len(pools) == 1, "a gang is launched in one pool"
        return json.dumps(
            {
                "disks": {kind.value: volume.gib for kind, volume in (volumes or {}).items()},
                "token": client_token(
                    deployment="runctl", run_id=run_id, attempt=attempt, launch_try=launch_try
                ),
                "run_id": run_id,
                "attempt": attempt,
                "pools": [str(pool) for pool in pools],
                "count": count,
                "least": least or count,
                "nodes": nodes,
                "placed": placed,
            }
        )

    def launch(self, request: str) -> LaunchResult:
        self.requests.append(request)
        document = json.loads(request)
        pools = [Pool.parse(text) for text in document["pools"]]
        (market,) = {pool.market for pool in pools}
        if self.call_error:
            # As for a throttled call: no fleet is created, and the token is not remembered.
            codes = dict.fromkeys(pools, self.call_error)
            return LaunchResult(instance_ids=(), pool=None, refusals=codes, market=market)
        if document["token"] in self.answers:
            return self.answers[document["token"]]
        refused = {pool: self.refusals[pool] for pool in pools if pool in self.refusals}
        least = document["least"]
        refused |= {
            pool: "InsufficientInstanceCapacity"
            for pool in pools
            if self.room.get(pool, least) < least or (document["placed"] and self.is_crowded)
        }
        granted = next((pool for pool in pools if pool not in refused), None)
        count = 0 if granted is None else self.room.get(granted, document["count"])
        count = min(count, document["count"])
        ids: tuple[str, ...] = ()
        if granted is not None:
            known = len(self.machines)
            ids = tuple(f"i-{known + at + 1:04d}" for at in range(count))
            for instance_id in ids:
                self.machines[instance_id] = Machine(
                    instance_id=instance_id,
                    state="running",
                    pool=granted,
                    launched_at=self._clock.now(),
                    tags={RUN_TAG: document["run_id"], ATTEMPT_TAG: str(document["attempt"])},
                )
        if granted is None and (code := fatal_code(refused.values())):
            raise RefusedError(code)
        fleet_id = f"fleet-{len(self.fleets) + 1:04d}"
        self.fleets[fleet_id] = InstantFleet(
            fleet_id=fleet_id,
            run_id=document["run_id"],
            attempt=document["attempt"],
            state="active",
            created_at=self._clock.now(),
            instance_ids=ids,
        )
        answer = LaunchResult(
            instance_ids=ids, pool=granted, refusals=refused, market=market, fleet_id=fleet_id
        )
        self.answers[document["token"]] = answer
        return answer

    def describe(self, instance_ids: Sequence[str]) -> list[Machine]:
        return [
            self.machines[instance_id]
            for instance_id in instance_ids
            if instance_id in self.machines and instance_id not in self.hidden
        ]

    def find_by_run(self, run_id: str) -> list[Machine]:
        return [
            machine
            for machine in self.machines.values()
            if machine.tags.get(RUN_TAG) == run_id
            and machine.is_live
            and machine.instance_id not in self.hidden
        ]

    def find_all(self) -> list[Machine]:
        return [
            machine
            for machine in self.machines.values()
            if {RUN_TAG, KEEP_ALIVE_TAG} & set(machine.tags)
            and machine.is_live
            and machine.instance_id not in self.hidden
        ]

    def terminate(self, instance_ids: Sequence[str]) -> None:
        for instance_id in instance_ids:
            self.terminated.append(instance_id)
            self.end(instance_id, reason="Client.UserInitiatedShutdown")

    def find_fleets(self) -> list[InstantFleet]:
        return list(self.fleets.values())

    def delete_fleets(self, fleet_ids: Iterable[str]) -> dict[str, str]:
        for fleet_id in fleet_ids:
            self.fleets[fleet_id] = replace(self.fleets[fleet_id], state="deleted_terminating")
            self.terminate(
                [
                    instance_id
                    for instance_id in self.fleets[fleet_id].instance_ids
                    if self.machines[instance_id].is_live
                ]
            )
        return {}

    def end(self, instance_id: str, *, reason: str) -> None:
        machine = self.machines.get(instance_id)
        if machine is not None and machine.is_live:
            self.machines[instance_id] = replace(machine, state="terminated", reason=reason)

    def running(self) -> list[Machine]:
        return [machine for machine in self.machines.values() if machine.is_live]


class FakePrices:
    """The prices that a test sets, in USD an hour."""

    def __init__(self) -> None:
        self.known: dict[Pool, Decimal] = {}

    def current(self, pools: Sequence[Pool], *, now: datetime) -> dict[Pool, Decimal]:
        return {pool: self.known[pool] for pool in pools if pool in self.known}


class FakeQuotas:
    """The vCPUs that a test sets; types have 4 by default."""

    def __init__(self) -> None:
        self.values: dict[str, int | None] = {}
        self.sizes: dict[str, int] = {}
        self.asked: list[str] = []

    def region(self) -> str:
        return "us-east-1"

    def allowed(self, quota: VcpuQuota) -> int | None:
        self.asked.append(quota.code)
        return self.values.get(quota.code)

    def vcpus(self, instance_types: Sequence[str]) -> dict[str, int]:
        return {kind: self.sizes.get(kind, 4) for kind in instance_types}


class FakeCommands:
    def __init__(self, fleet: FakeFleet) -> None:
        self._fleet = fleet
        self.sent: list[tuple[str, str]] = []
        self.deadlines: list[datetime | None] = []
        self.started: list[tuple[str, str, int]] = []
        self.refusal = ""
        self.unreachable: set[str] = set()

    def send(self, instance_id: str, action: str, *, deadline: datetime | None = None) -> bool:
        machine = self._fleet.machines.get(instance_id)
        if machine is None or not machine.is_live or instance_id in self.unreachable:
            return False
        self.sent.append((instance_id, action))
        self.deadlines.append(deadline)
        return True

    def start(self, instance_id: str, *, run_id: str, attempt: int) -> bool:
        if self.refusal:
            raise RefusedError(self.refusal)
        if instance_id in self.unreachable:
            return False
        self.started.append((instance_id, run_id, attempt))
        return True


class FakeWorkflow:
    def __init__(self) -> None:
        self.valid: set[str] = set()
        self.reports: dict[str, Mapping[str, object]] = {}
        self.running: set[str] = set()
        self.ended: dict[str, str] = {}

    def report(self, token: str, document: Mapping[str, object]) -> bool:
        if token not in self.valid:
            return False
        self.valid.discard(token)
        self.reports[token] = document
        return True

    def is_running(self, execution_arn: str) -> bool:
        return execution_arn in self.running

    def stop_run(self, execution_arn: str, *, cause: str) -> None:
        if execution_arn in self.running:
            self.running.discard(execution_arn)
            self.ended[execution_arn] = "ABORTED"

    def status_of(self, execution_arn: str) -> str:
        return "RUNNING" if execution_arn in self.running else self.ended.get(execution_arn, "")


class FakeObjects:
    def __init__(self) -> None:
        self.problems: dict[str, str] = {}
        self.contexts: dict[str, BuildContext] = {}
        self.sizes: dict[str, int] = {}

    def read_context(self, uri: str, *, texts: Collection[str]) -> BuildContext:
        if uri not in self.contexts:
            raise RequestError(self.problems.get(uri, f"{uri} is not a readable archive"))
        return self.contexts[uri]

    def problem_with(self, uri: str) -> str | None:
        return self.problems.get(uri)

    def problem_with_bucket(self, bucket: str) -> str | None:
        return self.problems.get(f"s3://{bucket}/")

    def problem_with_target(self, uri: str) -> str | None:
        return self.problem_with_bucket(uri.removeprefix("s3://").partition("/")[0])

    def problem_with_writing(self, uri: str) -> str | None:
        return self.problems.get(uri)

    def size_of(self, uri: str) -> int:
        return self.sizes.get(uri, 0)

    def uri(self, key: str) -> str:
        return f"s3://bucket/{key}"


class FakeInputs:
    """Objects by bucket and key, with their sizes; those in `refused` may be listed only."""

    def __init__(self) -> None:
        self.sizes: dict[tuple[str, str], int] = {}
        self.refused: set[tuple[str, str]] = set()

    def list_objects(self, source: InputSource) -> Iterator[StoredObject]:
        for (bucket, key), size in sorted(self.sizes.items()):
            is_selected = key.startswith(source.key) if source.is_prefix else key == source.key
            if bucket == source.bucket and is_selected:
                yield StoredObject(key, size, '"etag"')

    def find_checksum(self, source: InputSource, found: StoredObject) -> Checksum:
        if (source.bucket, found.key) in self.refused:
            raise RequestError(f"s3://{source.bucket}/{found.key} may not be read")
        return Checksum()


class FakeCheckpoints:
    """The manifests of one run."""

    def __init__(self, manifests: Mapping[str, Manifest]) -> None:
        self._manifests = manifests

    def manifest_keys(self) -> list[str]:
        return sorted(self._manifests, reverse=True)

    def get_manifest(self, key: str) -> Manifest:
        if key not in self._manifests:
            raise DamagedCheckpointError(f"{key} is missing")
        return self._manifests[key]


class FakeProcessingJobs:
    """Plans by job, the claims of outputs, and the outputs that cannot be used, with the reason."""

    def __init__(self) -> None:
        self.plans: dict[str, tuple[PlanHeader, list[str]]] = {}
        self.claims: dict[str, str] = {}
        self.problems: dict[str, str] = {}
        self.joined: list[tuple[str, list[int]]] = []
        self.failed = 0

    def put_plan(self, header: PlanHeader, lines: Iterable[str]) -> PlanHeader:
        return self.plans.setdefault(header.run_id, (header, list(lines)))[0]

    def find_plan(self, job: str) -> PlanHeader | None:
        return self.plans[job][0] if job in self.plans else None

    def join_index(self, header: PlanHeader, first_shards: Sequence[int]) -> tuple[int, int]:
        self.joined.append((header.run_id, list(first_shards)))
        return header.shards - self.failed, self.failed

    def problem_with_output(self, uri: str) -> str:
        return self.problems.get(uri, "")

    def claim_output(self, uri: str, *, job: str, started_at: datetime) -> str:
        held = self.claims.setdefault(uri, job)
        return "" if held == job else f"{uri} holds data already (the results of the run {held})"


class FakeSecrets:
    """Secrets that exist, apart from those with a problem."""

    def __init__(self) -> None:
        self.problems: dict[str, str] = {}

    def problem_with(self, reference: SecretReference) -> str | None:
        return self.problems.get(str(reference))


class FakeImages:
    """A registry with the images that a test puts there, by tag or reference."""

    def __init__(self) -> None:
        self.place = BuildPlace(
            repository="registry/runctl-images",
            cache_repository="registry/runctl-cache",
            projects={"linux/amd64": "build-amd64", "linux/arm64": "build-arm64"},
        )
        self.built: dict[str, FoundImage] = {}
        self.others: dict[str, FoundImage] = {}
        self.kept: list[StoredImage] = []

    def is_here(self, reference: ImageReference) -> bool:
        return reference.host == "registry:5000"

    def find_built(self, tag: str) -> FoundImage | None:
        return self.built.get(tag)

    def find(self, reference: ImageReference) -> FoundImage:
        if str(reference) not in self.others:
            raise RequestError(f"{reference} does not exist; push it first, or correct it")
        return self.others[str(reference)]

    def stored(self) -> list[StoredImage]:
        return self.kept

    def delete(self, digests: Sequence[str]) -> list[str]:
        self.kept = [image for image in self.kept if image.digest not in digests]
        return []


class FakeBuilds:
    def __init__(self) -> None:
        self.ended: dict[str, EndedBuild] = {}

    def find(self, build_id: str) -> EndedBuild | None:
        return self.ended.get(build_id)


class FakeNotices:
    def __init__(self) -> None:
        self.sent: list[tuple[str, str]] = []
        self.failure: Exception | None = None

    def publish(self, *, subject: str, body: str) -> None:
        if self.failure is not None:
            raise self.failure
        self.sent.append((subject, body))

    @property
    def subjects(self) -> list[str]:
        return [subject for subject, _ in self.sent]


@dataclass(kw_only=True)
class World:
    """Everything that a control function may use, in memory."""

    clock: FakeClock = field(default_factory=FakeClock)
    ledger: MemoryLedger = field(default_factory=MemoryLedger)
    zones: Sequence[str] = ("us-east-1a",)

    def __post_init__(self) -> None:
        self.groups = MemoryGroups(self.ledger)
        self.fleet = FakeFleet(self.clock, zones=self.zones)
        self.quotas = FakeQuotas()
        self.prices = FakePrices()
        self.commands = FakeCommands(self.fleet)
        self.workflow = FakeWorkflow()
        self.objects = FakeObjects()
        self.inputs = FakeInputs()
        self.processing_jobs = FakeProcessingJobs()
        self.notices = FakeNotices()
        self.images = FakeImages()
        self.secrets = FakeSecrets()
        self.builds = FakeBuilds()
        self.log_group = "/runctl/trainer"
        self.place = Place(bucket="bucket", region="us-east-1", account="123456789012")
        self.manifests: dict[str, Manifest] = {}

    def checkpoints(self, run_id: str) -> "FakeCheckpoints":
        prefix = manifest_prefix(run_id)
        return FakeCheckpoints(
            {key: found for key, found in self.manifests.items() if key.startswith(prefix)}
        )


PORTS = (
    "ledger", "groups", "fleet", "quotas", "prices", "commands", "workflow", "objects", "inputs",
    "processing_jobs", "notices", "images", "secrets", "builds",
)  # fmt: skip


class CrashError(BaseException):
    """The function's process ended here: no later code ran, not even an exception handler."""


class Fragile:
    """A world whose `fuse`-th call to any port fails, after it took effect if `after` is set.

    With `error` the function sees the failure, as for a throttled call or a lost response; without,
    its process ends there.
    """

    def __init__(
        self, world: World, *, fuse: int, after: bool, error: Exception | None = None
    ) -> None:
        self.clock, self.place = world.clock, world.place
        self.left = fuse
        self.after = after
        self.error = error
        for name in PORTS:
            setattr(self, name, _FragilePort(getattr(world, name), self))

    def burn(self) -> bool:
        self.left -= 1
        return self.left == 0


class Overtaken:
    """A world in which something else happens just before the `at`-th call to any port."""

    def __init__(self, world: World, *, at: int, meanwhile: Callable[[], None]) -> None:
        self.clock, self.place = world.clock, world.place
        self.left = at
        self.meanwhile = meanwhile
        for name in PORTS:
            setattr(self, name, _OvertakenPort(getattr(world, name), self))


class _OvertakenPort:
    def __init__(self, port: object, world: Overtaken) -> None:
        self._port = port
        self._world = world

    def __getattr__(self, name: str):
        if not callable(found := getattr(self._port, name)):
            return found  # a fact that the port knows without a call

        def call(*args, **kwargs):
            self._world.left -= 1
            if self._world.left == 0:
                self._world.meanwhile()
            return getattr(self._port, name)(*args, **kwargs)

        return call


class _FragilePort:
    def __init__(self, port: object, world: Fragile) -> None:
        self._port = port
        self._world = world

    def __getattr__(self, name: str):
        method = getattr(self._port, name)
        if not callable(method):
            return method  # a fact that the port knows without a call

        def call(*args, **kwargs):
            ends = self._world.burn()
            if ends and not self._world.after:
                raise self._world.error or CrashError(name)
            answer = method(*args, **kwargs)
            if ends:
                raise self._world.error or CrashError(name)
            return answer

        return call
