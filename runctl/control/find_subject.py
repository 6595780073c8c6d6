"""The checkpoint of another run that a run evaluates: found, and kept for it."""

from runctl.control.ports.services import Services
from runctl.control.ports.storage import Checkpoints
from runctl.model.checkpoint import Manifest, name_of
from runctl.model.errors import DamagedCheckpointError, NewerCheckpointError, Problem, RequestError
from runctl.model.evaluation_options import EvaluationOptions, RunReference
from runctl.model.run import Run
from runctl.model.subject import Subject, subject_of

MAX_SHOWN = 20


def survey_evaluation(
    services: Services, evaluation: EvaluationOptions
) -> tuple[Subject | None, list[Problem]]:
    """Return the checkpoint of a run that is to be evaluated, and what is wrong with the request.

    There is none for a checkpoint that is an input, or if every one of a run is evaluated.
    """
    subject, problems = None, []
    try:
        subject = find_subject(services, evaluation)
    except RequestError as exc:
        problems.append(Problem("evaluate.checkpoint", str(exc)))
    output = evaluation.output_prefix
    if output and (problem := services.objects.problem_with_writing(output)):
        problems.append(Problem("evaluate.output", problem))
    return subject, problems


def find_subject(services: Services, evaluation: EvaluationOptions) -> Subject | None:
    """Return the checkpoint; raises RequestError, with the remedy, if there is none."""
    reference = evaluation.reference
    if reference is None:
        return None
    run = services.ledger.find_run(reference.run_id)
    if run is None:
        raise RequestError(
            f"there is no run {reference.run_id}; `runctl list` shows the runs of this deployment"
        )
    if run.newest is None and (run.ended is not None or not evaluation.every_checkpoint):
        raise RequestError(_without_checkpoint(run))
    if evaluation.every_checkpoint:
        return None
    store = services.checkpoints(run.run_id)
    if reference.step is None:
        return _newest(store, run)
    return _of_step(store, run, reference)


def keep_subject(services: Services, subject: Subject, *, by: str) -> None:
    """Keep a checkpoint for the run that evaluates it; RequestError if it is gone."""
    services.ledger.pin_checkpoint(subject.run_id, subject.key, by=by)
    # Retention may have removed it just before.
    try:
        services.checkpoints(subject.run_id).get_manifest(subject.key)
    except DamagedCheckpointError as exc:
        services.ledger.remove_pins(subject.run_id, by=by)
        raise RequestError(
            f"the checkpoint of {subject.name} of {subject.run_id} was removed: {exc}; choose a "
            f"checkpoint that `runctl checkpoints {subject.run_id}` lists"
        ) from exc


def release_subjects(services: Services, run: Run) -> None:
    """Give up the checkpoints that were kept for an evaluation; the run has ended."""
    if (reference := run.request.evaluate.reference) is not None:
        services.ledger.remove_pins(reference.run_id, by=run.run_id)


def _without_checkpoint(run: Run) -> str:
    if run.ended is not None:
        return f"the run {run.run_id} has ended without a checkpoint"
    return (
        f"the run {run.run_id} has no checkpoint yet; wait for the first one, or evaluate each of "
        "them as it is committed (every_checkpoint)"
    )


def _newest(store: Checkpoints, run: Run) -> Subject:
    key = run.newest or ""
    try:
        manifest = store.get_manifest(key)
    except NewerCheckpointError as exc:
        raise RequestError(f"the newest checkpoint of {run.run_id}: {exc}") from exc
    except DamagedCheckpointError as exc:
        raise RequestError(
            f"the newest checkpoint of {run.run_id} is damaged ({exc}); name the step of an "
            f"earlier one, which `runctl checkpoints {run.run_id}` lists: run:{run.run_id}@STEP"
        ) from exc
    return subject_of(key, manifest)


def _of_step(store: Checkpoints, run: Run, reference: RunReference) -> Subject:
    known: list[Manifest] = []
    for key in store.manifest_keys():
        try:
            manifest = store.get_manifest(key)
        except DamagedCheckpointError:
            continue
        # A save that was not committed is not a checkpoint of the run.
        if manifest.save > run.save:
            continue
        if manifest.step == reference.step:
            return subject_of(key, manifest)
        known.append(manifest)
    names = list(dict.fromkeys(name_of(found.step, found.save) for found in known))
    more = f" and {len(names) - MAX_SHOWN} more" if len(names) > MAX_SHOWN else ""
    raise RequestError(
        f"{run.run_id} has no checkpoint of step {reference.step}; it has "
        f"{', '.join(names[:MAX_SHOWN]) or 'none'}{more}"
    )
