"""The account as `verify` reads it: errors of AWS, and requests as the APIs take them."""

from datetime import datetime, timezone
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.stub import ANY, Stubber

from runctl.aws.deployed_account import AwsDeployedAccount
from runctl.model.deployed import StateTest, Template
from runctl.model.errors import RefusedError, TransientError

INTERFACE = {"DeviceIndex": 0, "AssociatePublicIpAddress": True, "Groups": ["sg-1"]}
ROLE = "arn:aws:iam::123456789012:role/r"


class Stubbed:
    """Clients whose answers the test chooses."""

    def __init__(self) -> None:
        self.stubs: dict[str, Stubber] = {}
        self.pauses: list[float] = []
        self.account = AwsDeployedAccount(self, "runctl", pause=self.pauses.append)

    def get(self, service: str) -> Any:
        return self.stub(service).client

    def stub(self, service: str) -> Stubber:
        if service not in self.stubs:
            client = boto3.client(
                service, region_name="us-east-1", aws_access_key_id="a", aws_secret_access_key="b",
                config=Config(retries={"total_max_attempts": 1}),
            )  # fmt: skip
            self.stubs[service] = Stubber(client)
            self.stubs[service].activate()
        return self.stubs[service]


@pytest.fixture
def stubbed() -> Stubbed:
    return Stubbed()


def test_denials_are_collected_over_pages_and_throttling_is_waited_for(stubbed: Stubbed) -> None:
    iam = stubbed.stub("iam")
    asked = {
        "PolicySourceArn": ROLE,
        "ActionNames": ["s3:GetObject"],
        "ResourceArns": ["arn:a", "arn:b"],
        "ContextEntries": [
            {
                "ContextKeyName": "dynamodb:LeadingKeys",
                "ContextKeyType": "stringList",
                "ContextKeyValues": ["RUN#a"],
            }
        ],
    }
    allowed = {"EvalActionName": "s3:GetObject", "EvalDecision": "allowed"}
    # The whole has a pattern of ARNs; that of each resource is inside it.
    denied = {
        **allowed,
        "EvalDecision": "implicitDeny",
        "EvalResourceName": "arn:${Partition}:s3:::${BucketName}/${KeyName}",
        "ResourceSpecificResults": [
            {"EvalResourceName": "arn:a", "EvalResourceDecision": "allowed"},
            {
                "EvalResourceName": "arn:b",
                "EvalResourceDecision": "implicitDeny",
                "MissingContextValues": ["aws:b"],
            },
        ],
    }
    iam.add_client_error("simulate_principal_policy", "Throttling", expected_params=asked)
    page = {"EvaluationResults": [allowed], "IsTruncated": True, "Marker": "m"}
    iam.add_response("simulate_principal_policy", page, asked)
    last = {"EvaluationResults": [denied], "IsTruncated": False}
    iam.add_response("simulate_principal_policy", last, {**asked, "Marker": "m"})
    (found,) = stubbed.account.denied(
        ROLE, ["s3:GetObject"], ["arn:a", "arn:b"], {"dynamodb:LeadingKeys": ["RUN#a"]}
    )
    assert (found.decision, found.missing, found.resource) == ("implicitDeny", ("aws:b",), "arn:b")
    assert stubbed.pauses == [1.0]


def test_a_denial_without_a_decision_per_resource_names_what_was_asked(stubbed: Stubbed) -> None:
    denied = {
        "EvalActionName": "ec2:DescribeInstances",
        "EvalResourceName": "*",
        "EvalDecision": "explicitDeny",
        "MissingContextValues": ["aws:b"],
    }
    answer = {"EvaluationResults": [denied], "IsTruncated": False}
    stubbed.stub("iam").add_response("simulate_principal_policy", answer)
    (found,) = stubbed.account.denied(ROLE, ["ec2:DescribeInstances"], ["*"], {})
    assert (found.decision, found.missing, found.resource) == ("explicitDeny", ("aws:b",), "*")


def test_endless_throttling_and_a_missing_permission_are_errors(stubbed: Stubbed) -> None:
    iam = stubbed.stub("iam")
    for _ in range(5):
        iam.add_client_error("simulate_principal_policy", "Throttling")
    with pytest.raises(TransientError):
        stubbed.account.denied(ROLE, ["s3:GetObject"], ["*"], {})
    assert stubbed.pauses == [1.0, 2.0, 4.0, 8.0]
    iam.add_client_error("simulate_principal_policy", "AccessDenied", "not authorized")
    with pytest.raises(RefusedError):
        stubbed.account.denied(ROLE, ["s3:GetObject"], ["*"], {})


@pytest.mark.parametrize(
    ("code", "refusal"),
    [("DryRunOperation", None), ("InvalidSubnetID.NotFound", ("InvalidSubnetID.NotFound", "x"))],
)
def test_a_dry_run_says_what_would_be_refused(stubbed: Stubbed, code: str, refusal: Any) -> None:
    # RunInstances refuses a subnet beside the network interface of a template.
    asked = {
        "DryRun": True,
        "LaunchTemplate": {"LaunchTemplateId": "lt-1", "Version": "$Latest"},
        "InstanceType": "m5.large",
        "NetworkInterfaces": [{**INTERFACE, "SubnetId": "s"}],
        "MinCount": 1,
        "MaxCount": 1,
    }
    stubbed.stub("ec2").add_client_error("run_instances", code, "x", 412, expected_params=asked)
    template = Template(template_id="lt-1", data={"NetworkInterfaces": [INTERFACE]})
    got = stubbed.account.refusal_of_instances(template, instance_type="m5.large", subnet_id="s")
    assert got == refusal


def test_a_permission_that_the_caller_lacks_is_not_the_deployments_fault(stubbed: Stubbed) -> None:
    stubbed.stub("ec2").add_client_error("create_fleet", "UnauthorizedOperation", "no")
    with pytest.raises(RefusedError):
        stubbed.account.refusal_of_fleet("lt-1", instance_type="m5.large", subnet_ids=["s"])


def test_a_state_is_tested_with_what_the_api_takes(stubbed: Stubbed) -> None:
    answer = {
        "status": "SUCCEEDED",
        "output": "[1]",
        "nextState": "Next",
        "inspectionData": {"variables": '{"a": 1}'},
    }
    mock = {"result": "{}", "fieldValidationMode": "NONE"}
    states = stubbed.stub("stepfunctions")
    request = {
        "definition": ANY, "input": "{}", "variables": "{}", "inspectionLevel": "DEBUG",
    }  # fmt: skip
    states.add_response("test_state", answer, {**request, "mock": mock, "context": "{}"})
    common: dict[str, Any] = {"state": {"Type": "Task"}, "data": {}, "variables": {}}
    got = stubbed.account.test_state(StateTest(**common, result={}, context={}))
    assert (got.output, got.next_state, got.variables) == ([1], "Next", {"a": 1})
    # A state without a mock takes no context.
    states.add_response("test_state", {"status": "FAILED", "error": "E"}, request)
    assert stubbed.account.test_state(StateTest(**common, context={})).error == "E"


def test_what_does_not_exist(stubbed: Stubbed) -> None:
    stubbed.stub("ec2").add_client_error("describe_images", "InvalidAMIID.NotFound")
    assert stubbed.account.image("ami-1") is None
    iam = stubbed.stub("iam")
    iam.add_client_error("get_instance_profile", "NoSuchEntity")
    assert stubbed.account.profile_role("arn:aws:iam::1:instance-profile/p") is None
    iam.add_client_error("get_role", "NoSuchEntity")
    assert not stubbed.account.has_role("r")
    code = "NoSuchPublicAccessBlockConfiguration"
    stubbed.stub("s3").add_client_error("get_public_access_block", code)
    assert len(stubbed.account.public_access("b")) == 4
    quotas = stubbed.stub("service-quotas")
    quotas.add_client_error("get_service_quota", "NoSuchResourceException")
    quotas.add_response("get_aws_default_service_quota", {"Quota": {"Value": 5.0}})
    assert stubbed.account.quota("L-1") == 5


def test_the_age_of_an_image_is_read(stubbed: Stubbed) -> None:
    image = {
        "ImageId": "ami-1", "State": "available", "RootDeviceName": "/dev/sda1",
        "CreationDate": "2026-01-02T03:04:05.000Z", "DeprecationTime": "2028-01-02T03:04:05Z",
    }  # fmt: skip
    # EC2 leaves out what is deprecated unless it is asked for that, too.
    asked = {"ImageIds": ["ami-1"], "IncludeDeprecated": True}
    stubbed.stub("ec2").add_response("describe_images", {"Images": [image]}, asked)
    found = stubbed.account.image("ami-1")
    assert found is not None
    assert found.made_at == datetime(2026, 1, 2, 3, 4, 5, tzinfo=timezone.utc)
    assert found.deprecated_at == datetime(2028, 1, 2, 3, 4, 5, tzinfo=timezone.utc)


def test_a_subnet_without_its_own_route_table_has_the_main_one(stubbed: Stubbed) -> None:
    ec2 = stubbed.stub("ec2")
    subnets = {"Subnets": [{"SubnetId": "s", "VpcId": "v"}]}
    ec2.add_response("describe_subnets", subnets)
    ec2.add_response("describe_route_tables", {"RouteTables": []})
    routes = [
        {"DestinationCidrBlock": "10.0.0.0/16", "GatewayId": "local"},
        {"DestinationCidrBlock": "0.0.0.0/0", "NatGatewayId": "nat-1", "State": "blackhole"},
    ]
    ec2.add_response(
        "describe_route_tables", {"RouteTables": [{"RouteTableId": "rtb-1", "Routes": routes}]}
    )
    service = "com.amazonaws.us-east-1"
    endpoints = [
        {"ServiceName": f"{service}.s3", "VpcEndpointType": "Gateway", "RouteTableIds": ["rtb-1"]},
        {"ServiceName": f"{service}.dynamodb", "VpcEndpointType": "Gateway", "RouteTableIds": []},
        {"ServiceName": f"{service}.ecr.api", "VpcEndpointType": "Interface", "State": "available"},
        {"ServiceName": f"{service}.sts", "VpcEndpointType": "Interface", "State": "Failed"},
        {"ServiceName": "com.amazonaws.iam", "VpcEndpointType": "Interface"},
    ]
    ec2.add_response("describe_vpc_endpoints", {"VpcEndpoints": endpoints})
    found = stubbed.account.subnet("s")
    assert [(route.target, route.is_active) for route in found.routes] == [
        ("local", True), ("nat-1", False),
    ]  # fmt: skip
    assert found.endpoints == {"s3", "ecr.api"}


def test_the_region_of_a_bucket_is_known_also_without_permission_for_it(stubbed: Stubbed) -> None:
    s3 = stubbed.stub("s3")
    there = {"HTTPHeaders": {"x-amz-bucket-region": "eu-west-1"}}
    s3.add_client_error("head_bucket", "403", http_status_code=403, response_meta=there)
    assert stubbed.account.bucket_region("data") == "eu-west-1"
    s3.add_client_error("head_bucket", "404", http_status_code=404)
    assert stubbed.account.bucket_region("data") is None
    s3.add_client_error("head_bucket", "403", http_status_code=403)
    with pytest.raises(RefusedError):
        stubbed.account.bucket_region("data")


def test_the_policy_of_a_bucket_is_read_if_there_is_one(stubbed: Stubbed) -> None:
    s3 = stubbed.stub("s3")
    s3.add_response("get_bucket_policy", {"Policy": '{"Statement": []}'}, {"Bucket": "data"})
    assert stubbed.account.bucket_policy("data") == {"Statement": []}
    s3.add_client_error("get_bucket_policy", "NoSuchBucketPolicy", http_status_code=404)
    assert stubbed.account.bucket_policy("data") is None
    s3.add_client_error("get_bucket_policy", "AccessDenied", "not authorized", 403)
    with pytest.raises(RefusedError):
        stubbed.account.bucket_policy("data")


def test_a_secret_that_is_about_to_be_deleted_does_not_exist(stubbed: Stubbed) -> None:
    secrets = stubbed.stub("secretsmanager")
    ending = {"DeletedDate": datetime(2030, 1, 1, tzinfo=timezone.utc)}
    secrets.add_response("describe_secret", {"KmsKeyId": "alias/a"}, {"SecretId": "hub"})
    secrets.add_response("describe_secret", {})
    secrets.add_response("describe_secret", ending)
    secrets.add_client_error("describe_secret", "ResourceNotFoundException")
    assert [stubbed.account.secret("hub") for _ in range(4)] == ["alias/a", "", None, None]


def test_a_parameter_is_found_behind_an_empty_page_and_by_both_of_its_names(
    stubbed: Stubbed,
) -> None:
    ssm = stubbed.stub("ssm")
    asked = {"ParameterFilters": [{"Key": "Name", "Option": "Equals", "Values": ["x", "/x"]}]}
    ssm.add_response("describe_parameters", {"Parameters": [], "NextToken": "n"}, asked)
    found = {"Name": "/x", "Type": "SecureString", "KeyId": "alias/aws/ssm"}
    ssm.add_response("describe_parameters", {"Parameters": [found]}, {**asked, "NextToken": "n"})
    assert stubbed.account.parameter_key("x") == "alias/aws/ssm"
    ssm.add_response("describe_parameters", {"Parameters": []})
    assert stubbed.account.parameter_key("/team/x") is None


def test_a_key_of_aws_is_distinguished_from_one_of_the_owner(stubbed: Stubbed) -> None:
    kms = stubbed.stub("kms")
    arn = "arn:aws:kms:us-east-1:123456789012:key/k"
    metadata = {"KeyId": "k", "Arn": arn, "KeyState": "Enabled"}
    for manager in ("AWS", "CUSTOMER"):
        kms.add_response("describe_key", {"KeyMetadata": {**metadata, "KeyManager": manager}})
    keys = [stubbed.account.key("k") for _ in range(2)]
    assert [key is not None and key.is_of_customer for key in keys] == [False, True]
    kms.add_client_error("describe_key", "NotFoundException")
    assert stubbed.account.key("k") is None
