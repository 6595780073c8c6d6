"""The stack for instances: network, launch templates, role, agent, commands."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aws_cdk import Stack
from aws_cdk import aws_iam as iam
from aws_cdk import aws_s3_assets as s3_assets
from aws_cdk import aws_ssm as ssm
from constructs import Construct

from stacks.assets import Asset
from stacks.constructs.machine import Machine
from stacks.constructs.network import Network
from stacks.existing_instances import monitor_command, start_command
from stacks.instance_role import instance_policy, instance_role
from stacks.instance_tags import InstanceTags
from stacks.settings import PROJECT, Settings
from stacks.storage import StorageStack
from stacks.user_data import user_data

BOOTSTRAP = PROJECT / "instance_scripts/bootstrap.sh"
EXISTING_INSTANCE = PROJECT / "instance_scripts/existing_instance.sh"

# The deep-learning image alone takes 60 GiB; a disk costs only while its instance exists.
DISK_GIB: Mapping[str, int] = {"x86_gpu": 150, "x86_cpu": 50, "arm_cpu": 50}

# The kinds of machines whose image has the software for EFA. With the others, programs use TCP.
EFA_KINDS = ("x86_gpu",)


class ComputeStack(Stack):
    """Everything that a launch needs; it contains no instance."""

    def __init__(
        self,
        scope: Construct,
        construct_id: str,
        *,
        settings: Settings,
        storage: StorageStack,
        agent: Asset,
        bootstrap: Path = BOOTSTRAP,
        **stack: Any,
    ) -> None:
        super().__init__(scope, construct_id, **stack)
        self.node.add_validation(InstanceTags(self))
        self.network = Network(self, "Network", settings=settings)
        archive = s3_assets.Asset(self, "Agent", path=str(agent.path))
        self.role = instance_role(self, settings=settings, agent=archive)
        self.policy = instance_policy(self, self.role)
        profile = iam.CfnInstanceProfile(self, "InstanceProfile", roles=[self.role.role_name])
        header = {
            "RUNCTL_AGENT_URI": archive.s3_object_url,
            "RUNCTL_AGENT_SHA256": agent.sha256,
            "RUNCTL_TABLE": storage.table.table_name,
            "RUNCTL_BUCKET": storage.bucket.bucket_name,
            "RUNCTL_LOG_GROUP": storage.trainer_logs.log_group_name,
            "RUNCTL_REGION": settings.region,
            "RUNCTL_DEPLOYMENT": settings.name,
            "RUNCTL_CREDENTIALS_FUNCTION": settings.credentials_function,
        }
        text = user_data(header, bootstrap.read_text())

        def machine(kind: str, variant: str = "", *, has_efa: bool = False) -> Machine:
            groups = [self.network.security_group]
            return Machine(
                self,
                "".join(word.title() for word in (*kind.split("_"), *variant.split("_"))),
                image=settings.images[kind],
                root_device=settings.root_devices[kind],
                disk=settings.disk,
                disk_gib=DISK_GIB[kind],
                user_data=text,
                profile=profile,
                security_groups=[*groups, self.network.gang_group] if variant else groups,
                public_address=self.network.is_public,
                has_efa=has_efa,
            )

        self.machines: Mapping[str, Machine] = {kind: machine(kind) for kind in settings.images}
        # The nodes of a gang; the key of a template with EFA ends in `_efa`.
        self.gang_machines: Mapping[str, Machine] = {
            **{kind: machine(kind, "gang") for kind in settings.images},
            **{f"{kind}_efa": machine(kind, "gang_efa", has_efa=True) for kind in EFA_KINDS},
        }
        script = "\n".join((bootstrap.read_text(), EXISTING_INSTANCE.read_text()))
        self._add_document("AgentCommand", settings.command_document, _agent_command())
        self._add_document("StartCommand", settings.start_document, start_command(header, script))
        self._add_document(
            "MonitorCommand", settings.monitor_document, monitor_command(header, script)
        )

    def _add_document(self, construct_id: str, name: str, content: dict[str, Any]) -> None:
        ssm.CfnDocument(
            self,
            construct_id,
            name=name,
            document_type="Command",
            document_format="JSON",
            update_method="NewVersion",
            content=content,
        )


def _agent_command() -> dict[str, Any]:
    return {
        "schemaVersion": "2.2",
        "description": "Ask the runctl agent to drain, to save a checkpoint, or to stop.",
        "parameters": {
            "action": {
                "type": "String",
                "description": "What the agent should do.",
                # The parameter can pass nothing else to the shell.
                "allowedValues": ["drain", "checkpoint", "stop"],
            },
            "deadline": {
                "type": "String",
                "description": "When EC2 takes the instance; empty if unknown.",
                "allowedPattern": r"^(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ)?$",
                "default": "",
            },
        },
        "mainSteps": [
            {
                "action": "aws:runShellScript",
                "name": "ask",
                "inputs": {
                    "timeoutSeconds": "60",
                    # A variable, because older agents accept no second argument.
                    "runCommand": [
                        "export RUNCTL_DEADLINE='{{ deadline }}'",
                        '"${RUNCTL_ROOT:-}/opt/runctl/bin/runctl-agent" {{ action }}',
                    ],
                },
            }
        ],
    }
