"""Settings: valid and invalid values in the context."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from stacks.disks import Key, customer_key
from stacks.errors import BadContextError
from stacks.limits import Limits
from stacks.readable_secrets import ReadableSecrets
from stacks.settings import IMAGES, PROJECT, read_settings

SECRETS = "arn:aws:secretsmanager"
KEY_ID = "01234567-89ab-cdef-0123-456789abcdef"


@dataclass
class Context:
    values: dict[str, Any] = field(default_factory=dict)

    def try_get_context(self, key: str) -> Any:
        return self.values.get(key)


def settings_of(environ: dict[str, str] | None = None, **context: Any) -> Any:
    return read_settings(Context(context), environ=environ or {})


def test_account_and_region_come_from_the_credentials() -> None:
    found = settings_of({"CDK_DEFAULT_ACCOUNT": "111122223333", "CDK_DEFAULT_REGION": "eu-west-1"})
    assert (found.account, found.region) == ("111122223333", "eu-west-1")
    arn = "arn:aws:states:eu-west-1:111122223333:stateMachine:runctl-"
    assert found.state_machine_arn == f"{arn}train"
    assert found.sweep_machine_arn == f"{arn}sweep"
    assert found.process_machine_arn == f"{arn}process"


def test_the_context_takes_precedence_over_the_credentials() -> None:
    environ = {"CDK_DEFAULT_ACCOUNT": "111122223333", "CDK_DEFAULT_REGION": "eu-west-1"}
    found = settings_of(environ, account="444455556666", region="us-west-2")
    assert (found.account, found.region) == ("444455556666", "us-west-2")


def test_without_credentials_the_account_is_that_of_the_local_cloud() -> None:
    found = settings_of()
    assert (found.account, found.region) == ("000000000000", "us-east-1")


@pytest.mark.parametrize("given", [["b", "a"], "b,a", " a , b ,"])
def test_lists_come_from_cdk_json_or_the_command_line(given: Any) -> None:
    assert settings_of(readable_buckets=given).readable_buckets == ("a", "b")


def test_secrets_are_listed_by_name_prefix_or_arn_and_become_arns() -> None:
    found = settings_of(
        {"CDK_DEFAULT_ACCOUNT": "111122223333"},
        secrets=["wandb", "team/*", "a*/b", f"{SECRETS}:us-east-1:444455556666:secret:hf-AbCdEf"],
        parameters="/team/wandb,plain,/all/*",
        secret_keys=[KEY_ID, f"arn:aws:kms:us-east-1:444455556666:key/{KEY_ID}"],
    ).readable_secrets
    own = f"{SECRETS}:us-east-1:111122223333:secret"
    assert set(found.secrets) == {
        f"{own}:wandb-??????",
        f"{own}:team/*",
        f"{own}:a*/b-??????",
        f"{SECRETS}:us-east-1:444455556666:secret:hf-AbCdEf",
    }
    parameters = "arn:aws:ssm:us-east-1:111122223333:parameter"
    assert set(found.parameters) == {
        f"{parameters}/team/wandb",
        f"{parameters}/plain",
        f"{parameters}/all/*",
    }
    assert set(found.keys) == {
        f"arn:aws:kms:us-east-1:111122223333:key/{KEY_ID}",
        f"arn:aws:kms:us-east-1:444455556666:key/{KEY_ID}",
    }
    assert settings_of().readable_secrets == ReadableSecrets()


def test_an_image_may_be_named_or_looked_up() -> None:
    found = settings_of(
        image_x86_cpu="ami-0123456789abcdef0",
        image_arm_cpu="/team/image",
        root_device_x86_cpu="/dev/xvda",
        root_device_arm_cpu="/dev/sda1",
    )
    assert found.images == {
        "x86_gpu": IMAGES["x86_gpu"],
        "x86_cpu": "ami-0123456789abcdef0",
        "arm_cpu": "/team/image",
    }


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("name", "Has Capitals"),
        ("name", "x" * 30),
        ("account", "12345"),
        ("region", "moon"),
        ("image_x86_gpu", "ubuntu"),
        ("zones", "eu-west-1a"),
        ("secrets", "*"),
        ("secrets", "?*"),
        ("secrets", "two words"),
        ("secrets", f"{SECRETS}:us-east-1:111122223333:secret:wandb"),
        ("secrets", f"{SECRETS}:eu-west-1:111122223333:secret:wandb-AbCdEf"),
        ("secrets", f"{SECRETS}:us-east-1:111122223333:secret:*"),
        ("secrets", "arn:aws:ssm:us-east-1:111122223333:parameter/wandb"),
        ("parameters", "/*"),
        ("parameters", "a#b"),
        ("parameters", "arn:aws:ssm:eu-west-1:111122223333:parameter/wandb"),
        ("secret_keys", "alias/mine"),
        ("secret_keys", "arn:aws:kms:us-east-1:111122223333:key/*"),
        ("secret_keys", "arn:aws:kms:us-east-1:111122223333:alias/mine"),
        ("zones", "us-east-1-bos-1a"),
        ("vpc_id", "default"),
        ("subnet_ids", "subnet-0123456789abcdef0"),
        ("disk_throughput", 100),
        ("disk_throughput", "fast"),
        ("disk_initialization_rate", 50),
        ("keep_deleted_days", 0),
        ("bytecode", "yes"),
    ],
)
def test_an_invalid_value_is_named(key: str, value: str) -> None:
    with pytest.raises(BadContextError, match=f"context {key}"):
        settings_of(**{key: value})


VPC = "vpc-0123456789abcdef0"
PUBLIC, PRIVATE, ISOLATED = "Public", "Private", "Isolated"
LOCAL_ZONE, WAVELENGTH_ZONE = "us-east-1-bos-1a", "us-east-1-wl1-bos-wlz-1"


def subnet(number: int) -> str:
    return f"subnet-{number:017x}"


def network_of(
    subnets: list[tuple[str, str]], *, context: dict[str, Any] | None = None, **given: Any
) -> Any:
    """Return the network in a VPC with the given subnets, each with a type and a zone."""
    import aws_cdk

    from stacks.constructs.network import Network

    env = aws_cdk.Environment(account="000000000000", region="us-east-1")
    stack = aws_cdk.Stack(aws_cdk.App(), "test", env=env)
    groups = [
        {
            "name": kind,
            "type": kind,
            "subnets": [
                {"subnetId": subnet(number), "availabilityZone": zone, "routeTableId": "rtb-1"}
                for number, (its_kind, zone) in enumerate(subnets)
                if its_kind == kind
            ],
        }
        for kind in (PUBLIC, PRIVATE, ISOLATED)
    ]
    found = {"vpcId": VPC, "availabilityZones": [], "subnetGroups": groups}
    query = f"account=000000000000:filter.vpc-id={VPC}:region=us-east-1"
    stack.node.set_context(f"vpc-provider:{query}:returnAsymmetricSubnets=true", found)
    for key, value in (context or {}).items():
        stack.node.set_context(key, value)
    return Network(stack, "Network", settings=settings_of(**given))


def chosen(network: Any) -> dict[str, str]:
    return {zone: subnet.subnet_id for zone, subnet in network.subnets.items()}


def test_an_existing_vpc_is_used_with_one_subnet_per_zone() -> None:
    zones = ("us-east-1a", "us-east-1a", "us-east-1b")
    network = network_of([(PUBLIC, zone) for zone in zones], vpc_id=VPC)
    assert chosen(network) == {"us-east-1a": subnet(0), "us-east-1b": subnet(2)}
    assert network.is_public
    assert {type(child).__name__ for child in network.node.children} >= {"SecurityGroup"}
    with pytest.raises(RuntimeError, match="No child"):
        network.vpc.node.find_child("IGW")


def test_a_vpc_with_only_private_subnets_is_used_without_public_addresses() -> None:
    network = network_of([(PRIVATE, "us-east-1a"), (PRIVATE, "us-east-1b")], vpc_id=VPC)
    assert chosen(network) == {"us-east-1a": subnet(0), "us-east-1b": subnet(1)}
    assert not network.is_public


def test_only_the_named_subnets_are_used() -> None:
    subnets = [(PUBLIC, "us-east-1a"), (PRIVATE, "us-east-1a"), (ISOLATED, "us-east-1b")]
    named = network_of(subnets, vpc_id=VPC, subnet_ids=f"{subnet(1)},{subnet(2)}")
    assert chosen(named) == {"us-east-1a": subnet(1), "us-east-1b": subnet(2)}
    assert not named.is_public
    assert network_of(subnets, vpc_id=VPC, subnet_ids=[subnet(0)]).is_public


@pytest.mark.parametrize("kind", [PUBLIC, PRIVATE])
def test_local_zones_and_wavelength_zones_of_a_vpc_are_excluded(kind: str) -> None:
    zones = (LOCAL_ZONE, "us-east-1c", WAVELENGTH_ZONE)
    assert chosen(network_of([(kind, zone) for zone in zones], vpc_id=VPC)) == {
        "us-east-1c": subnet(1)
    }


def test_enabled_local_zones_get_no_subnet() -> None:
    looked_up = "availability-zones:account=000000000000:region=us-east-1"
    zones = [LOCAL_ZONE, "us-east-1a", "us-east-1b", WAVELENGTH_ZONE]
    network = network_of([], context={looked_up: zones})
    assert sorted(network.subnets) == ["us-east-1a", "us-east-1b"]


@pytest.mark.parametrize(
    ("subnets", "named", "message"),
    [
        ([(PUBLIC, "us-east-1a")], [7], rf"{subnet(7)} is not a subnet of {VPC}.*name subnets of"),
        ([(PUBLIC, LOCAL_ZONE)], [0], "is not in an Availability Zone of us-east-1"),
        ([(PUBLIC, "us-east-1a"), (PRIVATE, "us-east-1b")], [0, 1], "name subnets of one kind"),
        ([(PRIVATE, "us-east-1a")] * 2, [0, 1], "both in us-east-1a.*remove one"),
    ],
)
def test_subnets_that_cannot_be_used_are_named_with_the_remedy(
    subnets: list[tuple[str, str]], named: list[int], message: str
) -> None:
    with pytest.raises(BadContextError, match=f"context subnet_ids: .*{message}"):
        network_of(subnets, vpc_id=VPC, subnet_ids=[subnet(index) for index in named])


@pytest.mark.parametrize(
    "subnets", [[], [(ISOLATED, "us-east-1a")], [(PUBLIC, LOCAL_ZONE)]], ids=str
)
def test_a_vpc_without_a_route_out_is_refused_with_the_remedy(
    subnets: list[tuple[str, str]],
) -> None:
    with pytest.raises(BadContextError, match=f"context vpc_id: {VPC} has no subnet.*subnet_ids"):
        network_of(subnets, vpc_id=VPC)


def test_nothing_is_refused_before_the_lookup_of_a_vpc() -> None:
    import aws_cdk

    from stacks.constructs.network import Network

    env = aws_cdk.Environment(account="000000000000", region="us-east-1")
    stack = aws_cdk.Stack(aws_cdk.App(), "test", env=env)
    network = Network(stack, "Network", settings=settings_of(vpc_id=VPC, subnet_ids=[subnet(1)]))
    assert network.subnets


KEY = "1234abcd-12ab-34cd-56ef-1234567890ab"
KEY_ARN = f"arn:aws:kms:us-east-1:111122223333:key/{KEY}"


@pytest.mark.parametrize(
    ("named", "arn", "alias"),
    [
        (KEY, f"arn:aws:kms:us-east-1:000000000000:key/{KEY}", ""),
        (KEY_ARN, KEY_ARN, ""),
        ("alias/disks", "arn:aws:kms:us-east-1:000000000000:key/*", "alias/disks"),
        (
            "arn:aws:kms:us-east-1:111122223333:alias/disks",
            "arn:aws:kms:us-east-1:111122223333:key/*",
            "alias/disks",
        ),
    ],
)
def test_a_customer_key_may_be_named_in_four_ways(named: str, arn: str, alias: str) -> None:
    disk = settings_of(ebs_kms_key=named).disk
    assert disk.key == named
    found = customer_key(disk.key, region="us-east-1", account="000000000000")
    assert found == Key(arn, alias)


def test_the_aws_managed_key_needs_no_permission() -> None:
    disk = settings_of().disk
    assert disk.key == "alias/aws/ebs"
    assert customer_key(disk.key, region="us-east-1", account="000000000000") is None


@pytest.mark.parametrize(
    ("named", "message"),
    [
        (KEY_ARN.replace("us-east-1", "eu-west-1"), "is a key in eu-west-1.*name a key there"),
        ("arn:aws:kms:eu-west-1:111122223333:alias/disks", "is a key in eu-west-1"),
        ("alias/aws/s3", "the key of another service.*alias/aws/ebs"),
        ("disks", "is not a KMS key id, 'alias/NAME', or the ARN"),
        (f"arn:aws:s3:::{KEY}", "is not a KMS key id"),
    ],
)
def test_a_key_that_volumes_cannot_use_is_refused(named: str, message: str) -> None:
    with pytest.raises(BadContextError, match=f"context ebs_kms_key: .*{message}"):
        settings_of(ebs_kms_key=named)


@pytest.mark.parametrize(
    ("image", "device"),
    [
        (IMAGES["x86_gpu"], "/dev/sda1"),
        (IMAGES["x86_cpu"], "/dev/sda1"),
        ("/aws/service/ami-amazon-linux-latest/al2023-ami-kernel-default-x86_64", "/dev/xvda"),
        (IMAGES["x86_gpu"].replace("ubuntu-24.04", "amazon-linux-2023"), "/dev/xvda"),
    ],
)
def test_the_root_device_of_a_publishers_image_is_known(image: str, device: str) -> None:
    assert settings_of(image_x86_gpu=image).root_devices["x86_gpu"] == device


def test_the_root_device_of_another_image_must_be_named() -> None:
    message = "context root_device_x86_gpu: missing.*describe-images"
    with pytest.raises(BadContextError, match=message):
        settings_of(image_x86_gpu="ami-0123456789abcdef0")
    with pytest.raises(BadContextError, match="context root_device_x86_gpu: 'sda1'"):
        settings_of(image_x86_gpu="ami-0123456789abcdef0", root_device_x86_gpu="sda1")


def test_throughput_includes_the_iops_that_it_needs() -> None:
    assert (settings_of().disk.throughput, settings_of().disk.iops) == (125, 3000)
    assert settings_of(disk_throughput=500).disk.iops == 3000
    assert settings_of(disk_throughput="1000").disk.iops == 4000


def test_an_invalid_value_ends_the_synth_with_one_line_and_no_traceback(tmp_path: Path) -> None:
    context = json.dumps({"ebs_kms_key": KEY_ARN.replace("us-east-1", "eu-west-1")})
    done = subprocess.run(
        [sys.executable, "app.py"],
        cwd=PROJECT,
        env={**os.environ, "CDK_CONTEXT_JSON": context, "CDK_OUTDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    # jsii may print a warning about Node.js first.
    assert done.stderr.splitlines()[-1].startswith("error: context ebs_kms_key: ")
    assert "Traceback" not in done.stderr


def test_limits_are_patterns_of_types_and_a_number() -> None:
    assert settings_of().limits == Limits()
    found = settings_of(allowed_instance_types="g5.*, m5.large", max_instances=12).limits
    assert found == Limits(instance_types=("g5.*", "m5.large"), max_instances=12)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("allowed_instance_types", "g5"),
        ("allowed_instance_types", ["G5.xlarge"]),
        ("max_instances", "many"),
        ("max_instances", "-1"),
        ("max_instances", "10001"),
    ],
)
def test_an_invalid_limit_is_named(key: str, value: Any) -> None:
    with pytest.raises(BadContextError, match=f"context {key}: "):
        settings_of(**{key: value})
