"""`runctl demo`: a run that is interrupted three times, on a local cloud of its own."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from runctl.application import Application, find_cdk, open_application, require_extra
from runctl.cli.display.console import open_console
from runctl.cli.invocation import Invocation
from runctl.cli.project.package import pack_project
from runctl.cli.project.scan import scan_project
from runctl.local import daemon
from runctl.local.deploy import deploy
from runctl.local.drill import EPOCHS, Drill
from runctl.local.testbed import Testbed
from runctl.report.run_document import RunDocument, document_of

if TYPE_CHECKING:
    from rich.console import RenderableType

    from runctl.local.drill import DrillResult
    from runctl.model.run import Attempt, Run


RUN_NAME = "demo"
SCRIPT = "training/train_mnist.py"


Keep = Annotated[
    bool,
    typer.Option("--keep", help="Keep the local cloud running, to inspect it with `--local`."),
]


def demo(invocation: Invocation, keep: Keep = False) -> None:
    """Train on the local cloud through three interruptions, to bit-for-bit the same result.

    Deploys the real template to a local cloud, needs no AWS account, and takes under 90 seconds.
    """
    began = time.monotonic()
    require_extra("local")
    require_extra("deploy")
    application = open_application()
    view = DemoDisplay(began, quiet=invocation.output.as_json)
    with tempfile.TemporaryDirectory(prefix="runctl-demo-") as scratch:
        home = None if keep else Path(scratch) / "cloud"
        result = perform(application, home, view, packed=Path(scratch) / "project.tar.gz")
    seconds = time.monotonic() - began
    document = result.as_document(seconds=seconds)
    invocation.output.result(document, "", table_of(result), "", *closing(result, seconds))
    if not result.identical:
        raise typer.Exit(1)


def perform(
    application: Application, home: Path | None, view: DemoDisplay, *, packed: Path
) -> DrillResult:
    """Start a local cloud, deploy to it, and run the drill; `home` None keeps the cloud running."""
    with view:
        cdk = find_cdk(application)
        view.announce("starting a local cloud")
        endpoint = daemon.start(home, die_with_parent=home is not None)
        try:
            deploy(
                endpoint,
                project=application.folder,
                cdk=cdk,
                progress=lambda step: view.announce(f"cdk: {step}"),
            )
            testbed = Testbed(endpoint)
            code = upload_examples(testbed, application.sources / "examples", packed)
            name = RUN_NAME if home is not None else f"{RUN_NAME}-{os.getpid()}"
            drill = Drill(testbed, announce=view.announce, show=view.show)
            return drill.perform(code, script=SCRIPT, name=name)
        finally:
            if home is not None:
                view.announce("stopping the local cloud")
                daemon.stop(home)


def upload_examples(testbed: Testbed, folder: Path, packed: Path) -> str:
    """Pack the examples as a project, the way `runctl aws train` does, and upload them."""
    package = pack_project(scan_project(folder), packed)
    testbed.objects.put_if_absent(package.key, package.path)
    return testbed.objects.uri(package.key)


@dataclass
class DemoDisplay:
    """The live view of the demo: its events line by line, and below them the state of the run.

    Without a terminal, or with --json, only the lines are printed.
    """

    began: float
    quiet: bool = False
    run: RunDocument | None = None
    event: str = ""
    _live: Any = field(default=None, repr=False)
    _print: Callable[..., None] = field(default=lambda *_: None, repr=False)

    def __enter__(self) -> DemoDisplay:
        console = open_console(stderr=True)
        self._print = console.print
        if console.is_terminal and not self.quiet:
            self._live = Live(
                console=console, get_renderable=self.render, refresh_per_second=8, transient=True
            )
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def announce(self, event: str) -> None:
        """Print an event."""
        self.event = event
        elapsed = time.monotonic() - self.began
        style = "bold yellow" if event.startswith("EC2 takes") else ""
        self._print(Text.assemble((f"{elapsed:6.1f} s  ", "dim"), (event, style)))

    def show(self, run: Run, attempts: Sequence[Attempt]) -> None:
        """Update the state of the run."""
        self.run = document_of(run, attempts, now=datetime.now(timezone.utc))

    def render(self) -> RenderableType:
        """Return the view below the events."""
        if self.run is None:
            return Spinner("dots", text=f" {self.event} …", style="cyan")
        grid = Table.grid(padding=(0, 2))
        step = self.run.entry.step or 0
        grid.add_row("run", self.run.run_id, self.run.status.value, f"epoch {step}/{EPOCHS}")
        for attempt in self.run.timeline:
            state = attempt.stage.value if attempt.kind is None else attempt.kind.value
            phase = attempt.phase if attempt.is_live else ""
            grid.add_row(f"attempt {attempt.number}", attempt.pool, state, phase)
        return Group("", grid, ProgressBar(total=EPOCHS, completed=step, width=60))


def table_of(result: DrillResult) -> RenderableType:
    """Return the attempts as a table."""
    table = Table(title=None, header_style="bold")
    for heading in ("#", "pool", "outcome", "interrupted"):
        table.add_column(heading)
    for heading in ("epochs", "lost", "change-over", "machine", "cost", "on demand"):
        table.add_column(heading, justify="right")
    for row in result.rows:
        table.add_row(
            str(row.attempt),
            row.pool,
            row.outcome,
            row.interrupted,
            f"{(row.resumed_from or 0) + 1}-{row.trained_to or ''}",
            str(row.steps_lost) if row.interrupted else "",
            f"{row.changeover_s:.1f} s" if row.changeover_s is not None else "",
            f"{row.machine_s:.0f} s",
            f"${row.cost_usd:.5f}",
            f"${row.on_demand_usd:.5f}",
        )
    return table


def closing(result: DrillResult, seconds: float) -> list[str]:
    """Return the last lines of the demo."""
    spot = sum(row.cost_usd for row in result.rows)
    listed = sum(row.on_demand_usd for row in result.rows)
    verdict = "bit for bit those" if result.identical else "NOT those"
    lines = [
        (
            f"The final weights are {verdict} of an uninterrupted run "
            f"(sha256 {result.weights_sha256[:16]}, accuracy {result.accuracy:.2%})."
        ),
        (
            f"Repeated: {result.steps_lost} epochs. "
            f"Instance time at the pools' spot prices: ${spot:.5f}; at on-demand list prices: "
            f"${listed:.5f}."
        ),
    ]
    return [*lines, f"{seconds:.0f} seconds, deployment included."]
