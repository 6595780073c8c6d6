"""The description of a deployment: what programs know of its settings, storage and machines."""

from __future__ import annotations

from typing import Any

from stacks.compute import ComputeStack
from stacks.settings import Settings
from stacks.storage import StorageStack


def describe_deployment(
    settings: Settings, storage: StorageStack, compute: ComputeStack
) -> dict[str, Any]:
    """Return the part of a deployment's description that does not concern its functions."""
    return {
        "name": settings.name,
        "version": settings.version,
        "region": settings.region,
        "account": settings.account,
        "bucket": storage.bucket.bucket_name,
        "table": storage.table.table_name,
        "state_machine_arn": settings.state_machine_arn,
        "log_group": storage.trainer_logs.log_group_name,
        "topic_arn": storage.topic.topic_arn,
        "command_document": settings.command_document,
        "start_document": settings.start_document,
        "monitor_document": settings.monitor_document,
        "instance_policy": compute.policy.managed_policy_arn,
        "subnets": {zone: subnet.subnet_id for zone, subnet in compute.network.subnets.items()},
        "launch_templates": {
            kind: machine.template_id for kind, machine in compute.machines.items()
        },
        "gang_templates": {
            kind: machine.template_id for kind, machine in compute.gang_machines.items()
        },
        "zones": sorted(compute.network.subnets),
        "security_group": compute.network.security_group.security_group_id,
        "own_images": list(settings.own_images),
        "image_repository": storage.images.repository_uri,
        "environment_days": settings.environment_days,
        "limits": {
            "instance_types": list(settings.limits.instance_types),
            "max_instances": settings.limits.max_instances,
        },
        "own_data": {
            "readable_buckets": list(settings.readable_buckets),
            "writable_buckets": list(settings.writable_buckets),
            "secrets": list(settings.readable_secrets.secrets),
            "parameters": list(settings.readable_secrets.parameters),
            "secret_keys": list(settings.readable_secrets.keys),
        },
    }
