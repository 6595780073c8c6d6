"""Billing rules of EC2 that decide whether runctl terminates an instance."""

from datetime import datetime, timedelta

FIRST_HOUR = timedelta(hours=1)


def may_terminate(
    *, launched_at: datetime | None, noticed_at: datetime | None, now: datetime
) -> bool:
    """Return whether terminating an instance cannot cost more than leaving it to EC2.

    EC2 charges nothing for an instance that it reclaims within the first hour, unless we terminate
    it first. So after a notice, a young instance is left to EC2, which takes it within two minutes.
    An instance of unknown age counts as young.
    """
    if noticed_at is None:
        return True
    return launched_at is not None and now - launched_at >= FIRST_HOUR
