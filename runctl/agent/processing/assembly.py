"""The assembly of a processing session from the parts of an attempt."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

from runctl.agent.contract import contract_with
from runctl.agent.parts import AttemptParts
from runctl.agent.prepare.prepared import Prepared
from runctl.agent.processing.session import ProcessingContext, ProcessingSession
from runctl.agent.processing.shard_folder import ShardFolder
from runctl.agent.reporting.metrics import MetricsShipper
from runctl.agent.runtime.environment import TrainerVariables
from runctl.agent.runtime.ports import Contract
from runctl.agent.runtime.training_path import lay_out
from runctl.model.outcome import Outcome
from runctl.model.run import Run

FLUSH = timedelta(seconds=10)


def process_shards(
    parts: AttemptParts,
    run: Run,
    prepared: Prepared,
    *,
    env: Mapping[str, str],
    credentials: Mapping[str, str],
) -> Outcome | None:
    """Process the shards of a run; return the outcome, None if a later attempt owns the run."""
    settings, request = parts.settings, run.request
    paths = settings.paths
    helper = lay_out(paths.state / "training-path")
    logs = [_log_files(paths.log, number) for number in range(request.process.workers)]
    for log in logs:
        for path in log:
            parts.follow(path)

    def contract_of(place: ShardFolder, worker: int, shards: int) -> Contract:
        variables = TrainerVariables(
            run_id=settings.run_id,
            attempt=settings.attempt,
            resume_step=None,
            checkpoint=place.checkpoint,
            inputs=place.inputs,
            outputs=place.outputs,
            metrics=paths.metrics,
            checkpoint_request=place.checkpoint_request,
            saved=place.saved,
            shard=place.number,
            shards=shards,
        )
        contract = contract_with(
            settings,
            request,
            prepared,
            env=env,
            credentials=credentials,
            variables=variables,
            helper=helper,
            resumes=place.has_checkpoint(),
        )
        output, errors = logs[worker]
        return replace(contract, output=output, errors=errors, is_one_of_many=True)

    metrics = MetricsShipper(
        parts.services.blobs, paths.metrics, parts.progress, node=settings.node
    )
    session = ProcessingSession(
        ProcessingContext(
            run_id=settings.run_id,
            attempt=settings.attempt,
            first_attempt=run.first_attempt,
            is_part=bool(request.process.shard_count),
            options=request.process,
            grace=timedelta(seconds=request.saving.checkpoint.grace_seconds),
            state=paths.state,
            store=parts.services.shards(request.group or settings.run_id)
            if request.process.shard_count
            else parts.services.shards(settings.run_id),
            inputs=parts.services.inputs,
            runtime=parts.runtime,
            contract_of=contract_of,
            progress=parts.progress,
            mailbox=parts.mailbox,
            mask=parts.mask,
        )
    )
    metrics.start()
    try:
        return session.run()
    finally:
        metrics.stop(within=FLUSH)


def _log_files(folder: Path, worker: int) -> tuple[Path, Path]:
    return folder / f"worker-{worker}.out", folder / f"worker-{worker}.err"
