"""What EC2 charges for, as far as it decides what we do."""

from datetime import datetime, timedelta

FIRST_HOUR = timedelta(hours=1)


def may_terminate(
    *, launched_at: datetime | None, noticed_at: datetime | None, now: datetime
) -> bool:
    """Whether terminating an instance ourselves cannot cost what EC2 would have given for free.

    EC2 charges nothing for an instance that it reclaims within the first hour, unless we end it
    first. So after a notice a young one is left to EC2, which takes it within two minutes. One
    whose age is unknown counts as young.
    """
    if noticed_at is None:
        return True
    return launched_at is not None and now - launched_at >= FIRST_HOUR
