"""Whose an instance is that an event tells of."""

from runctl.control.ports import Services
from runctl.model.pool import Pool
from runctl.model.run import Attempt, AttemptStage


def find_owner(services: Services, instance_id: str) -> tuple[Attempt, Pool | None] | None:
    """Return the attempt that an instance is for, with its pool if that is known, or None.

    First the ledger, which knows ours from everybody else's in the account. EC2 may take a machine
    before its launch is on record, or whoever launched it may have ended in between: then only its
    tags tell, and they count for nothing once the attempt has another machine on record, or when
    they name another deployment, which may have a run of the same name.
    """
    if owner := services.ledger.find_instance(instance_id):
        attempt = services.ledger.find_attempt(*owner)
        if attempt is None:
            return None
        return attempt, Pool.parse(attempt.pool) if attempt.pool else None
    for machine in services.fleet.describe([instance_id]):
        if machine.run_id and machine.attempt is not None and not machine.is_foreign:
            attempt = services.ledger.find_attempt(machine.run_id, machine.attempt)
            if attempt is not None and attempt.stage is AttemptStage.LAUNCHING:
                return attempt, machine.pool
    return None
