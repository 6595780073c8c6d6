"""Sizes, counts, durations and instants, formatted for people."""

from datetime import datetime, timedelta, timezone

_UNITS = ("B", "kB", "MB", "GB", "TB")


def format_size(size_bytes: float) -> str:
    """Format a number of bytes in decimal units, such as 12.3 MB."""
    unit = 0
    while abs(size_bytes) >= 999.5 and unit < len(_UNITS) - 1:
        size_bytes /= 1000
        unit += 1
    digits = 1 if unit and size_bytes < 99.95 else 0
    return f"{size_bytes:.{digits}f} {_UNITS[unit]}"


def format_count(count: int, noun: str) -> str:
    """Format a number of things with a regular plural, such as 1 object or 1,200 objects."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def format_duration(duration: timedelta) -> str:
    """Format a duration with its two largest units, such as 3m 12s."""
    seconds = max(0, round(duration.total_seconds()))
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days}d {hours}h"
    if hours:
        return f"{hours}h {minutes:02}m"
    return f"{minutes}m {seconds:02}s" if minutes else f"{seconds}s"


def format_short_duration(duration: timedelta) -> str:
    """Format a duration that may be short, such as 2.1s."""
    seconds = duration.total_seconds()
    return f"{seconds:.1f}s" if seconds < 10 else format_duration(duration)


def format_instant(instant: datetime) -> str:
    """Format an instant in UTC, to the second."""
    return instant.astimezone(timezone.utc).strftime("%Y-%m-%d %H:%M:%SZ")


def instant_text(instant: datetime | None) -> str | None:
    """Return an instant as documents contain it, in UTC."""
    return None if instant is None else instant.astimezone(timezone.utc).isoformat()
