"""The launch template of one kind of machine."""

from __future__ import annotations

from collections.abc import Sequence

from aws_cdk import Fn
from aws_cdk import aws_ec2 as ec2
from aws_cdk import aws_iam as iam
from constructs import Construct

from stacks.disks import BASE_THROUGHPUT, Disk


class Machine(Construct):
    """A launch template: image, disk, metadata service, network, role, user data.

    `has_efa` makes the network interface an Elastic Fabric Adapter, which is an ordinary interface
    as well. Only some instance types accept it.
    """

    # The keywords are the properties of the construct, as for those of the CDK.
    def __init__(
        self,
        scope: Construct,
        construct_id: str,
        *,
        image: str,
        root_device: str,
        disk: Disk,
        disk_gib: int,
        user_data: str,
        profile: iam.CfnInstanceProfile,
        security_groups: Sequence[ec2.ISecurityGroup],
        public_address: bool,
        has_efa: bool = False,
    ) -> None:
        super().__init__(scope, construct_id)
        # An L1 construct: the L2 construct would pin the image at each deployment, although EC2 can
        # resolve `resolve:ssm` at each launch.
        self.template = ec2.CfnLaunchTemplate(
            self,
            "LaunchTemplate",
            launch_template_data=ec2.CfnLaunchTemplate.LaunchTemplateDataProperty(
                image_id=f"resolve:ssm:{image}" if image.startswith("/") else image,
                iam_instance_profile=ec2.CfnLaunchTemplate.IamInstanceProfileProperty(
                    arn=profile.attr_arn
                ),
                instance_initiated_shutdown_behavior="terminate",
                metadata_options=ec2.CfnLaunchTemplate.MetadataOptionsProperty(
                    http_endpoint="enabled",
                    http_tokens="required",
                    http_put_response_hop_limit=1,
                    instance_metadata_tags="enabled",
                ),
                block_device_mappings=[
                    ec2.CfnLaunchTemplate.BlockDeviceMappingProperty(
                        device_name=root_device, ebs=_root_volume(disk, disk_gib)
                    )
                ],
                network_interfaces=[
                    ec2.CfnLaunchTemplate.NetworkInterfaceProperty(
                        device_index=0,
                        associate_public_ip_address=public_address,
                        delete_on_termination=True,
                        groups=[group.security_group_id for group in security_groups],
                        interface_type="efa" if has_efa else None,
                    )
                ],
                user_data=Fn.base64(user_data),
            ),
        )

    @property
    def template_id(self) -> str:
        """The launch template's id."""
        return self.template.ref


def _root_volume(disk: Disk, size_gib: int) -> ec2.CfnLaunchTemplate.EbsProperty:
    is_faster = disk.throughput > BASE_THROUGHPUT
    return ec2.CfnLaunchTemplate.EbsProperty(
        volume_size=size_gib,
        volume_type="gp3",
        throughput=disk.throughput if is_faster else None,
        iops=disk.iops if is_faster else None,
        volume_initialization_rate=disk.initialization_rate or None,
        encrypted=True,
        kms_key_id=disk.key,
        delete_on_termination=True,
    )
