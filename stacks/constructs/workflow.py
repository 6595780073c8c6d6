"""A state machine: its definition bound to what it names, its log and its role."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from aws_cdk import RemovalPolicy, Stack
from aws_cdk import aws_codebuild as codebuild
from aws_cdk import aws_iam as iam
from aws_cdk import aws_lambda as lambda_
from aws_cdk import aws_logs as logs
from aws_cdk import aws_stepfunctions as sfn
from constructs import Construct

from stacks.suppressions import accept
from stacks.workflows.definition import (
    RUN,
    called_functions,
    map_labels,
    placeholders,
    read_definition,
)


class Workflow(Construct):
    """A Standard state machine that may invoke the functions that its definition names.

    It may invoke `earlier_steps`, too, which only definitions of earlier versions name, start the
    builds of images in the projects `builds`, and start and await executions of the state machines
    `starts`. Placeholders that are not functions are filled in from `values`.
    """

    def __init__(
        self,
        scope: Construct,
        construct_id: str,
        *,
        name: str,
        arn: str,
        definition: str = RUN,
        steps: Mapping[str, lambda_.IFunction],
        starts: Sequence[str],
        earlier_steps: Sequence[lambda_.IFunction] = (),
        builds: Sequence[codebuild.IProject] = (),
        values: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(scope, construct_id)
        document = read_definition(definition)
        called = {step: steps[step].function_arn for step in sorted(called_functions(document))}
        known = {**called, **(values or {})}
        role = iam.Role(
            self,
            "Role",
            assumed_by=iam.ServicePrincipal("states.amazonaws.com"),
            description=f"The state machine {name}",
        )
        invoked = [*called.values(), *(step.function_arn for step in earlier_steps)]
        # The CDK grants nothing for a definition that is passed as text.
        statements = [
            iam.PolicyStatement(actions=["lambda:InvokeFunction"], resources=invoked),
            *_starting(Stack.of(self), starts),
            *_building(Stack.of(self), builds),
            *_mapping(arn, map_labels(document)),
        ]
        for statement in statements:
            role.add_to_policy(statement)
        self.state_machine = sfn.StateMachine(
            self,
            "StateMachine",
            state_machine_name=name,
            state_machine_type=sfn.StateMachineType.STANDARD,
            definition_body=sfn.DefinitionBody.from_string(
                json.dumps(document, separators=(",", ":"))
            ),
            definition_substitutions={name: known[name] for name in sorted(placeholders(document))},
            role=role,
            logs=sfn.LogOptions(
                level=sfn.LogLevel.ALL,
                # A request's env may contain the user's keys, and Train receives its task token.
                include_execution_data=False,
                destination=logs.LogGroup(
                    self,
                    "Log",
                    # The prefix keeps the resource policy of the log service short.
                    log_group_name=f"/aws/vendedlogs/states/{name}",
                    retention=logs.RetentionDays.ONE_MONTH,
                    removal_policy=RemovalPolicy.DESTROY,
                ),
            ),
        )
        accept(
            self.state_machine,
            {
                "AwsSolutions-SF2": "Traces bill per segment and add nothing: the execution's "
                "history has every step with its times."
            },
        )


def _building(stack: Stack, projects: Sequence[codebuild.IProject]) -> list[iam.PolicyStatement]:
    """Allow starting and awaiting a build, for which Step Functions needs a rule."""
    if not projects:
        return []
    rule = "StepFunctionsGetEventForCodeBuildStartBuildRule"
    return [
        iam.PolicyStatement(
            actions=["codebuild:StartBuild", "codebuild:StopBuild", "codebuild:BatchGetBuilds"],
            resources=[project.project_arn for project in projects],
        ),
        iam.PolicyStatement(
            actions=["events:PutTargets", "events:PutRule", "events:DescribeRule"],
            resources=[f"arn:aws:events:{stack.region}:{stack.account}:rule/{rule}"],
        ),
    ]


def _starting(stack: Stack, machines: Sequence[str]) -> list[iam.PolicyStatement]:
    """Allow starting and awaiting nested executions, for which Step Functions needs a rule."""
    rule = "StepFunctionsGetEventsForStepFunctionsExecutionRule"
    return [
        iam.PolicyStatement(actions=["states:StartExecution"], resources=list(machines)),
        iam.PolicyStatement(
            actions=["states:DescribeExecution", "states:StopExecution"],
            resources=[f"{_executions(machine)}:*" for machine in machines],
        ),
        iam.PolicyStatement(
            actions=["events:PutTargets", "events:PutRule", "events:DescribeRule"],
            resources=[f"arn:aws:events:{stack.region}:{stack.account}:rule/{rule}"],
        ),
    ]


def _mapping(arn: str, labels: Sequence[str]) -> list[iam.PolicyStatement]:
    """Allow running Distributed Maps, whose children are executions of `NAME/LABEL`.

    Step Functions developer guide, "IAM policies for using Distributed Map states". Their items are
    in the input and their results in the ledger, so they need no permission for S3.
    """
    if not labels:
        return []
    children = [f"{_executions(arn)}/{label}:*" for label in labels]
    return [
        iam.PolicyStatement(actions=["states:StartExecution"], resources=[arn]),
        iam.PolicyStatement(
            actions=["states:DescribeExecution", "states:StopExecution"],
            resources=[f"{_executions(arn)}:*", *children],
        ),
        iam.PolicyStatement(actions=["states:RedriveExecution"], resources=children),
    ]


def _executions(machine: str) -> str:
    return machine.replace(":stateMachine:", ":execution:")
