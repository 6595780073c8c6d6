"""The capabilities of EC2: launching machines, examining and ending them."""

from __future__ import annotations

import json
from collections.abc import Mapping

from aws_cdk import aws_iam as iam

from stacks.capabilities.base import (
    DEPLOYMENT_TAG,
    EXISTING_TAG,
    KEEP_ALIVE_TAG,
    RUN_TAG,
    TEMPLATE_VERSION,
    CapabilitiesBase,
    Capability,
    allow,
)
from stacks.compute import DISK_GIB
from stacks.disks import customer_key


class MachineCapabilities(CapabilitiesBase):
    """What functions may do with machines."""

    def machine_images(self) -> Capability:
        """Know the kinds of machines for which the owner chose the image."""
        return Capability(
            variables={"RUNCTL_OWN_IMAGES": json.dumps(list(self._settings.own_images))}
        )

    def root_volumes(self) -> Capability:
        """Know the root volumes of the launch templates, which a fleet's overrides replace."""
        disk = self._settings.disk
        volumes = {
            kind: {
                "device": self._settings.root_devices[kind],
                "gib": gib,
                "throughput": disk.throughput,
                "iops": disk.iops,
                "key": disk.key,
            }
            for kind, gib in DISK_GIB.items()
        }
        return Capability(variables={"RUNCTL_ROOT_VOLUMES": json.dumps(volumes)})

    def limits(self) -> Capability:
        """Know which instance types runs may use, and how many instances there may be."""
        limits = self._settings.limits
        document = {
            "instance_types": list(limits.instance_types),
            "max_instances": limits.max_instances,
        }
        return Capability(variables={"RUNCTL_LIMITS": json.dumps(document)})

    def machines(self) -> Capability:
        """Describe any instance: Describe actions have no resource types."""
        return Capability(
            statements=[allow(["ec2:DescribeInstances"], ["*"])], variables=self._name()
        )

    def deployment_name(self) -> Capability:
        """Know what the instance types of this deployment can do, without access to instances."""
        return Capability(variables=self._name())

    def machine_statuses(self) -> Capability:
        """Read the status checks of any instance."""
        return Capability(statements=[allow(["ec2:DescribeInstanceStatus"], ["*"])])

    def all_machines(self) -> Capability:
        """Terminate this deployment's instances, which its security group identifies."""
        group = self._compute.network.security_group.security_group_id
        return Capability(
            statements=[
                allow(
                    ["ec2:TerminateInstances"],
                    [self._ec2("instance/*")],
                    self._own(KEEP_ALIVE_TAG),
                ),
            ],
            variables={"RUNCTL_SECURITY_GROUP": group},
        )

    def end_lendings(self) -> Capability:
        """Remove the tag of machines that are lent to this deployment, and no other tag."""
        return Capability(
            statements=[
                allow(
                    ["ec2:DeleteTags"],
                    [self._ec2("instance/*")],
                    {
                        "StringLike": {f"aws:ResourceTag/{EXISTING_TAG}": self._lent()},
                        "ForAllValues:StringEquals": {"aws:TagKeys": [EXISTING_TAG]},
                        # Without keys in the request, EC2 removes all tags, and the condition
                        # above is fulfilled.
                        "Null": {"aws:TagKeys": "false"},
                    },
                )
            ],
            variables=self._name(),
        )

    def delete_fleets(self) -> Capability:
        """Describe any fleet, and delete those tagged with a run of this deployment."""
        return Capability(
            statements=[
                allow(["ec2:DescribeTags", "ec2:DescribeFleets"], ["*"]),
                allow(
                    ["ec2:DeleteFleets"],
                    [self._ec2("fleet/*")],
                    self._own(RUN_TAG),
                ),
            ],
            variables=self._launch_templates(),
        )

    def end_machines(self) -> Capability:
        """Describe any instance, and terminate those tagged with a run of this deployment."""
        return Capability(
            statements=[
                *self.machines().statements,
                allow(
                    ["ec2:TerminateInstances"],
                    [self._ec2("instance/*")],
                    self._own(RUN_TAG),
                ),
            ],
            variables=self._name(),
        )

    def launch(self) -> Capability:
        """Launch instances from our templates, into our subnets, with our role and tags."""
        made = ["fleet", "network-interface", "spot-instances-request", "volume"]
        tagged = ["fleet", "instance", "network-interface", "spot-instances-request", "volume"]
        machines = [*self._compute.machines.values(), *self._compute.gang_machines.values()]
        templates = [self._ec2(f"launch-template/{each.template_id}") for each in machines]
        network = self._compute.network
        groups = {zone: group.ref for zone, group in network.placement_groups.items()}
        subnets = {zone: subnet.subnet_id for zone, subnet in network.subnets.items()}
        region, account = self._settings.region, self._settings.account
        spot = f"arn:aws:iam::{account}:role/aws-service-role/spot.amazonaws.com/"
        types = list(self._settings.limits.instance_types)
        statements = [
            # A fleet launches its instances by RunInstances, with the permissions of its caller.
            # Every launch needs this permission, so none is possible without one of our templates,
            # or with one of somebody else.
            allow(
                ["ec2:RunInstances"],
                [self._ec2("instance/*")],
                {
                    "ArnLike": {"ec2:LaunchTemplate": templates},
                    **({"StringLike": {"ec2:InstanceType": types}} if types else {}),
                },
                sid="LaunchFromOwnTemplates",
            ),
            # The template names the image. A launch may replace the subnet and the disk, but not
            # the image, which would boot another program with the role of instances.
            allow(
                ["ec2:RunInstances"],
                # Images belong to their publishers.
                [f"arn:aws:ec2:{region}::image/*"],
                {
                    "ArnLike": {"ec2:LaunchTemplate": templates},
                    "Bool": {"ec2:IsLaunchTemplateResource": "true"},
                },
                sid="LaunchImagesOfOwnTemplates",
            ),
            allow(["ec2:CreateFleet"], [self._ec2("instance/*"), f"arn:aws:ec2:{region}::image/*"]),
            allow(
                ["ec2:CreateFleet", "ec2:RunInstances"],
                [
                    *(self._ec2(f"{kind}/*") for kind in made),
                    *templates,
                    *(self._ec2(f"subnet/{subnet_id}") for subnet_id in subnets.values()),
                    self._ec2(f"security-group/{network.security_group.security_group_id}"),
                    self._ec2(f"security-group/{network.gang_group.security_group_id}"),
                    *(self._ec2(f"placement-group/{name}") for name in groups.values()),
                    # Those of images, which belong to the publishers.
                    f"arn:aws:ec2:{region}::snapshot/*",
                ],
            ),
            allow(
                ["ec2:CreateTags"],
                [self._ec2(f"{kind}/*") for kind in tagged],
                {
                    "StringEquals": {
                        "ec2:CreateAction": ["CreateFleet", "RunInstances"],
                        f"aws:RequestTag/{DEPLOYMENT_TAG}": self._settings.name,
                    }
                },
            ),
            allow(
                ["iam:PassRole"],
                [self._compute.role.role_arn],
                {"StringEquals": {"iam:PassedToService": "ec2.amazonaws.com"}},
            ),
            # An account that has never used Spot lacks this role: the first launch creates it.
            allow(
                ["iam:CreateServiceLinkedRole"],
                [f"{spot}AWSServiceRoleForEC2Spot"],
                {"StringEquals": {"iam:AWSServiceName": "spot.amazonaws.com"}},
            ),
        ]
        return Capability(
            statements=[*statements, *self._image_parameters(), *self._disk_key()],
            variables={
                **self._name(),
                "RUNCTL_SUBNETS": self._stack.to_json_string(subnets),
                "RUNCTL_PLACEMENT_GROUPS": self._stack.to_json_string(groups),
                **self._launch_templates(),
                "RUNCTL_SECURITY_GROUP": network.security_group.security_group_id,
                **self.limits().variables,
                **self.root_volumes().variables,
            },
        )

    def _image_parameters(self) -> list[iam.PolicyStatement]:
        """Let EC2 resolve the image parameters of templates, which it does as the caller."""
        names = [image for image in self._settings.images.values() if image.startswith("/")]
        region, account = self._settings.region, self._settings.account
        # Parameters that AWS publishes belong to no account.
        owners = {name: "" if name.startswith("/aws/") else account for name in names}
        parameters = [
            f"arn:aws:ssm:{region}:{owner}:parameter{name}" for name, owner in owners.items()
        ]
        return [allow(["ssm:GetParameters"], parameters)] if parameters else []

    def _disk_key(self) -> list[iam.PolicyStatement]:
        """Let EC2 encrypt root volumes with a customer managed key, on behalf of the caller.

        Amazon EBS user guide, "Permissions for IAM principals". The key's own policy must also
        leave the decision to IAM; that of the AWS managed key does.
        """
        region = self._settings.region
        key = customer_key(self._settings.disk.key, region=region, account=self._settings.account)
        if key is None:
            return []
        conditions: dict[str, dict[str, str | list[str]]] = {
            "StringEquals": {"kms:ViaService": f"ec2.{region}.amazonaws.com"}
        }
        if key.alias:
            conditions["ForAnyValue:StringEquals"] = {"kms:ResourceAliases": key.alias}
        return [
            allow(
                [
                    "kms:Decrypt",
                    "kms:DescribeKey",
                    "kms:GenerateDataKeyWithoutPlaintext",
                    "kms:ReEncryptFrom",
                    "kms:ReEncryptTo",
                ],
                [key.arn],
                conditions,
            ),
            allow(
                ["kms:CreateGrant"],
                [key.arn],
                {**conditions, "Bool": {"kms:GrantIsForAWSResource": "true"}},
            ),
        ]

    def quotas(self) -> Capability:
        """Read EC2's quotas and the sizes of types; these actions have no resource types."""
        reads = ["servicequotas:GetServiceQuota", "servicequotas:GetAWSDefaultServiceQuota"]
        return Capability(statements=[allow([*reads, "ec2:DescribeInstanceTypes"], ["*"])])

    def instance_types(self) -> Capability:
        """Read what instance types can do; this action has no resource types."""
        return Capability(
            statements=[allow(["ec2:DescribeInstanceTypes"], ["*"])], variables=self._name()
        )

    def identify_instances(self) -> Capability:
        """Know the role of the instances that we launch, and find those of existing instances."""
        # Instances that belong to others have profiles with any name.
        profiles = f"arn:aws:iam::{self._settings.account}:instance-profile/*"
        return Capability(
            statements=[
                *self.machines().statements,
                allow(["iam:GetInstanceProfile"], [profiles]),
            ],
            variables=self.know_own_instances().variables,
        )

    def know_own_instances(self) -> Capability:
        """Know the role of the instances that we launch, which proves their identity."""
        return Capability(
            variables={**self._name(), "RUNCTL_INSTANCE_ROLE": self._compute.role.role_arn}
        )

    def _launch_templates(self) -> Mapping[str, str]:
        templates = {
            kind: {"id": machine.template_id, "version": TEMPLATE_VERSION}
            for kind, machine in self._compute.machines.items()
        }
        gangs = {kind: machine.template_id for kind, machine in self._compute.gang_machines.items()}
        return {
            "RUNCTL_LAUNCH_TEMPLATES": self._stack.to_json_string(templates),
            "RUNCTL_GANG_TEMPLATES": self._stack.to_json_string(gangs),
        }
