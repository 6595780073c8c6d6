"""The ledger on one DynamoDB table: every move a conditional write, every read consistent."""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from runctl.aws.items import Item, read_attempt, read_run, run_item, text_of
from runctl.aws.table import Table, check_of, expressions, put_of, update_of
from runctl.model import identity
from runctl.model.errors import FencedError, NotFoundError, RequestError, RunEndedError
from runctl.model.outcome import Outcome, RunStatus
from runctl.model.pool import Pool
from runctl.model.run import Attempt, AttemptStage, Run, already_ended
from runctl.model.saving import Saving


class DynamoLedger:
    """Implements `runctl.control.ports.Ledger`; on the instance the agent uses the same class.

    The fence and the newest pointer live on the run's item, so that moving the pointer is one
    conditional write. Every move can be repeated: a refused condition is followed by a consistent
    read, which tells a move that was already made from one that must not be made.
    """

    def __init__(self, client: Any, table: str) -> None:
        self._table = Table(client, table)

    # Runs.

    def create_run(self, run: Run) -> Run:
        """Put the run unless it exists; return what the ledger holds."""
        self._table.transact(
            self._put_execution(run.execution, run.run_id),
            put_of(
                {**identity.run_key(run.run_id), **run_item(run)},
                condition="attribute_not_exists(#pk)",
            ),
        )
        held = self.find_run(run.run_id)
        if held is None:
            owner = self.find_run_of_execution(run.execution)
            raise RequestError(f"the name {run.execution!r} belongs to the run {owner}")
        return held

    def find_run(self, run_id: str) -> Run | None:
        """Return the run, or None."""
        item = self._table.get(identity.run_key(run_id))
        return None if item is None else read_run(item)

    def list_runs(self, *, limit: int = 100) -> list[Run]:
        """Return the newest runs first; an index is always eventually consistent."""
        pages = self._table.pages(
            IndexName="runs",
            ScanIndexForward=False,
            Limit=limit,
            **expressions(key="#listed = :run", values={"run": "run"}),
        )
        runs: list[Run] = []
        for page in pages:
            runs += [read_run(item) for item in page]
            if len(runs) >= limit:
                break
        return runs[:limit]

    def list_unsettled_runs(self) -> list[str]:
        """Return the ids of all runs without an end, or with one that was not told.

        Only they are in this index, so a sweep costs nothing for all that is over. Ids only, so
        that one item that cannot be read does not hide the others. An index is eventually
        consistent.
        """
        pages = self._table.pages(
            IndexName="unsettled",
            **expressions(key="#unsettled = :run", values={"run": "run"}),
        )
        return [str(item["run_id"]) for page in pages for item in page]

    def find_run_of_execution(self, name: str) -> str | None:
        """Return the run_id of an execution, or None when it is not ours."""
        item = self._table.get(identity.execution_key(name))
        return None if item is None else str(item["run_id"])

    def continue_run(
        self, run_id: str, *, execution: str, execution_arn: str, first_attempt: int
    ) -> Run:
        """Move an ended run to a new execution and clear its end; idempotent per execution."""
        return self._move_run(
            run_id,
            execution=execution,
            execution_arn=execution_arn,
            first_attempt=first_attempt,
            update="#ancestors = :nobody, #unsettled = :run REMOVE #ended, #ended_at, #reason",
            condition="attribute_exists(#ended) AND #execution_arn <> :arn",
            values={"nobody": [], "run": "run"},
        )

    def hand_over(
        self,
        run_id: str,
        *,
        parent_arn: str,
        execution: str,
        execution_arn: str,
        first_attempt: int,
    ) -> Run:
        """Move a live run from an execution to the one it started; idempotent per execution."""
        run = self._move_run(
            run_id,
            execution=execution,
            execution_arn=execution_arn,
            first_attempt=first_attempt,
            update="#ancestors = list_append(if_not_exists(#ancestors, :nobody), :parents)",
            condition="attribute_not_exists(#ended) AND #execution_arn = :parent",
            values={"nobody": [], "parents": [parent_arn], "parent": parent_arn},
        )
        if run.ended is not None:
            raise already_ended(run)
        return run

    def _move_run(
        self,
        run_id: str,
        *,
        execution: str,
        execution_arn: str,
        first_attempt: int,
        update: str,
        condition: str,
        values: Mapping[str, Any],
    ) -> Run:
        """Give the run its next execution; RequestError when another one has it."""
        self._table.transact(
            self._put_execution(execution, run_id),
            update_of(
                identity.run_key(run_id),
                update="SET #execution = :execution, #execution_arn = :arn, "
                f"#executions = #executions + :one, #first_attempt = :first, {update}",
                condition=condition,
                values={
                    "execution": execution,
                    "arn": execution_arn,
                    "one": 1,
                    "first": first_attempt,
                    **values,
                },
            ),
        )
        run = self._run(run_id)
        if run.execution_arn != execution_arn:
            raise RequestError(
                f"the run {run_id} belongs to the execution {run.execution}; "
                "stop it or wait for its end"
            )
        return run

    def end_run(
        self,
        run_id: str,
        *,
        status: RunStatus,
        reason: str,
        now: datetime,
        execution_arn: str | None = None,
    ) -> Run:
        """Set the run's end unless it has one; return what the ledger holds."""
        condition = "attribute_exists(#pk) AND attribute_not_exists(#ended)"
        values = {"status": status.value, "reason": reason, "now": text_of(now)}
        if execution_arn is not None:
            condition += " AND #execution_arn = :arn"
            values["arn"] = execution_arn
        item = self._table.update(
            identity.run_key(run_id),
            update="SET #ended = :status, #ended_at = :now, #reason = :reason",
            condition=condition,
            values=values,
        )
        return self._run(run_id) if item is None else read_run(item)

    def note_told(self, run_id: str, *, end: datetime) -> None:
        """Record that the end of that instant was published, if it is still the run's end."""
        self._table.update(
            identity.run_key(run_id),
            update="SET #told_end = :end REMOVE #unsettled",
            condition="#ended_at = :end",
            values={"end": text_of(end)},
        )

    # Attempts.

    def attempts(self, run_id: str) -> list[Attempt]:
        """Return all attempts in the order of their numbers."""
        pages = self._table.pages(
            ConsistentRead=True,
            **expressions(
                key="#pk = :pk AND begins_with(#sk, :sk)",
                values={"pk": identity.run_key(run_id)["pk"], "sk": "ATTEMPT#"},
            ),
        )
        return [read_attempt(item) for page in pages for item in page]

    def find_attempt(self, run_id: str, number: int) -> Attempt | None:
        """Return the attempt, or None."""
        item = self._table.get(identity.attempt_key(run_id, number))
        return None if item is None else read_attempt(item)

    def open_attempt(
        self, run_id: str, number: int, *, launch_try: int, fleet_request: str, now: datetime
    ) -> Attempt:
        """Record the exact CreateFleet request of a try unless that try is on record."""
        self._table.transact(
            self._check_run_goes_on(run_id),
            update_of(
                identity.attempt_key(run_id, number),
                update="SET #run_id = :run_id, #number = :number, #stage = :launching, "
                "#launch_try = :try, #fleet_request = :request, #timeline = :empty, "
                "#opened_at = if_not_exists(#opened_at, :now)",
                condition="attribute_not_exists(#pk) "
                "OR (#stage = :launching AND #launch_try < :try)",
                values={
                    "run_id": run_id,
                    "number": number,
                    "launching": AttemptStage.LAUNCHING.value,
                    "try": launch_try,
                    "request": fleet_request,
                    "empty": {},
                    "now": text_of(now),
                },
            ),
        )
        return self._attempt_of_live_run(run_id, number)

    def record_launch(
        self, run_id: str, number: int, *, instance_ids: Sequence[str], pool: str, now: datetime
    ) -> Attempt:
        """Store the attempt's instances and, for each, whose it is, unless it has some or ended."""
        self._table.transact(
            self._check_run_goes_on(run_id),
            update_of(
                identity.attempt_key(run_id, number),
                update="SET #instance_ids = :ids, #pool = :pool, #launched_at = :now, "
                "#stage = :launched",
                condition="#stage = :launching",
                values={
                    "ids": list(instance_ids),
                    "pool": pool,
                    "now": text_of(now),
                    "launching": AttemptStage.LAUNCHING.value,
                    "launched": AttemptStage.LAUNCHED.value,
                },
            ),
            *(
                put_of({**identity.instance_key(one), "run_id": run_id, "number": number})
                for one in instance_ids
            ),
        )
        return self._attempt_of_live_run(run_id, number)

    def record_loan(
        self,
        run_id: str,
        number: int,
        *,
        instance_id: str,
        pool: str,
        instead_of: tuple[str, int] | None,
        now: datetime,
    ) -> Attempt:
        """Give the attempt a machine that was there before it, unless somebody else has it."""
        owner, owners_number = instead_of or (run_id, number)
        self._table.transact(
            self._check_run_goes_on(run_id),
            update_of(
                identity.attempt_key(run_id, number),
                update="SET #instance_ids = :ids, #pool = :pool, #launched_at = :now, "
                "#stage = :launched",
                condition="#stage = :launching",
                values={
                    "ids": [instance_id],
                    "pool": pool,
                    "now": text_of(now),
                    "launching": AttemptStage.LAUNCHING.value,
                    "launched": AttemptStage.LAUNCHED.value,
                },
            ),
            put_of(
                {**identity.instance_key(instance_id), "run_id": run_id, "number": number},
                condition="attribute_not_exists(#pk) OR (#run_id = :owner AND #number = :theirs)",
                values={"owner": owner, "theirs": owners_number},
            ),
        )
        return self._attempt_of_live_run(run_id, number)

    def start_training(
        self, run_id: str, number: int, *, token: str, execution_arn: str, now: datetime
    ) -> Attempt:
        """Give the attempt its task token and move the run's fence to it, both or neither."""
        self._table.transact(
            update_of(
                identity.run_key(run_id),
                update="SET #fence = :number",
                condition="attribute_not_exists(#ended) AND #fence <= :number "
                "AND #execution_arn = :arn",
                values={"number": number, "arn": execution_arn},
            ),
            update_of(
                identity.attempt_key(run_id, number),
                update="SET #token = :token, #stage = :training, "
                "#training_at = if_not_exists(#training_at, :now)",
                condition="attribute_exists(#pk) AND attribute_not_exists(#ended)",
                values={
                    "token": token,
                    "training": AttemptStage.TRAINING.value,
                    "now": text_of(now),
                },
            ),
        )
        run = self._run(run_id)
        if run.ended is not None:
            raise already_ended(run)
        if run.execution_arn != execution_arn:
            raise RunEndedError(f"the run {run_id} belongs to the execution {run.execution}")
        if run.fence > number:
            raise FencedError(f"attempt {run.fence} of {run_id} has the fence, not {number}")
        return self._attempt(run_id, number)

    def note_notice(self, run_id: str, number: int, *, now: datetime) -> bool:
        """Record that the interruption is known; True for whoever was first."""
        item = self._table.update(
            identity.attempt_key(run_id, number),
            update="SET #noticed_at = :now",
            condition="attribute_exists(#pk) AND attribute_not_exists(#noticed_at)",
            values={"now": text_of(now)},
        )
        return item is not None

    def end_attempt(self, run_id: str, number: int, *, outcome: Outcome, now: datetime) -> Attempt:
        """Set the attempt's outcome unless it has one; return what the ledger holds."""
        item = self._table.update(
            identity.attempt_key(run_id, number),
            update="SET #ended = :outcome, #ended_at = :now, #stage = :stage",
            condition="attribute_exists(#pk) AND attribute_not_exists(#ended)",
            values={
                "outcome": json.dumps(outcome.as_document()),
                "now": text_of(now),
                "stage": AttemptStage.ENDED.value,
            },
        )
        return self._attempt(run_id, number) if item is None else read_attempt(item)

    def find_instance(self, instance_id: str) -> tuple[str, int] | None:
        """Return (run_id, attempt number) of an instance, or None when it is not ours."""
        item = self._table.get(identity.instance_key(instance_id))
        return None if item is None else (item["run_id"], int(item["number"]))

    # Pools.

    def cool_pool(self, pool: Pool, *, until: datetime) -> None:
        """Remember that a pool refused or reclaimed us; the later `until` wins."""
        self._table.update(
            identity.pool_key(str(pool)),
            update="SET #until = :until",
            condition="attribute_not_exists(#until) OR #until < :until",
            values={"until": text_of(until)},
        )

    def cooling_pools(self, pools: Sequence[Pool], *, now: datetime) -> dict[Pool, datetime]:
        """Return those of `pools` that are cooling down, each with its end."""
        keys = {identity.pool_key(str(pool))["pk"]: pool for pool in pools}
        found: dict[Pool, datetime] = {}
        for item in self._table.get_many([identity.pool_key(str(pool)) for pool in keys.values()]):
            until = datetime.fromisoformat(item["until"])
            if until > now:
                found[keys[item["pk"]]] = until
        return found

    # The agent's side.

    def commit_checkpoint(
        self, run_id: str, number: int, *, step: int, manifest: str, now: datetime
    ) -> None:
        """Move the newest pointer to a manifest that is already stored, if we have the fence."""
        item = self._table.update(
            identity.run_key(run_id),
            update="SET #step = :step, #newest = :manifest, #committed_at = :now",
            condition="#fence = :number",
            values={"step": step, "manifest": manifest, "now": text_of(now), "number": number},
        )
        if item is None:
            raise FencedError(
                f"attempt {self._run(run_id).fence} of {run_id} has the fence, not {number}"
            )

    def record_progress(
        self,
        run_id: str,
        number: int,
        *,
        phase: str,
        now: datetime,
        resume_step: int | None = None,
        step: int | None = None,
        metrics: Mapping[str, float] | None = None,
        timeline: Mapping[str, datetime] | None = None,
        saving: Saving | None = None,
        warning: str = "",
    ) -> None:
        """Store the agent's heartbeat on its own attempt's item.

        A read and a write, not a transaction: only attempt `number` is written, so a write that
        slips through while the fence moves harms nobody, and the next one is refused. An empty
        `warning` clears the one before.
        """
        run = self._run(run_id)
        if run.fence > number:
            raise FencedError(f"attempt {run.fence} of {run_id} has the fence, not {number}")
        values = {
            "phase": phase,
            "heartbeat_at": text_of(now),
            "resume_step": resume_step,
            "progress_step": step,
            "metrics": None if metrics is None else json.dumps(dict(metrics)),
            "saving": None if saving is None else json.dumps(saving.as_document()),
            "warning": warning,
        }
        told = {name: value for name, value in values.items() if value is not None}
        instants = {name: text_of(instant) for name, instant in (timeline or {}).items()}
        moves = [f"#{name} = :{name}" for name in told]
        moves += [f"#timeline.#{name} = :{name}" for name in instants]
        item = self._table.update(
            identity.attempt_key(run_id, number),
            update=f"SET {', '.join(moves)}",
            condition="attribute_exists(#pk)",
            values={**told, **instants},
        )
        if item is None:
            raise NotFoundError(f"the run {run_id} has no attempt {number}")

    # What the moves are made of.

    def _run(self, run_id: str) -> Run:
        run = self.find_run(run_id)
        if run is None:
            raise NotFoundError(f"there is no run {run_id}")
        return run

    def _attempt(self, run_id: str, number: int) -> Attempt:
        attempt = self.find_attempt(run_id, number)
        if attempt is None:
            raise NotFoundError(f"the run {run_id} has no attempt {number}")
        return attempt

    def _attempt_of_live_run(self, run_id: str, number: int) -> Attempt:
        run = self._run(run_id)
        if run.ended is not None:
            raise already_ended(run)
        return self._attempt(run_id, number)

    def _put_execution(self, name: str, run_id: str) -> Item:
        return put_of(
            {**identity.execution_key(name), "run_id": run_id},
            condition="attribute_not_exists(#pk) OR #run_id = :run_id",
            values={"run_id": run_id},
        )

    def _check_run_goes_on(self, run_id: str) -> Item:
        return check_of(
            identity.run_key(run_id),
            condition="attribute_exists(#pk) AND attribute_not_exists(#ended)",
        )
