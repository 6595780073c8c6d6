"""The wait until an instance is known to EC2, reachable, and permitted to run an attempt."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import TYPE_CHECKING

from runctl.control.use_existing_instance import problem_with
from runctl.model.errors import NotFoundError, RefusedError, RequestError, TransientError
from runctl.model.excerpt import last_part
from runctl.model.identity import EXISTING_TAG

if TYPE_CHECKING:
    from runctl.cli.cloud import Cloud
    from runctl.cli.invocation import Invocation
    from runctl.model.machine import Machine
    from runctl.model.node import NodeId

# EC2 and SSM are eventually consistent; an instance takes a minute or two to boot and register.
KNOWN_WITHIN = timedelta(seconds=20)
REGISTERED_WITHIN = timedelta(minutes=5)
COMMAND_WITHIN = timedelta(minutes=10)
# Of a command's output, this many characters are shown.
EXCERPT_CHARACTERS = 1200


def find_machine(cloud: Cloud, instance_id: str, *, within: timedelta | None = None) -> Machine:
    """Return the instance; raises NotFoundError if EC2 does not know it in time."""
    found: list[Machine] = []

    def is_known() -> bool:
        found[:] = cloud.fleet.describe([instance_id])
        return bool(found)

    if not wait(cloud, is_known, within=KNOWN_WITHIN if within is None else within):
        raise NotFoundError(
            f"instance {instance_id} does not exist in {cloud.deployment.region}; check the id, "
            "--region and --profile"
        )
    return found[0]


def wait_for_registration(
    invocation: Invocation,
    cloud: Cloud,
    instance_id: str,
) -> None:
    """Wait until the instance accepts commands; raises NotFoundError with what to check."""
    machines = cloud.existing_instances
    with invocation.output.spinner(f"waiting for the SSM agent of {instance_id}") as update:

        def is_registered() -> bool:
            if machines.is_registered(instance_id):
                return True
            states = {machine.state for machine in cloud.fleet.describe([instance_id])}
            if states & {"shutting-down", "terminated", "stopping", "stopped"}:
                raise NotFoundError(f"{instance_id} is {states.pop()}; it does not accept commands")
            if "running" in states:
                update(f"{instance_id} is running; waiting for its SSM agent to register")
            return False

        if wait(cloud, is_registered, within=REGISTERED_WITHIN):
            return
    raise NotFoundError(
        f"{instance_id} does not accept commands (SSM: InvalidInstanceId): its SSM agent has not "
        f"registered within {REGISTERED_WITHIN.total_seconds():.0f} s. "
        "Check that 1. the SSM agent is installed and running (`systemctl status "
        "amazon-ssm-agent`); 2. the instance has an instance profile "
        f"whose role has the policy {cloud.deployment.instance_policy or 'of runctl'}; "
        "3. it can reach SSM's endpoints over the network; 4. it is in this account and in "
        f"{cloud.deployment.region}"
    )


def prepare_machine(
    invocation: Invocation, cloud: Cloud, instance_id: str, *, lend: Callable[[Machine], Machine]
) -> Machine:
    """Make sure that an attempt can run on the instance, before a run is started.

    `lend` permits the deployment to use it, once it accepts commands.
    """
    machine = find_machine(cloud, instance_id)
    if problem := problem_with(machine):
        raise RequestError(f"{instance_id} {problem}")
    _refuse_if_busy(cloud, instance_id)
    wait_for_registration(invocation, cloud, instance_id)
    if (lent := lend(machine)) != machine:
        invocation.output.note(f"lent {instance_id} to runctl: {lent.tags[EXISTING_TAG]}")
    with invocation.output.spinner(f"checking the permissions of {instance_id}"):
        run_command(cloud, instance_id, document=cloud.deployment.start_document, action="check")
    return lent


def run_command(
    cloud: Cloud,
    instance_id: str,
    *,
    document: str,
    action: str,
    parameters: Mapping[str, str] | None = None,
) -> str:
    """Run one of runctl's SSM documents to its end and return its output.

    Raises RefusedError with the end of the output and, where it helps, the policy to attach.
    """
    if not document:
        raise NotFoundError(
            f"the deployment in {cloud.deployment.region} is too old for this command; run "
            "`cdk deploy`"
        )
    machines = cloud.existing_instances
    command_id = machines.command(instance_id, document, {"action": action, **(parameters or {})})
    if command_id is None:
        raise NotFoundError(f"{instance_id} no longer accepts commands (SSM: InvalidInstanceId)")
    ended = []

    def has_ended() -> bool:
        result = machines.result(command_id, instance_id)
        if result is not None:
            ended.append(result)
        return result is not None

    if not wait(cloud, has_ended, within=COMMAND_WITHIN):
        raise TransientError(
            f"the command {command_id} on {instance_id} has not ended; see `aws ssm "
            f"get-command-invocation --command-id {command_id} --instance-id {instance_id}`"
        )
    (result,) = ended
    if result.succeeded:
        return str(result.output)
    output = last_part((result.errors or result.output).strip(), EXCERPT_CHARACTERS)
    remedy = ""
    is_lacking = "403" in output or "lacks" in output or "no credentials" in output
    # That of the deployment permits no uploads of the monitor.
    if is_lacking and "s3:PutObject" not in output:
        remedy = (
            "; attach the policy to the role of its instance profile: aws iam attach-role-policy "
            f"--role-name ROLE --policy-arn {cloud.deployment.instance_policy}"
        )
    raise RefusedError(f"{instance_id}: {output or result.status}{remedy}")


def wait(cloud: Cloud, is_done: Callable[[], bool], *, within: timedelta) -> bool:
    """Poll until `is_done` returns True; return False if that takes too long."""
    deadline = time.monotonic() + within.total_seconds()
    while not is_done():
        if time.monotonic() > deadline:
            return False
        time.sleep(cloud.pause)
    return True


def _refuse_if_busy(cloud: Cloud, instance_id: str) -> None:
    if busy := run_on(cloud, instance_id):
        raise RequestError(
            f"{instance_id} runs attempt {busy.attempt} of {busy.run_id}; wait for its end, stop "
            f"the run with `runctl stop {busy.run_id}`, or name another instance"
        )


def run_on(cloud: Cloud, instance_id: str) -> NodeId | None:
    """Return the node that uses the instance now, or None."""
    owner = cloud.ledger.find_instance(instance_id)
    if owner is None:
        return None
    run = cloud.ledger.find_run(owner.run_id)
    attempt = cloud.ledger.find_attempt(owner.run_id, owner.attempt)
    if run is None or run.ended is not None or attempt is None or attempt.ended is not None:
        return None
    return owner
