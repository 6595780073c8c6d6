"""Faults other than a Spot reclaim: ended reservations, failing checks, maintenance."""

from __future__ import annotations

import os
import secrets
import signal
from collections.abc import Callable
from datetime import datetime, timedelta, timezone

from runctl.local.core.instance import End, Instance, Maintenance
from runctl.local.core.protocol import ApiError
from runctl.local.ec2.instances import Instances
from runctl.local.guest.processes import descendants

# What DescribeInstanceStatus reports on, by the field's name.
CHECKS = {"system": "SystemStatus", "instance": "InstanceStatus", "ebs": "AttachedEbsStatus"}
ENDING_CODES = frozenset({"instance-stop", "instance-retirement"})
CODES = ENDING_CODES | {"instance-reboot", "system-reboot", "system-maintenance"}
WINDOW = timedelta(hours=2)

# EC2 documents no code for the end of a reservation's instance; this code only says that EC2 ended
# it.
_RESERVATION_ENDED = End(
    "Server.InternalError", "Capacity reservation ended", "", "taken for its reservation"
)


class Faults:
    """Causes faults, visible as on EC2."""

    def __init__(self, instances: Instances) -> None:
        self._instances = instances

    def end_reservation(self, instance: Instance, *, notice_seconds: float) -> None:
        """Reclaim an instance of a capacity reservation: an event, and nothing in the metadata."""
        _check_alive(instance)
        at = _now() + timedelta(seconds=notice_seconds)
        self._instances.bus.publish(
            "EC2 Capacity Reservation Instance Interruption Warning",
            {
                "instance-id": instance.instance_id,
                "instance-action": "terminate",
                "instance-termination-time": at.strftime("%Y-%m-%dT%H:%M:%SZ"),
                "azId": instance.subnet.zone_id,
            },
            resource=instance.arn,
        )
        self._note(instance, "reservation-notice", deadline=at.isoformat())
        self._later(
            notice_seconds,
            lambda: self._instances.terminate(instance, _RESERVATION_ENDED, grace_seconds=0),
        )

    def impair(
        self, instance: Instance, *, check: str, is_ok: bool, since_seconds: float, hangs: bool
    ) -> None:
        """Make a status check fail, since some seconds ago, or pass again.

        With `hangs` no process of the instance runs any more, as on a machine that has crashed.
        """
        _check_alive(instance)
        if check not in CHECKS:
            raise ValueError(f"check: {check!r} is not one of {', '.join(CHECKS)}")
        if is_ok:
            instance.impaired.pop(check, None)
        else:
            instance.impaired[check] = _now() - timedelta(seconds=since_seconds)
        self._note(instance, "check-passes" if is_ok else "check-fails", check=check)
        if hangs and instance.supervisor_pid:
            for pid in descendants(instance.supervisor_pid):
                os.kill(pid, signal.SIGSTOP)

    def schedule(self, instance: Instance, *, code: str, in_seconds: float) -> Maintenance:
        """Schedule an event; a stop or a retirement ends the instance when it is due."""
        _check_alive(instance)
        if code not in CODES:
            raise ValueError(f"code: {code!r} is not one of {', '.join(sorted(CODES))}")
        due = (_now() + timedelta(seconds=in_seconds)).replace(microsecond=0)
        event = Maintenance(
            event_id=f"instance-event-{secrets.token_hex(9)[:17]}",
            code=code,
            description=f"The instance is scheduled for {code}",
            not_before=due,
            not_after=due + WINDOW,
        )
        instance.maintenance.append(event)
        self._note(instance, "maintenance", code=code, not_before=due.isoformat())
        self._later(in_seconds, lambda: self._carry_out(instance, event))
        return event

    def cancel(self, instance: Instance, event_id: str) -> None:
        """Cancel a scheduled event."""
        for event in instance.maintenance:
            if event.event_id == event_id and event.state == "active":
                event.state = "canceled"
                return
        raise ApiError("InvalidParameterValue", f"{event_id} is not a scheduled event")

    def _carry_out(self, instance: Instance, event: Maintenance) -> None:
        if event.state != "active" or not instance.is_alive:
            return
        event.state = "completed"
        self._note(instance, "maintenance-done", code=event.code)
        if event.code in ENDING_CODES:
            # A spot instance of an instant fleet cannot be stopped.
            state = "terminated" if instance.lifecycle == "spot" else "stopped"
            end = End(
                "Server.ScheduledStop",
                "The instance was stopped due to a scheduled retirement",
                "",
                "scheduled maintenance",
                state=state,
            )
            self._instances.terminate(instance, end)

    def _note(self, instance: Instance, what: str, **fields: str) -> None:
        self._instances.journal.add(
            instance_id=instance.instance_id, what=what, pool=str(instance.pool), **fields
        )

    def _later(self, seconds: float, call: Callable[[], None]) -> None:
        self._instances.call_later(seconds, call)


def _check_alive(instance: Instance) -> None:
    if not instance.is_alive:
        raise ApiError(
            "IncorrectInstanceState", f"{instance.instance_id} is not pending or running"
        )


def _now() -> datetime:
    return datetime.now(timezone.utc)
