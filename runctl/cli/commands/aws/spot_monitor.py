"""`runctl aws spot-monitor`: upload checkpoints of a process that runctl did not start."""

from __future__ import annotations

import re
from typing import Annotated

import typer

from runctl.cli.commands.aws.machines import find_machine, run_command, wait_for_registration
from runctl.cli.invocation import Invocation
from runctl.model.errors import InvalidRequestError, Problem, RequestError

# The patterns of the SSM document, which inserts the values between a shell's quotation marks.
URI = re.compile(r"s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/[\w!.*()/=+-]*)?")
FOLDER = re.compile(r"/[\w. /=+-]*")
SETTING = re.compile(r'(MONITOR_\w+)="?(.*?)"?')
ESCAPED = re.compile(r'\\(["\\`$])')


def spot_monitor(
    invocation: Invocation,
    instance: Annotated[str, typer.Argument(metavar="INSTANCE", help="The instance's id: i-….")],
    upload_to_s3: Annotated[
        str, typer.Option(metavar="URI", help="Destination: s3://bucket or s3://bucket/prefix.")
    ] = "",
    auto_save_checkpoint: Annotated[
        bool,
        typer.Option(
            "--auto-save-checkpoint",
            help="Send the process SIGTERM at an interruption notice, so that it saves. A process "
            "that does not handle SIGTERM is killed by it; earlier saves are uploaded either way.",
        ),
    ] = False,
    pid: Annotated[
        int,
        typer.Option(
            metavar="PID",
            min=0,
            show_default=False,
            help="The process to monitor (default: find it).",
        ),
    ] = 0,
    checkpoint_dir: Annotated[
        str,
        typer.Option(
            metavar="DIR", help="Where it saves, on the instance (default: find the folder)."
        ),
    ] = "",
    stop: Annotated[bool, typer.Option("--stop", help="Stop monitoring.")] = False,
) -> None:
    """Monitor a training process on an instance: upload its saves, and react to a notice."""
    _check(upload_to_s3, checkpoint_dir, stop=stop)
    cloud = invocation.cloud
    machine = find_machine(cloud, instance)
    if not machine.is_live:
        raise RequestError(f"{instance} is {machine.state}")
    wait_for_registration(invocation, cloud, instance)
    document = cloud.deployment.monitor_document
    if stop:
        run_command(cloud, instance, document=document, action="unmonitor")
        invocation.output.result(
            {"instance_id": instance, "watching": False}, f"stopped monitoring {instance}"
        )
        return
    with invocation.output.spinner(f"looking for the training process on {instance}"):
        output = run_command(
            cloud,
            instance,
            document=document,
            action="monitor",
            parameters={
                "uri": upload_to_s3,
                "pid": str(pid or ""),
                "folder": checkpoint_dir,
                "sigterm": "yes" if auto_save_checkpoint else "no",
            },
        )
    _report(invocation, instance, output)


def _check(uri: str, folder: str, *, stop: bool) -> None:
    problems = []
    if not stop and not URI.fullmatch(uri):
        problems.append(Problem("--upload-to-s3", f"{uri!r} is not of the form s3://bucket/prefix"))
    if folder and not FOLDER.fullmatch(folder):
        problems.append(
            Problem(
                "--checkpoint-dir",
                f"{folder!r} is not an absolute path of letters, digits, spaces and ._/=+-",
            )
        )
    if problems:
        raise InvalidRequestError(tuple(problems))


def _report(invocation: Invocation, instance: str, output: str) -> None:
    """Report the settings that the monitor printed when it started."""
    matches = (SETTING.fullmatch(line.strip()) for line in output.splitlines())
    found: dict[str, str] = {match[1]: ESCAPED.sub(r"\1", match[2]) for match in matches if match}
    ends_it = found.get("MONITOR_SIGTERM") == "yes"
    at_a_notice = (
        "At a notice it receives SIGTERM, and its last save is uploaded."
        if ends_it
        else "At a notice it receives no signal; with --auto-save-checkpoint it receives SIGTERM."
    )
    uri, folder = found.get("MONITOR_URI", ""), found.get("MONITOR_DIR", "")
    log = f"aws ssm start-session --target {instance}, then journalctl -u runctl-monitor"
    invocation.output.result(
        {
            "instance_id": instance,
            "watching": True,
            "pid": int(found.get("MONITOR_PID") or 0),
            "checkpoint_dir": folder,
            "upload_to_s3": uri,
            "sigterm_at_notice": ends_it,
        },
        f"monitoring process {found.get('MONITOR_PID')} on {instance}: files in {folder} are "
        f"uploaded to {uri} once they are complete\n{at_a_notice}\nlog: {log}\n"
        f"to stop: `runctl aws spot-monitor {instance} --stop`",
    )
