"""The silence that an attempt is allowed before it counts as lost."""

from collections.abc import Sequence
from datetime import timedelta

from runctl.model.outcome import OutcomeKind
from runctl.model.pool import Pool
from runctl.model.run import Attempt

USUAL_SILENCE = timedelta(minutes=5)
# A bare-metal machine tests its memory and devices before it boots: 10 to 20 minutes.
METAL_SILENCE = timedelta(minutes=30)
MAX_SILENCE = timedelta(minutes=30)


def allowed_silence(attempts: Sequence[Attempt]) -> timedelta:
    """Return the longest silence allowed to the last of `attempts`, which was just launched.

    It covers the boot, since the clock starts with the launch. If the previous attempts were lost
    without ever being heard from, the boot may be the reason: the time doubles for each. It applies
    to the whole attempt, so a slow boot delays the detection of a hung agent; the loss of a machine
    is detected by its event, at once.
    """
    if not attempts:
        return USUAL_SILENCE
    *before, last = attempts
    if last.pool and ".metal" in Pool.parse(last.pool).instance_type:
        return METAL_SILENCE
    doubled: timedelta = USUAL_SILENCE * 2 ** min(_never_heard_of(before), 8)
    return min(doubled, MAX_SILENCE)


def _never_heard_of(attempts: Sequence[Attempt]) -> int:
    """Count the lost attempts at the end that were launched and never heard from."""
    count = 0
    for attempt in reversed(attempts):
        if not attempt.was_launched:
            continue
        lost = attempt.ended is not None and attempt.ended.kind is OutcomeKind.LOST
        if attempt.heartbeat_at is not None or not lost:
            break
        count += 1
    return count
