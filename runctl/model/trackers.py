"""Experiment trackers: the variables by which all attempts of a run are one run of theirs, too."""

import hashlib
import json
import re

from runctl.model.run import Run

# The field of a line of metrics by which a program names its run of MLflow.
MLFLOW_FIELD = "mlflow_run_id"
# Weights & Biases accepts ids of up to 64 characters, MLflow ids of up to 256.
_MAX_ID = 64
_MLFLOW_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,255}")


def wandb_run_id(run: Run) -> str:
    """Return a run's id for Weights & Biases: its name, and a suffix that is its own.

    Deployments may have runs of the same name, which may log to the same project.
    """
    # The start, which no later execution of the run changes.
    text = f"{run.run_id}\0{run.started_at.isoformat()}"
    digest = hashlib.sha256(text.encode()).hexdigest()[:8]
    return f"{run.run_id[: _MAX_ID - len(digest) - 1]}-{digest}"


def tracker_variables(run: Run) -> dict[str, str]:
    """Return the variables for trackers, the same in every attempt.

    MLflow refuses an id that its server does not know, so it gets that of its own run, which the
    program has reported.
    """
    variables = {"WANDB_RUN_ID": wandb_run_id(run), "WANDB_RESUME": "allow"}
    if run.mlflow_run:
        variables["MLFLOW_RUN_ID"] = run.mlflow_run
    return variables


def read_mlflow_run(line: str) -> str:
    """Return the run of MLflow that a line of metrics names, else an empty text."""
    if MLFLOW_FIELD not in line:
        return ""
    try:
        document = json.loads(line)
    except (ValueError, RecursionError):
        return ""
    named = document.get(MLFLOW_FIELD) if isinstance(document, dict) else None
    return named if isinstance(named, str) and _MLFLOW_ID.fullmatch(named) else ""
