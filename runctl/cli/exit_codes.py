"""The exit codes of the command line, and the errors that they stand for."""

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
INTERRUPTED = 130


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
