"""The descriptions of instances and instance types in EC2's responses."""

from __future__ import annotations

from typing import Any

from runctl.local.core import catalog
from runctl.local.core.instance import STATE_CODES, Instance


def state_of(name: str) -> dict[str, Any]:
    """Describe a state of an instance."""
    return {"Code": STATE_CODES[name], "Name": name}


def reservation_of(instance: Instance) -> dict[str, Any]:
    """Describe an instance within its reservation."""
    return {
        "ReservationId": instance.reservation_id,
        "OwnerId": instance.account,
        "Instances": [_described(instance)],
    }


def _described(instance: Instance) -> dict[str, Any]:
    gone, end = instance.state == "terminated", instance.end
    groups = [] if gone else [{"GroupId": group} for group in instance.security_groups]
    return {
        "InstanceId": instance.instance_id,
        "ImageId": instance.image_id,
        "InstanceType": instance.instance_type,
        "InstanceLifecycle": "spot" if instance.lifecycle == "spot" else None,
        "Architecture": instance.architecture,
        "LaunchTime": instance.launched_at,
        "State": state_of(instance.state),
        "StateReason": {"Code": end.code, "Message": f"{end.code}: {end.message}"} if end else None,
        "StateTransitionReason": end.transition if end else "",
        "Placement": {
            "AvailabilityZone": instance.zone,
            "GroupName": instance.placement_group,
            "Tenancy": "default",
        },
        "SubnetId": None if gone else instance.subnet.subnet_id,
        "VpcId": None if gone else instance.subnet.vpc_id,
        "PrivateIpAddress": None if gone else instance.private_ip,
        "PrivateDnsName": "" if gone else instance.private_dns,
        "PublicDnsName": "",
        "IamInstanceProfile": {"Arn": instance.profile.arn, "Id": instance.profile.profile_id}
        if instance.profile
        else None,
        "SecurityGroups": groups,
        "ClientToken": instance.client_token,
        "SpotInstanceRequestId": f"sir-{instance.instance_id[2:10]}"
        if instance.lifecycle == "spot"
        else None,
        "MetadataOptions": {
            "State": "applied",
            "HttpTokens": "required",
            "HttpEndpoint": "enabled",
            "InstanceMetadataTags": "enabled" if instance.tags_in_metadata else "disabled",
        },
        "Tags": [{"Key": key, "Value": value} for key, value in instance.tags.items()],
    }


def type_of(instance_type: catalog.InstanceType) -> dict[str, Any]:
    """Describe an instance type."""
    gpus = {"Gpus": [{"Name": "GPU", "Manufacturer": "NVIDIA", "Count": instance_type.gpus}]}
    return {
        "InstanceType": instance_type.name,
        "CurrentGeneration": True,
        "SupportedUsageClasses": ["on-demand", "spot"],
        "ProcessorInfo": {"SupportedArchitectures": [instance_type.architecture]},
        "VCpuInfo": {"DefaultVCpus": instance_type.vcpus},
        "MemoryInfo": {"SizeInMiB": instance_type.memory_mib},
        "GpuInfo": gpus if instance_type.gpus else None,
        "NetworkInfo": _network_of(instance_type.network),
        "PlacementGroupInfo": {"SupportedStrategies": list(instance_type.network.strategies)},
    }


def _network_of(network: catalog.Network) -> dict[str, Any]:
    efa = {"EfaInfo": {"MaximumEfaInterfaces": network.cards}} if network.has_efa else {}
    return {
        "MaximumNetworkCards": network.cards,
        "DefaultNetworkCardIndex": 0,
        "NetworkCards": [
            {"NetworkCardIndex": index, "InterfaceTypes": list(network.interface_types)}
            for index in range(network.cards)
        ],
        "EfaSupported": network.has_efa,
        **efa,
    }
