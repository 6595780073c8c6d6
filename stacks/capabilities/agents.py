"""The capabilities of agents: commands over SSM, and starting them on existing instances."""

from __future__ import annotations

from collections.abc import Mapping

from aws_cdk import aws_iam as iam

from stacks.capabilities.base import (
    DEPLOYMENT_TAG,
    EXISTING_TAG,
    RUN_TAG,
    CapabilitiesBase,
    Capability,
    allow,
)

# The tag that earlier versions wrote, which had no end. Attempts that they started can still be
# asked to save and to stop; nothing is started on such a machine.
WITHOUT_END = "yes"


class AgentCapabilities(CapabilitiesBase):
    """What functions may ask agents for."""

    def commands(self) -> Capability:
        """Send our document, and no other, to instances of a run and existing instances."""
        document = self._settings.command_document
        return Capability(
            statements=[
                self._send(document),
                self._to_instances(
                    {f"ssm:resourceTag/{RUN_TAG}": "*"},
                    {f"ssm:resourceTag/{DEPLOYMENT_TAG}": self._settings.name},
                ),
                self._to_existing_instances(self._lent(), WITHOUT_END),
            ],
            variables={"RUNCTL_COMMAND_DOCUMENT": document},
        )

    def start_agents(self) -> Capability:
        """Start the agent on existing instances, and read the result."""
        document = self._settings.start_document
        return Capability(
            statements=[
                self._send(document),
                self._to_existing_instances(self._lent()),
                # The result of a start; a role that lacks permissions cannot report it in any other
                # way. The action has neither resource types nor condition keys, so "*" is the only
                # resource that it can have. It needs the random id of a command, and this role may
                # not list commands: it reads the results of those that it has sent itself.
                allow(["ssm:GetCommandInvocation"], ["*"], sid="ReadResultsOfOwnCommands"),
            ],
            variables={**self._name(), "RUNCTL_START_DOCUMENT": document},
        )

    def _send(self, document: str) -> iam.PolicyStatement:
        region, account = self._settings.region, self._settings.account
        return allow(["ssm:SendCommand"], [f"arn:aws:ssm:{region}:{account}:document/{document}"])

    def _to_existing_instances(self, *tags: str) -> iam.PolicyStatement:
        return self._to_instances({f"ssm:resourceTag/{EXISTING_TAG}": list(tags)})

    def _to_instances(
        self, like: Mapping[str, str | list[str]], equal: Mapping[str, str] | None = None
    ) -> iam.PolicyStatement:
        conditions = {"StringLike": like, **({"StringEquals": equal} if equal else {})}
        return allow(["ssm:SendCommand"], [self._ec2("instance/*")], conditions)
