"""The local cloud refuses what AWS would refuse: each call, and each permission behind it."""

from __future__ import annotations

import contextlib
import json
import time
from typing import Any

import pytest
from botocore.exceptions import ClientError

from runctl.model.permissions import REQUIRED
from tests.local.clouds import Cloud, eventually, unique

pytestmark = pytest.mark.slow

AGENT = {
    "Effect": "Allow",
    "Action": [required.action for required in REQUIRED["ssm-agent", "register"]],
    "Resource": "*",
}


def allow(*actions: str, resource: str = "*", **conditions: Any) -> dict[str, Any]:
    statement = {"Effect": "Allow", "Action": list(actions), "Resource": resource}
    return statement | ({"Condition": conditions} if conditions else {})


LAUNCH = {
    "ec2:CreateFleet": allow("ec2:CreateFleet"),
    "ec2:CreateTags": allow(
        "ec2:CreateTags", StringEquals={"ec2:CreateAction": ["CreateFleet", "RunInstances"]}
    ),
    "ec2:RunInstances": allow("ec2:RunInstances"),
    "iam:PassRole": allow(
        "iam:PassRole", StringEquals={"iam:PassedToService": "ec2.amazonaws.com"}
    ),
    "iam:CreateServiceLinkedRole": allow(
        "iam:CreateServiceLinkedRole",
        resource="arn:aws:iam::*:role/aws-service-role/spot.amazonaws.com/*",
        StringEquals={"iam:AWSServiceName": "spot.amazonaws.com"},
    ),
    "ssm:GetParameters": allow(
        "ssm:GetParameters", resource="arn:aws:ssm:*::parameter/aws/service/*"
    ),
}
TAGS = [
    {"ResourceType": kind, "Tags": [{"Key": "run", "Value": "r1"}]}
    for kind in ("fleet", "instance")
]


def create_fleet(cloud: Cloud, caller_role: str, **changes: Any) -> dict[str, Any]:
    data = {"IamInstanceProfile": {"Name": cloud.profile(cloud.role(AGENT))}}
    request = cloud.fleet_request(cloud.template("#!/bin/sh\n", **data), **changes)
    ec2 = cloud.client("ec2", **cloud.assume(caller_role))
    got: dict[str, Any] = ec2.create_fleet(**{"TagSpecifications": TAGS, **request})
    return got


def test_a_role_with_every_permission_launches(strict_cloud: Cloud) -> None:
    got = create_fleet(strict_cloud, strict_cloud.role(*LAUNCH.values()))
    assert got["Errors"] == []
    assert got["Instances"]


@pytest.mark.parametrize("missing", sorted(set(LAUNCH) - {"ec2:CreateFleet"}))
def test_each_dependent_permission_is_needed(strict_cloud: Cloud, missing: str) -> None:
    role = strict_cloud.role(
        *(statement for action, statement in LAUNCH.items() if action != missing)
    )
    message = f"not authorized to perform: {missing} on resource"
    if missing == "ec2:CreateTags":  # the fleet itself is tagged before anything is launched
        with pytest.raises(ClientError, match=f"UnauthorizedOperation.*{message}"):
            create_fleet(strict_cloud, role)
        return
    if missing == "ssm:GetParameters":  # and so is the image resolved
        with pytest.raises(ClientError, match=f"SsmAccessDenied.*{message}"):
            create_fleet(strict_cloud, role)
        return
    code = "UnauthorizedOperation"
    if missing == "iam:CreateServiceLinkedRole":
        code = "ServiceLinkedRoleCreationNotPermitted"
        with contextlib.suppress(ClientError):
            strict_cloud.client("iam").delete_role(RoleName="AWSServiceRoleForEC2Spot")
    got = create_fleet(strict_cloud, role)
    assert got["Instances"] == []
    assert {error["ErrorCode"] for error in got["Errors"]} == {code}
    assert message in got["Errors"][0]["ErrorMessage"]


def test_a_fleet_cannot_be_created_without_the_permission(strict_cloud: Cloud) -> None:
    with pytest.raises(ClientError, match="ec2:CreateFleet"):
        create_fleet(strict_cloud, strict_cloud.role(LAUNCH["ec2:RunInstances"]))


EC2 = "arn:aws:ec2:us-east-1:000000000000"
OTHERS = allow("ec2:RunInstances")
IMAGES = "arn:aws:ec2:*::image/*"
OTHERS["NotResource"] = [
    f"{EC2}:instance/*", f"{EC2}:placement-group/*", IMAGES,
]  # fmt: skip
del OTHERS["Resource"]


def limited_role(cloud: Cloud, *statements: dict[str, Any]) -> str:
    """Return a role that may launch the instances that the statements allow."""
    rest = [statement for action, statement in LAUNCH.items() if action != "ec2:RunInstances"]
    images = {"Effect": "Allow", "Action": "ec2:RunInstances", "Resource": IMAGES}
    named = any(statement["Resource"] == IMAGES for statement in statements)
    return cloud.role(*rest, OTHERS, *([] if named else [images]), *statements)


@pytest.mark.parametrize(("name", "is_allowed"), [("m5.large", True), ("m5.xlarge", False)])
def test_a_role_launches_only_the_types_that_its_policy_names(
    strict_cloud: Cloud, name: str, is_allowed: bool
) -> None:
    limit = {"ec2:InstanceType": ["c5.*", "m5.large"]}
    statement = allow("ec2:RunInstances", resource=f"{EC2}:instance/*", StringLike=limit)
    override = {"InstanceType": name, "AvailabilityZone": "us-east-1a"}
    got = create_fleet(strict_cloud, limited_role(strict_cloud, statement), overrides=[override])
    assert bool(got["Instances"]) == is_allowed
    assert [error["ErrorCode"] for error in got["Errors"]] == (
        [] if is_allowed else ["UnauthorizedOperation"]
    )


LAUNCHED_FROM = "ec2:LaunchTemplate"


@pytest.mark.parametrize("is_ours", [True, False])
def test_a_role_launches_only_from_the_template_that_its_policy_names(
    strict_cloud: Cloud, is_ours: bool
) -> None:
    """A policy that does not look at the template of a launch permits any of them."""
    template = strict_cloud.template("#!/bin/sh\n")
    described = strict_cloud.client("ec2").describe_launch_templates(LaunchTemplateNames=[template])
    (found,) = described["LaunchTemplates"]
    named = found["LaunchTemplateId"] if is_ours else "lt-0123456789abcdef0"
    condition = {LAUNCHED_FROM: f"arn:aws:ec2:us-east-1:000000000000:launch-template/{named}"}
    statement = allow("ec2:RunInstances", resource=f"{EC2}:instance/*", ArnLike=condition)
    role = limited_role(strict_cloud, statement)
    ec2 = strict_cloud.client("ec2", **strict_cloud.assume(role))
    got = ec2.create_fleet(**{"TagSpecifications": TAGS, **strict_cloud.fleet_request(template)})
    assert bool(got["Instances"]) == is_ours
    assert {error["ErrorCode"] for error in got["Errors"]} == (
        set() if is_ours else {"UnauthorizedOperation"}
    )


@pytest.mark.parametrize("replaced", [False, True])
def test_a_launch_cannot_replace_the_image_of_its_template(
    strict_cloud: Cloud, replaced: bool
) -> None:
    statements = [
        allow("ec2:RunInstances", resource=f"{EC2}:instance/*"),
        allow(
            "ec2:RunInstances",
            resource=IMAGES,
            Bool={"ec2:IsLaunchTemplateResource": "true"},
        ),
    ]
    role = limited_role(strict_cloud, *statements)
    override = {"InstanceType": "m5.large", "AvailabilityZone": "us-east-1a"}
    override |= {"ImageId": "ami-0123456789abcdef0"} if replaced else {}
    got = create_fleet(strict_cloud, role, overrides=[override])
    assert bool(got["Instances"]) != replaced


@pytest.mark.parametrize(
    ("given", "tags", "is_allowed"),
    [
        ("deployment=a until=1", [{"Key": "lent"}], True),
        ("deployment=a until=1", [{"Key": "lent", "Value": "deployment=a until=1"}], True),
        ("deployment=a until=1", [{"Key": "lent"}, {"Key": "Name"}], False),
        ("deployment=a until=1", [], False),
        ("deployment=b until=1", [{"Key": "lent"}], False),
        ("", [{"Key": "lent"}], False),
    ],
)
def test_a_role_removes_only_the_tag_and_only_where_its_policy_says_so(
    strict_cloud: Cloud, given: str, tags: list[dict[str, str]], is_allowed: bool
) -> None:
    pairs = [{"Key": "Name", "Value": "mine"}]
    pairs += [{"Key": "lent", "Value": given}] if given else []
    specification = [{"ResourceType": "instance", "Tags": pairs}]
    instance_id = strict_cloud.launch(TagSpecifications=specification)
    role = strict_cloud.role(
        allow(
            "ec2:DeleteTags",
            resource=f"{EC2}:instance/*",
            **{
                "StringLike": {"aws:ResourceTag/lent": "deployment=a until=*"},
                "ForAllValues:StringEquals": {"aws:TagKeys": ["lent"]},
                "Null": {"aws:TagKeys": "false"},
            },
        )
    )
    ec2 = strict_cloud.client("ec2", **strict_cloud.assume(role))
    if is_allowed:
        ec2.delete_tags(Resources=[instance_id], Tags=tags)
        left = {"Name"}
    else:
        with pytest.raises(ClientError, match="UnauthorizedOperation"):
            ec2.delete_tags(Resources=[instance_id], Tags=tags)
        left = {pair["Key"] for pair in pairs}
    shown = strict_cloud.describe(instance_id)["Tags"]
    assert {tag["Key"] for tag in shown if not tag["Key"].startswith("aws:")} == left


@pytest.mark.parametrize("is_allowed", [True, False])
def test_a_role_launches_only_into_the_placement_groups_that_its_policy_names(
    strict_cloud: Cloud, is_allowed: bool
) -> None:
    group = unique("cluster")
    strict_cloud.client("ec2").create_placement_group(GroupName=group, Strategy="cluster")
    named = group if is_allowed else "another"
    statements = [
        allow("ec2:RunInstances", resource=f"{EC2}:{resource}")
        for resource in ("instance/*", f"placement-group/{named}")
    ]
    override = {"InstanceType": "m5.large", "AvailabilityZone": "us-east-1a"}
    placed = {**override, "Placement": {"GroupName": group}}
    got = create_fleet(strict_cloud, limited_role(strict_cloud, *statements), overrides=[placed])
    assert bool(got["Instances"]) == is_allowed


def test_no_tags_need_no_permission_to_tag(strict_cloud: Cloud) -> None:
    role = strict_cloud.role(
        *(statement for key, statement in LAUNCH.items() if key != "ec2:CreateTags")
    )
    assert create_fleet(strict_cloud, role, TagSpecifications=[])["Instances"]


def test_passing_the_role_to_another_service_is_not_enough(strict_cloud: Cloud) -> None:
    wrong = allow("iam:PassRole", StringEquals={"iam:PassedToService": "lambda.amazonaws.com"})
    role = strict_cloud.role(*(LAUNCH | {"iam:PassRole": wrong}).values())
    assert create_fleet(strict_cloud, role)["Instances"] == []


def test_only_instances_with_the_tag_may_be_terminated(strict_cloud: Cloud) -> None:
    mine = strict_cloud.launch(TagSpecifications=TAGS)
    foreign = strict_cloud.launch()
    condition = {"aws:ResourceTag/run": "r*"}
    role = strict_cloud.role(allow("ec2:TerminateInstances", StringLike=condition))
    ec2 = strict_cloud.client("ec2", **strict_cloud.assume(role))
    with pytest.raises(ClientError, match="UnauthorizedOperation"):
        ec2.terminate_instances(InstanceIds=[foreign])
    ec2.terminate_instances(InstanceIds=[mine])
    strict_cloud.admin.wait_for_state(mine, "terminated")
    assert strict_cloud.admin.instance(foreign)["state"] in {"pending", "running"}


def test_only_fleets_with_the_tag_may_be_deleted(strict_cloud: Cloud) -> None:
    admin = strict_cloud.client("ec2")

    def fleet(**changes: Any) -> str:
        request = strict_cloud.fleet_request(strict_cloud.template("#!/bin/sh\n"), **changes)
        return str(admin.create_fleet(**request)["FleetId"])

    mine, foreign = fleet(TagSpecifications=TAGS), fleet()
    condition = {"aws:ResourceTag/run": "r*"}
    role = strict_cloud.role(allow("ec2:DeleteFleets", StringLike=condition))
    ec2 = strict_cloud.client("ec2", **strict_cloud.assume(role))
    with pytest.raises(ClientError, match="UnauthorizedOperation"):
        ec2.delete_fleets(FleetIds=[foreign], TerminateInstances=True)
    gone = ec2.delete_fleets(FleetIds=[mine], TerminateInstances=True)
    assert [deletion["FleetId"] for deletion in gone["SuccessfulFleetDeletions"]] == [mine]
    for call, action in (
        (ec2.describe_fleets, "ec2:DescribeFleets"),
        (ec2.describe_tags, "ec2:DescribeTags"),
    ):
        filters = [{"Name": "resource-type", "Values": ["fleet"]}]
        with pytest.raises(ClientError, match=action):
            call(**({"Filters": filters} if action.endswith("Tags") else {"FleetIds": [mine]}))


def test_only_volumes_with_the_tag_may_be_deleted(strict_cloud: Cloud) -> None:
    disk = {"DeviceName": "/dev/sda1", "Ebs": {"DeleteOnTermination": False}}
    admin = strict_cloud.client("ec2")
    left = []
    for tags in ([*TAGS, {"ResourceType": "volume", "Tags": TAGS[0]["Tags"]}], []):
        data = {"BlockDeviceMappings": [disk]}
        instance_id = strict_cloud.launch(data=data, TagSpecifications=tags)
        filters = [{"Name": "attachment.instance-id", "Values": [instance_id]}]
        (volume,) = admin.describe_volumes(Filters=filters)["Volumes"]
        admin.terminate_instances(InstanceIds=[instance_id])
        strict_cloud.admin.wait_for_state(instance_id, "terminated")
        left.append(volume["VolumeId"])
    mine, foreign = left
    condition = {"aws:ResourceTag/run": "r*"}
    role = strict_cloud.role(allow("ec2:DeleteVolume", StringLike=condition))
    ec2 = strict_cloud.client("ec2", **strict_cloud.assume(role))
    with pytest.raises(ClientError, match="ec2:DeleteVolume"):
        ec2.delete_volume(VolumeId=foreign)
    ec2.delete_volume(VolumeId=mine)
    with pytest.raises(ClientError, match="ec2:DescribeVolumes"):
        ec2.describe_volumes()


def test_a_session_needs_permission_on_the_instance_and_on_the_document(
    strict_cloud: Cloud,
) -> None:
    agent = {"Effect": "Allow", "Resource": "*", "Action": []}
    for part in ("register", "session"):
        agent["Action"] += [required.action for required in REQUIRED["ssm-agent", part]]
    profile = strict_cloud.profile(strict_cloud.role(agent))
    instance_id = strict_cloud.launch(data={"IamInstanceProfile": {"Name": profile}})
    eventually(lambda: strict_cloud.admin.instance(instance_id)["agent_ready"])
    document = "arn:aws:ssm:*::document/AWS-StartPortForwardingSession"
    statement = {"Effect": "Allow", "Action": "ssm:StartSession", "Resource": [document]}
    request = {"Target": instance_id, "DocumentName": document.rpartition("/")[2]}
    role = strict_cloud.role(statement)
    with pytest.raises(ClientError, match=f"instance/{instance_id}"):
        strict_cloud.client("ssm", **strict_cloud.assume(role)).start_session(**request)
    statement["Resource"].append(f"arn:aws:ec2:*:*:instance/{instance_id}")
    role = strict_cloud.role(statement)
    ssm = strict_cloud.client("ssm", **strict_cloud.assume(role))
    session_id = ssm.start_session(**request)["SessionId"]
    with pytest.raises(ClientError, match="ssm:TerminateSession"):
        ssm.terminate_session(SessionId=session_id)


def test_the_administrator_may_do_anything(strict_cloud: Cloud) -> None:
    assert strict_cloud.describe(strict_cloud.launch())["InstanceId"]


def test_a_wrong_secret_is_refused(strict_cloud: Cloud) -> None:
    keys = strict_cloud.assume(strict_cloud.role(allow("ec2:DescribeInstances")))
    strict_cloud.client("ec2", **keys).describe_instances()
    ec2 = strict_cloud.client("ec2", **keys | {"aws_secret_access_key": "guessed"})
    with pytest.raises(ClientError, match="AuthFailure"):
        ec2.describe_instances()


def test_an_instance_acts_as_its_role(strict_cloud: Cloud) -> None:
    bucket = unique("mine")
    strict_cloud.client("s3").create_bucket(Bucket=bucket)
    role = strict_cloud.role(allow("s3:PutObject", resource=f"arn:aws:s3:::{bucket}/ok/*"))
    name = role.rpartition("/")[2]
    script = f"""#!/bin/bash
base=$AWS_EC2_METADATA_SERVICE_ENDPOINT/latest
token=$(curl -s -X PUT -H 'X-aws-ec2-metadata-token-ttl-seconds: 60' $base/api/token)
path=meta-data/iam/security-credentials/{name}
curl -s -H "X-aws-ec2-metadata-token: $token" $base/$path > $RUNCTL_ROOT/new
mv $RUNCTL_ROOT/new $RUNCTL_ROOT/credentials
"""
    data = {"IamInstanceProfile": {"Name": strict_cloud.profile(role)}}
    root = strict_cloud.root(strict_cloud.launch(script, data=data))
    eventually((root / "credentials").exists)
    got = json.loads((root / "credentials").read_text())
    s3 = strict_cloud.client(
        "s3",
        aws_access_key_id=got["AccessKeyId"],
        aws_secret_access_key=got["SecretAccessKey"],
        aws_session_token=got["Token"],
    )
    s3.put_object(Bucket=bucket, Key="ok/a", Body=b"1")
    with pytest.raises(ClientError, match="AccessDenied"):
        s3.put_object(Bucket=bucket, Key="other/a", Body=b"1")


def registered(cloud: Cloud, **tags: str) -> str:
    data = {"IamInstanceProfile": {"Name": cloud.profile(cloud.role(AGENT))}}
    pairs = [{"Key": key, "Value": value} for key, value in tags.items()]
    spec = [{"ResourceType": "instance", "Tags": pairs}] if pairs else []
    instance_id = cloud.launch(data=data, TagSpecifications=spec)
    eventually(lambda: cloud.admin.instance(instance_id)["agent_ready"])
    return instance_id


def test_a_command_needs_the_document_and_the_instances_tag(strict_cloud: Cloud) -> None:
    mine, foreign = registered(strict_cloud, run="r1"), registered(strict_cloud)
    document = "arn:aws:ssm:*::document/AWS-RunShellScript"
    role = strict_cloud.role(
        allow("ssm:SendCommand", resource=document),
        allow(
            "ssm:SendCommand",
            resource="arn:aws:ec2:*:*:instance/*",
            StringEquals={"ssm:resourceTag/run": "r1"},
        ),
    )
    ssm = strict_cloud.client("ssm", **strict_cloud.assume(role))
    command = {"DocumentName": "AWS-RunShellScript", "Parameters": {"commands": ["true"]}}
    assert ssm.send_command(InstanceIds=[mine], **command)["Command"]["CommandId"]
    with pytest.raises(ClientError, match="AccessDenied"):
        ssm.send_command(InstanceIds=[foreign], **command)
    other = strict_cloud.role(allow("ssm:SendCommand", resource="arn:aws:ec2:*:*:instance/*"))
    with pytest.raises(ClientError, match="document/AWS-RunShellScript"):
        strict_cloud.client("ssm", **strict_cloud.assume(other)).send_command(
            InstanceIds=[mine], **command
        )


def test_a_permission_that_asks_for_a_tag_holds_only_once_the_agent_has_registered(
    strict_cloud: Cloud,
) -> None:
    strict_cloud.admin.set_knobs(agent_delay=600)
    data = {"IamInstanceProfile": {"Name": strict_cloud.profile(strict_cloud.role(AGENT))}}
    tags = [{"Key": "run", "Value": "r1"}]
    instance_id = strict_cloud.launch(
        data=data, TagSpecifications=[{"ResourceType": "instance", "Tags": tags}]
    )
    role = strict_cloud.role(
        allow("ssm:SendCommand", resource="arn:aws:ssm:*::document/AWS-RunShellScript"),
        allow(
            "ssm:SendCommand",
            resource="arn:aws:ec2:*:*:instance/*",
            StringEquals={"ssm:resourceTag/run": "r1"},
        ),
    )
    with pytest.raises(ClientError, match="AccessDenied"):
        strict_cloud.client("ssm", **strict_cloud.assume(role)).send_command(
            DocumentName="AWS-RunShellScript",
            InstanceIds=[instance_id],
            Parameters={"commands": ["true"]},
        )


def test_an_agent_whose_role_lacks_the_permissions_never_registers(strict_cloud: Cloud) -> None:
    data = {"IamInstanceProfile": {"Name": strict_cloud.profile(strict_cloud.role())}}
    instance_id = strict_cloud.launch(data=data)
    eventually(lambda: strict_cloud.admin.instance(instance_id)["agent_ready"])
    with pytest.raises(ClientError, match="InvalidInstanceId"):
        strict_cloud.client("ssm").send_command(
            DocumentName="AWS-RunShellScript",
            InstanceIds=[instance_id],
            Parameters={"commands": ["true"]},
        )


def task(function: str) -> dict[str, Any]:
    return {
        "Call": {
            "Type": "Task",
            "Resource": "arn:aws:states:::lambda:invoke",
            "Arguments": {"FunctionName": function, "Payload": {}},
            "End": True,
        }
    }


def test_a_state_machine_invokes_only_what_its_role_allows(strict_cloud: Cloud) -> None:
    function = strict_cloud.function("def handler(event, context):\n    return 1\n")
    allowed = strict_cloud.role(allow("lambda:InvokeFunction", resource=function))
    ended = strict_cloud.ended(
        strict_cloud.start(strict_cloud.machine(task(function), role=allowed))
    )
    assert ended["status"] == "SUCCEEDED"
    ended = strict_cloud.ended(strict_cloud.start(strict_cloud.machine(task(function))))
    assert (ended["status"], ended["error"]) == ("FAILED", "Lambda.AWSLambdaException")
    assert "lambda:InvokeFunction" in ended["cause"]


def test_a_nested_execution_needs_every_permission_of_its_pattern(strict_cloud: Cloud) -> None:
    child = strict_cloud.machine({"Done": {"Type": "Succeed"}})
    needed = [required.action for required in REQUIRED["states", "states:startExecution.sync:2"]]
    states = {
        "Continue": {
            "Type": "Task",
            "Resource": "arn:aws:states:::states:startExecution.sync:2",
            "Arguments": {"StateMachineArn": child, "Input": {}},
            "End": True,
        }
    }
    outcomes = {}
    for missing in ("", *needed):
        role = strict_cloud.role(*(allow(action) for action in needed if action != missing))
        execution = strict_cloud.start(strict_cloud.machine(states, role=role))
        outcomes[missing] = strict_cloud.ended(execution)["status"]
    assert outcomes == {"": "SUCCEEDED"} | dict.fromkeys(needed, "FAILED")


def test_a_function_acts_as_its_role(strict_cloud: Cloud) -> None:
    code = (
        "import boto3\n"
        "def handler(event, context):\n"
        "    boto3.client('ec2').describe_instances()\n"
        "    return 'seen'\n"
    )
    seeing = strict_cloud.function(code, role=strict_cloud.role(allow("ec2:DescribeInstances")))
    blind = strict_cloud.function(code, role=strict_cloud.role())
    lambda_ = strict_cloud.client("lambda")
    assert json.load(lambda_.invoke(FunctionName=seeing)["Payload"]) == "seen"
    refused = json.load(lambda_.invoke(FunctionName=blind)["Payload"])
    assert "UnauthorizedOperation" in refused["errorMessage"]
    assert refused["errorType"] == "ClientError"


def test_a_rule_reaches_a_function_only_by_the_functions_policy(strict_cloud: Cloud) -> None:
    bucket = unique("seen")
    strict_cloud.client("s3").create_bucket(Bucket=bucket)
    code = (
        "import boto3\n"
        "def handler(event, context):\n"
        f"    boto3.client('s3').put_object(Bucket='{bucket}', Key=event['detail']['n'])\n"
    )
    function = strict_cloud.function(code, role=strict_cloud.role(allow("s3:PutObject")))
    events, name = strict_cloud.client("events"), unique("rule")
    rule = events.put_rule(Name=name, EventPattern=json.dumps({"source": [name]}))["RuleArn"]
    events.put_targets(Rule=name, Targets=[{"Id": "f", "Arn": function}])

    def send(number: str) -> None:
        detail = json.dumps({"n": number})
        events.put_events(Entries=[{"Source": name, "DetailType": "x", "Detail": detail}])

    send("before")
    strict_cloud.client("lambda").add_permission(
        FunctionName=function,
        StatementId="events",
        Action="lambda:InvokeFunction",
        Principal="events.amazonaws.com",
        SourceArn=rule,
    )
    send("after")
    s3 = strict_cloud.client("s3")
    eventually(lambda: s3.list_objects_v2(Bucket=bucket)["KeyCount"])
    assert [content["Key"] for content in s3.list_objects_v2(Bucket=bucket)["Contents"]] == [
        "after"
    ]


def test_a_report_needs_the_permission_on_the_machine_that_made_the_token(
    strict_cloud: Cloud,
) -> None:
    queue = strict_cloud.client("sqs").create_queue(QueueName=unique("tokens"))["QueueUrl"]
    code = (
        "import boto3\n"
        "def handler(event, context):\n"
        f"    boto3.client('sqs').send_message(QueueUrl='{queue}', MessageBody=event['t'])\n"
    )
    function = strict_cloud.function(code, role=strict_cloud.role(allow("sqs:SendMessage")))
    states = {
        "Train": {
            "Type": "Task",
            "Resource": "arn:aws:states:::lambda:invoke.waitForTaskToken",
            "Arguments": {
                "FunctionName": function,
                "Payload": {"t": "{% $states.context.Task.Token %}"},
            },
            "End": True,
        }
    }
    invoking = strict_cloud.role(allow("lambda:InvokeFunction"))
    machine = strict_cloud.machine(states, role=invoking)
    execution = strict_cloud.start(machine)
    sqs = strict_cloud.client("sqs")
    token = eventually(lambda: sqs.receive_message(QueueUrl=queue).get("Messages"))[0]["Body"]

    def report(resource: str) -> None:
        role = strict_cloud.role(allow("states:SendTaskSuccess", resource=resource))
        sfn = strict_cloud.client("stepfunctions", **strict_cloud.assume(role))
        sfn.send_task_success(taskToken=token, output="{}")

    with pytest.raises(ClientError, match="AccessDenied"):
        report(f"{machine}-other")
    report(machine)
    assert strict_cloud.ended(execution)["status"] == "SUCCEEDED"


def test_logs_are_written_to_the_streams_that_the_policy_names(strict_cloud: Cloud) -> None:
    group = unique("/group")
    strict_cloud.client("logs").create_log_group(logGroupName=group)
    streams = f"arn:aws:logs:us-east-1:000000000000:log-group:{group}:log-stream:run-*"
    role = strict_cloud.role(allow("logs:CreateLogStream", "logs:PutLogEvents", resource=streams))
    logs = strict_cloud.client("logs", **strict_cloud.assume(role))
    logs.create_log_stream(logGroupName=group, logStreamName="run-1")
    logs.put_log_events(
        logGroupName=group,
        logStreamName="run-1",
        logEvents=[{"timestamp": int(time.time() * 1000), "message": "hello"}],
    )
    with pytest.raises(ClientError, match="AccessDenied"):
        logs.create_log_stream(logGroupName=group, logStreamName="other")
