"""The plan of a processing job: its input is listed once and split, its output reserved."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from runctl.control.check_inputs import check_source
from runctl.control.ports.services import Services
from runctl.model.errors import ForbiddenDataError, Problem, RequestError
from runctl.model.input_sources import StoredObject, empty, parse_input, place_objects
from runctl.model.processing_options import ProcessingOptions
from runctl.model.shard import PlanHeader
from runctl.policy.sharding import MAX_FILES, MAX_SHARDS, plan_shards

# A worker has the files of one shard; the next is fetched and the one before stored meanwhile.
SHARDS_A_WORKER = 3


@dataclass(frozen=True, kw_only=True)
class JobPlan:
    """A plan that is not stored yet: its header, and a line for each shard."""

    header: PlanHeader
    lines: tuple[str, ...]


def disk_bytes(header: PlanHeader, *, workers: int) -> int:
    """Return how much of the input of a job an instance has at the same time, at most."""
    return min(header.size_bytes, SHARDS_A_WORKER * workers * header.largest_bytes)


def plan_processing(
    services: Services, options: ProcessingOptions, *, job: str, started_at: datetime
) -> tuple[JobPlan | None, list[Problem]]:
    """Return the plan of a job, or what is wrong with its input and output. Stores nothing."""
    problems = []
    try:
        plan = _plan(services, options, job=job, started_at=started_at)
    except RequestError as exc:
        plan = None
        problems.append(Problem("process.input", str(exc)))
    try:
        problem = problem_with_output(services, options.output)
    except ForbiddenDataError as exc:
        problem = str(exc)
    if problem:
        problems.append(Problem("process.output", problem))
    return plan, problems


def problem_with_output(services: Services, uri: str) -> str:
    """Return why a job cannot write below a prefix, with the remedy, or an empty text.

    Raises ForbiddenDataError if the caller may not list the prefix.
    """
    return services.objects.problem_with_target(
        uri
    ) or services.processing_jobs.problem_with_output(uri)


def store_plan(services: Services, plan: JobPlan) -> list[Problem]:
    """Reserve the output of a job and store its plan; return what is wrong with the output.

    May be repeated: the first plan remains.
    """
    header, jobs = plan.header, services.processing_jobs
    if problem := jobs.claim_output(header.output, job=header.run_id, started_at=header.started_at):
        return [Problem("process.output", problem)]
    jobs.put_plan(header, plan.lines)
    return []


def _plan(
    services: Services, options: ProcessingOptions, *, job: str, started_at: datetime
) -> JobPlan:
    source = parse_input(options.input)
    check_source(services, source)
    count = size_bytes = largest_bytes = 0

    def counted() -> Iterator[StoredObject]:
        nonlocal count, size_bytes
        for _, found in place_objects(source, services.inputs.list_objects(source)):
            if not count:
                # A policy may allow to list, not to read.
                services.inputs.find_checksum(source, found)
            count, size_bytes = count + 1, size_bytes + found.size_bytes
            if count > MAX_FILES:
                raise RequestError(
                    f"{source} has more than {MAX_FILES:,} objects; pack small files into "
                    "archives, or process a prefix at a time"
                )
            yield found

    lines: list[str] = []
    for shard in plan_shards(
        counted(), most_files=options.files_a_shard, most_bytes=options.shard_bytes
    ):
        if len(lines) == MAX_SHARDS:
            raise RequestError(
                f"{source} would have more than {MAX_SHARDS:,} shards; put more files into each "
                "(shard_files or shard_bytes)"
            )
        largest_bytes = max(largest_bytes, shard.size_bytes)
        lines.append(shard.as_line())
    if not lines:
        raise RequestError(empty(source))
    header = PlanHeader(
        run_id=job,
        started_at=started_at,
        input=options.input,
        output=options.output,
        shards=len(lines),
        files=count,
        size_bytes=size_bytes,
        largest_bytes=largest_bytes,
    )
    return JobPlan(header=header, lines=tuple(lines))
