"""The list of what each role does: it has every role, and describes all of its permissions."""

from collections.abc import Mapping

import pytest

from runctl.model.permissions import Required
from runctl.model.role_calls import ROLE_CALLS, role_of
from tests.infra.templates import ACCOUNT, REGION, Resource, Role, Synthesized
from tests.infra.test_permissions import TAGGED, launch_context
from tests.infra.test_permissions import facts as facts_of_calls

# Of every role, but only one deployment in many reads secrets.
TAGS = {
    **TAGGED,
    "aws:ResourceTag/runctl:keep-alive-until": ["2030-01-01T00:00:00Z"],
    "ssm:resourceTag/runctl:lent": ["deployment=runctl until=2030-01-01T00:00:00Z"],
    "kms:ResourceAliases": ["alias/x"],
}


def facts(app: Synthesized) -> Mapping[str, list[str]]:
    table = f"arn:aws:dynamodb:{REGION}:{ACCOUNT}:table/runctl-ledger"
    images, cache = sorted(
        app.of_type("AWS::ECR::Repository"),
        key=lambda each: str(each.properties["RepositoryName"]),
        reverse=True,
    )
    (queue,) = app.of_type("AWS::SQS::Queue")
    agent = [
        resource
        for statement in held(app, "instances").statements
        if "s3:GetObject" in statement["Action"]
        for resource in [statement["Resource"]]
        if resource.endswith(".gz")
    ]
    return {
        **facts_of_calls(app),
        "name": ["runctl"],
        "bucket": [f"<{app.one('AWS::S3::Bucket').logical_id}>"],
        "table": [table],
        "log_group": ["/runctl/trainer"],
        "images_arn": [f"<{images.logical_id}.Arn>"],
        "cache_arn": [f"<{cache.logical_id}.Arn>"],
        "project": [f"<{each.logical_id}.Arn>" for each in app.of_type("AWS::CodeBuild::Project")],
        "dead_letters": [f"arn:aws:sqs:{REGION}:{ACCOUNT}:<{queue.logical_id}>"],
        "command_document": ["runctl-agent"],
        "start_document": ["runctl-start"],
        "spot_request": ["spot-instances-request"],
        "missing_role": ["AWSServiceRoleForEC2Spot"],
        "run_role": [f"arn:aws:iam::{ACCOUNT}:role/<{roles(app)['sessions of runs'].logical_id}>"],
        "trainer_role": [
            f"arn:aws:iam::{ACCOUNT}:role/<{roles(app)['sessions of trainers'].logical_id}>"
        ],
        "agent_object": agent,
    }


def context(required: Required) -> dict[str, list[str]]:
    known = {name: value.format(region=REGION) for name, value in required.conditions.items()}
    return {**TAGS, **{name: [value] for name, value in known.items()}}


def roles(app: Synthesized) -> dict[str, Resource]:
    return {
        role_of(each.logical_id) or each.logical_id: each for each in app.of_type("AWS::IAM::Role")
    }


def held(app: Synthesized, name: str) -> Role:
    return app.role(f"<{roles(app)[name].logical_id}>")


def test_the_list_has_every_role_of_the_stacks_and_no_other(app: Synthesized) -> None:
    assert set(roles(app)) == set(ROLE_CALLS)


@pytest.mark.parametrize("name", sorted(ROLE_CALLS))
def test_a_role_may_do_everything_that_the_list_says(app: Synthesized, name: str) -> None:
    role, known = held(app, name), facts(app)
    refused = [
        f"{required.action} on {resource}"
        for required in ROLE_CALLS[name]
        for resource in required.on(known)
        if not role.allows(required.action, resource, {**launch_context(app), **context(required)})
    ]
    assert refused == []


@pytest.mark.parametrize("name", sorted(ROLE_CALLS))
def test_a_role_holds_no_permission_that_the_list_does_not_have(
    app: Synthesized, name: str
) -> None:
    known = facts(app)
    listed = {
        required.action for required in ROLE_CALLS[name] if any(True for _ in required.on(known))
    }
    assert held(app, name).actions - listed == set()
