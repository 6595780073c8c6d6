"""The check of a request's inputs before anything is launched, and their total size."""

from collections.abc import Mapping

from runctl.control.ports.services import Services
from runctl.model.errors import Problem, RequestError
from runctl.model.identity import INPUTS_PREFIX, READABLE_PREFIXES
from runctl.model.input_sources import (
    MAX_OBJECTS,
    InputSource,
    empty,
    parse_input,
    place_objects,
    too_many,
)


def check_inputs(
    services: Services, inputs: Mapping[str, str], *, fields: Mapping[str, str]
) -> tuple[list[Problem], int]:
    """Return what is wrong with each input, with its remedy, and the size of all in bytes.

    `fields` are the fields of the request that name them.

    An object is examined as the instance will: it must be listed, be readable, and have a key that
    is safe as a path. Nothing is read.
    """
    problems, count, size_bytes = [], 0, 0
    for name, uri in sorted(inputs.items()):
        try:
            found, size = _survey(services, parse_input(uri))
        except RequestError as exc:
            problems.append(Problem(fields[name], str(exc)))
            continue
        count, size_bytes = count + found, size_bytes + size
    if count > MAX_OBJECTS:
        problems.append(Problem("inputs", too_many()))
    return problems, size_bytes


def _survey(services: Services, source: InputSource) -> tuple[int, int]:
    """Return the number of an input's objects and their size in bytes."""
    check_source(services, source)
    count = size_bytes = 0
    for _, found in place_objects(source, services.inputs.list_objects(source)):
        if not count:
            services.inputs.find_checksum(source, found)  # a policy may allow to list, not to read
        count, size_bytes = count + 1, size_bytes + found.size_bytes
        if count > MAX_OBJECTS:
            raise RequestError(too_many())
    if not count:
        raise RequestError(empty(source))
    return count, size_bytes


def check_source(services: Services, source: InputSource) -> None:
    """Raise RequestError, with the remedy, if instances cannot read from a bucket."""
    own = services.objects.uri("")
    if f"s3://{source.bucket}/" == own:
        if not source.key.startswith(READABLE_PREFIXES):
            raise RequestError(
                f"instances do not read {source} of the deployment's own bucket; copy it below "
                f"{own}{INPUTS_PREFIX}"
            )
    elif problem := services.objects.problem_with_bucket(source.bucket):
        raise RequestError(problem)
