"""The next execution of a job on several instances, with the shards that are not done."""

from __future__ import annotations

from typing import TYPE_CHECKING

from runctl.cli.commands.aws.follow_job import follow_job
from runctl.cli.commands.continuing import start_next_execution
from runctl.cli.invocation import Invocation
from runctl.model.errors import InvalidRequestError, NotFoundError, Problem
from runctl.model.outcome import RunStatus

if TYPE_CHECKING:
    from runctl.cli.cloud import Cloud
    from runctl.model.group import Group


def resume_job(
    invocation: Invocation, cloud: Cloud, group: Group, *, detach: bool, fresh_environment: bool
) -> None:
    """Continue a job that has ended; its runs that are not completed are continued or begun."""
    output, name = invocation.output, group.group_id
    problems = []
    if group.ended is None and cloud.workflow.is_running(group.execution_arn):
        problems.append(
            Problem(
                "RUN",
                f"{name} has not ended; see `runctl status {name}`, or stop it "
                f"with `runctl stop {name}`",
            )
        )
    if fresh_environment:
        problems.append(Problem("--fresh-environment", "not for a job of several runs; remove it"))
    if problems:
        raise InvalidRequestError(tuple(problems))
    if not cloud.deployment.process_machine_arn:
        raise NotFoundError(
            f"the deployment in {cloud.deployment.region} is too old for several instances; run "
            "`runctl deploy`"
        )
    if group.ended is RunStatus.COMPLETED:
        output.note(f"{name} is completed, and so is each of its runs: none goes on")
    execution, arn = start_next_execution(cloud.processing_workflow, group)
    message = f"{execution} continues {name} with the shards that are not done"
    if detach:
        document = {"job": name, "status": "pending", "execution": execution, "execution_arn": arn}
        output.result(document, message)
        return
    output.note(message)
    follow_job(invocation, cloud, name, arn)
