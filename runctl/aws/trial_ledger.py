"""The trials of sweeps in the ledger, and the values that they had at rungs."""

import contextlib
import json
import math
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from runctl.aws.attributes import Item, instant_of, text_of, whole_number_of
from runctl.aws.items import LONG_AGO
from runctl.aws.table import Table, expressions
from runctl.model import identity
from runctl.model.errors import NotFoundError
from runctl.model.hyperparameters import Value
from runctl.model.trial import UNFINISHED, Trial, TrialEnd, TrialState

_UNFINISHED = {f"state{at}": state.value for at, state in enumerate(sorted(UNFINISHED))}


class DynamoTrialLedger:
    """Implements `runctl.control.ports.sweeps.TrialLedger` on the table of the ledger."""

    def __init__(self, client: Any, table: str) -> None:
        self._table = Table(client, table)

    def create_trial(self, trial: Trial) -> Trial:
        """Put the trial unless it exists; return what the ledger holds."""
        values = trial_values(trial)
        self._table.update(
            identity.trial_key(trial.group_id, trial.number),
            update=f"SET {', '.join(f'#{name} = :{name}' for name in values)}",
            condition="attribute_not_exists(#pk)",
            values=values,
        )
        return self._trial(trial.group_id, trial.number)

    def find_trial(self, group_id: str, number: int) -> Trial | None:
        """Return the trial, or None."""
        item = self._table.get(identity.trial_key(group_id, number))
        return None if item is None else _read_trial(item)

    def list_trials(self, group_id: str) -> list[Trial]:
        """Return all trials of a sweep in the order of their numbers."""
        key = identity.trial_key(group_id, 1)
        pages = self._table.pages(
            ConsistentRead=True,
            **expressions(
                key="#pk = :pk AND begins_with(#sk, :trials)",
                values={"pk": key["pk"], "trials": identity.TRIALS},
            ),
        )
        return [_read_trial(item) for page in pages for item in page]

    def restart_trial(self, trial: Trial, *, execution: str) -> Trial:
        """Let an unfinished trial run again in another execution; return what the ledger holds."""
        self._table.update(
            identity.trial_key(trial.group_id, trial.number),
            update="SET #state = :running, #execution = :execution REMOVE #reason, #ended_at",
            condition=f"#execution = :before AND #state IN (:{', :'.join(_UNFINISHED)})",
            values={
                "running": TrialState.RUNNING.value,
                "execution": execution,
                "before": trial.execution,
                **_UNFINISHED,
            },
        )
        return self._trial(trial.group_id, trial.number)

    def end_trial(self, trial: Trial, *, end: TrialEnd, now: datetime) -> Trial:
        """Set the trial's end unless it has one; return what the ledger holds."""
        values = {
            "state": end.state.value,
            "ended_at": text_of(now),
            "reason": end.reason,
            **({} if end.value is None else {"value": repr(end.value)}),
        }
        self._table.update(
            identity.trial_key(trial.group_id, trial.number),
            update=f"SET {', '.join(f'#{name} = :{name}' for name in values)}",
            condition="#state = :running AND #execution = :execution",
            values={**values, "running": TrialState.RUNNING.value, "execution": trial.execution},
        )
        return self._trial(trial.group_id, trial.number)

    def rung_values(self, group_id: str, rung: int) -> Mapping[int, float]:
        """Return the values of the trials that have reached a rung; eventually consistent."""
        key = identity.rung_key(group_id, rung, 1)
        pages = self._table.pages(
            **expressions(
                key="#pk = :pk AND begins_with(#sk, :rung)",
                values={"pk": key["pk"], "rung": identity.rung_prefix(rung)},
            ),
        )
        found = {}
        for item in (item for page in pages for item in page):
            value = _number_of(item, "value")
            if value is not None:
                found[int(item["number"])] = value
        return found

    def record_rung(
        self, group_id: str, number: int, *, rung: int, value: float, goes_on: bool
    ) -> bool:
        """Record a trial's value at a rung, and whether it goes on, unless that is recorded."""
        self._table.update(
            identity.rung_key(group_id, rung, number),
            update="SET #number = :number, #value = :value, #goes_on = :goes_on",
            condition="attribute_not_exists(#pk)",
            values={"number": number, "value": repr(value), "goes_on": goes_on},
        )
        if self.find_rung(group_id, number, rung=rung) is not False:
            return True
        self._table.update(
            identity.trial_key(group_id, number),
            update="SET #pruned_at = if_not_exists(#pruned_at, :rung)",
            condition="attribute_exists(#pk)",
            values={"rung": rung},
        )
        return False

    def find_rung(self, group_id: str, number: int, *, rung: int) -> bool | None:
        """Return whether a trial goes on after a rung, None before that was decided."""
        item = self._table.get(identity.rung_key(group_id, rung, number))
        return None if item is None else bool(item.get("goes_on", True))

    def _trial(self, group_id: str, number: int) -> Trial:
        trial = self.find_trial(group_id, number)
        if trial is None:
            raise NotFoundError(f"the sweep {group_id} has no trial {number}")
        return trial


def trial_values(trial: Trial) -> Item:
    """Return the attributes of the item of a trial that has not ended."""
    return {
        "group_id": trial.group_id,
        "number": trial.number,
        "chosen": json.dumps(
            [[name, value.text, value.plain] for name, value in trial.chosen.items()]
        ),
        "started_at": text_of(trial.started_at),
        "execution": trial.execution,
        "state": trial.state.value,
    }


def _read_trial(item: Mapping[str, Any]) -> Trial:
    """Read a trial, whichever version wrote it."""
    return Trial(
        group_id=item["group_id"],
        number=int(item["number"]),
        chosen=_chosen(item),
        started_at=instant_of(item, "started_at") or LONG_AGO,
        execution=str(item.get("execution", "")),
        state=_state(item),
        value=_number_of(item, "value"),
        reason=str(item.get("reason", "")),
        ended_at=instant_of(item, "ended_at"),
        pruned_at=whole_number_of(item, "pruned_at"),
    )


def _chosen(item: Mapping[str, Any]) -> dict[str, Value]:
    with contextlib.suppress(KeyError, TypeError, ValueError):
        return {
            str(name): Value(str(text), plain) for name, text, plain in json.loads(item["chosen"])
        }
    return {}


def _state(item: Mapping[str, Any]) -> TrialState:
    try:
        return TrialState(item.get("state"))
    except ValueError:
        return TrialState.UNKNOWN


def _number_of(item: Mapping[str, Any], name: str) -> float | None:
    with contextlib.suppress(KeyError, TypeError, ValueError):
        number = float(item[name])
        return number if math.isfinite(number) else None
    return None
