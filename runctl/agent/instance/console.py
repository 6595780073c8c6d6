"""The console of the instance, which EC2 shows when nothing else does."""

import contextlib

from runctl.agent.instance.paths import Paths


def write_console(paths: Paths, text: str) -> None:
    """Write a line to the console, as the bootstrap script does."""
    # Below another root, that of an instance of the local cloud, the bootstrap made a file.
    console = paths.root / "dev/console" if paths.root.parent == paths.root else None
    with contextlib.suppress(OSError), (console or paths.runtime / "console").open("a") as stream:
        stream.write(f"runctl agent: {text}\n")
