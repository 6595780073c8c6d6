"""A function: its code, role and log, and the queue for events that it cannot handle."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from aws_cdk import Duration, RemovalPolicy
from aws_cdk import aws_iam as iam
from aws_cdk import aws_lambda as lambda_
from aws_cdk import aws_logs as logs
from aws_cdk import aws_sqs as sqs
from constructs import Construct

from stacks.capabilities.base import Capability
from stacks.suppressions import accept

RUNTIME_REASON = "Python 3.13: the newest runtime that the functions' libraries are tested with."


@dataclass(frozen=True, kw_only=True)
class Size:
    """Memory and time limit of a function; 1,769 MB come with one processor."""

    memory_mb: int
    timeout: Duration


class PythonFunction(Construct):
    """A handler of `lambdas/` whose role has exactly the permissions of its capabilities.

    `module` is the handler's module if it has another name than the function.
    """

    # The keywords are the properties of the construct, as for those of the CDK.
    def __init__(
        self,
        scope: Construct,
        construct_id: str,
        *,
        name: str,
        prefix: str,
        code: lambda_.Code,
        size: Size,
        module: str = "",
        capabilities: Sequence[Capability],
        dead_letters: sqs.IQueue | None = None,
        oldest_event: Duration | None = None,
    ) -> None:
        super().__init__(scope, construct_id)
        function_name = f"{prefix}-{name}"
        log_group = logs.LogGroup(
            self,
            "Log",
            log_group_name=f"/aws/lambda/{function_name}",
            retention=logs.RetentionDays.ONE_MONTH,
            removal_policy=RemovalPolicy.DESTROY,
        )
        self.role = iam.Role(
            self,
            "Role",
            assumed_by=iam.ServicePrincipal("lambda.amazonaws.com"),
            description=f"The function {function_name}",
        )
        log_group.grant_write(self.role)
        variables: dict[str, str] = {}
        for capability in capabilities:
            variables |= capability.variables
            for statement in capability.statements:
                self.role.add_to_policy(statement)
        self.function = lambda_.Function(
            self,
            "Function",
            function_name=function_name,
            runtime=lambda_.Runtime.PYTHON_3_13,
            architecture=lambda_.Architecture.ARM_64,
            code=code,
            handler=f"lambdas.{module or name}.handler",
            role=self.role,
            log_group=log_group,
            memory_size=size.memory_mb,
            timeout=size.timeout,
            environment={
                **variables,
                "POWERTOOLS_SERVICE_NAME": name,
                "POWERTOOLS_METRICS_NAMESPACE": "runctl",
                "POWERTOOLS_LOG_LEVEL": "INFO",
            },
            dead_letter_queue=dead_letters,
            max_event_age=oldest_event,
            retry_attempts=None if oldest_event is None else 2,
        )
        accept(self.function, {"AwsSolutions-L1": RUNTIME_REASON})

    def add(self, capability: Capability) -> None:
        """Add a capability for a resource that itself refers to the function's role."""
        for statement in capability.statements:
            self.role.add_to_policy(statement)
        for name, value in capability.variables.items():
            self.function.add_environment(name, value)
