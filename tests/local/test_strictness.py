"""What AWS refuses is refused here, too, and every accepted setting is applied."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from botocore.exceptions import ClientError

from runctl.local.client import LocalCloudError
from tests.local.clouds import ZONES, Cloud, eventually, unique

pytestmark = pytest.mark.slow

OVERRIDES = [
    {"InstanceType": kind, "AvailabilityZone": zone}
    for kind, zone in itertools.product(("c6a.large", "r6i.large"), ZONES[:2])
]


def tagged(key: str, value: str = "x", kind: str = "instance") -> dict[str, Any]:
    return {
        "TagSpecifications": [{"ResourceType": kind, "Tags": [{"Key": key, "Value": value}]}],
    }


def create(cloud: Cloud, template: str, **changes: Any) -> dict[str, Any]:
    got: dict[str, Any] = cloud.client("ec2").create_fleet(
        **cloud.fleet_request(template, **changes)
    )
    return got


def codes(got: dict[str, Any]) -> list[str]:
    return [error["ErrorCode"] for error in got["Errors"]]


@pytest.mark.parametrize(
    "key", ["Cost Center", "team/owner", "a" * 120 + "é", ".", "..", "_index", "a?b", "a(b)"]
)
def test_a_tag_that_the_metadata_cannot_show_is_an_error_of_each_override(
    cloud: Cloud, key: str
) -> None:
    got = create(cloud, cloud.template(), overrides=OVERRIDES[:2], **tagged(key))
    assert (got["Instances"], codes(got)) == ([], ["InvalidParameterValue"] * 2)
    assert f"'{key}' is not a valid tag key" in got["Errors"][0]["ErrorMessage"]


@pytest.mark.parametrize(
    "key", ["Cost-Center", "team:owner@example.com", "a=b,c.d+e_f", "_indexes"]
)
def test_a_tag_that_the_metadata_can_show_is_accepted(cloud: Cloud, key: str) -> None:
    instance_id = cloud.launch(**tagged(key))
    assert {"Key": key, "Value": "x"} in cloud.describe(instance_id)["Tags"]


def test_a_template_that_hides_tags_may_have_any(cloud: Cloud) -> None:
    hidden = {"MetadataOptions": {"HttpTokens": "required"}}
    instance_id = cloud.launch(data=hidden, **tagged("Cost Center"))
    ec2 = cloud.client("ec2")
    ec2.create_tags(Resources=[instance_id], Tags=[{"Key": "team/owner", "Value": "x"}])
    keys = {tag["Key"] for tag in cloud.describe(instance_id)["Tags"]}
    assert {"Cost Center", "team/owner"} <= keys


def test_the_tags_of_a_template_are_checked_too(cloud: Cloud) -> None:
    template = cloud.template(**tagged("Cost Center"))
    assert codes(create(cloud, template)) == ["InvalidParameterValue"]


def test_a_running_instance_rejects_a_tag_that_its_metadata_cannot_show(cloud: Cloud) -> None:
    instance_id, ec2 = cloud.launch(), cloud.client("ec2")
    for wrong in ("Cost Center", "_index", "aws:mine", "k" * 128):
        with pytest.raises(ClientError, match="InvalidParameterValue"):
            ec2.create_tags(Resources=[instance_id], Tags=[{"Key": wrong, "Value": "x"}])
    with pytest.raises(ClientError, match="InvalidParameterValue"):
        ec2.create_tags(Resources=[instance_id], Tags=[{"Key": "k", "Value": "x" * 257}])
    many = [{"Key": f"k{number}", "Value": ""} for number in range(51)]
    with pytest.raises(ClientError, match="TagLimitExceeded"):
        ec2.create_tags(Resources=[instance_id], Tags=many)
    ec2.create_tags(Resources=[instance_id], Tags=many[:50])


@pytest.mark.parametrize(
    ("tags", "code"),
    [
        ([("aws:mine", "x")], "InvalidParameterValue"),
        ([("k" * 128, "x")], "InvalidParameterValue"),
        ([("k", "x" * 257)], "InvalidParameterValue"),
        ([("k", "x"), ("k", "y")], "InvalidParameterValue"),
        ([(f"k{number}", "x") for number in range(51)], "TagLimitExceeded"),
    ],
)
def test_tags_that_no_resource_accepts_fail_the_whole_call(
    cloud: Cloud, tags: list[tuple[str, str]], code: str
) -> None:
    given = [{"Key": key, "Value": value} for key, value in tags]
    with pytest.raises(ClientError, match=code):
        create(
            cloud,
            cloud.template(),
            TagSpecifications=[{"ResourceType": "fleet", "Tags": given}],
        )


def test_tags_are_deleted_by_key_and_value(cloud: Cloud) -> None:
    instance_id, ec2 = cloud.launch(), cloud.client("ec2")
    three = [{"Key": key, "Value": "x"} for key in "abc"]
    ec2.create_tags(Resources=[instance_id], Tags=three)

    def keys() -> set[str]:
        tags = cloud.describe(instance_id)["Tags"]
        return {tag["Key"] for tag in tags if not tag["Key"].startswith("aws:")}

    ec2.delete_tags(Resources=[instance_id], Tags=[{"Key": "a", "Value": "y"}, {"Key": "b"}])
    assert keys() == {"a", "c"}
    ec2.delete_tags(Resources=[instance_id])
    assert keys() == set()
    assert cloud.describe(instance_id)["Tags"]


def test_a_type_that_does_not_exist_is_an_error_of_its_override_and_others_launch(
    cloud: Cloud,
) -> None:
    wrong = {"InstanceType": "m5.huge", "AvailabilityZone": ZONES[0]}
    got = create(cloud, cloud.template(), overrides=[wrong, OVERRIDES[0]])
    assert codes(got) == ["InvalidFleetConfiguration"]
    assert "m5.huge" in got["Errors"][0]["ErrorMessage"]
    assert [instance["InstanceType"] for instance in got["Instances"]] == [
        OVERRIDES[0]["InstanceType"]
    ]


def test_the_default_error_applies_in_any_order_of_settings(cloud: Cloud) -> None:
    own = "c6a.large/us-east-1a/spot"
    settings = [
        lambda: cloud.admin.set_capacity("*", 5, error="RequestLimitExceeded"),
        lambda: cloud.admin.set_capacity(own, error="VcpuLimitExceeded"),
    ]
    for order in (settings, settings[::-1]):
        for setting in order:
            setting()
        got = create(cloud, cloud.template(), overrides=OVERRIDES)
        assert got["Instances"] == []
        errors = {
            (
                error["LaunchTemplateAndOverrides"]["Overrides"]["InstanceType"],
                error["LaunchTemplateAndOverrides"]["Overrides"]["AvailabilityZone"],
            ): error["ErrorCode"]
            for error in got["Errors"]
        }
        assert errors.pop(("c6a.large", "us-east-1a")) == "VcpuLimitExceeded"
        assert list(errors.values()) == ["RequestLimitExceeded"] * 3
        cloud.admin.reset()
    cloud.admin.set_capacity("*", error="RequestLimitExceeded")
    # Without an error, the earlier one is removed, for one pool and for all.
    assert cloud.admin.set_capacity(own, 1)["error"] is None
    assert codes(create(cloud, cloud.template(), overrides=OVERRIDES[:1])) == []
    cloud.admin.set_capacity("*", 5)
    assert codes(create(cloud, cloud.template(), overrides=OVERRIDES[1:])) == []


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda admin: admin.set_capacity("m5.lagre/us-east-1a/spot", 1), "m5.large"),
        (lambda admin: admin.set_capacity("m5.large/us-east-1z/spot", 1), "us-east-1"),
        (lambda admin: admin.set_capacity("m5.large/us-east-1a", 1), "is not a pool"),
        (lambda admin: admin.set_capacity("m5.large/us-east-1a/sport", 1), "/on-demand"),
        (lambda admin: admin.set_capacity("*", -1), "capacity: -1"),
        (lambda admin: admin.set_capacity("*", 1.5), "capacity: 1.5"),
        (lambda admin: admin.set_capacity("*", 1, error="VcpuLimitExceded"), "VcpuLimitExceeded"),
        (
            lambda admin: admin.set_capacity("*", 1, error="no capacity"),
            "not an error code",
        ),
        (lambda admin: admin.set_price("m5.large/us-east-1a/spot", 0), "price: 0"),
        (lambda admin: admin.set_price("*", 1), "is not a pool"),
        (lambda admin: admin.set_knobs(boot_dealy=1), "did you mean 'boot_delay'"),
        (lambda admin: admin.set_knobs(boot_delay=-1), "boot_delay: -1"),
        (lambda admin: admin.set_knobs(boot_delay=True), "is not a float"),
        (lambda admin: admin.set_knobs(keep_roots=1), "is not a bool"),
        (lambda admin: admin.set_knobs(environment={"A": 1}), "environment: A=1"),
        (lambda admin: admin.set_knobs(first_process="init.py"), "first_process: 'init.py'"),
        (lambda admin: admin.set_knobs(first_process="/no/such.py"), "first_process: '/no/such"),
        (
            lambda admin: admin.set_knobs(drop_events=["EC2 Spot Instance Interuption Warning"]),
            "EC2 Spot Instance Interruption Warning",
        ),
        (lambda admin: admin.set_knobs(delay_events={"*": "1"}), "is not a number of seconds"),
        (lambda admin: admin.set_knobs(duplicate_events={"*": 0.5}), "is not a number of copies"),
        (lambda admin: admin._call("POST", "interrupt", {"instance": "i-1"}), "'instance_id'"),
        (lambda admin: admin._call("POST", "interrupt", {}), "needs instance_id"),
        (
            lambda admin: admin._call("POST", "reset", {"market": True}),
            "'market' is not a known field",
        ),
    ],
)
def test_an_invalid_setting_is_refused(cloud: Cloud, call: Any, message: str) -> None:
    before = cloud.admin.knobs()
    with pytest.raises(LocalCloudError) as caught:
        call(cloud.admin)
    assert message in str(caught.value)
    assert cloud.admin.knobs() == before


def test_knobs_are_set_all_or_none(cloud: Cloud) -> None:
    before = cloud.admin.knobs()
    with pytest.raises(LocalCloudError, match="is not a known knob"):
        cloud.admin.set_knobs(boot_delay=7, no_such_knob=1)
    assert cloud.admin.knobs() == before


@pytest.mark.parametrize(
    "changes",
    [
        {"SpotOptions": {"MaxTotalPrice": "1"}},
        {"SpotOptions": {"InstanceInterruptionBehavior": "stop"}},
        {"SpotOptions": {"AllocationStrategy": "lowestPrice"}},
        {"SpotOptions": {"AllocationStrategy": "prioritized"}},
        {"ReplaceUnhealthyInstances": True},
        {"ExcessCapacityTerminationPolicy": "termination"},
        {"overrides": [OVERRIDES[0] | {"Placement": {"Affinity": "host"}}]},
        {"overrides": [OVERRIDES[0] | {"KeyName": "mine"}]},
    ],
)
def test_a_parameter_that_would_be_ignored_is_refused(
    cloud: Cloud, changes: dict[str, Any]
) -> None:
    with pytest.raises(ClientError, match=r"UnsupportedOperation|InvalidParameterValue"):
        create(cloud, cloud.template(), **changes)


def test_a_parameter_without_effect_is_accepted(cloud: Cloud) -> None:
    harmless = {
        "SpotOptions": {"InstanceInterruptionBehavior": "terminate"},
        "ReplaceUnhealthyInstances": False,
    }
    assert codes(create(cloud, cloud.template(), **harmless)) == []


def test_a_template_with_an_unsupported_field_launches_nothing(cloud: Cloud) -> None:
    template = cloud.template(KeyName="mine")
    with pytest.raises(ClientError, match=r"does not apply .* KeyName"):
        create(cloud, template)


def test_parameters_of_ssm_that_would_be_ignored_are_refused(cloud: Cloud) -> None:
    ssm = cloud.client("ssm")
    with pytest.raises(ClientError, match="OutputS3BucketName"):
        ssm.send_command(
            DocumentName="AWS-RunShellScript",
            InstanceIds=["i-0123456789abcdef0"],
            OutputS3BucketName="mine",
        )
    with pytest.raises(ClientError, match="PingStatus"):
        ssm.describe_instance_information(Filters=[{"Key": "PingStatus", "Values": ["Online"]}])


def test_prices_are_returned_for_the_requested_time_and_product(cloud: Cloud) -> None:
    ec2 = cloud.client("ec2")
    asked = {"InstanceTypes": ["m5.large"], "AvailabilityZone": ZONES[0]}
    assert ec2.describe_spot_price_history(**asked)["SpotPriceHistory"]
    windows = ec2.describe_spot_price_history(**asked, ProductDescriptions=["Windows"])
    assert windows["SpotPriceHistory"] == []
    with pytest.raises(ClientError, match="The filter 'spot-price' is invalid"):
        ec2.describe_spot_price_history(Filters=[{"Name": "spot-price", "Values": ["1"]}])


def test_an_instance_ends_at_once_when_its_shutdown_is_skipped(cloud: Cloud) -> None:
    cloud.admin.set_knobs(shutdown_grace=600)
    name = unique("ready")
    instance_id = cloud.launch(f"#!/bin/sh\ntrap '' TERM; echo {name}; while :; do sleep 1; done\n")
    ec2 = cloud.client("ec2")
    eventually(lambda: name in ec2.get_console_output(InstanceId=instance_id).get("Output", ""))
    ec2.terminate_instances(InstanceIds=[instance_id], SkipOsShutdown=True)
    cloud.admin.wait_for_state(instance_id, "terminated")


@pytest.mark.parametrize(
    ("call", "request_"),
    [
        ("run_instances", {"MinCount": 1, "MaxCount": 1, "ImageId": "ami-12345678"}),
        ("stop_instances", {"InstanceIds": ["i-0123456789abcdef0"]}),
        ("reboot_instances", {"InstanceIds": ["i-0123456789abcdef0"]}),
        ("modify_instance_metadata_options", {"InstanceId": "i-0123456789abcdef0"}),
    ],
)
def test_a_call_that_would_change_a_record_only_is_refused(
    cloud: Cloud, call: str, request_: dict[str, Any]
) -> None:
    with pytest.raises(ClientError, match="UnsupportedOperation"):
        getattr(cloud.client("ec2"), call)(**request_)
