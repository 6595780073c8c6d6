"""`runctl aws connect`: a local port that reaches a service, wherever it runs."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated

import typer

from runctl.cli.invocation import Invocation

if TYPE_CHECKING:
    from collections.abc import Sequence

    from runctl.model.run import Run

POLL_SECONDS = 1.0


def connect(
    invocation: Invocation,
    run: Annotated[str, typer.Argument(metavar="RUN", help="The service.")],
    local_port: Annotated[
        int | None,
        typer.Option(
            "--local-port",
            metavar="N",
            help="Port of this machine to listen on (default: that of the service).",
            min=1,
            max=65535,
        ),
    ] = None,
) -> None:
    """Make a service reachable on a port of this machine, until Ctrl-C.

    Connections are forwarded through SSM, so no port of the instance is public. When the instance
    is replaced, requests go to the new one; requests that arrive meanwhile wait.
    """
    from runctl.cli.proxy.server import check_port, serve
    from runctl.cli.proxy.targets import RunOver, Targets
    from runctl.cli.proxy.tunnel import find_plugin
    from runctl.model.errors import RunEndedError

    cloud, output = invocation.cloud, invocation.output
    found = _find_service(invocation, run)
    port = local_port or found[0].request.serve.port
    check_port(port)
    plugin = find_plugin(is_local=invocation.local, profile=invocation.profile)
    for each in found:
        if each.ended is not None:
            _start_again(invocation, each)
    url = f"http://127.0.0.1:{port}"

    def on_listening() -> None:
        output.result({"run_id": run, "url": url}, f"{url} reaches {run}; Ctrl-C ends this")

    def make_targets() -> Targets:
        return Targets(
            cloud.ledger,
            cloud.sessions,
            plugin,
            run_ids=[each.run_id for each in found],
            pause=min(cloud.pause, POLL_SECONDS),
            announce=output.note,
        )

    try:
        asyncio.run(serve(make_targets, port=port, on_listening=on_listening))
    except RunOver as exc:
        raise RunEndedError(
            f"{exc}; {_how_to_start_again([each.run_id for each in found])}"
        ) from exc
    except asyncio.CancelledError:
        output.note("ended")


def _find_service(invocation: Invocation, name: str) -> list[Run]:
    """Return the runs of a service, of which none has ended unless because nobody used it.

    With replicas they are those replicas that have not ended.
    """
    from runctl.cli.commands.aws.replicas import replica_name
    from runctl.model.errors import RunEndedError
    from runctl.model.serving_options import IDLE

    ledger = invocation.cloud.ledger
    first = ledger.find_run(replica_name(name, 1))
    if first is None or ledger.find_run(name) is not None:
        return [_find_run(invocation, name)]
    numbers = range(1, first.request.serve.replicas + 1)
    found = [ledger.find_run(replica_name(name, number)) for number in numbers]
    live = [
        run
        for run in found
        if run is not None and (run.ended is None or run.reason.startswith(IDLE))
    ]
    if not live:
        names = [run.run_id for run in found if run is not None]
        how = _how_to_start_again(names)
        raise RunEndedError(f"all replicas of {name} have ended; {how}")
    return live


def _how_to_start_again(run_ids: Sequence[str]) -> str:
    """Return the remedy for a service whose runs have ended: each is resumed by its own name."""
    from runctl.cli.commands.aws.replicas import listed

    commands = listed(f"`runctl resume {run_id}`" for run_id in run_ids)
    return f"start it again with {commands}"


def _find_run(invocation: Invocation, run_id: str) -> Run:
    from runctl.model.errors import NotFoundError, RequestError, RunEndedError
    from runctl.model.kinds import policy_of
    from runctl.model.serving_options import IDLE

    run = invocation.cloud.ledger.find_run(run_id)
    if run is None:
        raise NotFoundError(f"there is no run {run_id}; see `runctl list`")
    if not policy_of(run.request.kind).becomes_ready:
        raise RequestError(f"{run_id} is a run of the kind {run.request.kind}, not a service")
    if run.ended is not None and not run.reason.startswith(IDLE):
        raise RunEndedError(
            f"{run_id} has ended: {run.ended.value}; {run.reason}; {_how_to_start_again([run_id])}"
        )
    return run


def _start_again(invocation: Invocation, run: Run) -> None:
    """Continue a service that was stopped because nobody used it."""
    import time

    from runctl.cli.commands.resume import start_next_execution
    from runctl.model.errors import RunctlError

    cloud = invocation.cloud
    name, arn = start_next_execution(cloud, run, is_fresh=False)
    invocation.output.note(f"{run.run_id} was stopped: {run.reason}; {name} starts it again")
    while True:
        held = cloud.ledger.find_run(run.run_id)
        if held is not None and held.execution == name:
            return
        if not cloud.workflow.is_running(arn):
            raise RunctlError(f"{name} has ended; see `runctl status {run.run_id}`")
        time.sleep(cloud.pause)
