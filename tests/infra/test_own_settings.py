"""The templates of a deployment with the owner's key, subnets and images."""

from __future__ import annotations

import json
from types import ModuleType

import pytest

from tests.infra.templates import Role, Synthesized
from tests.infra.test_permissions import instance_role
from tests.infra.test_run_roles import role_named

VPC = "vpc-0123456789abcdef0"
SUBNET = "subnet-0123456789abcdef0"
KEY = "arn:aws:kms:us-east-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"
SECRET_KEY = "arn:aws:kms:us-east-1:000000000000:key/5678abcd-12ab-34cd-56ef-1234567890ab"
FOUND = {
    "vpcId": VPC,
    "availabilityZones": [],
    "subnetGroups": [
        {
            "name": "Private",
            "type": "Private",
            "subnets": [
                {"subnetId": SUBNET, "availabilityZone": "us-east-1a", "routeTableId": "rtb-1"}
            ],
        }
    ],
}
QUERY = f"account=000000000000:filter.vpc-id={VPC}:region=us-east-1:returnAsymmetricSubnets=true"
LAUNCHERS = ("launch_instances", "handle_interruption")
USES = ("Decrypt", "DescribeKey", "GenerateDataKeyWithoutPlaintext", "ReEncryptFrom", "ReEncryptTo")


@pytest.fixture(scope="module")
def own(check: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Synthesized:
    outdir = tmp_path_factory.mktemp("own")
    context = {
        f"vpc-provider:{QUERY}": FOUND,
        "vpc_id": VPC,
        "subnet_ids": SUBNET,
        "ebs_kms_key": KEY,
        "image_x86_cpu": "ami-0123456789abcdef0",
        "root_device_x86_cpu": "/dev/xvda",
        "disk_throughput": 1000,
        "disk_initialization_rate": 200,
        "secrets": ["wandb", "team/*"],
        "parameters": ["/team/wandb", "/all/*"],
        "secret_keys": [SECRET_KEY],
        "allowed_instance_types": ["g5.*", "m5.large"],
        "max_instances": 8,
    }
    return Synthesized(outdir, check.synthesize(outdir, context=context))


def test_every_finding_is_accepted_or_about_the_key(check: ModuleType, own: Synthesized) -> None:
    problems = [text for text in check.open_findings(own.findings) if "unused" not in text]
    assert problems == []


def test_instances_in_private_subnets_get_no_public_address(own: Synthesized) -> None:
    for template in own.of_type("AWS::EC2::LaunchTemplate"):
        (interface,) = template.properties["LaunchTemplateData"]["NetworkInterfaces"]
        assert interface["AssociatePublicIpAddress"] is False
    assert not own.of_type("AWS::EC2::Subnet")
    variables = own.function("launch_instances").properties["Environment"]["Variables"]
    assert variables["RUNCTL_SUBNETS"] == f'{{"us-east-1a":"{SUBNET}"}}'


def test_root_volumes_have_the_key_and_speed_and_the_images_root_device(own: Synthesized) -> None:
    for template in own.of_type("AWS::EC2::LaunchTemplate"):
        (disk,) = template.properties["LaunchTemplateData"]["BlockDeviceMappings"]
        ebs = disk["Ebs"]
        assert ebs["KmsKeyId"] == KEY
        assert (ebs["Throughput"], ebs["Iops"]) == (1000, 4000)
        assert ebs["VolumeInitializationRate"] == 200
        is_own_image = template.logical_id.startswith("X86Cpu")
        assert disk["DeviceName"] == ("/dev/xvda" if is_own_image else "/dev/sda1")


@pytest.mark.parametrize("function", LAUNCHERS)
def test_launching_functions_may_use_the_key_only_through_ec2(
    own: Synthesized, function: str
) -> None:
    role = own.role(own.function(function).properties["Role"])
    through = {"kms:ViaService": ["ec2.us-east-1.amazonaws.com"]}
    for use in USES:
        assert role.allows(f"kms:{use}", KEY, through)
        assert not role.allows(f"kms:{use}", KEY)
    granting = {**through, "kms:GrantIsForAWSResource": ["true"]}
    assert role.allows("kms:CreateGrant", KEY, granting)
    assert not role.allows("kms:CreateGrant", KEY, through)
    other = KEY.replace("1234abcd", "9999ffff")
    assert not role.allows("kms:Decrypt", other, through)


def run_role(own: Synthesized) -> Role:
    return own.role(f"<{role_named(own, 'RunRolesRunRole').logical_id}>")


def test_runs_read_the_listed_secrets_and_no_others(own: Synthesized) -> None:
    role, read, get = run_role(own), "secretsmanager:GetSecretValue", "ssm:GetParameter"
    secret = "arn:aws:secretsmanager:us-east-1:000000000000:secret"
    parameter = "arn:aws:ssm:us-east-1:000000000000:parameter"
    assert role.allows(read, f"{secret}:wandb-AbCdEf")
    assert role.allows(read, f"{secret}:team/x-AbCdEf")
    assert role.allows(get, f"{parameter}/team/wandb")
    assert role.allows(get, f"{parameter}/all/x/y")
    for other in ("wandb2-AbCdEf", "wandb-other-AbCdEf", "team-AbCdEf"):
        assert not role.allows(read, f"{secret}:{other}"), other
    for other in ("team/wandb2", "team", "alles"):
        assert not role.allows(get, f"{parameter}/{other}"), other
    assert not role.allows("secretsmanager:DescribeSecret", f"{secret}:wandb-AbCdEf")
    assert not role.allows("ssm:GetParametersByPath", f"{parameter}/all/x")


def test_prepare_run_may_look_the_listed_secrets_up_without_reading_them(own: Synthesized) -> None:
    role = own.role(own.function("prepare_run").properties["Role"])
    secret = "arn:aws:secretsmanager:us-east-1:000000000000:secret"
    look_up = "secretsmanager:DescribeSecret"
    assert role.allows(look_up, f"{secret}:wandb-AbCdEf")
    assert role.allows(look_up, f"{secret}:team/x-AbCdEf")
    assert not role.allows(look_up, f"{secret}:team-AbCdEf")
    assert not role.allows("secretsmanager:GetSecretValue", f"{secret}:wandb-AbCdEf")


def test_runs_decrypt_only_through_the_two_services(own: Synthesized) -> None:
    role = run_role(own)
    for service in ("secretsmanager", "ssm"):
        through = {"kms:ViaService": [f"{service}.us-east-1.amazonaws.com"]}
        assert role.allows("kms:Decrypt", SECRET_KEY, through)
        assert not role.allows("kms:Decrypt", KEY, through)
    assert not role.allows("kms:Decrypt", SECRET_KEY)
    assert not role.allows("kms:Decrypt", SECRET_KEY, {"kms:ViaService": ["ec2.us-east-1.x"]})


def test_instances_and_trainers_read_no_secrets(own: Synthesized) -> None:
    (policy,) = own.of_type("AWS::IAM::ManagedPolicy")
    trainer = role_named(own, "RunRolesTrainerRole").logical_id
    wanted = {"secretsmanager:GetSecretValue", "ssm:GetParameter", "kms:Decrypt"}
    for role in (
        Role(policy.properties["PolicyDocument"]["Statement"]),
        instance_role(own),
        own.role(f"<{trainer}>"),
    ):
        assert not wanted & role.actions


@pytest.mark.parametrize("function", LAUNCHERS)
def test_only_allowed_types_can_be_launched(own: Synthesized, function: str) -> None:
    role = own.role(own.function(function).properties["Role"])
    instance = "arn:aws:ec2:us-east-1:000000000000:instance/*"
    (template, *_) = own.of_type("AWS::EC2::LaunchTemplate")
    ours = f"arn:aws:ec2:us-east-1:000000000000:launch-template/<{template.logical_id}>"
    types = ("g5.xlarge", "g5.48xlarge", "m5.large", "g5g.xlarge", "m5.xlarge", "p4d.24xlarge")
    launches = {name: {"ec2:LaunchTemplate": [ours], "ec2:InstanceType": [name]} for name in types}
    allowed = [
        name
        for name, launch in launches.items()
        if role.allows("ec2:RunInstances", instance, launch)
    ]
    assert allowed == ["g5.xlarge", "g5.48xlarge", "m5.large"]
    assert not role.allows("ec2:RunInstances", instance)
    assert role.allows("ec2:CreateFleet", instance)


@pytest.mark.parametrize("function", [*LAUNCHERS, "prepare_run", "prepare_sweep", "plan_shards"])
def test_functions_know_the_limits(own: Synthesized, function: str) -> None:
    variables = own.function(function).properties["Environment"]["Variables"]
    limits = {"instance_types": ["g5.*", "m5.large"], "max_instances": 8}
    assert json.loads(variables["RUNCTL_LIMITS"]) == limits


def test_no_other_function_may_use_the_key(own: Synthesized) -> None:
    for function in own.of_type("AWS::Lambda::Function"):
        name = function.properties["FunctionName"].removeprefix("runctl-")
        actions = own.role(function.properties["Role"]).actions
        assert any(action.startswith("kms:") for action in actions) == (name in LAUNCHERS)
