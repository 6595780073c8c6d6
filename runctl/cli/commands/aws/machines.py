"""Waiting for a machine to be known, reachable and permitted to do what a command needs of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import TYPE_CHECKING

from runctl.aws.instances import ExistingInstances
from runctl.control.use_existing_instance import problem_with
from runctl.model.errors import NotFoundError, RefusedError, RequestError, TransientError
from runctl.model.excerpt import last_part
from runctl.model.identity import LENT_TAG

if TYPE_CHECKING:
    from runctl.cli.cloud import Cloud
    from runctl.cli.invocation import Invocation
    from runctl.model.machine import Machine


# EC2 and SSM are eventually consistent; a machine takes a minute or two to boot and register.
KNOWN_WITHIN = timedelta(seconds=20)


REGISTERED_WITHIN = timedelta(minutes=5)


COMMAND_WITHIN = timedelta(minutes=10)


LAST_WORDS = 1200


def existing(cloud: Cloud) -> ExistingInstances:
    """Return what asks EC2 and SSM about machines."""
    return ExistingInstances(ec2=cloud.clients.get("ec2"), ssm=cloud.clients.get("ssm"))


def find_machine(cloud: Cloud, instance_id: str, *, within: timedelta | None = None) -> Machine:
    """Return the machine; NotFoundError when EC2 does not come to know it."""
    found: list[Machine] = []

    def look() -> bool:
        found[:] = cloud.fleet.describe([instance_id])
        return bool(found)

    if not wait(cloud, look, within=KNOWN_WITHIN if within is None else within):
        raise NotFoundError(
            f"EC2 knows no {instance_id} in {cloud.deployment.region}; look at the id, the "
            "--region and the --profile"
        )
    return found[0]


def wait_for_registration(
    invocation: Invocation,
    cloud: Cloud,
    instance_id: str,
) -> None:
    """Wait until commands reach the machine; explain why not when that takes too long."""
    machines = existing(cloud)
    with invocation.output.spinner(f"waiting for the SSM agent of {instance_id}") as say:

        def look() -> bool:
            if machines.is_registered(instance_id):
                return True
            states = {one.state for one in cloud.fleet.describe([instance_id])}
            if states & {"shutting-down", "terminated", "stopping", "stopped"}:
                raise NotFoundError(f"{instance_id} is {states.pop()}; it cannot be commanded")
            if "running" in states:
                say(f"{instance_id} runs; waiting for its SSM agent to register")
            return False

        if wait(cloud, look, within=REGISTERED_WITHIN):
            return
    raise NotFoundError(
        f"commands do not reach {instance_id} (SSM: InvalidInstanceId): its SSM agent has not "
        f"registered within {REGISTERED_WITHIN.total_seconds():.0f} s. "
        "Look whether 1. the SSM agent is installed and runs (`systemctl status "
        "amazon-ssm-agent`); 2. the machine has an instance "
        f"profile, whose role has the policy {cloud.deployment.instance_policy or 'of runctl'}; "
        "3. the machine reaches SSM's endpoints over the network; 4. it is in this account and in "
        f"{cloud.deployment.region}"
    )


def prepare_machine(invocation: Invocation, cloud: Cloud, instance_id: str) -> Machine:
    """Make sure that an attempt can run on a machine, before anything is started for it."""
    machine = find_machine(cloud, instance_id)
    if problem := problem_with(machine):
        raise RequestError(f"{instance_id} {problem}")
    _refuse_if_busy(cloud, instance_id)
    wait_for_registration(invocation, cloud, instance_id)
    if LENT_TAG not in machine.tags:
        existing(cloud).lend(instance_id)
        invocation.output.tell(f"tagged {instance_id} with {LENT_TAG}: runctl may command it")
    with invocation.output.spinner(f"checking what the role of {instance_id} permits"):
        run_command(cloud, instance_id, document=cloud.deployment.start_document, action="check")
    return machine


def run_command(
    cloud: Cloud,
    instance_id: str,
    *,
    document: str,
    action: str,
    parameters: Mapping[str, str] | None = None,
) -> str:
    """Run one of our documents to its end and return what it printed.

    Raises RefusedError with its last words, and the policy that is the usual cure.
    """
    if not document:
        raise NotFoundError(
            f"the deployment in {cloud.deployment.region} is too old for this; run `cdk deploy`"
        )
    machines = existing(cloud)
    command_id = machines.command(instance_id, document, {"action": action, **(parameters or {})})
    if command_id is None:
        raise NotFoundError(f"{instance_id} cannot be commanded any more (SSM: InvalidInstanceId)")
    ended = []

    def look() -> bool:
        result = machines.result(command_id, instance_id)
        if result is not None:
            ended.append(result)
        return result is not None

    if not wait(cloud, look, within=COMMAND_WITHIN):
        raise TransientError(
            f"the command {command_id} on {instance_id} has not ended; see `aws ssm "
            f"get-command-invocation --command-id {command_id} --instance-id {instance_id}`"
        )
    (result,) = ended
    if result.succeeded:
        return str(result.output)
    said = last_part((result.errors or result.output).strip(), LAST_WORDS)
    cure = ""
    if "403" in said or "lacks" in said or "no credentials" in said:
        cure = (
            "; attach the policy to the role of its instance profile: aws iam attach-role-policy "
            f"--role-name ROLE --policy-arn {cloud.deployment.instance_policy}"
        )
    raise RefusedError(f"{instance_id}: {said or result.status}{cure}")


def wait(cloud: Cloud, look: Callable[[], bool], *, within: timedelta) -> bool:
    """Look again and again until `look` is content; whether it was in time."""
    deadline = time.monotonic() + within.total_seconds()
    while not look():
        if time.monotonic() > deadline:
            return False
        time.sleep(cloud.pause)
    return True


def _refuse_if_busy(cloud: Cloud, instance_id: str) -> None:
    if busy := run_on(cloud, instance_id):
        run_id, number = busy
        raise RequestError(
            f"{instance_id} works on attempt {number} of the run {run_id}; wait for its end, stop "
            f"it with `runctl stop {run_id}`, or name another machine"
        )


def run_on(cloud: Cloud, instance_id: str) -> tuple[str, int] | None:
    """Return the run and the attempt that have the machine now, or None."""
    owner = cloud.ledger.find_instance(instance_id)
    if owner is None:
        return None
    run, attempt = cloud.ledger.find_run(owner[0]), cloud.ledger.find_attempt(*owner)
    if run is None or run.ended is not None or attempt is None or attempt.ended is not None:
        return None
    return owner
