"""The routes of a subnet: its route table, or the main one of its VPC, and the VPC's endpoints."""

from __future__ import annotations

from typing import Any

from runctl.model.deployed import Route, Subnet

_AVAILABLE = "available"
_TARGETS = (
    "GatewayId", "NatGatewayId", "TransitGatewayId", "NetworkInterfaceId", "InstanceId",
    "VpcPeeringConnectionId", "EgressOnlyInternetGatewayId", "LocalGatewayId", "CarrierGatewayId",
    "CoreNetworkArn",
)  # fmt: skip


def read_subnet(ec2: Any, subnet_id: str) -> Subnet:
    """Return a subnet; the errors of botocore pass unchanged."""
    (described,) = ec2.describe_subnets(SubnetIds=[subnet_id])["Subnets"]
    vpc = described["VpcId"]
    tables = _tables(ec2, {"association.subnet-id": subnet_id})
    # Without an association of its own it has the main table.
    tables = tables or _tables(ec2, {"association.main": "true", "vpc-id": vpc})
    table_ids = {table["RouteTableId"] for table in tables}
    filters = [{"Name": "vpc-id", "Values": [vpc]}]
    pages = ec2.get_paginator("describe_vpc_endpoints").paginate(Filters=filters)
    region = f".{ec2.meta.region_name}."
    endpoints = {
        # A service without a region in its name, such as com.amazonaws.iam, becomes an empty text.
        str(endpoint["ServiceName"]).partition(region)[2]
        for page in pages
        for endpoint in page["VpcEndpoints"]
        if endpoint.get("State", _AVAILABLE).lower() == _AVAILABLE
        and (
            endpoint["VpcEndpointType"] == "Interface"
            or table_ids & set(endpoint.get("RouteTableIds", ()))
        )
    }
    return Subnet(
        subnet_id=subnet_id,
        routes=tuple(_route(found) for table in tables for found in table["Routes"]),
        endpoints=frozenset(endpoints - {""}),
    )


def _tables(ec2: Any, wanted: dict[str, str]) -> list[dict[str, Any]]:
    filters = [{"Name": name, "Values": [value]} for name, value in wanted.items()]
    pages = ec2.get_paginator("describe_route_tables").paginate(Filters=filters)
    return [table for page in pages for table in page["RouteTables"]]


def _route(found: dict[str, Any]) -> Route:
    return Route(
        destination=found.get("DestinationCidrBlock", ""),
        target=next((str(found[name]) for name in _TARGETS if found.get(name)), "nothing"),
        is_active=found.get("State", "active") == "active",
    )
