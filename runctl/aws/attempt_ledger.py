"""The attempts in the ledger, from the request of their fleet to their outcome."""

import json
from datetime import datetime

from runctl.aws.attributes import Item, text_of
from runctl.aws.checkpoint_ledger import CheckpointLedger
from runctl.aws.items import node_values, read_attempts, source_values
from runctl.aws.summaries import count_end
from runctl.aws.table import expressions, put_of, update_of
from runctl.model import identity
from runctl.model.errors import FencedError, NotFoundError, RunEndedError
from runctl.model.node import Node
from runctl.model.outcome import Outcome
from runctl.model.run import Attempt, AttemptStage, Source, already_ended


class AttemptLedger(CheckpointLedger):
    """The moves of an attempt as a whole."""

    def attempts(self, run_id: str) -> list[Attempt]:
        """Return all attempts in the order of their numbers, with their nodes."""
        return self._read_attempts(
            "begins_with(#sk, :sk)", pk=identity.run_key(run_id)["pk"], sk=identity.ATTEMPTS
        )

    def find_attempt(self, run_id: str, number: int) -> Attempt | None:
        """Return the attempt with its nodes, or None."""
        key = identity.attempt_key(run_id, number)
        # The sort keys of an attempt and its nodes, and none of attempt 10 times that number.
        found = self._read_attempts("#sk BETWEEN :sk AND :end", **key, end=f"{key['sk']}#~")
        return found[0] if found else None

    def find_token(self, run_id: str, number: int) -> str | None:
        """Return the newest task token of the attempt, or None while it has none."""
        # An earlier version stores it with the attempt, from which this one removes it.
        for key in (identity.attempt_key(run_id, number), identity.token_key(run_id, number)):
            item = self._table.get(key)
            if item is not None and item.get("token"):
                return str(item["token"])
        return None

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
        """Record the source of `count` machines for a launch try, unless that try is recorded."""
        values = source_values(source)
        # A try to launch may follow a try to claim a warm instance, or one with other nodes.
        absent = [name for name in ("warm_instance", "kept") if name not in values]
        removal = " REMOVE " + ", ".join(f"#{name}" for name in absent)
        assignments = ", ".join(f"#{name} = :{name}" for name in values)
        self._transact_of_live_run(
            run_id,
            number,
            update_of(
                identity.attempt_key(run_id, number),
                update="SET #run_id = :run_id, #number = :number, #stage = :launching, "
                f"#launch_try = :try, {assignments}, #timeline = :empty, "
                f"#opened_at = if_not_exists(#opened_at, :now){removal}",
                condition="attribute_not_exists(#pk) "
                "OR (#stage = :launching AND #launch_try < :try)",
                values={
                    "run_id": run_id,
                    "number": number,
                    "launching": AttemptStage.LAUNCHING.value,
                    "try": launch_try,
                    **values,
                    # An agent of an earlier version writes its timeline here.
                    "empty": {},
                    "now": text_of(now),
                },
            ),
            *(_put_node(Node(run_id=run_id, attempt=number, rank=rank)) for rank in range(count)),
        )
        return self._attempt_of_live_run(run_id, number)

    def record_token(
        self, run_id: str, number: int, *, token: str, execution_arn: str, now: datetime
    ) -> Attempt:
        """Give the attempt its task token and move the run's fence to it, both or neither.

        The token is an item of its own, so that only sessions of this attempt can read it.
        """
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
                update="SET #has_token = :true, #stage = :running, "
                "#running_at = if_not_exists(#running_at, :now) REMOVE #token",
                condition="attribute_exists(#pk) AND attribute_not_exists(#ended)",
                values={
                    "true": True,
                    "running": AttemptStage.RUNNING.value,
                    "now": text_of(now),
                },
            ),
            update_of(
                identity.token_key(run_id, number),
                update="SET #token = :token",
                condition="",
                values={"token": token},
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

    def _read_attempts(self, sort_keys: str, **values: str) -> list[Attempt]:
        """Read attempts and their nodes with one query."""
        pages = self._table.pages(
            ConsistentRead=True,
            **expressions(key=f"#pk = :pk AND {sort_keys}", values=values),
        )
        return read_attempts(item for page in pages for item in page)


def _put_node(node: Node) -> Item:
    return put_of({**identity.node_key(*node.node_id), **node_values(node)})
