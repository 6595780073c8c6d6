"""The data of a job in S3: what is missing or in the way is reported before anything is packed.

PrepareRun checks all of it again, and more. What the user of the command may not see is left to it,
because the machines may.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from runctl.cli.commands.aws.request import ORIGINS
from runctl.control.check_inputs import check_source
from runctl.control.find_subject import find_subject
from runctl.control.processing.plan_processing import problem_with_output
from runctl.model.errors import ForbiddenDataError, Problem, RefusedError, RequestError
from runctl.model.input_sources import empty, parse_input, place_objects
from runctl.model.kinds import PROCESS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from runctl.cli.cloud import Cloud
    from runctl.model.request import RunRequest


def problems_with_data(request: RunRequest, cloud: Cloud) -> Iterator[Problem]:
    """Yield what is wrong with the data that a request names; each has the name of its option."""
    uris = {field: request.staged_inputs[name] for name, field in request.input_fields.items()}
    if request.kind == PROCESS:
        uris["process.input"] = request.process.input
    for field, uri in uris.items():
        if problem := _visible(partial(_problem_with_input, cloud, uri)):
            yield Problem(ORIGINS.get(field, field), problem)
    if request.kind == PROCESS and (
        problem := _visible(partial(problem_with_output, cloud, request.process.output))
    ):
        yield Problem(ORIGINS["process.output"], problem)
    if problem := _visible(partial(_problem_with_subject, cloud, request)):
        yield Problem(ORIGINS["evaluate.checkpoint"], problem)
    target = request.evaluate.output_prefix
    if target and (problem := _visible(partial(_problem_with_target, cloud, target))):
        yield Problem(ORIGINS["evaluate.output"], problem)


def _visible(check: Callable[[], str]) -> str:
    """Return the problem that a check finds, and none that the user may not see."""
    try:
        return check()
    except (ForbiddenDataError, RefusedError):
        return ""
    except RequestError as exc:
        return str(exc)


def _problem_with_input(cloud: Cloud, uri: str) -> str:
    source = parse_input(uri)
    check_source(cloud, source)
    # One object is enough: a prefix may have many.
    first = next(place_objects(source, cloud.inputs.list_objects(source)), None)
    return empty(source) if first is None else ""


def _problem_with_subject(cloud: Cloud, request: RunRequest) -> str:
    find_subject(cloud, request.evaluate)
    return ""


def _problem_with_target(cloud: Cloud, uri: str) -> str:
    return cloud.objects.problem_with_target(uri) or ""
