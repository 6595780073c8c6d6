"""What the agent needs of the ledger; `runctl.aws.ledger` implements it."""

from runctl.model.agent_ledger import AgentLedger

__all__ = ["AgentLedger"]
