"""Which runs may store environments that others execute, and where the rest keep theirs. Pure."""

from runctl.model.request import RunRequest


def may_share(request: RunRequest) -> bool:
    """Return whether what a run stores as an environment may be executed by other runs.

    As root, a program can use the credentials of its agent; and so can the owner of a machine that
    existed before the run. A machine without a user for programs runs them as root only.
    """
    return not request.program.root and not request.resources.instance_id


def area_of(request: RunRequest, run_id: str) -> str:
    """Return where a run keeps its environments; empty if it shares them.

    The runs of a group have one area: they come from one request, and share machines as well.
    """
    return "" if may_share(request) else request.group or run_id
