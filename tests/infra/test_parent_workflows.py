"""The role of a state machine with a Distributed Map, which starts runs."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import pytest

from tests.infra.mapping import LABEL, mapping_definition
from tests.infra.templates import ACCOUNT, REGION, Role, Synthesized

if TYPE_CHECKING:
    from aws_cdk.assertions import Template

WHERE = f"{REGION}:{ACCOUNT}"
SWEEP = f"arn:aws:states:{WHERE}:stateMachine:runctl-sweep"
RUN = f"arn:aws:states:{WHERE}:stateMachine:runctl-train"


@pytest.fixture(scope="module")
def template(check: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Template:
    """Return a stack with a parent, and nothing else."""
    from aws_cdk import App, Environment, Stack
    from aws_cdk import aws_lambda as lambda_
    from aws_cdk.assertions import Template

    from stacks.constructs import workflow

    stack = Stack(App(), "stack", env=Environment(account=ACCOUNT, region=REGION))
    arn = f"arn:aws:lambda:{WHERE}:function:runctl-finish"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(workflow, "read_definition", lambda _: mapping_definition())
        workflow.Workflow(
            stack,
            "SweepMachine",
            name="runctl-sweep",
            arn=SWEEP,
            definition="sweep",
            steps={"finish": lambda_.Function.from_function_arn(stack, "Finish", arn)},
            starts=[RUN],
            values={"run_machine": RUN, "bucket": "a-bucket"},
        )
    return Template.from_stack(stack)


@pytest.fixture(scope="module")
def role(template: Template) -> Role:
    (policy,) = template.find_resources("AWS::IAM::Policy").values()
    return Role(policy["Properties"]["PolicyDocument"]["Statement"])


@pytest.mark.parametrize(
    ("action", "resource"),
    [
        ("states:StartExecution", SWEEP),
        ("states:StartExecution", RUN),
        ("states:DescribeExecution", f"arn:aws:states:{WHERE}:execution:runctl-sweep/{LABEL}:x"),
        ("states:StopExecution", f"arn:aws:states:{WHERE}:execution:runctl-sweep/{LABEL}:x"),
        ("states:RedriveExecution", f"arn:aws:states:{WHERE}:execution:runctl-sweep/{LABEL}:x"),
        ("states:DescribeExecution", f"arn:aws:states:{WHERE}:execution:runctl-train:run-0001"),
        ("states:StopExecution", f"arn:aws:states:{WHERE}:execution:runctl-train:run-0001"),
        (
            "events:PutRule",
            f"arn:aws:events:{WHERE}:rule/StepFunctionsGetEventsForStepFunctionsExecutionRule",
        ),
        ("lambda:InvokeFunction", f"arn:aws:lambda:{WHERE}:function:runctl-finish"),
    ],
)
def test_it_may(role: Role, action: str, resource: str) -> None:
    assert role.allows(action, resource)


@pytest.mark.parametrize(
    ("action", "resource"),
    [
        ("states:StartExecution", f"arn:aws:states:{WHERE}:stateMachine:other"),
        ("states:RedriveExecution", f"arn:aws:states:{WHERE}:execution:runctl-train:run-0001"),
        ("s3:GetObject", "arn:aws:s3:::a-bucket/groups/g/items.jsonl"),
        ("s3:PutObject", "arn:aws:s3:::a-bucket/groups/g/results.json"),
        ("s3:ListBucket", "arn:aws:s3:::a-bucket"),
        ("codebuild:StartBuild", f"arn:aws:codebuild:{WHERE}:project/other"),
    ],
)
def test_it_may_not(role: Role, action: str, resource: str) -> None:
    assert not role.allows(action, resource)


def test_what_is_not_a_function_is_bound_too(template: Template) -> None:
    (machine,) = template.find_resources("AWS::StepFunctions::StateMachine").values()
    assert machine["Properties"]["DefinitionSubstitutions"] == {
        "bucket": "a-bucket",
        "finish": f"arn:aws:lambda:{WHERE}:function:runctl-finish",
        "run_machine": RUN,
    }


def test_the_deployment_names_every_machine(app: Synthesized) -> None:
    from stacks.orchestration import PARENTS

    parameters = app.of_type("AWS::SSM::Parameter")
    (text,) = (
        parameter.properties["Value"]
        for parameter in parameters
        if parameter.properties.get("Name") == "/runctl/deployment"
    )
    document = json.loads(text)
    assert document["state_machine_arn"] == RUN
    for name in PARENTS:
        arn = f"arn:aws:states:{WHERE}:stateMachine:runctl-{name}"
        assert document[f"{name}_machine_arn"] == arn


def test_every_definition_but_that_of_runs_is_a_parents() -> None:
    from stacks.orchestration import PARENTS
    from stacks.workflows.definition import FOLDER

    files = {path.name for path in Path(FOLDER).glob("*.asl.yaml")}
    assert files == {"train.asl.yaml", *(f"{name}.asl.yaml" for name in PARENTS)}
