"""Forgetting a run: the removal of everything that a deployment stores of it."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from runctl.control.ports.services import Services
from runctl.model import identity
from runctl.model.errors import NotFoundError, RequestError
from runctl.model.run import Run
from runctl.model.s3_uri import split_s3_uri
from runctl.model.stored_data import ItemKey

_CODE = "code/"


@dataclass(frozen=True, kw_only=True)
class ForgottenRun:
    """What was removed of a run, or would be.

    `objects` counts versions. `kept_code` are packed projects and images that other runs use, too,
    and `elsewhere` are the places outside of the run's own to which it wrote. `image` was built
    from its project; reconciliation deletes it, once it is unused.
    """

    run_id: str
    objects: int
    bytes_removed: int
    log_streams: int
    items: int
    code: tuple[str, ...] = ()
    kept_code: tuple[str, ...] = ()
    elsewhere: tuple[str, ...] = ()
    image: str = ""
    is_dry_run: bool = False

    def as_document(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {
            "run_id": self.run_id,
            "objects": self.objects,
            "bytes": self.bytes_removed,
            "log_streams": self.log_streams,
            "items": self.items,
            "code": list(self.code),
            "kept_code": list(self.kept_code),
            "elsewhere": list(self.elsewhere),
            "image": self.image,
            "dry_run": self.is_dry_run,
        }


def forget_run(services: Services, run_id: str, *, is_dry_run: bool = False) -> ForgottenRun:
    """Remove a run's objects with all their versions, its logs, its code and its items.

    The item of the run goes last, so a call that ended early is repeated with the same name.
    Raises NotFoundError if there is no such run, and RequestError if it may still write, if other
    runs need its checkpoints, or if it belongs to a group that has not ended.
    """
    run = services.ledger.find_run(run_id)
    if run is None:
        raise NotFoundError(f"there is no run {run_id}")
    _check(services, run)
    data = services.run_data
    code = _code_of(services, run)
    # The attempts name their instances, so they are read before anything is removed.
    keys = [*_items_elsewhere(services, run), *data.items(run_id)]
    prefixes = [
        identity.run_prefix(run_id),
        identity.run_environments_prefix(run_id),
        # The environments of a run that shares none.
        identity.environments_prefix(run_id),
        *code.own,
    ]
    count = size = 0
    for prefix in prefixes:
        found = list(data.objects(prefix))
        count += len(found)
        size += sum(each.size_bytes for each in found)
        if not is_dry_run:
            data.remove_objects(found)
    streams = data.log_streams(run_id)
    if not is_dry_run:
        for stream in streams:
            data.remove_log_stream(stream)
        data.remove_items(keys)
    return ForgottenRun(
        run_id=run_id,
        objects=count,
        bytes_removed=size,
        log_streams=len(streams),
        items=len(keys),
        code=code.own,
        kept_code=code.shared,
        elsewhere=tuple(_elsewhere(run)),
        image=run.image.reference if run.image and run.request.docker.dockerfile else "",
        is_dry_run=is_dry_run,
    )


def _check(services: Services, run: Run) -> None:
    if run.ended is None:
        raise RequestError(
            f"{run.run_id} has not ended; end it with `runctl stop {run.run_id}`, then try again"
        )
    if live := services.fleet.find_by_run(run.run_id):
        names = ", ".join(machine.instance_id for machine in live)
        raise RequestError(
            f"{run.run_id} has ended, but its instance {names} may still upload; try again in a "
            "few minutes"
        )
    if run.pins:
        others = ", ".join(sorted({pin.partition(" ")[0] for pin in run.pins}))
        raise RequestError(
            f"checkpoints of {run.run_id} are needed by {others}; wait for their end, or stop them"
        )
    group = services.groups.find_group(run.request.group) if run.request.group else None
    if group is not None and group.ended_at is None:
        raise RequestError(
            f"{run.run_id} belongs to {group.group_id}, which has not ended; stop that first"
        )


@dataclass(frozen=True)
class _Code:
    """The keys of packed projects and images: those of this run only, and those of others, too."""

    own: tuple[str, ...]
    shared: tuple[str, ...]


def _code_of(services: Services, run: Run) -> _Code:
    named = _code_in(services, run)
    others: set[str] = set()
    if named:
        # A group starts its runs from one package, also those that are resumed later.
        if run.request.group:
            others = set(named)
        for other in services.ledger.list_runs(limit=1_000_000):
            if other.run_id != run.run_id:
                others |= _code_in(services, other)
    return _Code(tuple(sorted(named - others)), tuple(sorted(named & others)))


def _code_in(services: Services, run: Run) -> set[str]:
    """Return the keys below `code/` of the deployment's bucket that a request names."""
    root = services.objects.uri(_CODE)
    return {split_s3_uri(text)[1] for text in _texts(run.request.as_document(), root)}


def _texts(value: Any, beginning: str) -> Iterator[str]:
    """Yield the texts of a document that begin with a text and do not end there."""
    if isinstance(value, str):
        if value.startswith(beginning) and value != beginning:
            yield value
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from _texts(inner, beginning)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _texts(inner, beginning)


def _items_elsewhere(services: Services, run: Run) -> Iterator[ItemKey]:
    """Yield the keys of items that name the run: of its executions, tokens and instances."""
    names = [run.execution, run.run_id]
    names += [identity.continuation_name(run.run_id, at) for at in range(2, run.executions + 1)]
    for name in dict.fromkeys(names):
        if services.ledger.find_run_of_execution(name) == run.run_id:
            yield ItemKey(**identity.execution_key(name))
    for attempt in services.ledger.attempts(run.run_id):
        if attempt.has_token:
            yield ItemKey(**identity.token_key(run.run_id, attempt.number))
        for instance_id in attempt.instance_ids:
            owner = services.ledger.find_instance(instance_id)
            if owner is not None and (owner.run_id, owner.attempt) == (run.run_id, attempt.number):
                yield ItemKey(**identity.instance_key(instance_id))


def _elsewhere(run: Run) -> Iterator[str]:
    request = run.request
    yield from filter(None, (request.evaluate.output_prefix, request.process.output))
