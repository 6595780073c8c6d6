"""The parts of transactions that keep the summary of a run's attempts up to date."""

from typing import Any

from runctl.aws.attributes import Item
from runctl.aws.table import update_of
from runctl.model import identity
from runctl.model.outcome import Outcome, OutcomeKind, is_own_failure
from runctl.model.run import INTERRUPTIONS


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
        update += f" ADD {', '.join(added)}"
        values["one"] = 1
    if outcome.kind is not OutcomeKind.NO_CAPACITY:
        update += " SET #is_recovering = :yes"
        values["yes"] = True
    return update_of(
        identity.run_key(run_id), update=update, condition="attribute_exists(#pk)", values=values
    )
