"""The rendezvous of a gang: every node waits until all are ready, and then starts its part."""

import contextlib
import logging
import os
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from runctl.agent.gang.network import interface_of, reserve_port
from runctl.agent.gang.ports import GangView
from runctl.agent.gang.prints import (
    CHECKPOINT,
    explain_differences,
    oldest_checkpoint,
    print_of_checkpoint,
    take_prints,
)
from runctl.agent.instance.gpu import gpu_devices
from runctl.agent.instance.settings import Settings
from runctl.agent.prepare.prepared import Prepared
from runctl.agent.reporting.progress import Progress
from runctl.agent.runtime.command_line import needs_launcher
from runctl.agent.runtime.environment import base_environment
from runctl.agent.runtime.trainer_user import starting
from runctl.agent.runtime.world import World
from runctl.agent.signals.waiting import CHECK, CancellableWait
from runctl.beneath.changes import clear
from runctl.model.errors import RequestError
from runctl.model.gang import GangReport
from runctl.model.gang_options import GangOptions
from runctl.model.node import Node
from runctl.model.request import RunRequest

# While all wait for each other, a node should not be seconds behind.
HURRY = 1.0
USUAL = 3.0
SLOW_AFTER = 60.0
FIND_TORCH = "import importlib.util, sys; sys.exit(not importlib.util.find_spec('torch'))"
FIND_TIMEOUT = 60
NO_TORCH = (
    "the environment has no torch, whose launcher starts the processes of a run with several "
    "nodes; add torch to the project's dependencies, or give a command that starts them itself "
    "(MASTER_ADDR, MASTER_PORT, NODE_RANK, NNODES and NPROC_PER_NODE are in its environment)"
)

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class ReadyNode:
    """What a node brings to the rendezvous.

    `env` are the request's variables. `restore_before` restores the newest checkpoint that is not
    among some, and returns None if there is none.
    """

    request: RunRequest
    prepared: Prepared
    env: Mapping[str, str]
    restore_before: Callable[[Prepared, frozenset[str]], Prepared | None]


class Rendezvous:
    """Brings the nodes of an attempt together before their programs start."""

    def __init__(
        self,
        settings: Settings,
        view: GangView,
        *,
        progress: Progress,
        wait: CancellableWait,
    ) -> None:
        self._settings = settings
        self._view = view
        self._progress = progress
        self._wait = wait

    def is_active(self, options: GangOptions) -> bool:
        """Whether this node trains; those of higher ranks are spares."""
        return self._settings.rank < options.nodes

    def await_end(self) -> None:
        """Wait as a spare: its place in the gang is in a later attempt.

        Raises EndedEarlyError at the end of this one.
        """
        self._progress.enter("wait")
        logger.info("this node is a spare, and waits until another one is lost")
        self._wait.wait_until(lambda: False)

    def meet(self, ready: ReadyNode) -> tuple[World, Prepared]:
        """Report that this node is ready, and wait for all others; return its world.

        If another node could only restore an older checkpoint, this one goes back to it, and what
        it has prepared then is returned as well. Raises RequestError if the nodes cannot train
        together, and EndedEarlyError if the attempt ends before they are all there.
        """
        settings = self._settings
        paths = settings.paths
        request, prepared = ready.request, ready.prepared
        has_launcher = needs_launcher(request, prepared.script, paths.project)
        if has_launcher and prepared.container is None:
            self._wait.run_in_background(lambda: require_torch(prepared, paths.project, ready.env))
        devices = gpu_devices()
        processes = request.gang.processes_per_node or len(devices) or 1
        prints = self._wait.run_in_background(lambda: take_prints(settings, prepared))
        with contextlib.closing(reserve_port(settings.node)) as port:
            self._progress.report_gang(
                address=settings.address, port=port.getsockname()[1], processes=processes
            )
            prepared, nodes = self._agree(ready, prints)
        if problem := explain_differences(nodes):
            raise RequestError(f"the nodes cannot train together: {problem}")
        lead = _report_of(nodes[0])
        pulses = settings.paths.pulses
        pulses.mkdir(parents=True, exist_ok=True)
        clear(pulses)
        logger.info(
            "all %d nodes are ready; the rendezvous is at %s:%d",
            len(nodes),
            lead.address,
            lead.port,
        )
        world = World(
            rank=settings.rank,
            nodes=len(nodes),
            processes=processes,
            address=lead.address,
            port=lead.port,
            interface=interface_of(settings.address),
            has_gpus=bool(devices),
            pulses=pulses,
            has_launcher=has_launcher,
        )
        return world, prepared

    def _agree(self, ready: ReadyNode, prints: dict[str, str]) -> tuple[Prepared, tuple[Node, ...]]:
        """Wait until all are ready from the same checkpoint, the oldest that one of them has."""
        prepared = ready.prepared
        tried: frozenset[str] = frozenset()
        while True:
            self._progress.report_gang(prints=prints, is_ready=True)
            self._progress.enter("wait")
            nodes = self._await_nodes(ready.request.gang, prints[CHECKPOINT])
            oldest = oldest_checkpoint(nodes)
            if oldest is None or oldest >= prints[CHECKPOINT]:
                return prepared, nodes
            tried |= {prints[CHECKPOINT]}
            logger.warning("another node could only restore %s: so does this one", oldest)
            before = self._wait.run_in_background(partial(ready.restore_before, prepared, tried))
            if before is None or before.restored is None:
                return prepared, nodes
            prepared = before
            prints = prints | print_of_checkpoint(prepared)

    def _await_nodes(self, options: GangOptions, own: str) -> tuple[Node, ...]:
        """Wait until all active nodes are ready; return them in the order of their ranks.

        While the `own` checkpoint is the oldest, the others still go back to it.
        """
        self._view.interval = HURRY
        began, said = time.monotonic(), ""
        try:
            while True:
                attempt = self._view.attempt
                nodes = () if attempt is None else attempt.nodes[: options.nodes]
                missing = [node for node in nodes if not _report_of(node).is_ready]
                if nodes and not missing and oldest_checkpoint(nodes) != own:
                    return nodes
                waits = ", ".join(f"{node.rank} ({node.instance_id})" for node in missing)
                if waits != said and time.monotonic() - began >= SLOW_AFTER:
                    said = waits
                    logger.info("waiting for the nodes %s", waits)
                self._wait.pause(CHECK)
        finally:
            self._view.interval = USUAL


def _report_of(node: Node) -> GangReport:
    return node.progress.gang or GangReport()


def require_torch(prepared: Prepared, project: Path, env: Mapping[str, str]) -> None:
    """Raise RequestError if the environment has no torch, whose launcher starts the processes.

    `env` are the request's variables, which may name another folder with packages.
    """
    searched = {name: env[name] for name in ("PYTHONPATH",) if name in env}
    try:
        with starting(
            prepared.user,
            [str(prepared.environment / "bin/python"), "-c", FIND_TORCH],
            base_environment(os.environ, prepared.user) | searched,
        ) as start:
            done = subprocess.run(
                start.words,
                stdin=start.stdin,
                cwd=project,
                env=start.environment,
                capture_output=True,
                timeout=FIND_TIMEOUT,
                check=False,
            )
    except (OSError, subprocess.TimeoutExpired) as exc:
        logger.warning("the environment cannot be searched for torch: %s", exc)
        return
    if done.returncode == 1:
        raise RequestError(NO_TORCH)
