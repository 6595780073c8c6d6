"""Permissions: every role has those that its code needs, and no others."""

import itertools
import re
import string
from collections.abc import Iterator, Mapping

import pytest

from runctl.model.permissions import REQUIRED, Required
from tests.infra.templates import ACCOUNT, REGION, Role, Synthesized

# The calls of each function's code, by the ports that its control function uses. A DynamoDB
# transaction needs the permissions of its writes; in S3, HeadObject needs GetObject, and only
# callers who may list get a 404.
LEDGER = {
    "prepare_run": {"GetItem", "Query", "PutItem", "UpdateItem"},
    "launch_instances": {
        "GetItem", "Query", "BatchGetItem", "PutItem", "UpdateItem", "ConditionCheckItem",
    },
    "record_image": {"GetItem", "Query", "UpdateItem"},
    "train": {"GetItem", "Query", "UpdateItem"},
    "confirm_checkpoint": {"GetItem", "Query", "UpdateItem"},
    "decide_next": {"GetItem", "Query"},
    "finish_run": {"GetItem", "Query", "UpdateItem"},
    "handle_interruption": {
        "GetItem", "Query", "BatchGetItem", "PutItem", "UpdateItem", "ConditionCheckItem",
    },
    "handle_instance_change": {"GetItem", "Query", "UpdateItem"},
    "clean_up": {"GetItem", "Query", "UpdateItem"},
    "reconcile": {"GetItem", "Query", "UpdateItem"},
}  # fmt: skip
LAUNCH, DESCRIBE, TERMINATE = "CreateFleet", "DescribeInstances", "TerminateInstances"
SIZES = "DescribeInstanceTypes"
CHECK = "DescribeInstanceStatus"
FLEETS = {"DescribeTags", "DescribeFleets", "DeleteFleets"}
EC2_CALLS = {
    "prepare_run": {DESCRIBE, SIZES, TERMINATE},
    "launch_instances": {LAUNCH, DESCRIBE, SIZES, TERMINATE},
    "confirm_checkpoint": {DESCRIBE, TERMINATE, CHECK},
    "finish_run": {DESCRIBE, TERMINATE},
    "handle_interruption": {LAUNCH, DESCRIBE, SIZES, TERMINATE},
    "handle_instance_change": {DESCRIBE},
    "clean_up": {DESCRIBE, TERMINATE},
    "reconcile": {DESCRIBE, TERMINATE, CHECK, "DeleteTags", *FLEETS},
}
COMMANDERS = {"handle_interruption", "clean_up", "reconcile"}
STARTERS = {"launch_instances"}
LAUNCHERS = {"launch_instances", "handle_interruption"}
NOTIFIERS = {"finish_run", "clean_up", "reconcile"}
REPORTERS = {"train", "handle_instance_change", "reconcile", *LAUNCHERS}
FUNCTIONS = sorted(LEDGER)

EC2 = f"arn:aws:ec2:{REGION}:{ACCOUNT}"
TABLE = f"arn:aws:dynamodb:{REGION}:{ACCOUNT}:table/runctl-ledger"
TOPIC = f"arn:aws:sns:{REGION}:{ACCOUNT}:runctl-events"
MACHINE = f"arn:aws:states:{REGION}:{ACCOUNT}:stateMachine:runctl-train"
REPOSITORY = "arn:aws:ecr:eu-west-1:123456789012:repository/team/train"
TAGGED = {
    "aws:ResourceTag/runctl:run-id": ["a-run"],
    "aws:ResourceTag/runctl:deployment": ["runctl"],
    "ssm:resourceTag/runctl:run-id": ["a-run"],
    "ssm:resourceTag/runctl:deployment": ["runctl"],
    "aws:ResourceTag/runctl:lent": ["deployment=runctl until=2030-01-01T00:00:00Z"],
    "aws:TagKeys": ["runctl:lent"],
    # The tags of a launch request.
    "aws:RequestTag/runctl:deployment": ["runctl"],
}
# A run of the same name in another deployment.
FOREIGN = {key: ["second"] if "deployment" in key else value for key, value in TAGGED.items()}


def role_of(app: Synthesized, function: str) -> Role:
    return app.role(app.function(function).properties["Role"])


def bucket(app: Synthesized) -> str:
    return f"arn:aws:s3:::<{app.one('AWS::S3::Bucket').logical_id}>"


def instance_role(app: Synthesized) -> Role:
    (profile,) = app.of_type("AWS::IAM::InstanceProfile")
    return app.role(profile.properties["Roles"][0])


def facts(app: Synthesized) -> Mapping[str, list[str]]:
    """Return the values of the placeholders in required resources for this deployment."""
    templates = app.of_type("AWS::EC2::LaunchTemplate")
    images = [template.properties["LaunchTemplateData"]["ImageId"] for template in templates]
    groups = app.of_type("AWS::EC2::SecurityGroup")
    (profile,) = app.of_type("AWS::IAM::InstanceProfile")
    return {
        "region": [REGION],
        "account": [ACCOUNT],
        "template": [f"<{template.logical_id}>" for template in templates],
        "tagged": ["fleet", "instance", "volume"],
        "subnet": [f"<{subnet.logical_id}>" for subnet in app.of_type("AWS::EC2::Subnet")],
        "group": [f"<{group.logical_id}.GroupId>" for group in groups],
        "placement_group": [
            f"<{group.logical_id}>" for group in app.of_type("AWS::EC2::PlacementGroup")
        ],
        "image": ["ami-0123456789abcdef0"],
        "role": [f"arn:aws:iam::{ACCOUNT}:role/{profile.properties['Roles'][0]}"],
        "parameter": [image.removeprefix("resolve:ssm:") for image in images],
        "instance": ["i-0123456789abcdef0"],
        "fleet": ["fleet-1"],
        "document": ["runctl-agent"],
        "topic": [TOPIC],
    }


def resources(required: Required, known: Mapping[str, list[str]]) -> Iterator[str]:
    for template in required.resources:
        names = [name for _, name, _, _ in string.Formatter().parse(template) if name]
        for values in itertools.product(*(known.get(name, []) for name in names)):
            yield template.format(**dict(zip(names, values, strict=True)))


def launch_context(app: Synthesized) -> dict[str, list[str]]:
    """Return the condition keys of a launch from a template of the deployment."""
    (template, *_) = app.of_type("AWS::EC2::LaunchTemplate")
    return {
        "ec2:LaunchTemplate": [f"{EC2}:launch-template/<{template.logical_id}>"],
        "ec2:IsLaunchTemplateResource": ["true"],
    }


def refused(role: Role, service: str, call: str, app: Synthesized) -> list[str]:
    launch = launch_context(app)
    return [
        f"{required.action} on {resource}"
        for required in REQUIRED[service, call]
        for resource in resources(required, facts(app))
        if not role.allows(
            required.action,
            resource,
            {**TAGGED, **launch, **{key: [value] for key, value in required.conditions.items()}},
        )
    ]


@pytest.mark.parametrize("function", FUNCTIONS)
def test_a_function_may_make_its_ec2_calls(app: Synthesized, function: str) -> None:
    role = role_of(app, function)
    for call in EC2_CALLS.get(function, ()):
        assert refused(role, "ec2", call, app) == []


@pytest.mark.parametrize("function", sorted(LAUNCHERS))
@pytest.mark.parametrize("call", ["GetServiceQuota", "GetAWSDefaultServiceQuota"])
def test_a_function_that_launches_reads_quotas(app: Synthesized, function: str, call: str) -> None:
    assert refused(role_of(app, function), "servicequotas", call, app) == []


@pytest.mark.parametrize("function", sorted(COMMANDERS))
def test_a_function_may_command_the_agent(app: Synthesized, function: str) -> None:
    assert refused(role_of(app, function), "ssm", "SendCommand", app) == []


@pytest.mark.parametrize("function", sorted(STARTERS))
def test_a_function_that_starts_agents_may_read_the_result(app: Synthesized, function: str) -> None:
    assert refused(role_of(app, function), "ssm", "GetCommandInvocation", app) == []


@pytest.mark.parametrize("function", FUNCTIONS)
def test_only_a_launch_starts_agents_and_only_on_existing_instances(
    app: Synthesized, function: str
) -> None:
    role = role_of(app, function)
    start = f"arn:aws:ssm:{REGION}:{ACCOUNT}:document/runctl-start"
    assert role.allows("ssm:SendCommand", start) == (function in STARTERS)
    machine = f"{EC2}:instance/i-0123456789abcdef0"
    tagged = {"ssm:resourceTag/runctl:lent": ["deployment=runctl until=2030-01-01T00:00:00Z x"]}
    assert role.allows("ssm:SendCommand", machine, tagged) == (function in COMMANDERS | STARTERS)
    assert not role.allows("ssm:SendCommand", machine, {})


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize(
    "value", ["deployment=runctl2 until=2030-01-01T00:00:00Z", "deployment=second until=x", ""]
)
def test_a_machine_that_is_lent_to_another_deployment_is_out_of_reach(
    app: Synthesized, function: str, value: str
) -> None:
    tagged = {"ssm:resourceTag/runctl:lent": [value]}
    assert not role_of(app, function).allows("ssm:SendCommand", f"{EC2}:instance/i-1", tagged)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_nothing_is_started_on_a_machine_that_an_earlier_version_tagged(
    app: Synthesized, function: str
) -> None:
    """Attempts that it started can still be asked to save, by a document that does nothing else."""
    role, tagged = role_of(app, function), {"ssm:resourceTag/runctl:lent": ["yes"]}
    allowed = role.allows("ssm:SendCommand", f"{EC2}:instance/i-1", tagged)
    assert allowed == (function in COMMANDERS)
    start = f"arn:aws:ssm:{REGION}:{ACCOUNT}:document/runctl-start"
    assert not (allowed and role.allows("ssm:SendCommand", start))


def test_reconciliation_removes_only_the_tag_of_machines_that_are_lent_to_us(
    app: Synthesized,
) -> None:
    machine = f"{EC2}:instance/i-1"
    lent = {"aws:ResourceTag/runctl:lent": ["deployment=runctl until=2030-01-01T00:00:00Z x"]}
    keys = {"aws:TagKeys": ["runctl:lent"]}
    for function in FUNCTIONS:
        allowed = role_of(app, function).allows("ec2:DeleteTags", machine, {**lent, **keys})
        assert allowed == (function == "reconcile")
    role = role_of(app, "reconcile")
    theirs = {"aws:ResourceTag/runctl:lent": ["deployment=second until=2030-01-01T00:00:00Z x"]}
    for context in (
        lent,  # a request without keys removes all tags
        {**lent, "aws:TagKeys": ["runctl:lent", "Name"]},
        {**lent, "aws:TagKeys": ["runctl:run-id"]},
        {**theirs, **keys},
        keys,
    ):
        assert not role.allows("ec2:DeleteTags", machine, context)
    assert not role.allows("ec2:CreateTags", machine, {**lent, **keys})


@pytest.mark.parametrize("function", FUNCTIONS)
def test_no_function_finds_the_commands_of_others(app: Synthesized, function: str) -> None:
    """The result of a command needs its random id, and no resource can be named for it."""
    actions = role_of(app, function).actions
    assert not {action for action in actions if action.startswith(("ssm:List", "ssm:Describe"))}
    assert ("ssm:GetCommandInvocation" in actions) == (function in STARTERS)


def test_the_policy_for_existing_instances_has_the_permissions_of_our_role(
    app: Synthesized,
) -> None:
    (policy,) = app.of_type("AWS::IAM::ManagedPolicy")
    statements = policy.properties["PolicyDocument"]["Statement"]
    granted = {
        action
        for statement in statements
        for action in (
            [statement["Action"]] if isinstance(statement["Action"], str) else statement["Action"]
        )
    }
    assert granted == instance_role(app).actions


@pytest.mark.parametrize("function", sorted(NOTIFIERS))
def test_a_function_may_publish_to_our_topic_only(app: Synthesized, function: str) -> None:
    role = role_of(app, function)
    assert refused(role, "sns", "Publish", app) == []
    assert not role.allows("sns:Publish", f"{TOPIC}-other")
    variables = app.function(function).properties["Environment"]["Variables"]
    assert variables["RUNCTL_TOPIC_ARN"] == TOPIC


def test_the_topic_has_no_key_that_publishers_would_need(app: Synthesized) -> None:
    assert "KmsMasterKeyId" not in app.one("AWS::SNS::Topic").properties


@pytest.mark.parametrize("function", FUNCTIONS)
def test_a_function_has_only_the_permissions_that_its_code_needs(
    app: Synthesized, function: str
) -> None:
    expected = {"logs:CreateLogStream", "logs:PutLogEvents"}
    expected |= {f"dynamodb:{action}" for action in LEDGER[function]}
    for call in EC2_CALLS.get(function, ()):
        expected |= {required.action for required in REQUIRED["ec2", call]}
        if call == LAUNCH:
            expected.add("iam:CreateServiceLinkedRole")  # the account's first spot launch
    if function in LAUNCHERS:
        expected |= {"servicequotas:GetServiceQuota", "servicequotas:GetAWSDefaultServiceQuota"}
    if function in COMMANDERS | STARTERS:
        expected.add("ssm:SendCommand")
    if function in STARTERS:
        expected |= {required.action for required in REQUIRED["ssm", "GetCommandInvocation"]}
    if function in NOTIFIERS:
        expected.add("sns:Publish")
    if function in REPORTERS:
        expected.add("states:SendTaskSuccess")
    if function == "prepare_run":
        expected |= {"s3:GetObject", "s3:ListBucket", "states:DescribeExecution"}
        expected.add("s3:PutObject")  # plans of processing jobs, and what reserves their outputs
    if function in {"prepare_run", "record_image"}:
        expected |= {"ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer"}
    if function == "reconcile":
        expected |= {"ecr:DescribeImages", "ecr:BatchDeleteImage"}
    if function == "record_image":
        expected |= {"codebuild:BatchGetBuilds", "logs:GetLogEvents"}
    if function in {"decide_next", "reconcile"}:
        expected.add("states:DescribeExecution")
    if function in {"clean_up", "reconcile"}:
        expected.add("states:StopExecution")
    if "DeadLetterConfig" in app.function(function).properties:
        expected.add("sqs:SendMessage")
    assert role_of(app, function).actions == expected


@pytest.mark.parametrize("function", FUNCTIONS)
def test_the_ledger_is_the_only_table(app: Synthesized, function: str) -> None:
    role = role_of(app, function)
    assert role.allows("dynamodb:GetItem", TABLE)
    assert not role.allows("dynamodb:GetItem", TABLE.replace("runctl-ledger", "other"))


@pytest.mark.parametrize("function", sorted(EC2_CALLS))
def test_foreign_instances_are_out_of_reach(app: Synthesized, function: str) -> None:
    role, instance = role_of(app, function), f"{EC2}:instance/i-1"
    for context in ({}, FOREIGN):
        assert not role.allows("ec2:TerminateInstances", instance, context)
        assert not role.allows("ssm:SendCommand", instance, context)


@pytest.mark.parametrize("function", ["launch_instances", "handle_interruption"])
def test_a_launch_is_bound_to_our_resources(app: Synthesized, function: str) -> None:
    role = role_of(app, function)
    for resource in (
        "launch-template/lt-1",
        "subnet/subnet-1",
        "security-group/sg-1",
        "placement-group/theirs",
    ):
        assert not role.allows("ec2:RunInstances", f"{EC2}:{resource}")
    # No launch without one of our templates, and no image but the one that it names.
    theirs = {"ec2:LaunchTemplate": [f"{EC2}:launch-template/lt-1"]}
    image = f"arn:aws:ec2:{REGION}::image/ami-1"
    own = {"ec2:IsLaunchTemplateResource": ["true"]}
    for context in ({}, theirs):
        assert not role.allows("ec2:RunInstances", f"{EC2}:instance/*", context)
        assert not role.allows("ec2:RunInstances", image, {**context, **own})
    for template in facts(app)["template"]:
        ours = {"ec2:LaunchTemplate": [f"{EC2}:launch-template/{template}"]}
        assert role.allows("ec2:RunInstances", f"{EC2}:instance/*", ours)
        assert role.allows("ec2:RunInstances", image, {**ours, **own})
        replaced = {**ours, "ec2:IsLaunchTemplateResource": ["false"]}
        assert not role.allows("ec2:RunInstances", image, replaced)
    # Tags only during a launch, and only the role of instances, only to EC2.
    assert not role.allows("ec2:CreateTags", f"{EC2}:instance/i-1")
    launching = {**FOREIGN, "ec2:CreateAction": ["CreateFleet"]}
    assert not role.allows("ec2:CreateTags", f"{EC2}:fleet/*", launching)
    passed = facts(app)["role"][0]
    lambdas = {"iam:PassedToService": ["lambda.amazonaws.com"]}
    ec2 = {"iam:PassedToService": ["ec2.amazonaws.com"]}
    assert not role.allows("iam:PassRole", passed, lambdas)
    assert not role.allows("iam:PassRole", f"arn:aws:iam::{ACCOUNT}:role/admin", ec2)


def test_reports_go_to_our_state_machine_only(app: Synthesized) -> None:
    for function in REPORTERS:
        role = role_of(app, function)
        assert role.allows("states:SendTaskSuccess", MACHINE)
        assert not role.allows("states:SendTaskSuccess", f"{MACHINE}-other")


def test_prepare_run_may_read_the_bucket(app: Synthesized) -> None:
    role = role_of(app, "prepare_run")
    assert role.allows("s3:GetObject", f"{bucket(app)}/code/x.tar.gz")
    assert role.allows("s3:ListBucket", bucket(app))
    assert not role.allows("s3:GetObject", "arn:aws:s3:::other/code/x.tar.gz")
    execution = MACHINE.replace(":stateMachine:", ":execution:")
    assert role.allows("states:DescribeExecution", f"{execution}:a-run")


def test_reconciliation_may_list_runs_and_describe_executions(app: Synthesized) -> None:
    role = role_of(app, "reconcile")
    assert role.allows("dynamodb:Query", f"{TABLE}/index/unsettled")
    assert not role.allows("dynamodb:UpdateItem", f"{TABLE}/index/unsettled")
    execution = MACHINE.replace(":stateMachine:", ":execution:")
    assert role.allows("states:DescribeExecution", f"{execution}:a-run")
    assert not role.allows("states:DescribeExecution", f"{execution}-other:a-run")


def test_reconciliation_may_delete_fleets_of_runs_only_and_terminate_kept_machines(
    app: Synthesized,
) -> None:
    role = role_of(app, "reconcile")
    assert role.allows("ec2:DeleteFleets", f"{EC2}:fleet/fleet-1", TAGGED)
    assert not role.allows("ec2:DeleteFleets", f"{EC2}:fleet/fleet-1")
    assert not role.allows("ec2:DeleteFleets", f"{EC2}:fleet/fleet-1", FOREIGN)
    kept = {
        "aws:ResourceTag/runctl:keep-alive-until": ["2030-01-01T00:00:00Z"],
        "aws:ResourceTag/runctl:deployment": ["runctl"],
    }
    assert role.allows("ec2:TerminateInstances", f"{EC2}:instance/i-1", kept)
    assert not role_of(app, "clean_up").allows(
        "ec2:TerminateInstances", f"{EC2}:instance/i-1", kept
    )
    variables = app.function("reconcile").properties["Environment"]["Variables"]
    assert "RUNCTL_LAUNCH_TEMPLATES" in variables
    assert "RUNCTL_SECURITY_GROUP" in variables


def test_only_stored_environments_can_be_pruned(app: Synthesized) -> None:
    role = role_of(app, "prune_environments")
    assert role.actions == {
        "dynamodb:Query", "s3:DeleteObject", "s3:GetObject", "s3:ListBucket", "sqs:SendMessage",
        "logs:CreateLogStream", "logs:PutLogEvents",
    }  # fmt: skip
    objects = bucket(app)
    for action in ("s3:GetObject", "s3:DeleteObject"):
        assert role.allows(action, f"{objects}/environments/parts/x")
        assert not role.allows(action, f"{objects}/runs/a/checkpoints/parts/x")
    assert role.allows("s3:ListBucket", objects)
    assert role.allows("dynamodb:Query", f"{TABLE}/index/unsettled")
    assert not role.allows("dynamodb:Query", TABLE)


def test_the_state_machine_may_invoke_its_functions(app: Synthesized) -> None:
    machine = app.one("AWS::StepFunctions::StateMachine", StateMachineName="runctl-train")
    role = app.role(machine.properties["RoleArn"])
    called = set(machine.properties["DefinitionSubstitutions"].values())
    # Executions that started before an upgrade call it by its earlier name.
    earlier = app.function("start_training")
    assert earlier.properties["Handler"] == "lambdas.train.handler"
    called.add(f"arn:aws:lambda:{REGION}:{ACCOUNT}:function:runctl-start_training")
    invoked = [
        statement for statement in role.statements if statement["Action"] == "lambda:InvokeFunction"
    ]
    assert [set(statement["Resource"]) for statement in invoked] == [called]
    (required,) = REQUIRED["states", "lambda:invoke"]
    assert all(role.allows(required.action, arn) for arn in called)
    nested = {
        permission.action for permission in REQUIRED["states", "states:startExecution.sync:2"]
    }
    builds = {f"codebuild:{action}" for action in ("StartBuild", "StopBuild", "BatchGetBuilds")}
    delivery = role.actions - {"lambda:InvokeFunction"} - nested - builds
    assert all(action.startswith("logs:") for action in delivery)


def test_no_role_has_a_managed_policy(app: Synthesized) -> None:
    for role in app.of_type("AWS::IAM::Role"):
        assert "ManagedPolicyArns" not in role.properties, role.logical_id
        assert "Policies" not in role.properties, role.logical_id


def test_no_policy_has_a_wildcard_action(app: Synthesized) -> None:
    for policy in app.of_type("AWS::IAM::Policy"):
        for statement in policy.properties["PolicyDocument"]["Statement"]:
            assert "*" not in str(statement["Action"]), policy.logical_id


# Builds of images.


def test_a_build_reads_projects_and_pushes_to_our_repositories_only(app: Synthesized) -> None:
    projects = app.of_type("AWS::CodeBuild::Project")
    assert {project.properties["Environment"]["Type"] for project in projects} == {
        "LINUX_CONTAINER",
        "ARM_CONTAINER",
    }
    (role_arn,) = {str(project.properties["ServiceRole"]) for project in projects}
    role, objects = app.role(projects[0].properties["ServiceRole"]), bucket(app)
    assert role_arn
    ours = [f"<{each.logical_id}.Arn>" for each in app.of_type("AWS::ECR::Repository")]
    assert len(ours) == 2
    for repository in ours:
        assert role.allows("ecr:PutImage", repository, {})
    assert not role.allows("ecr:PutImage", REPOSITORY, {})
    assert role.allows("ecr:BatchGetImage", REPOSITORY, {})
    assert role.allows("s3:GetObject", f"{objects}/code/x.tar.gz", {})
    assert not role.allows("s3:GetObject", f"{objects}/runs/a/outputs/x", {})
    services = {action.partition(":")[0] for action in role.actions}
    assert services == {"ecr", "logs", "s3"}
    assert not any(action.startswith("s3:Put") for action in role.actions)


def test_tags_of_builds_are_immutable_and_images_are_scanned(app: Synthesized) -> None:
    images, cache = sorted(
        (each.properties for each in app.of_type("AWS::ECR::Repository")),
        key=lambda each: each["RepositoryName"],
        reverse=True,
    )
    assert (images["RepositoryName"], cache["RepositoryName"]) == ("runctl-images", "runctl-cache")
    assert images["ImageTagMutability"] == "IMMUTABLE"
    assert images["ImageScanningConfiguration"] == {"ScanOnPush": True}
    # By age, a rule would expire the image of a run that is still active.
    assert "LifecyclePolicy" not in images
    assert cache["ImageTagMutability"] == "MUTABLE"
    assert "LifecyclePolicy" in cache


# The instance.

ISSUER = f"arn:aws:lambda:{REGION}:{ACCOUNT}:function:runctl-issue_credentials"


def test_an_instance_fetches_the_agent_and_asks_for_a_session(app: Synthesized) -> None:
    role = instance_role(app)
    assert role.allows("lambda:InvokeFunction", ISSUER)
    (statement,) = (each for each in role.statements if each["Action"] == "s3:GetObject")
    assert re.fullmatch(
        r"arn:aws:s3:::cdk-hnb659fds-assets-\d+-[a-z0-9-]+/[0-9a-f]{64}\.gz", statement["Resource"]
    )


def test_the_ssm_agent_can_register(app: Synthesized) -> None:
    assert refused(instance_role(app), "ssm-agent", "register", app) == []


def test_an_instance_has_no_other_permission(app: Synthesized) -> None:
    role, objects = instance_role(app), bucket(app)
    keys = {"dynamodb:LeadingKeys": ["RUN#a-run"]}
    for action, resource, context in [
        ("s3:GetObject", f"{objects}/runs/a/outputs/x", {}),
        ("s3:GetObject", f"{objects}/code/x.tar.gz", {}),
        ("s3:PutObject", f"{objects}/runs/a/outputs/x", {}),
        ("s3:PutObject", f"{objects}/environments/parts/x", {}),
        ("s3:ListBucket", objects, {}),
        ("dynamodb:GetItem", TABLE, keys),
        ("dynamodb:UpdateItem", TABLE, keys),
        ("dynamodb:GetItem", TABLE, {"dynamodb:LeadingKeys": ["TOKEN#a-run#0001"]}),
        ("states:SendTaskSuccess", MACHINE, {}),
        ("states:StartExecution", MACHINE, {}),
        ("lambda:InvokeFunction", ISSUER.replace("issue_credentials", "judge_trial"), {}),
        ("sts:AssumeRole", f"arn:aws:iam::{ACCOUNT}:role/x", {}),
        ("ssm:GetParameter", f"arn:aws:ssm:{REGION}:{ACCOUNT}:parameter/x", {}),
        ("ec2:TerminateInstances", f"{EC2}:instance/i-1", TAGGED),
    ]:
        assert not role.allows(action, resource, context), (action, resource)
    agent = {
        action for action in role.actions if action.startswith(("ssmmessages:", "ec2messages:"))
    }
    assert role.actions == agent | {
        "s3:GetObject", "lambda:InvokeFunction", "ssm:UpdateInstanceInformation"
    }  # fmt: skip
