"""The agent's commands: `run` is the service; the others ask the service for something.

systemd and SSM start the others, often while EC2 is taking the instance: each command imports only
what it needs.
"""

import argparse
import os
import sys

from runctl.agent.instance.paths import Paths, read_paths
from runctl.agent.signals import request_files
from runctl.agent.signals.request_files import Request


def main(arguments: list[str] | None = None) -> int:
    """Run a command; return the exit status."""
    parser = argparse.ArgumentParser(prog="runctl-agent", description=__doc__)
    others = ["check", "find-trainer", "monitor", "registry-login"]
    parser.add_argument(
        "command", choices=["run", *(request.value for request in Request), *others]
    )
    parser.add_argument("action", nargs="?", default="")
    parsed = parser.parse_args(arguments)
    command = parsed.command
    paths = read_paths()
    if command == "registry-login":
        return log_in(paths, parsed.action)
    if command == "check":
        return check()
    if command in others:
        from runctl.agent.monitor.service import run as run_monitor

        return run_monitor(command, paths)
    if command != "run":
        deadline = os.environ.get(request_files.DEADLINE, "")
        request_files.write(paths.requests, Request(command), deadline=deadline)
        return 0
    return run(paths)


def run(paths: Paths) -> int:
    """Run the service until its attempt has ended."""
    from runctl.agent.instance.claim import read_claim
    from runctl.aws.instance_access import open_access

    access = open_access(claim=read_claim)
    # The function that issues credentials answers in the time that these modules take to load.
    from runctl.agent import service

    return service.run(paths, access)


def check() -> int:
    """Print what keeps this instance from running an attempt: permissions of its role."""
    from runctl.aws.instance_access import credentials_function
    from runctl.aws.permissions import find_problem

    problem = find_problem(credentials_function())
    if problem:
        print(problem, file=sys.stderr)
    return 1 if problem else 0


def log_in(paths: Paths, action: str) -> int:
    """Answer the Docker client, which reads the result and the error from the output."""
    from runctl.agent.prepare.registry_login import answer_helper
    from runctl.aws.instance_access import open_access
    from runctl.aws.registry_tokens import RegistryTokens
    from runctl.model.errors import RunctlError

    tokens = RegistryTokens(
        lambda service, region: open_access().clients(region=region).get(service)
    )
    host = sys.stdin.read().strip()
    region = os.environ.get("RUNCTL_REGION") or os.environ.get("AWS_DEFAULT_REGION", "")
    try:
        print(answer_helper(paths.docker_config, action, host, tokens, region=region))
    except RunctlError as exc:
        print(f"{type(exc).__name__}: {exc}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
