"""The network of instances: one subnet per zone, nothing inbound, nothing billed by the hour."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from aws_cdk import Stack
from aws_cdk import aws_ec2 as ec2
from constructs import Construct

from stacks.errors import BadContextError
from stacks.settings import Settings, is_own_zone
from stacks.suppressions import accept


class Network(Construct):
    """A new VPC, or the one that the context names, and its subnet in each zone.

    `is_public` is true if the subnets route to an internet gateway, so that instances need public
    addresses; for private subnets, the owner provides the route out.
    """

    def __init__(self, scope: Construct, construct_id: str, *, settings: Settings) -> None:
        super().__init__(scope, construct_id)
        self.vpc = self._named(settings.vpc_id) if settings.vpc_id else self._own(settings)
        chosen, self.is_public = _choose(self.vpc, settings)
        # A fleet cannot span two subnets of one zone: the first is used.
        subnets: dict[str, ec2.ISubnet] = {}
        for subnet in chosen:
            subnets.setdefault(subnet.availability_zone, subnet)
        self.subnets: Mapping[str, ec2.ISubnet] = subnets
        self.security_group = ec2.SecurityGroup(
            self,
            "SecurityGroup",
            vpc=self.vpc,
            description="Instances of runs: everything out, nothing in",
            allow_all_outbound=True,
        )
        self.gang_group = _gang_group(self, self.vpc)
        # Empty groups are free. Instances of one group are in one zone, hence a group for each.
        self.placement_groups: Mapping[str, ec2.CfnPlacementGroup] = {
            zone: ec2.CfnPlacementGroup(
                self, f"Cluster{zone.title().replace('-', '')}", strategy="cluster"
            )
            for zone in subnets
        }

    def _named(self, vpc_id: str) -> ec2.IVpc:
        return ec2.Vpc.from_lookup(self, "Vpc", vpc_id=vpc_id)

    def _own(self, settings: Settings) -> ec2.IVpc:
        vpc = ec2.Vpc(
            self,
            "Vpc",
            ip_addresses=ec2.IpAddresses.cidr("10.83.0.0/16"),
            availability_zones=list(settings.zones or _zones_of(Stack.of(self), settings.region)),
            nat_gateways=0,
            subnet_configuration=[
                ec2.SubnetConfiguration(
                    name="public", subnet_type=ec2.SubnetType.PUBLIC, cidr_mask=20
                )
            ],
            # Gateway endpoints are free, and so is the transfer of checkpoints through them.
            gateway_endpoints={
                "S3": ec2.GatewayVpcEndpointOptions(service=ec2.GatewayVpcEndpointAwsService.S3),
                "DynamoDb": ec2.GatewayVpcEndpointOptions(
                    service=ec2.GatewayVpcEndpointAwsService.DYNAMODB
                ),
            },
            restrict_default_security_group=False,
        )
        accept(
            vpc,
            {
                "AwsSolutions-VPC7": "Flow logs are billed for every connection of every trainer; "
                "only the nodes of a gang admit any inbound traffic, from each other."
            },
        )
        return vpc


def _gang_group(scope: Construct, vpc: ec2.IVpc) -> ec2.SecurityGroup:
    """Create the second group of instances that train together, which is open only within itself.

    EFA needs rules that name the group itself, in both directions; a rule for every address does
    not count.
    """
    group = ec2.SecurityGroup(
        scope,
        "GangSecurityGroup",
        vpc=vpc,
        description="Nodes of gangs: everything among themselves",
        # With this, the CDK adds a rule without effect. Without any rule in the template, EC2 would
        # add its default, which allows everything out.
        allow_all_outbound=False,
    )
    group.add_ingress_rule(group, ec2.Port.all_traffic(), "From other nodes")
    # A resource of its own: a rule of the construct would replace the one without effect.
    ec2.CfnSecurityGroupEgress(
        group,
        "ToOtherNodes",
        group_id=group.security_group_id,
        destination_security_group_id=group.security_group_id,
        ip_protocol="-1",
        description="To other nodes",
    )
    return group


def _zones_of(stack: Stack, region: str) -> list[str]:
    """Return the region's own zones; the lookup also returns Local Zones that are enabled."""
    found = stack.availability_zones
    # Before the lookup, the CDK returns placeholders, and synthesizes again afterwards.
    return [zone for zone in found if is_own_zone(zone, region)] or list(found)


def _choose(vpc: ec2.IVpc, settings: Settings) -> tuple[list[ec2.ISubnet], bool]:
    """Return the subnets for instances, and whether they are public."""
    public = list(vpc.public_subnets)
    private = [*vpc.private_subnets, *vpc.isolated_subnets]
    if settings.vpc_id and vpc.vpc_id != settings.vpc_id:
        # Before the lookup, the CDK returns a placeholder, and synthesizes again afterwards.
        return public or private, True
    if settings.subnet_ids:
        return _named_subnets(public, private, settings)
    where = f"context vpc_id: {settings.vpc_id}"
    if usable := _own_zones(public, settings):
        return usable, True
    # Without a route to a NAT gateway, endpoints may be the way out; only subnet_ids can say that.
    if usable := _own_zones(vpc.private_subnets, settings):
        return usable, False
    raise BadContextError(
        f"{where} has no subnet with a route to the internet in an Availability Zone of "
        f"{settings.region}; name another VPC, or set subnet_ids to subnets that reach AWS through "
        "endpoints, or remove vpc_id to create a VPC for the deployment"
    )


def _named_subnets(
    public: Sequence[ec2.ISubnet], private: Sequence[ec2.ISubnet], settings: Settings
) -> tuple[list[ec2.ISubnet], bool]:
    known = {subnet.subnet_id: subnet for subnet in (*public, *private)}
    if missing := [subnet_id for subnet_id in settings.subnet_ids if subnet_id not in known]:
        raise BadContextError(
            f"context subnet_ids: {', '.join(missing)} is not a subnet of {settings.vpc_id} "
            f"(which has {', '.join(sorted(known)) or 'none'}); name subnets of that VPC, and "
            "delete cdk.context.json if the VPC was changed after its lookup"
        )
    chosen = [known[subnet_id] for subnet_id in settings.subnet_ids]
    if others := [
        subnet.subnet_id for subnet in chosen if subnet not in _own_zones(chosen, settings)
    ]:
        raise BadContextError(
            f"context subnet_ids: {', '.join(others)} is not in an Availability Zone of "
            f"{settings.region}; Local Zones and Wavelength zones cannot be used"
        )
    zones: dict[str, str] = {}
    for subnet in chosen:
        other = zones.setdefault(subnet.availability_zone, subnet.subnet_id)
        if other != subnet.subnet_id:
            raise BadContextError(
                f"context subnet_ids: {other} and {subnet.subnet_id} are both in "
                f"{subnet.availability_zone}, and a fleet takes one subnet per zone; remove one"
            )
    with_gateway = {subnet.subnet_id for subnet in public} & set(settings.subnet_ids)
    if with_gateway and len(with_gateway) < len(chosen):
        rest = sorted(set(settings.subnet_ids) - with_gateway)
        raise BadContextError(
            f"context subnet_ids: {', '.join(sorted(with_gateway))} is public and "
            f"{', '.join(rest)} private; name subnets of one kind, because either all instances "
            "need public addresses or none"
        )
    return chosen, bool(with_gateway)


def _own_zones(subnets: Sequence[ec2.ISubnet], settings: Settings) -> list[ec2.ISubnet]:
    wanted = settings.zones
    return [
        subnet
        for subnet in subnets
        if is_own_zone(subnet.availability_zone, settings.region)
        and (not wanted or subnet.availability_zone in wanted)
    ]
