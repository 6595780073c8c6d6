"""The runs in the ledger: their executions, their progress and their ends."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from runctl.aws.attributes import Item, text_of
from runctl.aws.ends import set_end
from runctl.aws.items import image_text, read_run, run_item
from runctl.aws.summaries import note_attempt
from runctl.aws.table import Table, expressions, put_of, update_of
from runctl.model import identity
from runctl.model.errors import NotFoundError, RequestError
from runctl.model.image import Image
from runctl.model.outcome import RunStatus
from runctl.model.run import Run, already_ended


class RunLedger:
    """The moves of a run as a whole.

    The fence and the newest pointer live on the run's item, so that moving the pointer is one
    conditional write.
    """

    def __init__(self, client: Any, table: str) -> None:
        self._table = Table(client, table)

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
        """Return the ids of all runs without an end, or whose end was not announced.

        Only they are in this index, so finished runs cost a reconciliation nothing. Ids only, so
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

    def resume_run(
        self,
        run_id: str,
        *,
        execution: str,
        execution_arn: str,
        first_attempt: int,
        fresh_environment: bool = False,
    ) -> Run:
        """Move an ended run to a new execution and clear its end; idempotent per execution.

        With `fresh_environment` it gets the next generation of its environment.
        """
        fresh = (
            "#environment_generation = if_not_exists(#environment_generation, :none) + :one, "
            if fresh_environment
            else ""
        )
        return self._move_run(
            run_id,
            execution=execution,
            execution_arn=execution_arn,
            first_attempt=first_attempt,
            update=f"{fresh}#ancestors = :empty, #unsettled = :run "
            "REMOVE #ended, #ended_at, #reason",
            condition="attribute_exists(#ended) AND #execution_arn <> :arn",
            values={"empty": [], "run": "run", **({"none": 0} if fresh_environment else {})},
        )

    def continue_as_new(
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
            update="#ancestors = list_append(if_not_exists(#ancestors, :empty), :parents)",
            condition="attribute_not_exists(#ended) AND #execution_arn = :parent",
            values={"empty": [], "parents": [parent_arn], "parent": parent_arn},
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
        item = set_end(
            self._table,
            identity.run_key(run_id),
            status=status,
            reason=reason,
            now=now,
            execution_arn=execution_arn,
        )
        return self._run(run_id) if item is None else read_run(item)

    def record_notified(self, run_id: str, *, end: datetime) -> None:
        """Record that the end of that instant was published, if it is still the run's end."""
        self._table.update(
            identity.run_key(run_id),
            update="SET #notified_end = :end REMOVE #unsettled",
            condition="#ended_at = :end",
            values={"end": text_of(end)},
        )

    def record_image(self, run_id: str, image: Image) -> Image:
        """Store the run's image unless it has one; return what the ledger holds."""
        item = self._table.update(
            identity.run_key(run_id),
            update="SET #image = :image",
            condition="attribute_exists(#pk) AND attribute_not_exists(#image)",
            values={"image": image_text(image)},
        )
        run = self._run(run_id) if item is None else read_run(item)
        return run.image or image

    # The parts of the moves.

    def _run(self, run_id: str) -> Run:
        run = self.find_run(run_id)
        if run is None:
            raise NotFoundError(f"there is no run {run_id}")
        return run

    def _put_execution(self, name: str, run_id: str) -> Item:
        return put_of(
            {**identity.execution_key(name), "run_id": run_id},
            condition="attribute_not_exists(#pk) OR #run_id = :run_id",
            values={"run_id": run_id},
        )

    def _transact_of_live_run(
        self, run_id: str, number: int, *writes: Item, pool: str | None = None
    ) -> None:
        """Write to an attempt of a run that has not ended, and keep the run's summary up to date.

        The summary stays as it is if it already describes a later attempt: a function may be so
        slow that another one opens or launches the next attempt meanwhile.
        """
        first, overtaken = note_attempt(run_id, number, pool=pool)
        if not self._table.transact(first, *writes):
            self._table.transact(overtaken, *writes)
