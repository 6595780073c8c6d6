"""`runctl sweep stop`: stop a sweep; its running trials save and end."""

from __future__ import annotations

import time
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated

import typer

from runctl.cli.commands.sweep.find import SweepName, find_sweep
from runctl.cli.commands.sweep.following import print_sweep
from runctl.cli.invocation import Invocation
from runctl.model.errors import NotFoundError, RunctlError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from runctl.cli.cloud import Cloud

CAUSE = "stopped by `runctl sweep stop`"
# A trial saves within its grace period and the upload that follows.
TIMEOUT = timedelta(minutes=10)


def stop(
    invocation: Invocation,
    sweep: SweepName,
    no_wait: Annotated[
        bool, typer.Option("--no-wait", help="Do not wait until the trials have ended.")
    ] = False,
) -> None:
    """Stop a sweep: no trial is started any more, and those that run save and end."""
    cloud = invocation.cloud
    group = find_sweep(cloud, sweep)
    if group.ended is not None:
        invocation.output.note(f"{sweep} has already ended ({group.ended.value})")
        print_sweep(invocation, cloud, group)
        return
    cloud.groups.request_stop(sweep)
    running = _counted(stop_trials(cloud, sweep))
    invocation.output.note(f"stopping {sweep}: {running} still running")
    if not no_wait:
        try:
            _wait(invocation, cloud, sweep)
        except KeyboardInterrupt:
            invocation.output.note(
                f"\n{sweep} continues to stop; see `runctl sweep status {sweep}`"
            )
            raise
    print_sweep(invocation, cloud, find_sweep(cloud, sweep))


def _counted(trials: Sequence[int]) -> str:
    return f"{len(trials)} trial{'s' if len(trials) != 1 else ''}"


def stop_trials(cloud: Cloud, sweep: str) -> list[int]:
    """Stop the execution of each trial that has begun; return their numbers."""
    stopped = []
    for trial in cloud.trials.list_trials(sweep):
        if trial.has_ended:
            continue
        run = cloud.ledger.find_run(trial.run_id)
        arn = cloud.workflow.execution_arn(trial.execution) if run is None else run.execution_arn
        try:
            cloud.workflow.stop_run(arn, cause=CAUSE)
        except NotFoundError:
            # It was about to be started, and is not any more; or it is started only now.
            continue
        stopped.append(trial.number)
    return stopped


def _wait(invocation: Invocation, cloud: Cloud, sweep: str) -> None:
    began = time.monotonic()
    with invocation.output.spinner("waiting for the trials to end") as update:
        while cloud.groups.find_group(sweep).ended is None:  # type: ignore[union-attr]
            if time.monotonic() - began > TIMEOUT.total_seconds():
                raise RunctlError(
                    f"{sweep} has not ended within {TIMEOUT.total_seconds() / 60:.0f} minutes; see "
                    f"`runctl sweep status {sweep}`"
                )
            # A trial that was just being started when the sweep was stopped is found now.
            running = stop_trials(cloud, sweep)
            update(f"waiting for {_counted(running)} to end" if running else "waiting")
            time.sleep(cloud.pause)
