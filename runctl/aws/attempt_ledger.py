"""The attempts in the ledger, from the request of their fleet to their outcome."""

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from runctl.aws.items import read_attempt, source_values, text_of
from runctl.aws.run_ledger import RunLedger
from runctl.aws.summaries import count_end
from runctl.aws.table import expressions, put_of, update_of
from runctl.model import identity
from runctl.model.errors import FencedError, NotFoundError, RunEndedError
from runctl.model.outcome import Outcome
from runctl.model.run import Attempt, AttemptStage, Existing, Launched, already_ended, best_of
from runctl.model.saving import Saving


class AttemptLedger(RunLedger):
    """The moves of an attempt; those that its agent makes are fenced by its number."""

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
        self,
        run_id: str,
        number: int,
        *,
        launch_try: int,
        source: Launched | Existing,
        now: datetime,
    ) -> Attempt:
        """Record where the machine of a try comes from unless that try is on record."""
        values = source_values(source)
        moves = ", ".join(f"#{name} = :{name}" for name in values)
        self._table.transact(
            self._update_live_run(run_id, "SET #last_attempt = :number", {"number": number}),
            update_of(
                identity.attempt_key(run_id, number),
                update="SET #run_id = :run_id, #number = :number, #stage = :launching, "
                f"#launch_try = :try, {moves}, #timeline = :empty, "
                "#opened_at = if_not_exists(#opened_at, :now)",
                condition="attribute_not_exists(#pk) "
                "OR (#stage = :launching AND #launch_try < :try)",
                values={
                    "run_id": run_id,
                    "number": number,
                    "launching": AttemptStage.LAUNCHING.value,
                    "try": launch_try,
                    **values,
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
            self._update_live_run(run_id, "SET #last_pool = :pool", {"pool": pool}),
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
                put_of({**identity.instance_key(instance_id), "run_id": run_id, "number": number})
                for instance_id in instance_ids
            ),
        )
        return self._attempt_of_live_run(run_id, number)

    def record_existing_instance(
        self,
        run_id: str,
        number: int,
        *,
        instance_id: str,
        pool: str,
        instead_of: tuple[str, int] | None,
        now: datetime,
    ) -> Attempt:
        """Give the attempt an existing instance unless another attempt has it."""
        owner, owners_number = instead_of or (run_id, number)
        self._table.transact(
            self._update_live_run(run_id, "SET #last_pool = :pool", {"pool": pool}),
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

    def record_token(
        self, run_id: str, number: int, *, token: str, execution_arn: str, now: datetime
    ) -> Attempt:
        """Give the attempt its task token and move the run's fence to it, both or neither."""
        self._table.transact(
            update_of(
                identity.run_key(run_id),
                update="SET #fence = :number ADD #running_attempts :numbers",
                condition="attribute_not_exists(#ended) AND #fence <= :number "
                "AND #execution_arn = :arn",
                values={"number": number, "numbers": {number}, "arn": execution_arn},
            ),
            update_of(
                identity.attempt_key(run_id, number),
                update="SET #token = :token, #stage = :running, "
                "#running_at = if_not_exists(#running_at, :now)",
                condition="attribute_exists(#pk) AND attribute_not_exists(#ended)",
                values={
                    "token": token,
                    "running": AttemptStage.RUNNING.value,
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
        """Record that the interruption is known; return True if this is the first record."""
        item = self._table.update(
            identity.attempt_key(run_id, number),
            update="SET #noticed_at = :now",
            condition="attribute_exists(#pk) AND attribute_not_exists(#noticed_at)",
            values={"now": text_of(now)},
        )
        return item is not None

    def end_attempt(self, run_id: str, number: int, *, outcome: Outcome, now: datetime) -> Attempt:
        """Set the attempt's outcome unless it has one; return what the ledger holds."""
        self._table.transact(
            count_end(run_id, number, outcome),
            update_of(
                identity.attempt_key(run_id, number),
                update="SET #ended = :outcome, #ended_at = :now, #stage = :stage",
                condition="attribute_exists(#pk) AND attribute_not_exists(#ended)",
                values={
                    "outcome": json.dumps(outcome.as_document()),
                    "now": text_of(now),
                    "stage": AttemptStage.ENDED.value,
                },
            ),
        )
        return self._attempt(run_id, number)

    def find_instance(self, instance_id: str) -> tuple[str, int] | None:
        """Return (run_id, attempt number) of an instance, or None when it is not ours."""
        item = self._table.get(identity.instance_key(instance_id))
        return None if item is None else (item["run_id"], int(item["number"]))

    # The agent's side.

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
    ) -> None:
        """Move the newest pointer to a manifest that is already stored, if we have the fence.

        The best step is read first: only the holder of the fence moves it, so it cannot have
        changed when the write is accepted.
        """
        values: dict[str, Any] = {"save": save, "newest": manifest, "committed_at": text_of(now)}
        if step is not None:
            values |= {"step": step, "best_step": best_of(self._run(run_id).best_step, step)}
        if progressed:
            values["progressed_attempt"] = number
        moves = ", ".join(f"#{name} = :{name}" for name in values)
        item = self._table.update(
            identity.run_key(run_id),
            update=f"SET {moves}" if step is not None else f"SET {moves} REMOVE #step",
            condition="#fence = :number",
            values={**values, "number": number},
        )
        if item is None:
            raise FencedError(
                f"attempt {self._run(run_id).fence} of {run_id} has the fence, not {number}"
            )

    def mark_suspect(self, run_id: str, number: int, key: str) -> None:
        """Mark a checkpoint that a trainer died from, if we have the fence."""
        self._mark(run_id, number, "ADD #suspects :keys", {"keys": {key}})

    def clear_suspects(self, run_id: str, number: int, keys: Iterable[str]) -> None:
        """Take such marks back, if we have the fence."""
        self._mark(run_id, number, "DELETE #suspects :keys", {"keys": set(keys)})

    def mark_proven(self, run_id: str, number: int, key: str) -> None:
        """Mark the checkpoint that a trainer continued from, if we have the fence."""
        update = "SET #proven = :key DELETE #suspects :keys"
        self._mark(run_id, number, update, {"key": key, "keys": {key}})

    def _mark(self, run_id: str, number: int, update: str, values: Mapping[str, Any]) -> None:
        item = self._table.update(
            identity.run_key(run_id),
            update=update,
            condition="#fence = :number",
            values={**values, "number": number},
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
        resume_save: int | None = None,
        step: int | None = None,
        metrics: Mapping[str, float] | None = None,
        timeline: Mapping[str, datetime] | None = None,
        saving: Saving | None = None,
        warning: str = "",
    ) -> None:
        """Store the agent's heartbeat on its own attempt's item.

        A read and a write, not a transaction: only attempt `number` is written, so a write that
        slips through while the fence moves does no harm, and the next one is refused. An empty
        `warning` clears the one before.
        """
        run = self._run(run_id)
        if run.fence > number:
            raise FencedError(f"attempt {run.fence} of {run_id} has the fence, not {number}")
        values = {
            "phase": phase,
            "heartbeat_at": text_of(now),
            "resume_step": resume_step,
            "resume_save": resume_save,
            "progress_step": step,
            "metrics": None if metrics is None else json.dumps(dict(metrics)),
            "saving": None if saving is None else json.dumps(saving.as_document()),
            "warning": warning,
        }
        given = {name: value for name, value in values.items() if value is not None}
        instants = {name: text_of(instant) for name, instant in (timeline or {}).items()}
        moves = [f"#{name} = :{name}" for name in given]
        moves += [f"#timeline.#{name} = :{name}" for name in instants]
        # Where it starts from may change within the attempt, to a checkpoint without a step too.
        resumes_without_step = resume_save is not None and resume_step is None
        item = self._table.update(
            identity.attempt_key(run_id, number),
            update=f"SET {', '.join(moves)}{' REMOVE #resume_step' * resumes_without_step}",
            condition="attribute_exists(#pk)",
            values={**given, **instants},
        )
        if item is None:
            raise NotFoundError(f"the run {run_id} has no attempt {number}")

    # What the moves are made of.

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
