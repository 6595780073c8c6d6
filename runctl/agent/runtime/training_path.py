"""The folder from which every trainer can import `runctl.training` and its hooks."""

import shutil
from pathlib import Path

import runctl

# A project's own `runctl` precedes this one, and an installed one remains complete behind it.
INIT = '''"""The part of runctl that trainers import, put here by the agent."""

from pkgutil import extend_path

__path__ = extend_path([], __name__)
'''


def lay_out(folder: Path) -> Path:
    """Make `folder` contain `runctl.training` and `runctl.hooks` and nothing else; return it.

    The files of an earlier agent are replaced. Raises OSError if they cannot be written.
    """
    package = folder / "runctl"
    source = Path(runctl.__file__).parent
    shutil.rmtree(folder, ignore_errors=True)
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(INIT)
    shutil.copy(source / "training.py", package)
    hooks = shutil.ignore_patterns("__pycache__")
    shutil.copytree(source / "hooks", package / "hooks", ignore=hooks)
    return folder
