"""The state machine: its definition bound to the functions, its log and its role."""

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
from stacks.workflows.definition import placeholders, read_definition


class Workflow(Construct):
    """A Standard state machine that may invoke the functions that its definition names.

    It may invoke `earlier_steps`, too, which only definitions of earlier versions name, and start
    the builds of images in the projects `builds`.
    """

    def __init__(
        self,
        scope: Construct,
        construct_id: str,
        *,
        name: str,
        arn: str,
        steps: Mapping[str, lambda_.IFunction],
        earlier_steps: Sequence[lambda_.IFunction],
        builds: Sequence[codebuild.IProject],
    ) -> None:
        super().__init__(scope, construct_id)
        definition = read_definition()
        called = {step: steps[step].function_arn for step in sorted(placeholders(definition))}
        role = iam.Role(
            self,
            "Role",
            assumed_by=iam.ServicePrincipal("states.amazonaws.com"),
            description=f"The state machine {name}",
        )
        invoked = [*called.values(), *(step.function_arn for step in earlier_steps)]
        # The CDK grants nothing for a definition that is passed as text.
        role.add_to_policy(
            iam.PolicyStatement(actions=["lambda:InvokeFunction"], resources=invoked)
        )
        for statement in [*_continuing(Stack.of(self), arn), *_building(Stack.of(self), builds)]:
            role.add_to_policy(statement)
        self.state_machine = sfn.StateMachine(
            self,
            "StateMachine",
            state_machine_name=name,
            state_machine_type=sfn.StateMachineType.STANDARD,
            definition_body=sfn.DefinitionBody.from_string(
                json.dumps(definition, separators=(",", ":"))
            ),
            definition_substitutions=called,
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


def _continuing(stack: Stack, arn: str) -> list[iam.PolicyStatement]:
    """Allow starting and awaiting a nested execution, for which Step Functions needs a rule."""
    rule = "StepFunctionsGetEventsForStepFunctionsExecutionRule"
    return [
        iam.PolicyStatement(actions=["states:StartExecution"], resources=[arn]),
        iam.PolicyStatement(
            actions=["states:DescribeExecution", "states:StopExecution"],
            resources=[f"{arn.replace(':stateMachine:', ':execution:')}:*"],
        ),
        iam.PolicyStatement(
            actions=["events:PutTargets", "events:PutRule", "events:DescribeRule"],
            resources=[f"arn:aws:events:{stack.region}:{stack.account}:rule/{rule}"],
        ),
    ]
