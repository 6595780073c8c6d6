"""The contract that a program of an attempt is started with."""

import os
from collections.abc import Mapping
from datetime import timedelta

from runctl.agent.instance.settings import Settings
from runctl.agent.prepare.preparation import Prepared
from runctl.agent.runtime.command_line import trainer_command
from runctl.agent.runtime.environment import TrainerVariables, trainer_environment
from runctl.agent.runtime.ports import Contract
from runctl.agent.runtime.training_path import lay_out
from runctl.model.request import RunRequest


def build_contract(
    settings: Settings,
    request: RunRequest,
    prepared: Prepared,
    *,
    env: Mapping[str, str],
    credentials: Mapping[str, str],
) -> Contract:
    """Return the contract of a program that starts from what was prepared.

    `env` are the request's variables with their secrets resolved. Raises RequestError if the script
    cannot be run.
    """
    paths, restored = settings.paths, prepared.restored
    variables = TrainerVariables(
        run_id=settings.run_id,
        attempt=settings.attempt,
        resume_step=None if restored is None else restored.manifest.step,
        checkpoint=prepared.checkpoint,
        partial=prepared.partial,
        inputs=paths.inputs if request.data.inputs else None,
        outputs=paths.output,
        metrics=paths.metrics,
        checkpoint_request=paths.checkpoint_request,
        saved=paths.saved,
    )
    environment = trainer_environment(
        os.environ,
        env=env,
        variables=variables,
        environment=prepared.environment,
        project=paths.project,
        training_path=lay_out(paths.state / "training-path"),
        has_credentials=bool(credentials),
    )
    command = trainer_command(
        request,
        prepared.script,
        project=paths.project,
        environment=prepared.environment,
        variables=variables.as_environment(),
        resumes=restored is not None,
    )
    return Contract(
        command=tuple(command),
        environment=environment,
        credentials=credentials,
        working_folder=paths.project,
        checkpoint=prepared.checkpoint,
        output=paths.trainer_output,
        errors=paths.trainer_errors,
        save_request=paths.checkpoint_request,
        grace=timedelta(seconds=request.saving.checkpoint.grace_seconds),
    )
