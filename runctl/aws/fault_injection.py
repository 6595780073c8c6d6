"""AWS FIS: the interruption of one spot instance, as EC2 would interrupt it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from botocore.exceptions import ClientError

from runctl.aws.errors import code_of
from runctl.aws.repeated_calls import repeat_call

_ACTION, _TARGET = "aws:ec2:send-spot-instance-interruptions", "aws:ec2:spot-instance"
# The least that FIS accepts: the notice comes at once.
_AHEAD = "PT2M"
_PAUSES = (1.0, 2.0, 4.0)
_Answer = TypeVar("_Answer")


@dataclass(frozen=True)
class Experiment:
    """An experiment; `status` is FIS's: pending, initiating, running, completed, failed, …."""

    experiment_id: str
    status: str
    reason: str = ""

    @property
    def has_failed(self) -> bool:
        """Whether it ended without the interruption."""
        return self.status in {"failed", "stopped", "stopping", "cancelled"}


class FaultInjection:
    """Interrupts instances by experiments of FIS.

    Every call may be repeated, since client tokens make the others idempotent. Throttling and lost
    answers are retried inside, and then raise TransientError. A missing permission raises
    RefusedError, which names the action.
    """

    def __init__(self, client: Any, pause: Callable[[float], None]) -> None:
        self._client, self._pause = client, pause

    def create_template(self, *, instance_arn: str, role: str, token: str) -> str:
        """Create the template of an experiment that interrupts an instance; return its id."""
        answer = self._patiently(
            lambda: self._client.create_experiment_template(
                clientToken=token,
                description=f"runctl verify: interrupt {instance_arn.rpartition('/')[2]}",
                roleArn=role,
                stopConditions=[{"source": "none"}],
                targets={
                    "instance": {
                        "resourceType": _TARGET,
                        "resourceArns": [instance_arn],
                        "selectionMode": "ALL",
                    }
                },
                actions={
                    "interrupt": {
                        "actionId": _ACTION,
                        "parameters": {"durationBeforeInterruption": _AHEAD},
                        "targets": {"SpotInstances": "instance"},
                    }
                },
            )
        )
        return str(answer["experimentTemplate"]["id"])

    def start(self, template_id: str, *, token: str) -> Experiment:
        """Start an experiment of a template."""
        answer = self._patiently(
            lambda: self._client.start_experiment(
                clientToken=token, experimentTemplateId=template_id
            )
        )
        return _read(answer["experiment"])

    def find(self, experiment_id: str) -> Experiment:
        """Return an experiment."""
        answer = self._patiently(lambda: self._client.get_experiment(id=experiment_id))
        return _read(answer["experiment"])

    def delete_template(self, template_id: str) -> None:
        """Delete a template, if it is there; an experiment that is running goes on."""
        self._patiently(lambda: self._delete(template_id))

    def _delete(self, template_id: str) -> None:
        try:
            self._client.delete_experiment_template(id=template_id)
        except ClientError as exc:
            if code_of(exc) != "ResourceNotFoundException":
                raise

    def _patiently(self, call: Callable[[], _Answer]) -> _Answer:
        """Repeat a call in addition to the retries of the client: a template must not be lost."""
        return repeat_call(call, pauses=_PAUSES, pause=self._pause)


def _read(document: Any) -> Experiment:
    state = document.get("state", {})
    return Experiment(
        experiment_id=str(document["id"]),
        status=str(state.get("status", "")),
        reason=str(state.get("reason", "")),
    )
