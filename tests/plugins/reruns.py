"""Counts the tests that `make test` runs a second time, names them, and refuses more than a few.

Real processes under load can miss a time limit, so what failed is run once more by itself. A race
must not hide in that: each rerun is printed at the end, and more than MAX_RERUNS fail the run.
Loaded with `-p tests.plugins.reruns` together with `--last-failed`.
"""

from __future__ import annotations

import pytest

MAX_RERUNS = 8


def pytest_collection_finish(session: pytest.Session) -> None:
    """End the run before it starts if too many tests failed the first time."""
    names = [item.nodeid for item in session.items]
    if len(names) > MAX_RERUNS:
        raise pytest.exit.Exception(
            f"{len(names)} tests failed; at most {MAX_RERUNS} are run a second time", returncode=1
        )


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Name the tests that ran a second time, with what came of it."""
    stats = terminalreporter.stats
    outcomes = {
        report.nodeid: outcome
        for outcome in ("passed", "failed")
        for report in stats.get(outcome, [])
    }
    terminalreporter.section(f"{len(outcomes)} ran a second time")
    for nodeid, outcome in sorted(outcomes.items()):
        terminalreporter.line(f"RERUN {outcome} {nodeid}")
