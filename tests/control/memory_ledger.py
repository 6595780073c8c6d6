"""The ledger of runs in memory."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from runctl.model.errors import FencedError, NotFoundError, RequestError, RunEndedError
from runctl.model.image import Image
from runctl.model.node import Node, NodeId, NodeProgress, NodeStage
from runctl.model.outcome import Outcome, OutcomeKind, RunStatus, is_own_failure
from runctl.model.pool import Pool
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
from runctl.model.subject import pin_of, pinned_keys, pins_by


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
