"""The report that completes a Train task."""

from typing import Any

from runctl.model.outcome import Outcome


def report_document(outcome: Outcome) -> dict[str, Any]:
    """Return the report of an outcome, as the agent writes it too."""
    return {"outcome": outcome.as_document()}
