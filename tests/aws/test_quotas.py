"""Quotas as Service Quotas and EC2 return them, and the behavior without a response."""

import boto3
import pytest
from botocore.exceptions import ConnectTimeoutError
from botocore.stub import Stubber

from runctl.aws.quotas import Ec2Quotas
from runctl.model.quota import QUOTAS, quota_of

SPOT_G = QUOTAS["L-3819A6DF"]
ASKED = {"ServiceCode": "ec2", "QuotaCode": "L-3819A6DF"}


@pytest.fixture
def stubbed():
    clients = [boto3.client(name) for name in ("service-quotas", "ec2")]
    with Stubber(clients[0]) as quotas, Stubber(clients[1]) as ec2:
        yield quotas, ec2, Ec2Quotas(*clients)
        quotas.assert_no_pending_responses()
        ec2.assert_no_pending_responses()


def answer(value):
    return {"Quota": {"QuotaCode": "L-3819A6DF", "Value": value}}


def test_the_applied_value_is_read(stubbed):
    quotas, _, ours = stubbed
    quotas.add_response("get_service_quota", answer(0.0), ASKED)
    assert ours.allowed(SPOT_G) == 0


def test_a_quota_that_was_never_changed_has_the_default_of_aws(stubbed):
    quotas, _, ours = stubbed
    quotas.add_client_error("get_service_quota", "NoSuchResourceException")
    quotas.add_response("get_aws_default_service_quota", answer(64.0), ASKED)
    assert ours.allowed(SPOT_G) == 64


@pytest.mark.parametrize(
    "code", ["AccessDeniedException", "TooManyRequestsException", "ServiceException", "New"]
)
def test_a_value_that_cannot_be_read_is_none(stubbed, code):
    quotas, _, ours = stubbed
    quotas.add_client_error("get_service_quota", code)
    assert ours.allowed(SPOT_G) is None


@pytest.mark.parametrize("code", ["NoSuchResourceException", "AccessDeniedException"])
def test_a_default_that_cannot_be_read_is_none(stubbed, code):
    quotas, _, ours = stubbed
    quotas.add_client_error("get_service_quota", "NoSuchResourceException")
    quotas.add_client_error("get_aws_default_service_quota", code)
    assert ours.allowed(SPOT_G) is None


def test_a_quota_of_an_unreachable_service_is_none(stubbed, monkeypatch):
    _, _, ours = stubbed

    def unreachable(**_):
        raise ConnectTimeoutError(endpoint_url="https://servicequotas")

    monkeypatch.setattr(ours._quotas, "get_service_quota", unreachable)
    assert ours.allowed(SPOT_G) is None


def test_sizes_of_types_are_read_and_unknown_types_left_out(stubbed):
    _, ec2, ours = stubbed
    ec2.add_response(
        "describe_instance_types",
        {"InstanceTypes": [{"InstanceType": "g5.xlarge", "VCpuInfo": {"DefaultVCpus": 4}}]},
        {"Filters": [{"Name": "instance-type", "Values": ["g5.xlarge", "g5xlarge"]}]},
    )
    assert ours.vcpus(["g5.xlarge", "g5xlarge"]) == {"g5.xlarge": 4}


def test_sizes_that_are_denied_are_left_out(stubbed):
    _, ec2, ours = stubbed
    ec2.add_client_error("describe_instance_types", "UnauthorizedOperation")
    assert ours.vcpus(["g5.xlarge"]) == {}
    assert ours.region() == "us-east-1"


@pytest.mark.parametrize(
    ("types", "spot", "on_demand"),
    [
        (("m5.large", "c7gn.large", "t3.micro", "i4i.large"), "34B43A08", "1216C47A"),
        (("im4gn.large", "is4gen.large", "z1d.large", "a1.large"), "34B43A08", "1216C47A"),
        (("g4dn.xlarge", "g5.xlarge", "g6e.xlarge", "gr6.4xlarge", "vt1.3xlarge"), "3819A6DF",
         "DB2E81BA"),
        (("p2.xlarge", "p3.2xlarge", "p3dn.24xlarge", "p4de.24xlarge"), "7212CCBC", "417A185B"),
        (("p5.48xlarge", "p5en.48xlarge"), "C4BD4855", "417A185B"),
        (("x1e.xlarge", "x2gd.large", "x8g.large"), "E3A00192", "7295265B"),
        (("f1.2xlarge", "f2.6xlarge"), "88CF9481", "74FC7D96"),
        (("inf2.xlarge",), "B5D1601B", "1945791B"),
        (("trn1n.32xlarge", "trn2.48xlarge"), "6B0D517C", "2C3B7624"),
        (("dl1.24xlarge", "dl2q.24xlarge"), "85EED4F7", "6E869C2A"),
        (("u-6tb1.112xlarge", "u7i-12tb.224xlarge"), None, "43DA4232"),
        (("hpc7a.96xlarge",), None, "F7808C92"),
        (("p9.large",), None, "417A185B"),
        (("mac1.metal", "whatever", "new1.large"), None, None),
    ],
)  # fmt: skip
def test_a_type_counts_against_the_quota_of_its_family(types, spot, on_demand):
    for instance_type in types:
        for market, code in (("spot", spot), ("on-demand", on_demand)):
            quota = quota_of(instance_type, market)
            assert (quota and quota.code) == (code and f"L-{code}"), instance_type
