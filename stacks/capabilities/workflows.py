"""The capabilities of state machines: reports, executions, and the judge of trials."""

from __future__ import annotations

from stacks.capabilities.base import (
    CapabilitiesBase,
    Capability,
    allow,
)


class WorkflowCapabilities(CapabilitiesBase):
    """What functions may do with state machines."""

    def reports(self) -> Capability:
        """Complete a Train task."""
        return Capability(
            statements=[allow(["states:SendTaskSuccess"], [self._settings.state_machine_arn])]
        )

    def executions(self, *parents: str) -> Capability:
        """Check whether an execution of a run is running, or one that starts runs."""
        arns = [self._settings.machine_arn(definition) for definition in ("train", *parents)]
        executions = [f"{arn.replace(':stateMachine:', ':execution:')}:*" for arn in arns]
        return Capability(
            statements=[allow(["states:DescribeExecution"], executions)],
            variables={"RUNCTL_STATE_MACHINE_ARN": self._settings.state_machine_arn},
        )

    def judge_function(self) -> Capability:
        """Name the function that judges trials, without invoking it."""
        return Capability(variables={"RUNCTL_JUDGE_FUNCTION": self._settings.judge_function})

    def stop_executions(self) -> Capability:
        """Stop an execution in which a run was continued."""
        executions = self._settings.state_machine_arn.replace(":stateMachine:", ":execution:")
        return Capability(statements=[allow(["states:StopExecution"], [f"{executions}:*"])])
