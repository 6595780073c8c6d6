"""`runctl sweep best`: the best trial so far."""

from __future__ import annotations

from runctl.cli.commands.sweep.find import SweepName, find_sweep
from runctl.cli.display.sweep_page import best_text
from runctl.cli.invocation import Invocation
from runctl.model.errors import NotFoundError, RequestError
from runctl.model.sweep_results import trial_entry
from runctl.report.sweep_document import read_sweep


def best(invocation: Invocation, sweep: SweepName) -> None:
    """Print the best trial of a sweep so far; its run has the checkpoints."""
    cloud = invocation.cloud
    document = read_sweep(cloud, find_sweep(cloud, sweep), reads_runs=False)
    if not document.options.metric:
        raise RequestError(f"{sweep} has no metric to compare trials by; start it with --metric")
    found = document.best
    if found is None:
        raise NotFoundError(
            f"no trial of {sweep} has been completed with a value of {document.options.metric}; "
            f"see `runctl sweep status {sweep}`"
        )
    run = cloud.ledger.find_run(found.run_id)
    parts = [best_text(found, document.options)]
    if run is not None and run.newest:
        parts.append(f"its newest checkpoint: `runctl checkpoints pull {found.run_id}`")
    invocation.output.result(
        {"sweep": sweep, "metric": document.options.metric, **trial_entry(found)},
        "\n".join(parts),
    )
