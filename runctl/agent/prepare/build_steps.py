"""The last step of a build, called as the user of the build: its files may be hostile links."""

from collections.abc import Sequence
from pathlib import Path

from runctl.agent.prepare.built_files import settle_times
from runctl.agent.prepare.relocation import make_relocatable
from runctl.agent.prepare.sources import keep_built


def finish_build(target: str, project: str, built: Sequence[str]) -> None:
    """Make a new environment independent of its place and of the time of its build.

    `built` are the files of the project that editable packages have left there.
    """
    keep_built(Path(target), Path(project), frozenset(built))
    make_relocatable(Path(target))
    settle_times(Path(target))
