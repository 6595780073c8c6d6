"""The trainer's own side, `runctl.training` and its hooks, where every trainer can import it."""

import shutil
from pathlib import Path

import runctl

# A project's own `runctl` comes first, and one that is installed stays whole behind ours.
INIT = '''"""The trainer's side of runctl, put here by its agent."""

from pkgutil import extend_path

__path__ = extend_path([], __name__)
'''


def lay_out(folder: Path) -> Path:
    """Make `folder` hold `runctl.training` and `runctl.hooks` and nothing else; return it.

    What is there from an earlier agent is replaced. Raises OSError when it cannot be written.
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
