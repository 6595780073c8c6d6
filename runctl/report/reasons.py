"""The reason why an attempt ended, in one line."""

import re

from runctl.model.excerpt import ELLIPSIS, MAX_SUMMARY

SUMMARY = re.compile(rf"\A([^\n]{{1,{MAX_SUMMARY}}}?): ")


def brief(reason: str) -> str:
    """Return a reason in one line: of several lines the summary and the last one."""
    lines = [line for line in reason.splitlines() if line.strip()]
    if len(lines) < 2:
        return reason.strip()
    summary = SUMMARY.match(reason)
    return f"{summary[1]}: {ELLIPSIS} {lines[-1].strip()}" if summary else lines[-1].strip()
