"""The systemd scope that a trainer runs in, where systemd runs."""

import shutil
from pathlib import Path

SLICE = "runctl-trainer.slice"
# systemd puts `a-b.slice` below `a.slice`.
CONTROL_GROUP = f"/{SLICE.partition('-')[0]}.slice/{SLICE}"
AGENT_UNIT = "runctl-agent.service"


def scope() -> list[str]:
    """Return the words that start a command in the trainers' slice, or none without systemd."""
    runner = shutil.which("systemd-run")
    if runner is None or not Path("/run/systemd/system").is_dir():
        return []
    words = [runner, "--scope", "--quiet", "--collect", f"--slice={SLICE}"]
    # Units stop in the reverse of their order: in a shutdown the agent drains first. Otherwise
    # systemd would send SIGTERM to launchers and data-loader workers at the same moment.
    # A process that the kernel kills for lack of memory must not end all others by SIGTERM: the
    # trainer would save, exit with 0 and look as if it had completed.
    return [*words, f"--property=Before={AGENT_UNIT}", "--property=OOMPolicy=continue", "--"]
