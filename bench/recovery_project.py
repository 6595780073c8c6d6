"""The run of `bench/recovery.py`: the example trainer, and a variant that imports its packages."""

import re
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import recovery_trainer
from runctl.cli.project.package import pack_project
from runctl.cli.project.scan import scan_project
from runctl.local.testbed import Testbed

EXAMPLES = Path(__file__).parents[1] / "examples" / "training"
# More steps than it will ever make, and no saves except on request.
ARGUMENTS = ("--steps", "1000000", "--every", "1000000", "--step-seconds", "0.05")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True, kw_only=True)
class Program:
    """What the trainer saves and needs.

    `image` is that of its container, empty for the machine itself. With `requirements`, it has an
    environment and imports `modules`.
    """

    megabytes: int
    image: str = ""
    requirements: Path | None = None
    modules: Sequence[str] = ()


def named_modules(requirements: Path) -> list[str]:
    """Return the modules that are named like the requirements of a file."""
    lines = requirements.read_text().splitlines()
    names = [match[0] for line in lines if (match := _NAME.match(line))]
    return [name.lower().replace("-", "_") for name in names]


def request_of(testbed: Testbed, program: Program) -> dict[str, Any]:
    """Upload the trainer's project and return the request of the run."""
    script, arguments = "train_with_checkpoints.py", list(ARGUMENTS)
    with tempfile.TemporaryDirectory() as scratch:
        project = Path(scratch) / "project"
        shutil.copytree(EXAMPLES, project)
        if program.requirements is not None:
            shutil.copy(program.requirements, project / "requirements.txt")
            script = Path(shutil.copy(recovery_trainer.__file__, project)).name
            arguments.insert(0, ",".join(program.modules))
        package = pack_project(scan_project(project), Path(scratch) / "project.tar.gz")
        testbed.objects.put_if_absent(package.key, package.path)
    return {
        "code": testbed.objects.uri(package.key),
        "script": script,
        "args": [*arguments, "--megabytes", str(program.megabytes)],
        **({"docker": {"image": program.image}} if program.image else {}),
    }
