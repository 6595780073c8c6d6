"""The parts of transactions that keep the summary of a run's attempts up to date."""

from typing import Any

from runctl.aws.attributes import Item
from runctl.aws.table import update_of
from runctl.model import identity
from runctl.model.outcome import Outcome, OutcomeKind, is_own_failure
from runctl.model.run import INTERRUPTIONS


def note_attempt(run_id: str, number: int, *, pool: str | None = None) -> tuple[Item, Item]:
    """Return the two forms of the part that requires a live run and notes its last attempt.

    With a `pool`, it notes the last attempt that was launched. The first form fails if a later
    attempt is noted already; the second requires that, and changes nothing.
    """
    noted: dict[str, Any] = {"last_attempt": number}
    if pool is not None:
        noted = {"pool_attempt": number, "last_pool": pool}
    name = next(iter(noted))
    is_live = "attribute_exists(#pk) AND attribute_not_exists(#ended)"
    return (
        update_of(
            identity.run_key(run_id),
            update="SET " + ", ".join(f"#{each} = :{each}" for each in noted),
            condition=f"{is_live} AND (attribute_not_exists(#{name}) OR #{name} <= :{name})",
            values=noted,
        ),
        update_of(
            identity.run_key(run_id),
            update=f"SET #{name} = #{name}",
            condition=f"{is_live} AND #{name} > :{name}",
            values={name: number},
        ),
    )


def count_end(run_id: str, number: int, outcome: Outcome) -> Item:
    """Return the part of the transaction that counts the end of an attempt in its run's summary."""
    counts = {
        "interruptions": outcome.kind in INTERRUPTIONS,
        "failures": is_own_failure(outcome),
    }
    added = [f"#{name} :one" for name, is_counted in counts.items() if is_counted]
    update = "DELETE #running_attempts :numbers"
    values: dict[str, Any] = {"numbers": {number}}
    if added:
        values["one"] = 1
    if outcome.kind is OutcomeKind.COMPLETED:
        added.append("#completed_attempts :numbers")
    if added:
        update += f" ADD {', '.join(added)}"
    if outcome.kind is not OutcomeKind.NO_CAPACITY:
        update += " SET #is_recovering = :yes"
        values["yes"] = True
    return update_of(
        identity.run_key(run_id), update=update, condition="attribute_exists(#pk)", values=values
    )
