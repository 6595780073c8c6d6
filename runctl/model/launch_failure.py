"""Instances that EC2 launched and ended before they ran: why, and what to do about it.

The answer to the launch names such an instance like any other. Only its state shows that it cannot
start: pending, then terminated, with a reason.
"""

from collections.abc import Mapping

from runctl.model.machine import Machine
from runctl.model.outcome import Outcome, OutcomeKind
from runctl.model.run import Attempt

# EC2 user guide, "Instance terminates immediately", and the state reasons of DescribeInstances.
_REMEDIES: Mapping[str, str] = {
    "Client.InternalError": "EC2 could not start the instance, most often because the KMS key of "
    "its volume may not be used: check that the key exists, is enabled, and that its policy lets "
    "IAM decide for the functions that launch; or deploy with the context ebs_kms_key, or without "
    "it for alias/aws/ebs",
    "Client.InvalidKMSKey.InvalidState": "the KMS key of its volume is not enabled; enable it, or "
    "deploy with another one in the context ebs_kms_key, or without it for alias/aws/ebs",
    "Client.InvalidSnapshot.NotFound": "a snapshot of the image does not exist or may not be used; "
    "deploy with another image",
    "Client.VolumeLimitExceeded": "the account's quota of EBS storage in this region is used up; "
    "delete volumes, or request a higher quota",
}


def explain_launch_failure(machine: Machine, attempt: Attempt) -> Outcome | None:
    """Return the outcome of an attempt whose instance never ran; None if that is not the reason.

    In the first attempt it ends the run: the next launch would end the same way. Later, when a
    machine has started from the same template before, the next one may.
    """
    remedy = _REMEDIES.get(machine.reason)
    if remedy is None or attempt.heartbeat_at is not None or attempt.noticed_at is not None:
        return None
    kind = OutcomeKind.FAILED if attempt.number == 1 else OutcomeKind.LOST
    return Outcome(
        kind=kind, reason=f"{machine.instance_id} did not start ({machine.reason}): {remedy}"
    )
