"""Environments of conda, which instances do not build."""

import re

from runctl.cli.project.scan import Project
from runctl.model.errors import Problem

NAMES = ("environment.yml", "environment.yaml", "conda.yml", "conda.yaml")
# A file of this name may belong to another program.
_OF_CONDA = re.compile(r"^(dependencies|channels)\s*:", re.MULTILINE)


def find_conda_environment(project: Project) -> Problem | None:
    """Return the refusal of the project's conda environment, None without one."""
    packed = {member.path for member in project.members if not member.is_folder}
    for name in NAMES:
        if name in packed and _OF_CONDA.search(_read(project, name)):
            return Problem(
                name,
                "conda environments are not built on instances, so the program would get plain "
                "Python; build a container with a Dockerfile instead, or list its pip packages in "
                f"a requirements.txt. If the program needs none of it, add `{name}` to "
                ".runctlignore",
            )
    return None


def _read(project: Project, name: str) -> str:
    return (project.folder / name).read_text(encoding="utf-8", errors="replace")
