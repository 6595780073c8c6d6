"""`runctl aws evaluate`: evaluate a checkpoint, or each one as a run commits it."""

from __future__ import annotations

import inspect
from typing import Any

from runctl.cli.commands.aws.field_options import field_parameters
from runctl.cli.commands.aws.train import OWN_PARAMETERS, train
from runctl.cli.invocation import Invocation
from runctl.model.kinds import EVALUATE


def evaluate(invocation: Invocation, **options: Any) -> None:
    """Evaluate a checkpoint with a script, or each one as a run commits it.

    SCRIPT gets --checkpoint, --test-data and --output as local paths, whether they precede or
    follow it, and everything else that follows it unchanged. The metrics that it writes as a JSON
    object to metrics.json in $RUNCTL_OUTPUT_DIR become the result of the run; `runctl compare`
    shows those of several runs.
    """
    train(invocation, kind=EVALUATE, **options)


evaluate.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
    [*OWN_PARAMETERS, *field_parameters(kind=EVALUATE)]
)
