"""The doctor's checks of runs, machines and fleets, with the rules of reconciliation."""

import logging
from collections.abc import Mapping, Sequence
from decimal import Decimal

from runctl.control.ending_groups import end_abandoned_group, find_abandoned_group
from runctl.control.findings import Account, Check, Finding, each
from runctl.control.instance_lookup import machines_by_run
from runctl.control.ports.services import Services
from runctl.control.reconcile import (
    end_abandoned,
    find_abandoned,
    left_over_machines,
    spent_fleets,
)
from runctl.model.errors import RunctlError
from runctl.model.machine import Machine
from runctl.model.pool import Pool
from runctl.policy.orphans import is_stopped

logger = logging.getLogger(__name__)


class ComputeChecks:
    """Checks of what costs by the hour or prevents a launch."""

    def __init__(self, services: Services, account: Account) -> None:
        self._services = services
        self._account = account

    def checks(self) -> tuple[Check, ...]:
        """Return the checks: runs first, because fixing one ends its machines."""
        return (
            Check(name="runs", find=self.find_runs, fix=each(self.end_run)),
            Check(name="groups", find=self.find_groups, fix=each(self.end_group)),
            Check(name="machines", find=self.find_machines, fix=each(self.end_machine)),
            Check(name="fleets", find=self.find_fleets, fix=self.delete_fleets),
        )

    def find_runs(self) -> list[Finding]:
        """Find runs whose execution ended unnoticed, and ends that were not announced."""
        found = []
        for run_id in self._services.ledger.list_unsettled_runs():
            abandoned = find_abandoned(self._services, run_id)
            if abandoned is None:
                continue
            run, status = abandoned
            why = f"its execution ended unnoticed ({status.lower() or 'unknown to Step Functions'})"
            if run.ended is not None:
                why = f"it ended as {run.ended.value}, and nobody was notified"
            remedy = "end what is left of it, and send the notification"
            found.append(Finding(name=run_id, run_id=run_id, why=why, remedy=remedy))
        return found

    def end_run(self, finding: Finding) -> None:
        """Do what the lost event would have done, if it is still necessary."""
        end_abandoned(self._services, finding.run_id)

    def find_groups(self) -> list[Finding]:
        """Find groups, such as sweeps, whose execution ended unnoticed."""
        found = []
        for group_id in self._services.groups.list_unsettled_groups():
            if (abandoned := find_abandoned_group(self._services, group_id)) is not None:
                status = abandoned[1].lower() or "unknown to Step Functions"
                why = f"its execution ended unnoticed ({status})"
                remedy = "stop its runs, and dismiss the instances that wait for one"
                found.append(Finding(name=group_id, why=why, remedy=remedy))
        return found

    def end_group(self, finding: Finding) -> None:
        """Do what the lost event would have done, if it is still necessary."""
        end_abandoned_group(self._services, finding.name)

    def find_machines(self) -> list[Finding]:
        """Find machines that no run needs, and machines that a person stopped."""
        machines = self._services.fleet.find_all()
        found = []
        for run_id, its_machines in machines_by_run(self._services, machines).items():
            left = left_over_machines(self._services, run_id, its_machines)
            found += [
                self._left_over(machine, run_id, remedy="terminate it" if machine in left else "")
                for machine in its_machines
                if machine in left or is_stopped(machine)
            ]
        return found

    def _left_over(self, machine: Machine, run_id: str, *, remedy: str) -> Finding:
        stopped = is_stopped(machine)
        run = f"the run {run_id}" if run_id else "any run"
        command = f"aws ec2 terminate-instances --instance-ids {machine.instance_id}"
        return Finding(
            name=machine.instance_id,
            run_id=run_id,
            why="it is stopped: only its disk is billed" if stopped else f"not needed by {run}",
            remedy=remedy,
            advice=f"inspect its disk, then `{command}`" if stopped else "",
            usd_per_hour=None if stopped else self._price(machine.pool),
        )

    def _price(self, pool: Pool) -> Decimal | None:
        try:
            prices = self._services.prices.current([pool], now=self._services.clock.now())
            return prices.get(pool)
        except RunctlError as exc:
            logger.debug("the price of %s is not known: %s", pool, exc)
            return None

    def end_machine(self, finding: Finding) -> None:
        """Terminate a machine if it is still not needed and the first-hour rule allows it."""
        now_known = self._services.fleet.describe([finding.name])
        if left_over_machines(self._services, finding.run_id, now_known):
            self._services.fleet.terminate([finding.name])

    def find_fleets(self) -> list[Finding]:
        """Find fleets without instances."""
        return [
            Finding(
                name=fleet.fleet_id,
                run_id=fleet.run_id,
                why="it has no instances, and counts against the account's quota of fleets",
                remedy="delete it",
            )
            for fleet in spent_fleets(self._services)
        ]

    def delete_fleets(self, findings: Sequence[Finding]) -> Mapping[str, str]:
        """Delete those fleets that still have no instances."""
        named = {finding.name for finding in findings}
        still = [
            fleet.fleet_id for fleet in spent_fleets(self._services) if fleet.fleet_id in named
        ]
        return self._services.fleet.delete_fleets(still)
