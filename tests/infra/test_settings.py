"""What the context may say about a deployment, and what it may not."""

from dataclasses import dataclass, field
from typing import Any

import pytest

from stacks.settings import IMAGES, BadContextError, read_settings


@dataclass
class Context:
    values: dict[str, Any] = field(default_factory=dict)

    def try_get_context(self, key: str) -> Any:
        return self.values.get(key)


def settings_of(environ: dict[str, str] | None = None, **context: Any) -> Any:
    return read_settings(Context(context), environ=environ or {})


def test_credentials_say_where() -> None:
    found = settings_of({"CDK_DEFAULT_ACCOUNT": "111122223333", "CDK_DEFAULT_REGION": "eu-west-1"})
    assert (found.account, found.region) == ("111122223333", "eu-west-1")
    arn = "arn:aws:states:eu-west-1:111122223333:stateMachine:runctl-train"
    assert found.state_machine_arn == arn


def test_the_context_says_it_louder() -> None:
    environ = {"CDK_DEFAULT_ACCOUNT": "111122223333", "CDK_DEFAULT_REGION": "eu-west-1"}
    found = settings_of(environ, account="444455556666", region="us-west-2")
    assert (found.account, found.region) == ("444455556666", "us-west-2")


def test_without_credentials_it_is_the_local_cloud() -> None:
    found = settings_of()
    assert (found.account, found.region) == ("000000000000", "us-east-1")


@pytest.mark.parametrize("given", [["b", "a"], "b,a", " a , b ,"])
def test_lists_come_from_cdk_json_or_the_command_line(given: Any) -> None:
    assert settings_of(readable_buckets=given).readable_buckets == ("a", "b")


def test_an_image_may_be_named_or_looked_up() -> None:
    found = settings_of(image_x86_cpu="ami-0123456789abcdef0", image_arm_cpu="/team/image")
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
    ],
)
def test_a_value_that_cannot_work_is_named(key: str, value: str) -> None:
    with pytest.raises(BadContextError, match=f"context {key}"):
        settings_of(**{key: value})


def test_a_vpc_of_the_users_is_not_made_again_and_lends_one_subnet_a_zone() -> None:
    import aws_cdk

    from stacks.constructs.network import Network

    app = aws_cdk.App()
    env = aws_cdk.Environment(account="000000000000", region="us-east-1")
    stack = aws_cdk.Stack(app, "test", env=env)
    provided = {
        "vpcId": "vpc-1",
        "availabilityZones": [],
        "subnetGroups": [
            {
                "name": "Public",
                "type": "Public",
                "subnets": [
                    {"subnetId": f"subnet-{n}", "availabilityZone": zone, "routeTableId": "rtb-1"}
                    for n, zone in enumerate(("us-east-1a", "us-east-1a", "us-east-1b"))
                ],
            }
        ],
    }
    query = "account=000000000000:filter.vpc-id=vpc-1:region=us-east-1:returnAsymmetricSubnets=true"
    stack.node.set_context(f"vpc-provider:{query}", provided)
    network = Network(stack, "Network", settings=settings_of(vpc_id="vpc-1"))
    subnets = {zone: subnet.subnet_id for zone, subnet in network.subnets.items()}
    assert subnets == {"us-east-1a": "subnet-0", "us-east-1b": "subnet-2"}
    assert {type(one).__name__ for one in network.node.children} >= {"SecurityGroup"}
    with pytest.raises(RuntimeError, match="No child"):
        network.vpc.node.find_child("IGW")
