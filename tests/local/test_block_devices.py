"""Volumes in a fleet's overrides: checked as EC2 does, and merged with the launch template."""

from __future__ import annotations

import pytest

from runctl.local.ec2 import block_devices

TEMPLATE = {
    "BlockDeviceMappings": [
        {"DeviceName": "/dev/sda1", "Ebs": {"VolumeSize": 50, "Encrypted": True}},
        {"DeviceName": "/dev/sdb", "Ebs": {"VolumeSize": 10}},
    ]
}


def mapping(**ebs: object) -> dict[str, object]:
    return {"BlockDeviceMappings": [{"DeviceName": "/dev/sda1", "Ebs": ebs}]}


@pytest.mark.parametrize(
    ("ebs", "code"),
    [
        ({"VolumeSize": 0}, "InvalidParameterValue"),
        ({"VolumeSize": 65_537}, "InvalidParameterValue"),
        ({"VolumeSize": 7}, "InvalidBlockDeviceMapping"),
        ({"VolumeSize": 100, "Throughput": 2001}, "InvalidParameterValue"),
        ({"VolumeSize": 100, "Throughput": 1000}, "InvalidParameterCombination"),
        ({"VolumeSize": 100, "Iops": 2999}, "InvalidParameterValue"),
        ({"VolumeSize": 20, "Iops": 10_001}, "InvalidParameterCombination"),
        (
            {"VolumeSize": 100, "VolumeType": "gp2", "Throughput": 125},
            "InvalidParameterCombination",
        ),
    ],
)
def test_a_volume_that_ec2_does_not_have_is_refused(ebs: dict[str, object], code: str) -> None:
    refusal = block_devices.refusal(mapping(**ebs))
    assert refusal is not None
    assert refusal.code == code


@pytest.mark.parametrize(
    "ebs",
    [
        {"VolumeSize": 100},
        {"VolumeSize": 8, "Throughput": 1000, "Iops": 4000},
        {"VolumeSize": 65_536, "Throughput": 2000, "Iops": 80_000},
    ],
)
def test_a_volume_within_the_limits_is_accepted(ebs: dict[str, object]) -> None:
    assert block_devices.refusal(mapping(**ebs)) is None


def test_a_name_that_is_no_device_is_refused() -> None:
    override = {"BlockDeviceMappings": [{"DeviceName": "sda1", "Ebs": {}}]}
    refusal = block_devices.refusal(override)
    assert refusal is not None
    assert refusal.code == "InvalidBlockDeviceMapping"


def test_an_override_replaces_the_volume_of_its_device_only() -> None:
    data = block_devices.merged(TEMPLATE, mapping(VolumeSize=100))
    sizes = {each["DeviceName"]: each["Ebs"]["VolumeSize"] for each in data["BlockDeviceMappings"]}
    assert sizes == {"/dev/sda1": 100, "/dev/sdb": 10}
    assert block_devices.scale(TEMPLATE, data) == 2.0
    assert block_devices.merged(TEMPLATE, {}) == TEMPLATE
    assert block_devices.scale({}, {}) == 1.0
