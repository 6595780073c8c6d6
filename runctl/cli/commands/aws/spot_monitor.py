"""`runctl aws spot-monitor`: checkpoints of a training process that runctl did not start."""

from __future__ import annotations

import re
from typing import Annotated

import typer

from runctl.cli.commands.aws.machines import find_machine, run_command, wait_for_registration
from runctl.cli.invocation import Invocation
from runctl.model.errors import InvalidRequestError, Problem, RequestError

# What the SSM document accepts; it puts them between the quotes of a shell.
URI = re.compile(r"s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/[\w!.*()/=+-]*)?")


FOLDER = re.compile(r"/[\w. /=+-]*")


SETTING = re.compile(r'(MONITOR_\w+)="?(.*?)"?')


ESCAPED = re.compile(r'\\(["\\`$])')


def spot_monitor(
    invocation: Invocation,
    instance: Annotated[str, typer.Argument(metavar="INSTANCE", help="The instance's id: i-….")],
    upload_to_s3: Annotated[
        str, typer.Option(metavar="URI", help="Where to: s3://bucket or s3://bucket/prefix.")
    ] = "",
    auto_save_checkpoint: Annotated[
        bool,
        typer.Option(
            "--auto-save-checkpoint",
            help="At a notice send the process SIGTERM, so that it saves. One that does not handle "
            "SIGTERM dies of it; what it saved before is uploaded either way.",
        ),
    ] = False,
    pid: Annotated[
        int, typer.Option(metavar="PID", min=0, help="The process (default: look for it).")
    ] = 0,
    checkpoint_dir: Annotated[
        str,
        typer.Option(
            metavar="DIR", help="Where it saves, on the instance (default: look for that too)."
        ),
    ] = "",
    stop: Annotated[bool, typer.Option("--stop", help="Stop watching.")] = False,
) -> None:
    """Watch over a training process on an instance: upload what it saves, and act on a notice."""
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
            {"instance_id": instance, "watching": False}, f"{instance} is not watched any more"
        )
        return
    with invocation.output.spinner(f"looking for the training process on {instance}"):
        said = run_command(
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
    _tell(invocation, instance, said)


def _check(uri: str, folder: str, *, stop: bool) -> None:
    problems = []
    if not stop and not URI.fullmatch(uri):
        problems.append(Problem("--upload-to-s3", f"{uri!r} is no s3://bucket/prefix"))
    if folder and not FOLDER.fullmatch(folder):
        problems.append(
            Problem(
                "--checkpoint-dir",
                f"{folder!r} is no absolute path on the instance, of letters, digits and ._ /=+-",
            )
        )
    if problems:
        raise InvalidRequestError(tuple(problems))


def _tell(invocation: Invocation, instance: str, said: str) -> None:
    matches = (SETTING.fullmatch(line.strip()) for line in said.splitlines())
    found: dict[str, str] = {one[1]: ESCAPED.sub(r"\1", one[2]) for one in matches if one}
    ends_it = found.get("MONITOR_SIGTERM") == "yes"
    at_a_notice = (
        "At a notice it gets SIGTERM, and what it leaves is uploaded."
        if ends_it
        else "At a notice it is left alone; with --auto-save-checkpoint it would get SIGTERM."
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
        f"watching process {found.get('MONITOR_PID')} on {instance}: whatever settles in {folder} "
        f"goes to {uri}\n{at_a_notice}\nits log: {log}\n"
        f"stop it: runctl aws spot-monitor {instance} --stop{invocation.flag}",
    )
