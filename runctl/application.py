"""The CDK application of runctl: where its files are, and the CDK command line that deploys it.

A checkout of the repository is the application. A wheel carries it inside the package, in
`cdk_app`, which may not be writable after installation. There, the CDK runs in a folder of the
user's own, which receives `cdk.out`, `cdk.context.json` and the assets.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from runctl.model.errors import SetupError

# Modules that represent the packages of each optional dependency.
_EXTRAS: Mapping[str, tuple[str, ...]] = {
    "deploy": ("aws_cdk", "cdk_nag", "pip", "yaml"),
    "local": ("hypercorn", "ministack", "psutil"),
}
_NODE_MISSING = (
    "{program} is not on the PATH: install Node.js 20 or newer, on which the AWS CDK runs"
)


@dataclass(frozen=True)
class Application:
    """The files of the application, and the folder in which the CDK runs.

    `sources` holds app.py, cdk.json, package.json and the folders stacks, lambdas,
    instance_scripts and examples; `folder` has a cdk.json that names them.
    """

    sources: Path
    folder: Path


def open_application() -> Application:
    """Return the application of this runctl, ready for the CDK."""
    package = Path(__file__).resolve().parent
    checkout = package.parent
    if (checkout / "cdk.json").exists():
        return Application(checkout, checkout)
    sources = package / "cdk_app"
    folder = Path.home() / ".local/state/runctl/cdk"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    settings = json.loads((sources / "cdk.json").read_text())
    settings["app"] = f'"{sys.executable}" "{sources / "app.py"}"'
    _write(folder / "cdk.json", json.dumps(settings, indent=2))
    return Application(sources, folder)


def require_extra(name: str) -> None:
    """Raise SetupError, with the remedy, if an optional dependency is not installed."""
    missing = [module for module in _EXTRAS[name] if importlib.util.find_spec(module) is None]
    if missing:
        raise SetupError(
            f"the optional dependency `{name}` of runctl is not installed (missing: "
            f"{', '.join(missing)}); install runctl[{name}]"
        )


def find_cdk(application: Application) -> str:
    """Return the path of the CDK command line; raise SetupError if there is none.

    The first of: `node_modules` in the application's folder or above it, the PATH, and, for an
    installed application, the version that runctl is tested with, which npm installs.
    """
    if shutil.which("node") is None:
        raise SetupError(_NODE_MISSING.format(program="node"))
    for folder in (application.folder, *application.folder.parents):
        if command := _command_in(folder):
            return command
    return shutil.which("cdk") or _install_cdk(application)


def cdk_environment() -> dict[str, str]:
    """Return the variables of a CDK process: this Python first, and neither banners nor reports."""
    python = str(Path(sys.executable).parent)
    return {
        **os.environ,
        "CDK_DISABLE_CLI_TELEMETRY": "true",
        "CDK_DISABLE_VERSION_CHECK": "true",
        # A list of versions, not a switch.
        "JSII_SILENCE_WARNING_END_OF_LIFE_NODE_VERSION": "18,20,22",
        "JSII_SILENCE_WARNING_UNTESTED_NODE_VERSION": "1",
        "NODE_NO_WARNINGS": "1",
        "PATH": os.pathsep.join([python, os.environ.get("PATH", "")]),
    }


def _command_in(folder: Path) -> str | None:
    return shutil.which("cdk", path=str(folder / "node_modules/.bin"))


def _install_cdk(application: Application) -> str:
    if application.folder == application.sources:
        raise SetupError(
            f"there is no node_modules/.bin/cdk in {application.folder} or above: run `npm ci`"
        )
    package = json.loads((application.sources / "package.json").read_text())
    folder = application.folder / f"cdk-{package['dependencies']['aws-cdk']}"
    if command := _command_in(folder):
        return command
    npm = shutil.which("npm")
    if npm is None:
        raise SetupError(_NODE_MISSING.format(program="npm"))
    folder.mkdir(exist_ok=True)
    for name in ("package.json", "package-lock.json"):
        shutil.copyfile(application.sources / name, folder / name)
    done = subprocess.run(
        [npm, "ci", "--omit=dev", "--silent", "--no-fund", "--no-audit"],
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
    )
    command = _command_in(folder)
    if done.returncode or command is None:
        raise SetupError(f"npm cannot install the AWS CDK into {folder}:\n{done.stdout.strip()}")
    return command


def _write(path: Path, text: str) -> None:
    """Replace a file atomically: another deployment may be reading it."""
    partial = path.with_name(f"{path.name}.{os.getpid()}")
    partial.write_text(text)
    partial.replace(path)
