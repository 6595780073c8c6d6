"""Where instances live: one public subnet a zone, no way in, nothing that bills by the hour."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aws_cdk import aws_ec2 as ec2
from constructs import Construct

from stacks.settings import Settings
from stacks.suppressions import accept


class Network(Construct):
    """A VPC of our own, or one that the context names, and its subnet for each zone."""

    def __init__(self, scope: Construct, construct_id: str, *, settings: Settings) -> None:
        super().__init__(scope, construct_id)
        self.vpc = self._named(settings.vpc_id) if settings.vpc_id else self._own(settings)
        # A fleet cannot span two subnets of one zone: the first is taken.
        subnets: dict[str, ec2.ISubnet] = {}
        for subnet in self.vpc.public_subnets:
            subnets.setdefault(subnet.availability_zone, subnet)
        self.subnets: Mapping[str, ec2.ISubnet] = subnets
        self.security_group = ec2.SecurityGroup(
            self,
            "SecurityGroup",
            vpc=self.vpc,
            description="Instances of runs: everything out, nothing in",
            allow_all_outbound=True,
        )

    def _named(self, vpc_id: str) -> ec2.IVpc:
        return ec2.Vpc.from_lookup(self, "Vpc", vpc_id=vpc_id)

    def _own(self, settings: Settings) -> ec2.IVpc:
        zones: dict[str, Any] = {"max_azs": 99}
        if settings.zones:
            zones = {"availability_zones": list(settings.zones)}
        vpc = ec2.Vpc(
            self,
            "Vpc",
            ip_addresses=ec2.IpAddresses.cidr("10.83.0.0/16"),
            nat_gateways=0,
            subnet_configuration=[
                ec2.SubnetConfiguration(
                    name="public", subnet_type=ec2.SubnetType.PUBLIC, cidr_mask=20
                )
            ],
            # Gateway endpoints are free, and checkpoints through them cost no transfer.
            gateway_endpoints={
                "S3": ec2.GatewayVpcEndpointOptions(service=ec2.GatewayVpcEndpointAwsService.S3),
                "DynamoDb": ec2.GatewayVpcEndpointOptions(
                    service=ec2.GatewayVpcEndpointAwsService.DYNAMODB
                ),
            },
            restrict_default_security_group=False,
            **zones,
        )
        accept(
            vpc,
            {
                "AwsSolutions-VPC7": "Flow logs bill for every connection of every trainer; the "
                "security group admits nothing, so there is nothing to see."
            },
        )
        return vpc
