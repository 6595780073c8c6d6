"""The health of a gang: which of its nodes are lost, hang, have failed or are too slow. Pure.

The agent of each node judges by itself, from what the ledger shows of all nodes and from how long
it has shown that. Only the verdict of the lead is reported, so that agents may differ for a moment.
"""

from collections.abc import Sequence

from runctl.model.node import NodeStage
from runctl.model.outcome import Outcome, OutcomeKind
from runctl.model.rank_output import follows_from_another
from runctl.policy.gang_facts import Completed, Failed, Lost, NodeFacts, Noticed, NotJoined, Verdict
from runctl.policy.gang_pace import find_hang, find_straggler

# All limits are in seconds.
DOUBTFUL = 6.0
# So long a failure waits for the loss of another node, which would explain it.
FAILURE_WAIT = 12.0
JOIN = 30.0
JOIN_TIMES = 2
NOBODY_JOINED = 30 * 60.0
NEVER_JOINED = (
    "no rank has joined the rendezvous in 30 minutes: the script never calls "
    "torch.distributed.init_process_group; call it at its start, or remove nodes"
)


def judge(
    nodes: Sequence[NodeFacts], *, must_join: bool = True, replaces_stragglers: bool = False
) -> Verdict | None:
    """Return what is wrong with a gang, or that it has completed; None while it is at work.

    `nodes` are the active ones, without spares. `must_join` says that the programs are started by
    torchrun, so that ranks which never join a rendezvous are a mistake.
    """
    if nodes and all(facts.is_settled for facts in nodes):
        return Completed()
    at_work = [facts for facts in nodes if not facts.is_settled]
    verdict = (
        _lost(at_work)
        or _noticed(at_work)
        or _failed(nodes)
        or _not_joined(at_work, must_join=must_join)
        or find_hang(nodes)
    )
    if verdict is None and replaces_stragglers:
        return find_straggler(at_work)
    return verdict


def find_lead(nodes: Sequence[NodeFacts]) -> int | None:
    """Return the lowest rank whose agent reports, spares included."""
    present = (facts.rank for facts in nodes if facts.is_own or _reports(facts))
    return min(present, default=None)


def _reports(facts: NodeFacts) -> bool:
    return facts.node.heartbeat_at is not None and not facts.is_silent


def _lost(nodes: Sequence[NodeFacts]) -> Lost | None:
    lost = [facts for facts in nodes if facts.is_silent]
    if not lost:
        return None
    return Lost(
        reason="; ".join(_how_lost(facts) for facts in lost),
        ranks=tuple(facts.rank for facts in lost),
    )


def _how_lost(facts: NodeFacts) -> str:
    if facts.node.stage is NodeStage.GONE:
        return f"{facts} is gone"
    if facts.node.heartbeat_at is None:
        return f"{facts} has not reported in {facts.age / 60:.0f} minutes"
    return f"{facts} has been silent for {facts.age:.0f} s"


def _noticed(nodes: Sequence[NodeFacts]) -> Noticed | None:
    noticed = [facts for facts in nodes if facts.node.noticed_at is not None]
    if noticed:
        names = " and ".join(map(str, noticed))
        return Noticed(reason=f"EC2 takes {names}", ranks=tuple(facts.rank for facts in noticed))
    for facts in nodes:
        outcome = None if facts.end is None else facts.end.outcome
        if outcome is not None and outcome.kind not in {OutcomeKind.COMPLETED, OutcomeKind.FAILED}:
            return Noticed(
                reason=facts.explain(outcome.reason), ranks=outcome.lost_ranks, outcome=outcome
            )
    return None


def _failed(nodes: Sequence[NodeFacts]) -> Failed | None:
    """Return the failure that came first, once the loss of a node would have become known."""
    failures = [facts for facts in nodes if _has_failed(facts)]
    if not failures:
        return None
    running = [facts for facts in nodes if facts.end is None]
    waited = max(facts.ended_for or 0.0 for facts in failures)
    if running and (waited < FAILURE_WAIT or any(map(_is_doubtful, running))):
        return None
    first = min(failures, key=_by_cause)
    assert first.end is not None
    outcome = first.end.outcome
    return Failed(reason=first.explain(outcome.reason), ranks=(first.rank,), outcome=outcome)


def _is_doubtful(facts: NodeFacts) -> bool:
    """Whether a node may turn out to be lost in a moment."""
    return not facts.is_own and facts.node.heartbeat_at is not None and facts.age >= DOUBTFUL


def _has_failed(facts: NodeFacts) -> bool:
    return facts.end is not None and facts.end.outcome.kind is OutcomeKind.FAILED


def _by_cause(facts: NodeFacts) -> tuple[bool, float, int]:
    """Order failures: those that only follow from others come last."""
    assert facts.end is not None
    follows = facts.end.was_stopped or follows_from_another(facts.end.outcome.reason)
    return follows, facts.end.at.timestamp(), facts.rank


def _not_joined(nodes: Sequence[NodeFacts], *, must_join: bool) -> Verdict | None:
    late = _late([(facts, facts.launched_after) for facts in nodes]) or _late(
        [(facts, facts.joined_after) for facts in nodes]
    )
    if late is not None or not must_join:
        return late
    has_joined = any(facts.joined_after is not None for facts in nodes)
    ran_for = min((facts.ran_at_report for facts in nodes), default=0.0)
    if has_joined or ran_for < NOBODY_JOINED:
        return None
    outcome = Outcome(kind=OutcomeKind.FAILED, reason=NEVER_JOINED)
    return Failed(reason=NEVER_JOINED, outcome=outcome)


def _late(took: Sequence[tuple[NodeFacts, float | None]]) -> NotJoined | None:
    """Return the nodes that take much longer than the slowest of those that are there."""
    there = [seconds for _, seconds in took if seconds is not None]
    if not there:
        return None
    limit = JOIN + JOIN_TIMES * max(there)
    late = [
        facts
        for facts, seconds in took
        if seconds is None and facts.end is None and facts.ran_at_report >= limit
    ]
    if not late:
        return None
    return NotJoined(
        reason=f"{' and '.join(map(str, late))} did not join the rendezvous in {limit:.0f} s, but "
        f"others did in {max(there):.0f} s",
        ranks=tuple(facts.rank for facts in late),
    )
