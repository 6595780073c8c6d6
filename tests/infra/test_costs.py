"""Costs: while no run is active, nothing is billed by the hour."""

from collections.abc import Callable, Mapping
from typing import Any

import pytest

from tests.infra.templates import Synthesized

Properties = Mapping[str, Any]


def _free(_: Properties) -> bool:
    return True


# Resource types that are billed by usage only, and the condition for that. The price of any other
# type must be looked up before it can be deployed.
NOT_BY_THE_HOUR: dict[str, Callable[[Properties], bool]] = {
    # Billed by the minute of a build; reserved capacity, a fleet, by the minute of its existence.
    "AWS::CodeBuild::Project": lambda project: "Fleet" not in project["Environment"],
    "AWS::DynamoDB::Table": lambda table: (
        table["BillingMode"] == "PAY_PER_REQUEST" and "ProvisionedThroughput" not in table
    ),
    "AWS::EC2::InternetGateway": _free,
    "AWS::EC2::LaunchTemplate": _free,
    "AWS::EC2::PlacementGroup": _free,
    "AWS::EC2::Route": lambda route: "NatGatewayId" not in route,
    "AWS::EC2::RouteTable": _free,
    "AWS::EC2::SecurityGroup": _free,
    "AWS::EC2::SecurityGroupEgress": _free,
    "AWS::EC2::SecurityGroupIngress": _free,
    "AWS::EC2::Subnet": _free,
    "AWS::EC2::SubnetRouteTableAssociation": _free,
    "AWS::EC2::VPC": _free,
    # Interface endpoints are billed by the hour and zone; gateway endpoints are free.
    "AWS::EC2::VPCEndpoint": lambda endpoint: endpoint["VpcEndpointType"] == "Gateway",
    "AWS::EC2::VPCGatewayAttachment": _free,
    # By the stored gigabyte; a lifecycle rule and reconciliation delete what nothing needs.
    "AWS::ECR::Repository": lambda repository: "EncryptionConfiguration" not in repository,
    # Rules are free, and their few invocations are billed by the call.
    "AWS::Events::Rule": lambda rule: (
        rule.get("ScheduleExpression") in {None, "rate(15 minutes)", "rate(1 day)"}
    ),
    "AWS::IAM::InstanceProfile": _free,
    "AWS::IAM::ManagedPolicy": _free,
    "AWS::IAM::Policy": _free,
    "AWS::IAM::Role": _free,
    "AWS::Lambda::EventInvokeConfig": _free,
    "AWS::Lambda::Function": lambda function: "SnapStart" not in function,
    "AWS::Lambda::Permission": _free,
    "AWS::Logs::LogGroup": lambda group: "KmsKeyId" not in group,
    "AWS::S3::Bucket": lambda bucket: "IntelligentTieringConfigurations" not in bucket,
    "AWS::S3::BucketPolicy": _free,
    "AWS::SNS::Topic": lambda topic: "KmsMasterKeyId" not in topic,
    "AWS::SNS::TopicPolicy": _free,
    "AWS::SQS::Queue": lambda queue: "KmsMasterKeyId" not in queue,
    "AWS::SQS::QueuePolicy": _free,
    "AWS::SSM::Document": _free,
    # Advanced parameters are billed by the month.
    "AWS::SSM::Parameter": lambda parameter: parameter.get("Tier", "Standard") == "Standard",
    "AWS::StepFunctions::StateMachine": lambda machine: machine["StateMachineType"] == "STANDARD",
}


def test_nothing_is_billed_by_the_hour(app: Synthesized) -> None:
    assert app.resources
    for resource in app.resources:
        assert resource.type in NOT_BY_THE_HOUR, (
            f"{resource.logical_id}: how is {resource.type} billed?"
        )
        assert NOT_BY_THE_HOUR[resource.type](resource.properties), resource.logical_id


@pytest.mark.parametrize(
    ("kind", "properties"),
    [
        ("AWS::EC2::VPCEndpoint", {"VpcEndpointType": "Interface"}),
        ("AWS::EC2::Route", {"NatGatewayId": "nat-1"}),
        ("AWS::DynamoDB::Table", {"BillingMode": "PROVISIONED"}),
        ("AWS::SSM::Parameter", {"Tier": "Advanced"}),
        ("AWS::Events::Rule", {"ScheduleExpression": "rate(1 minute)"}),
    ],
)
def test_the_hourly_form_of_a_type_is_reported(kind: str, properties: Properties) -> None:
    assert not NOT_BY_THE_HOUR[kind](properties)
