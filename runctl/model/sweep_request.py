"""The request of a hyperparameter sweep: a run request for its trials, and what it tries."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from runctl.model.errors import InvalidRequestError, Problem
from runctl.model.gang_options import GangOptions
from runctl.model.hyperparameters import Value, plain_of
from runctl.model.kinds import TRAIN
from runctl.model.request import RunRequest, fields_of
from runctl.model.request_fields import an_object, entries
from runctl.model.request_parsing import parse_request
from runctl.model.request_schema import request_schema
from runctl.model.sweep_options import (
    ASHA,
    ASSIGNMENTS,
    HYPHENS,
    NO_ARGUMENTS,
    SweepOptions,
    contradiction,
)

# Fields that belong to one run, which a sweep sets for each of its trials or cannot have.
NOT_IN_A_SWEEP = {
    "instance_id": "a sweep launches its own instances; remove it",
    "group": "a sweep sets it for its trials; remove it",
    "trial": "a sweep sets it for its trials; remove it",
    **dict.fromkeys(entries(GangOptions), "each of its trials has one node; remove it"),
}


@dataclass(frozen=True, kw_only=True)
class SweepRequest(RunRequest):
    """A checked request of a sweep; everything but `sweep` is the request of each trial."""

    sweep: SweepOptions = an_object(
        "What the sweep tries.",
        holder=SweepOptions,
        required=("hyperparameters",),
    )


def sweep_schema() -> dict[str, Any]:
    """Return the JSON Schema of the input of a sweep's execution."""
    fields = fields_of(SweepRequest)
    schema = request_schema(
        {name: field for name, field in fields.items() if field.kind in {"", TRAIN}}
    )
    properties = {
        name: value
        for name, value in schema["properties"].items()
        if name not in {*NOT_IN_A_SWEEP, "run_id"}
    }
    properties["group_id"] = {
        "type": "string",
        "description": "The sweep that this execution continues; excludes all other fields.",
    }
    return {
        **schema,
        "title": "SweepRequest",
        "description": "The input of an execution of a sweep.",
        "properties": properties,
        "oneOf": [{"required": ["sweep"]}, {"required": ["group_id"]}],
    }


def parse_sweep_request(document: Any, *, group_id: str) -> SweepRequest:
    """Check the input of a sweep's execution and return the request.

    Raises InvalidRequestError with every problem of every field.
    """
    if not isinstance(document, Mapping):
        raise InvalidRequestError((Problem("input", "must be a JSON object"),))
    problems = [
        Problem(name, f"not allowed in a sweep: {why}")
        for name, why in NOT_IN_A_SWEEP.items()
        if document.get(name)
    ]
    if document.get("kind", TRAIN) != TRAIN:
        problems.append(Problem("kind", f"{document['kind']!r} cannot be swept; remove it"))
    if "sweep" not in document:
        problems.append(Problem("sweep", "missing; give an object with hyperparameters"))
    if problems:
        raise InvalidRequestError(tuple(problems))
    request = cast("SweepRequest", parse_request(document, SweepRequest))
    options = request.sweep
    if found := contradiction(options):
        raise InvalidRequestError((Problem(f"sweep.{found[0]}", found[1]),))
    if problem := _given_twice(request):
        raise InvalidRequestError((problem,))
    # The arguments of a trial are checked as those of any run, for example for secrets.
    parse_request(trial_document(request, group_id=group_id, number=1, chosen=_first(options)))
    return request


def _given_twice(request: SweepRequest) -> Problem | None:
    """Return the problem of an argument that the hyperparameters of a trial would repeat."""
    options = request.sweep
    if options.arguments == NO_ARGUMENTS:
        return None
    field = "command" if request.program.command else "args"
    given = request.program.command or request.program.args
    for name in options.hyperparameters:
        option = argument_name(name, options.arguments)
        for word in given:
            is_option = word == option and options.arguments != ASSIGNMENTS
            if is_option or word.startswith(f"{option}="):
                return Problem(
                    field, f"{word!r} is a hyperparameter of the sweep, too; remove one of them"
                )
    return None


def trial_document(
    request: SweepRequest,
    *,
    group_id: str,
    number: int,
    chosen: Mapping[str, Value],
    judge: str = "",
) -> dict[str, Any]:
    """Return the request of a trial: the input of its execution.

    `judge` is the function that decides at each rung whether the trial goes on.
    """
    options = request.sweep
    document = request.as_document()
    del document["sweep"]
    words = argument_words(chosen, options.arguments)
    if document.get("command"):
        document["command"] = [*document["command"], *words]
    elif document.get("script"):
        document["args"] = [*document.get("args", ()), *words]
    if options.deadline is not None and "deadline" not in document:
        document["deadline"] = options.deadline.isoformat()
    trial: dict[str, Any] = {"number": number, "hyperparameters": plain_of(chosen)}
    if options.metric:
        trial |= {"metric": options.metric, "direction": options.direction}
    if options.pruner == ASHA:
        trial |= {
            "judge": judge,
            "first_rung": options.first_rung,
            "reduction_factor": options.reduction_factor,
        }
    return {**document, "group": group_id, "trial": trial}


def argument_name(name: str, style: str) -> str:
    """Return what a script's argument for a hyperparameter begins with."""
    if style == ASSIGNMENTS:
        return name
    return f"--{name.replace('_', '-') if style == HYPHENS else name}"


def argument_words(chosen: Mapping[str, Value], style: str) -> list[str]:
    """Return the hyperparameters as arguments of a script."""
    if style == NO_ARGUMENTS:
        return []
    if style == ASSIGNMENTS:
        return [f"{argument_name(name, style)}={value.text}" for name, value in chosen.items()]
    words = []
    for name, value in chosen.items():
        option = argument_name(name, style)
        # A value that begins with a hyphen would be read as an option, unless it is a number.
        if value.text.startswith("-") and isinstance(value.plain, str):
            words.append(f"{option}={value.text}")
        else:
            words += [option, value.text]
    return words


def _first(options: SweepOptions) -> dict[str, Value]:
    return {name: domain.draw(0.0) for name, domain in options.space.domains.items()}
