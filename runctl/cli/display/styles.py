"""The styles of statuses and outcomes."""

from runctl.model.outcome import OutcomeKind, RunStatus

STATUS_STYLES = {
    RunStatus.PENDING: "dim",
    RunStatus.LAUNCHING: "cyan",
    RunStatus.RUNNING: "bold cyan",
    RunStatus.RECOVERING: "bold yellow",
    RunStatus.COMPLETED: "bold green",
    RunStatus.FAILED: "bold red",
    RunStatus.INTERRUPTED: "yellow",
    RunStatus.STOPPED: "magenta",
    RunStatus.UNKNOWN: "dim",
}
OUTCOME_STYLES = {
    OutcomeKind.COMPLETED: "green",
    OutcomeKind.FAILED: "red",
    OutcomeKind.INTERRUPTED: "yellow",
    OutcomeKind.LOST: "yellow",
    OutcomeKind.NO_CAPACITY: "dim",
    OutcomeKind.STOPPED: "magenta",
    OutcomeKind.UNKNOWN: "dim",
}
