"""The reason why an attempt ended: in one line, and the program's last lines."""

import re

from runctl.model.excerpt import ELLIPSIS, MAX_SUMMARY

_SUMMARY = re.compile(rf"\A([^\n]{{1,{MAX_SUMMARY}}}?): ")


def brief(reason: str) -> str:
    """Return a reason in one line: of several lines the summary and the last one."""
    lines = [line for line in reason.splitlines() if line.strip()]
    if len(lines) < 2:
        return reason.strip()
    summary = _SUMMARY.match(reason)
    return f"{summary[1]}: {ELLIPSIS} {lines[-1].strip()}" if summary else lines[-1].strip()


def last_lines(reason: str) -> list[str]:
    """Return the lines of output in a reason, without the summary before them."""
    summary = _SUMMARY.match(reason)
    return (reason[summary.end() :] if summary else reason).splitlines()
