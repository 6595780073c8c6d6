"""The capabilities of functions: permissions and variables for each resource."""

from stacks.capabilities.agents import AgentCapabilities
from stacks.capabilities.images import ImageCapabilities
from stacks.capabilities.machines import MachineCapabilities
from stacks.capabilities.storage import StorageCapabilities
from stacks.capabilities.workflows import WorkflowCapabilities


class Capabilities(
    StorageCapabilities,
    ImageCapabilities,
    MachineCapabilities,
    AgentCapabilities,
    WorkflowCapabilities,
):
    """The capabilities that functions of one deployment can have."""
