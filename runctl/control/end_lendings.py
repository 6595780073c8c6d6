"""The end of lending: tags that have expired are removed, so that IAM refuses commands as well."""

from collections.abc import Callable
from functools import partial
from typing import Any

from runctl.control.ports.services import Services
from runctl.control.use_existing_instance import has_ended
from runctl.model.lending import read_lending
from runctl.model.machine import Machine


def end_expired_lendings(
    services: Services, attempt: Callable[[str, Callable[[], Any]], Any]
) -> list[str]:
    """Remove the expired tags of this deployment; return the machines that had one.

    The tag stays while an attempt uses the machine, since the functions must be able to command
    its agent. `attempt` calls a function for a machine, and keeps its failure from the others.
    Tags of other deployments are left to them, and so are those of earlier versions, which may
    belong to any of them: no function may start an agent on such a machine.
    """
    now = services.clock.now()
    ended = []
    for machine in services.fleet.find_lent():
        lending = read_lending(machine)
        if lending is None or lending.deployment != services.fleet.deployment:
            continue
        if lending.until <= now and attempt(machine.instance_id, partial(_end, services, machine)):
            ended.append(machine.instance_id)
    return ended


def _end(services: Services, machine: Machine) -> bool:
    user = services.ledger.find_instance(machine.instance_id)
    if user is not None and not has_ended(services, user):
        return False
    services.fleet.end_lending(machine)
    return True
