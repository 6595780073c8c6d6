"""The contract that a program of an attempt is started with."""

import os
from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

from runctl.agent.instance.settings import Settings
from runctl.agent.prepare.container import ReadyContainer
from runctl.agent.prepare.prepared import Prepared
from runctl.agent.runtime.command_line import trainer_command
from runctl.agent.runtime.container_command import is_program
from runctl.agent.runtime.environment import (
    TrainerVariables,
    container_environment,
    trainer_environment,
)
from runctl.agent.runtime.ports import ContainerOptions, Contract, Mount
from runctl.agent.runtime.trainer_user import TrainerUser
from runctl.agent.runtime.training_path import lay_out
from runctl.agent.runtime.world import World
from runctl.model.errors import RequestError
from runctl.model.request import RunRequest
from runctl.model.trackers import tracker_variables

NO_PROGRAM = (
    "the image has neither CMD nor ENTRYPOINT, and the request names no script; add a CMD to the "
    "Dockerfile, or give a script"
)


def build_contract(
    settings: Settings,
    request: RunRequest,
    prepared: Prepared,
    *,
    env: Mapping[str, str],
    credentials: Mapping[str, str],
    port: int | None = None,
    world: World | None = None,
) -> Contract:
    """Return the contract of a program that starts from what was prepared.

    `env` are the request's variables with their secrets resolved, `port` is where a server is to
    listen, and `world` has the other nodes of a gang. Raises RequestError if the script cannot be
    run.
    """
    return contract_with(
        settings,
        request,
        prepared,
        env=env if port is None else {"PORT": str(port), **env},
        credentials=credentials,
        variables=replace(_variables(settings, request, prepared, port), world=world),
        helper=lay_out(settings.paths.state / "training-path"),
        resumes=prepared.restored is not None,
    )


def _variables(
    settings: Settings, request: RunRequest, prepared: Prepared, port: int | None
) -> TrainerVariables:
    paths, restored = settings.paths, prepared.restored
    return TrainerVariables(
        run_id=settings.run_id,
        attempt=settings.attempt,
        resume_step=None if restored is None else restored.manifest.step,
        checkpoint=prepared.checkpoint,
        partial=prepared.partial,
        inputs=paths.inputs if request.has_inputs else None,
        outputs=prepared.outputs or paths.output,
        tensorboard=None if prepared.run is None else paths.tensorboard,
        evaluated=prepared.subject,
        port=port,
        metrics=paths.metrics,
        checkpoint_request=paths.checkpoint_request,
        saved=paths.saved,
        trial=request.trial,
    )


def contract_with(
    settings: Settings,
    request: RunRequest,
    prepared: Prepared,
    *,
    env: Mapping[str, str],
    credentials: Mapping[str, str],
    variables: TrainerVariables,
    helper: Path,
    resumes: bool,
) -> Contract:
    """Return the contract of a program with these variables.

    `helper` is the folder from which it can import runctl's helper, and `resumes` says that there
    is a checkpoint to resume from.
    """
    paths, container, user = settings.paths, prepared.container, prepared.user
    trackers = {} if prepared.run is None else tracker_variables(prepared.run)
    # Those of the request, or of the image, take precedence.
    set_by_image = () if container is None else container.image.environment
    env = {name: value for name, value in trackers.items() if name not in set_by_image} | {**env}
    world = variables.world
    command = trainer_command(
        request,
        prepared.script,
        project=paths.project,
        python=container.python if container else str(prepared.environment / "bin/python"),
        variables=variables.as_environment(),
        resumes=resumes,
        world=world,
    )
    if world is not None:
        defaults = world.defaults()
        env = {name: value for name, value in defaults.items() if name not in set_by_image} | env
    if container is None:
        environment = trainer_environment(
            os.environ,
            env=env,
            variables=variables,
            environment=prepared.environment,
            project=paths.project,
            training_path=helper,
            has_credentials=bool(credentials),
            user=user,
        )
    else:
        environment = container_environment(
            os.environ,
            env=env,
            own=container.image.environment,
            variables=variables,
            project=paths.project if command else None,
            training_path=helper,
            has_credentials=bool(credentials),
            user=user if container.is_ours else None,
        )
    return Contract(
        command=tuple(command),
        environment=environment,
        credentials=credentials,
        working_folder=paths.project,
        checkpoint=variables.checkpoint,
        output=paths.trainer_output,
        errors=paths.trainer_errors,
        save_request=variables.checkpoint_request,
        grace=timedelta(seconds=request.saving.checkpoint.grace_seconds),
        written=tuple(_written(settings, variables, user)),
        owner=_owner(container, user),
        user=user,
        container=None
        if container is None
        else _options(
            settings, request, prepared, container, variables, helper, has_command=bool(command)
        ),
    )


def _owner(container: ReadyContainer | None, user: TrainerUser | None) -> tuple[int, int] | None:
    """Return the numbers of the user and the group that a program runs as, None for root."""
    if container is not None:
        return container.user
    return None if user is None else user.owner


def _written(
    settings: Settings, variables: TrainerVariables, user: TrainerUser | None
) -> list[Path]:
    """Return the files and folders that a program writes to."""
    paths = settings.paths
    written = [paths.project, variables.outputs, variables.metrics, variables.saved]
    written += [variables.checkpoint_request, *filter(None, [variables.partial])]
    if variables.world is not None:
        written.append(variables.world.pulses)
    if variables.tensorboard is not None and variables.outputs != paths.output:
        written.append(variables.tensorboard)  # otherwise it is inside that folder
    if user is not None:
        written.append(user.home)
    if paths.project not in variables.checkpoint.parents:
        written.append(variables.checkpoint)  # otherwise it is inside that folder
    return written


def _options(
    settings: Settings,
    request: RunRequest,
    prepared: Prepared,
    container: ReadyContainer,
    variables: TrainerVariables,
    helper: Path,
    *,
    has_command: bool,
) -> ContainerOptions:
    """Return the container: every folder is where it is on the machine, so that variables agree."""
    paths, image = settings.paths, container.image
    if not has_command and not (image.entry_point or image.command):
        raise RequestError(NO_PROGRAM)
    user = prepared.user if container.is_ours else None
    written = _written(settings, variables, user)
    mounts = [Mount(path, str(path)) for path in written if path != variables.checkpoint]
    keeps_folder = not has_command and bool(image.working_folder)
    folder = request.saving.checkpoint.dir
    if not folder:
        mounts.append(Mount(variables.checkpoint, str(variables.checkpoint)))
    elif keeps_folder:
        # The image's own copy of the project saves there.
        mounts.append(Mount(variables.checkpoint, str(Path(image.working_folder, folder))))
    read = [helper, *filter(None, [variables.inputs])]
    mounts += [Mount(path, str(path), is_read_only=True) for path in read]
    return ContainerOptions(
        image=image.image_id,
        mounts=tuple(mounts),
        user=container.user if container.is_ours else None,
        working_folder="" if keeps_folder else str(paths.project),
        replaces_entry_point=has_command and is_program(image.entry_point),
    )
