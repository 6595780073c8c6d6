"""The outcome of a gang's attempt, from the verdict on it and the ends of its nodes. Pure."""

from dataclasses import replace

from runctl.model.outcome import Outcome, OutcomeKind
from runctl.policy.gang_facts import Completed, Failed, Noticed, Straggler, Verdict


def outcome_of_gang(verdict: Verdict | None, own: Outcome | None) -> Outcome | None:
    """Return the outcome that the lead reports; None if it may not report any.

    `own` is what it would report if its node were the only one. It counts while there is no
    verdict, and when the user has stopped the run.
    """
    if own is None or verdict is None or own.kind is OutcomeKind.STOPPED:
        return own
    match verdict:
        case Completed():
            return replace(own, kind=OutcomeKind.COMPLETED, exit_code=0)
        case Failed(outcome=outcome):
            return replace(
                outcome,
                reason=verdict.reason,
                # Without the name of the node, which differs from attempt to attempt.
                fingerprint=outcome.failure_id,
                step=own.step,
                save=own.save,
            )
        case Noticed(outcome=outcome) if outcome and outcome.kind is OutcomeKind.STOPPED:
            kind = OutcomeKind.STOPPED
        case Noticed() | Straggler():
            kind = OutcomeKind.INTERRUPTED
        case _:
            kind = OutcomeKind.LOST
    return Outcome(
        kind=kind,
        reason=verdict.reason,
        exit_code=own.exit_code,
        step=own.step,
        save=own.save,
        lost_ranks=() if isinstance(verdict, Noticed) else verdict.ranks,
    )
