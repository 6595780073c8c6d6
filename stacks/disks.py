"""The root volume of instances: its device, key and speed."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from stacks.errors import BadContextError

# The key that AWS manages for EBS in each account: everyone who may launch may use it. Without a
# name, a volume uses the account's default key, which the launching role may not be allowed to use.
AWS_MANAGED_KEY = "alias/aws/ebs"
# Included in the price of a gp3 volume.
BASE_THROUGHPUT = 125
BASE_IOPS = 3000
MAX_THROUGHPUT = 2000
# 0.25 MiB/s per IOPS, according to the EBS user guide.
IOPS_PER_MIB = 4

# The root devices that publishers use: Canonical, Amazon for Ubuntu, Amazon Linux.
_ROOT_DEVICES = (
    (re.compile(r"/aws/service/canonical/ubuntu/.+"), "/dev/sda1"),
    (re.compile(r"/aws/service/deeplearning/ami/.+-ubuntu-.+"), "/dev/sda1"),
    (re.compile(r"/aws/service/deeplearning/ami/.+-amazon-linux-.+"), "/dev/xvda"),
    (re.compile(r"/aws/service/ami-amazon-linux-latest/.+"), "/dev/xvda"),
)
_DEVICE = re.compile(r"/dev/(sda1|sda|xvda|xvda1)")
_ALIAS = re.compile(r"alias/[A-Za-z0-9/_-]{1,250}")
_KEY_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|mrk-[0-9a-f]{32}")
_ARN = re.compile(
    r"arn:(?P<partition>aws[a-z-]*):kms:(?P<region>[a-z0-9-]+):(?P<account>\d{12}):"
    r"(?P<what>(?:key|alias)/.+)"
)


@dataclass(frozen=True, kw_only=True)
class Disk:
    """The properties of a deployment's root volumes.

    `initialization_rate` is in MiB/s; 0 reads each block from the snapshot when it is first used.
    """

    key: str = AWS_MANAGED_KEY
    throughput: int = BASE_THROUGHPUT
    initialization_rate: int = 0

    @property
    def iops(self) -> int:
        """The fewest IOPS that permit the throughput."""
        return max(BASE_IOPS, self.throughput * IOPS_PER_MIB)


@dataclass(frozen=True)
class Key:
    """A customer managed KMS key as IAM names it: its ARN, or any key with the alias."""

    arn: str
    alias: str = ""


def check_key(found: str, *, region: str) -> str:
    """Return the key's name, or raise BadContextError; EC2 would fail only after the launch."""
    rule = "is not a KMS key id, 'alias/NAME', or the ARN of either"
    arn = _ARN.fullmatch(found)
    name = arn["what"].removeprefix("key/") if arn else found
    if not _KEY_ID.fullmatch(name) and not _ALIAS.fullmatch(name):
        raise BadContextError(f"context ebs_kms_key: {found!r} {rule}")
    if arn and arn["region"] != region:
        raise BadContextError(
            f"context ebs_kms_key: {found!r} is a key in {arn['region']}, but volumes in {region} "
            f"can only use keys in {region}; name a key there, or the replica of a multi-Region "
            "key"
        )
    if name.startswith("alias/aws/") and name != AWS_MANAGED_KEY:
        raise BadContextError(
            f"context ebs_kms_key: {found!r} is the key of another service; remove the setting to "
            f"use {AWS_MANAGED_KEY}, or name your own key"
        )
    return found


def customer_key(name: str, *, region: str, account: str) -> Key | None:
    """Return the key that the launching roles need permission for; None for the AWS managed key."""
    arn = _ARN.fullmatch(name)
    what = arn["what"] if arn else name
    if what == AWS_MANAGED_KEY:
        return None
    prefix = f"arn:{arn['partition'] if arn else 'aws'}:kms:{region}"
    prefix += f":{arn['account'] if arn else account}:key"
    if what.startswith("alias/"):
        return Key(f"{prefix}/*", alias=what)
    return Key(f"{prefix}/{what.removeprefix('key/')}")


def root_device(kind: str, image: str, named: str) -> str:
    """Return the name of the image's root device.

    A mapping with another name would add a second volume and leave the root at the image's size.
    """
    if named:
        if not _DEVICE.fullmatch(named):
            raise BadContextError(
                f"context root_device_{kind}: {named!r} does not match {_DEVICE.pattern}"
            )
        return named
    for pattern, device in _ROOT_DEVICES:
        if pattern.fullmatch(image):
            return device
    raise BadContextError(
        f"context root_device_{kind}: missing, and image_{kind} is {image!r}, whose root device is "
        "unknown; set it to the image's: aws ec2 describe-images --image-ids AMI "
        "--query 'Images[].RootDeviceName'"
    )


def read_disk(values: Mapping[str, str], *, region: str) -> Disk:
    """Read the settings of all root volumes; an empty text means that a setting is missing."""
    rate = _number(values, "disk_initialization_rate", 0)
    if rate and not 100 <= rate <= 300:
        raise BadContextError(
            f"context disk_initialization_rate: {rate} is not between 100 and 300 MiB/s; remove it "
            "to read blocks when they are first used"
        )
    throughput = _number(values, "disk_throughput", BASE_THROUGHPUT)
    if not BASE_THROUGHPUT <= throughput <= MAX_THROUGHPUT:
        raise BadContextError(
            f"context disk_throughput: {throughput} is not between {BASE_THROUGHPUT} and "
            f"{MAX_THROUGHPUT} MiB/s"
        )
    return Disk(
        key=check_key(values.get("ebs_kms_key") or AWS_MANAGED_KEY, region=region),
        throughput=throughput,
        initialization_rate=rate,
    )


def _number(values: Mapping[str, str], key: str, default: int) -> int:
    found = values.get(key) or str(default)
    if not re.fullmatch(r"\d{1,6}", found):
        raise BadContextError(f"context {key}: {found!r} is not a whole number of MiB/s")
    return int(found)
