"""The files and folders that a program writes to, before its start."""

from runctl.agent.instance.ownership import give_to
from runctl.agent.runtime.ports import Contract


def prepare_places(contract: Contract) -> None:
    """Create the files that are missing, and give all to the user that the program runs as.

    They lie in folders of the agent, in which the program can create nothing.
    """
    if contract.owner is None and contract.container is None:
        return
    for place in contract.written:
        if not place.exists():
            place.touch()
    if contract.owner is not None:
        give_to(contract.owner, contract.written)
