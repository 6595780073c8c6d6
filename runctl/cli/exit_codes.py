"""The exit codes of the command line, and the errors that they stand for."""

from collections.abc import Mapping

from runctl.model.errors import (
    NotFoundError,
    RefusedError,
    RequestError,
    RunEndedError,
    TransientError,
    UnexpectedAwsError,
)
from runctl.model.outcome import RunStatus

DONE = 0
RUN_FAILED = 1
BAD_REQUEST = 2
REFUSED = 3
NOT_FOUND = 4
UNKNOWN = 5
INTERRUPTED = 130

# What each code means, for the help page of `runctl` and the reference.
MEANINGS: Mapping[int, str] = {
    DONE: "Success.",
    RUN_FAILED: "The run that was followed ended as failed, interrupted or stopped; a checkpoint "
    "is damaged; `doctor` or `verify` found something; or an unexpected error.",
    BAD_REQUEST: "Invalid usage or an invalid request: nothing was uploaded or started.",
    REFUSED: "AWS refused or cannot be reached (credentials, permission, quota), or the run that "
    "was followed could not be launched.",
    NOT_FOUND: "The run, attempt, instance or deployment does not exist.",
    UNKNOWN: "`verify` was not permitted to make some of its checks; the others passed.",
    INTERRUPTED: "Ctrl-C.",
}


def exit_code_of(error: BaseException) -> int:
    """Return the exit code for an error."""
    match error:
        case RequestError() | RunEndedError():
            return BAD_REQUEST
        case NotFoundError():
            return NOT_FOUND
        case RefusedError() | TransientError() | UnexpectedAwsError():
            return REFUSED
        case KeyboardInterrupt():
            return INTERRUPTED
    return RUN_FAILED


def exit_code_for(status: RunStatus, *, was_refused: bool = False) -> int:
    """Return the exit code of a command that followed a run to its end.

    `was_refused`: AWS refused to launch an instance, which is not a failure of the program.
    """
    if was_refused:
        return REFUSED
    return DONE if status is RunStatus.COMPLETED else RUN_FAILED
