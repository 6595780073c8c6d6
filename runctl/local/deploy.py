"""The real `cdk bootstrap` and `cdk deploy`, on a local cloud."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path

from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from runctl.application import Application, cdk_environment, find_cdk
from runctl.local.client import LocalCloudClient
from runctl.local.core import private
from runctl.local.daemon import Endpoint
from runctl.model.errors import RunctlError

Progress = Callable[[str], None]
Outputs = dict[str, dict[str, str]]
_TAIL = 4000


class DeployError(RunctlError):
    """A CDK command failed; the message ends with its output."""


def deploy(
    endpoint: Endpoint,
    *,
    project: Path,
    cdk: str | None = None,
    progress: Progress | None = None,
    context: Mapping[str, str] | None = None,
    assembly: Path | None = None,
    enforce_iam: bool = True,
    warm_functions: bool = True,
) -> Outputs:
    """Deploy every stack of the CDK app in `project`, then enforce IAM.

    Returns the outputs of each stack by its name. `cdk` is the path of the CDK command line, by
    default the project's own. `progress` is called with each step; `context` is passed to the app
    (`-c key=value`); `assembly` is what `synthesize` made of it, otherwise that is done here.
    Deploying again updates the stacks. With `warm_functions`, every function is
    started in the background, so that its first call is not a cold start; those with large code of
    their own, which do not delay the start of a run, are not.
    """
    progress = progress or (lambda _: None)
    project = project.absolute()
    runner = _Cdk(endpoint, project, cdk or _cdk_of(project), progress)
    outputs = endpoint.home / "outputs.json"
    outputs.unlink(missing_ok=True)
    # They are independent: synthesis is Python's work, the bootstrap mostly waits.
    with ThreadPoolExecutor(max_workers=2) as both:
        bootstrapped = both.submit(runner.bootstrap)
        if assembly is None:
            assembly = endpoint.home / "cdk.out"
            both.submit(runner.synthesize, assembly, context or {}).result()
        bootstrapped.result()
    runner.run(
        "deploying the stacks",
        ["deploy", "--all", "--app", str(assembly), "--require-approval", "never"],
        ["--method", "direct", "--concurrency", "4", "--asset-parallelism"],
        ["--outputs-file", str(outputs), "--progress", "events"],
    )
    cloud = LocalCloudClient(endpoint.url, key=endpoint.keys.admin)
    if enforce_iam:
        cloud.enforce_iam()
    # after IAM is enforced: an environment keeps the credentials it started with
    if warm_functions:
        cloud.warm_functions()
    found: Outputs = json.loads(outputs.read_text()) if outputs.exists() else {}
    return found


def synthesize(
    endpoint: Endpoint, *, project: Path, assembly: Path, context: Mapping[str, str]
) -> None:
    """Synthesize the stacks of `project` into `assembly`, the same for every local cloud."""
    project = project.absolute()
    runner = _Cdk(endpoint, project, _cdk_of(project), lambda _: None)
    runner.synthesize(assembly, context)


def _cdk_of(project: Path) -> str:
    return find_cdk(Application(project, project))


class _Cdk:
    """Runs the project's CDK command line for one local cloud."""

    def __init__(self, endpoint: Endpoint, project: Path, command: str, progress: Progress) -> None:
        self._endpoint, self._project, self._progress = endpoint, project, progress
        self._command = command
        self._environment = _environment(endpoint, project)

    def bootstrap(self) -> None:
        if _has_bootstrap_stack(self._endpoint):
            return
        target = f"aws://{self._endpoint.account}/{self._endpoint.region}"
        # Outside the project; otherwise it would run the app to find the environments.
        self.run("bootstrapping", ["bootstrap", target], cwd=self._endpoint.home)

    def synthesize(self, assembly: Path, context: Mapping[str, str]) -> None:
        # Functions and agents run on this machine, with its Python.
        known = {
            "function_platform": f"{platform.machine()}-3.{sys.version_info[1]}",
            "bytecode": "true",
        }
        values = {**known, **context}
        pairs = [word for key, value in values.items() for word in ("-c", f"{key}={value}")]
        self.run("synthesizing the stacks", ["synth", "--quiet", "--output", str(assembly)], pairs)
        private.close(assembly)  # the CDK copies assets with their modes

    def run(self, step: str, *words: list[str], cwd: Path | None = None) -> None:
        self._progress(step)
        began = time.monotonic()
        done = subprocess.run(
            [self._command, "--no-notices", "--no-version-reporting", *chain.from_iterable(words)],
            cwd=cwd or self._project,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            check=False,
            umask=private.UMASK,
        )
        with private.append(self._endpoint.home / "deploy.log") as log:
            log.write(f"== {step}: {time.monotonic() - began:.1f} s\n{done.stdout}\n".encode())
        if done.returncode:
            raise DeployError(f"{step} failed:\n{done.stdout[-_TAIL:]}")


def _environment(endpoint: Endpoint, project: Path) -> dict[str, str]:
    kept = {key: value for key, value in cdk_environment().items() if not key.startswith("AWS_")}
    return {
        **kept,
        **endpoint.environment(),
        # Path style: a bucket's name cannot be resolved as a host here.
        "AWS_ENDPOINT_URL_S3": endpoint.url,
        "CDK_DEFAULT_ACCOUNT": endpoint.account,
        "CDK_DEFAULT_REGION": endpoint.region,
        "CI": "true",
        "FORCE_COLOR": "0",
        "PYTHONPATH": ":".join(filter(None, [str(project), kept.get("PYTHONPATH", "")])),
    }


def _has_bootstrap_stack(endpoint: Endpoint) -> bool:
    """Ask CloudFormation in a plain request: creating a client would take longer."""
    query = urllib.parse.urlencode(
        {"Action": "DescribeStacks", "StackName": "CDKToolkit", "Version": "2010-05-15"}
    )
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    signed = AWSRequest("POST", endpoint.url, headers, query)
    own = Credentials(endpoint.keys.access_key_id, endpoint.keys.secret_access_key)
    SigV4Auth(own, "cloudformation", endpoint.region).add_auth(signed)
    request = urllib.request.Request(  # noqa: S310 - always the local cloud
        endpoint.url, data=query.encode(), headers=dict(signed.headers)
    )
    try:
        with urllib.request.urlopen(request, timeout=10) as response:  # noqa: S310
            return b"_COMPLETE" in response.read()
    except urllib.error.HTTPError as exc:
        exc.close()
        return False
