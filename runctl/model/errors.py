"""Everything runctl raises on purpose.

RunctlError
├── RequestError                 the user's input; the command line exits 2
│   ├── InvalidRequestError      a run request with one or more bad fields
│   ├── ForbiddenDataError       the caller has no permission for data in S3
│   ├── ProjectError             the project folder cannot be packed
│   ├── SettingsError            `.runctl.toml` or an environment variable is wrong
│   └── SetupError               this machine lacks what the command needs
├── NotFoundError                no such run, instance or deployment; exits 4
├── RefusedError                 AWS refused: credentials, permission, quota; exits 3
│   └── QuotaError
├── CapacityUnavailableError     no pool has capacity now; waiting may help
├── FencedError                  a later attempt owns the run; leave without a trace
├── RunEndedError                the run has ended; nothing may be started for it
├── CheckpointError              a checkpoint cannot be taken, read or trusted
│   └── DamagedCheckpointError
│       └── NewerCheckpointError
├── TransientError               a service throttles or fails for now; waiting helps
└── UnexpectedAwsError           AWS or its SDK failed in a way that no adapter foresees; exits 3

Step Functions sees the class name as the error name: renaming one changes the state machine.
"""

from dataclasses import dataclass


class RunctlError(Exception):
    """The base of every error that runctl raises on purpose."""


class RequestError(RunctlError):
    """The request of the user cannot be carried out; waiting will not help."""


@dataclass(frozen=True)
class Problem:
    """A problem with one field, and its remedy."""

    field: str
    message: str

    def __str__(self) -> str:
        return f"{self.field}: {self.message}"


class InvalidRequestError(RequestError):
    """The run request has bad fields, all of them named; waiting will not help."""

    def __init__(self, problems: tuple[Problem, ...]) -> None:
        super().__init__("; ".join(str(problem) for problem in problems))
        self.problems = problems


class ForbiddenDataError(RequestError):
    """The caller may not read or write data in S3; a role with other permissions may."""


class ProjectError(RequestError):
    """The project folder cannot be packed; waiting will not help."""


class SettingsError(RequestError):
    """A setting has a bad value; waiting will not help."""


class SetupError(RequestError):
    """This machine lacks what the command needs: a program, a package, or the operating system."""


class NotFoundError(RunctlError):
    """No such run, instance or deployment; waiting will not help."""


class RefusedError(RunctlError):
    """AWS refused the call (credentials, permission, set-up); waiting will not help."""


class QuotaError(RefusedError):
    """An account quota is used up; raise it or ask for other instance types."""


class CapacityUnavailableError(RunctlError):
    """No pool that the run accepts has capacity now; waiting may help."""


class FencedError(RunctlError):
    """A later attempt owns the run; this one must leave without a trace."""


class RunEndedError(RunctlError):
    """The run has ended, so nothing may be started for it; waiting will not help."""


class CheckpointError(RunctlError):
    """A checkpoint cannot be taken or restored; the previous one remains valid."""


class DamagedCheckpointError(CheckpointError):
    """A checkpoint does not match its manifest; fall back to the previous one."""


class NewerCheckpointError(DamagedCheckpointError):
    """A newer runctl wrote the checkpoint, which is whole; upgrade to read it."""


class TransientError(RunctlError):
    """A service is throttling or failing for now; waiting helps."""


class UnexpectedAwsError(RunctlError):
    """AWS or its SDK failed in a way that no adapter foresees; `code` is AWS's own, if any."""

    def __init__(self, message: str, *, code: str = "") -> None:
        super().__init__(message)
        self.code = code
