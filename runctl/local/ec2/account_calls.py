"""The calls of EC2 about images that AWS publishes, and about the account's default volume key."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta, timezone
from typing import Any

from runctl.local.core import catalog, records
from runctl.local.core.knobs import Knobs
from runctl.local.core.protocol import ApiError, stamp
from runctl.local.ec2.disk_keys import Authorize

_AWS_MANAGED = "alias/aws/ebs"
_CANONICAL, _AMAZON = "099720109477", "137112412989"
# AWS deprecates its public images after this time.
_CURRENT_FOR = timedelta(days=730)


class AccountCalls:
    """Answers the calls, and holds the default key."""

    def __init__(self, knobs: Knobs) -> None:
        self._knobs = knobs
        self._default_key: dict[str, str] = {}

    def knows_images(self, request: Mapping[str, Any]) -> bool:
        """Return whether a DescribeImages is about published images; ministack has all others."""
        ids = request.get("ImageIds") or []
        return bool(ids) and all(catalog.parameter_of_image(image_id) for image_id in ids)

    def images(self, request: dict[str, Any], authorize: Authorize) -> dict[str, Any]:
        """DescribeImages: published images, by their ids."""
        authorize("DescribeImages")
        now = datetime.now(timezone.utc)
        made = now - timedelta(days=self._knobs.image_age_days)
        if made + _CURRENT_FOR < now and not request.get("IncludeDeprecated"):
            return {"Images": []}
        return {"Images": [self._image(image_id, made) for image_id in request["ImageIds"]]}

    def _image(self, image_id: str, made: datetime) -> dict[str, Any]:
        parameter = catalog.parameter_of_image(image_id) or ""
        is_amazon = "amazon-linux" in parameter or "al2023" in parameter
        device = "/dev/xvda" if is_amazon else "/dev/sda1"
        mapping = {
            "DeviceName": device,
            "Ebs": {"VolumeSize": 8, "VolumeType": "gp3", "DeleteOnTermination": True},
        }
        return {
            "ImageId": image_id,
            "Name": parameter.strip("/").replace("/", "-"),
            "OwnerId": _AMAZON if is_amazon else _CANONICAL,
            "Public": True,
            "State": "available",
            "Architecture": "arm64" if "arm64" in parameter else "x86_64",
            "ImageType": "machine",
            "RootDeviceType": "ebs",
            "RootDeviceName": device,
            "BlockDeviceMappings": [mapping],
            "VirtualizationType": "hvm",
            "Hypervisor": "xen",
            "CreationDate": stamp(made),
            "DeprecationTime": stamp(made + _CURRENT_FOR),
        }

    def default_key(self, _request: dict[str, Any], authorize: Authorize) -> dict[str, Any]:
        """GetEbsDefaultKmsKeyId: that of AWS, or the one that was set."""
        authorize("GetEbsDefaultKmsKeyId")
        return {"KmsKeyId": self._default_key.get(records.region(), _AWS_MANAGED)}

    def set_default_key(self, request: dict[str, Any], authorize: Authorize) -> dict[str, Any]:
        """ModifyEbsDefaultKmsKeyId: an existing key of the account."""
        authorize("ModifyEbsDefaultKmsKeyId")
        key = records.find_key(request["KmsKeyId"])
        if key is None:
            raise ApiError("InvalidParameterValue", f"There is no key {request['KmsKeyId']}.")
        self._default_key[records.region()] = key.arn
        return {"KmsKeyId": key.arn}
