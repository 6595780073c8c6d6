"""`runctl deploy`: install or upgrade runctl in an AWS account."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from runctl.application import cdk_environment, find_cdk, open_application, require_extra
from runctl.cli.invocation import Invocation
from runctl.model.errors import RefusedError, RequestError

if TYPE_CHECKING:
    from runctl.application import Application


def deploy(
    invocation: Invocation,
    arguments: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[CDK-OPTIONS]",
            help="Options of `cdk deploy`: -c name=NAME, --require-approval never.",
        ),
    ] = None,
    bootstrap: Annotated[
        bool,
        typer.Option(
            "--bootstrap",
            help="Run `cdk bootstrap` first, which each account and region needs once.",
        ),
    ] = False,
) -> None:
    """Deploy runctl into the account of your AWS credentials, with the AWS CDK.

    Updates the deployment that is there. Needs Node.js 20 and the extra `deploy`.
    """
    if invocation.local:
        raise RequestError("--local: not an option of deploy; `runctl local up` deploys there")
    require_extra("deploy")
    application = open_application()
    cdk = find_cdk(application)
    given = list(arguments or ())
    with tempfile.TemporaryDirectory(prefix="runctl-deploy-") as scratch:
        outputs = Path(scratch) / "outputs.json"
        if bootstrap:
            _run(invocation, application, [cdk, "bootstrap", *given])
        _run(
            invocation,
            application,
            [cdk, "deploy", "--all", "--outputs-file", str(outputs), *given],
        )
        stacks = json.loads(outputs.read_text()) if outputs.exists() else {}
    lines = [f"deployed: {', '.join(sorted(stacks))}"] if stacks else []
    invocation.output.result({"stacks": stacks}, *lines)


def _run(invocation: Invocation, application: Application, words: list[str]) -> None:
    """Run the CDK in this terminal; its output goes to stderr, as all progress does."""
    chosen = {"AWS_PROFILE": invocation.profile, "AWS_REGION": invocation.region}
    done = subprocess.run(
        words,
        cwd=application.folder,
        env=cdk_environment() | {name: value for name, value in chosen.items() if value},
        stdout=sys.stderr,
        check=False,
    )
    if done.returncode:
        step = f"cdk {words[1]}"
        raise RefusedError(f"{step} failed (exit code {done.returncode}); its messages are above")
