"""The fields of a run request about data processing: its input, its output, and its shards."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from runctl.model.errors import Problem
from runctl.model.input_sources import parse_input
from runctl.model.kinds import PROCESS
from runctl.model.request_fields import (
    Option,
    Syntax,
    fraction,
    optional_number,
    text,
    whole_number,
)

MAX_WORKERS = 256
MAX_INSTANCES = 100
MAX_SHARD_FILES = 1_000_000
MAX_SHARD_BYTES = 2**40


def check_input(value: Any) -> str | None:
    """Check the S3 URI of the objects to process."""
    if value == "":
        return None
    if not isinstance(value, str):
        return f"{value!r} is not a string; quote it"
    try:
        parse_input(value)
    except ValueError as exc:
        return str(exc)
    return None


def check_output(value: Any) -> str | None:
    """Check the S3 prefix for the results."""
    if problem := check_input(value):
        return problem
    if value and not value.endswith("/"):
        return f"{value!r} is not a prefix; end it with / (s3://bucket/prefix/)"
    return None


@dataclass(frozen=True, kw_only=True)
class ProcessingOptions:
    """What a run of the kind `process` reads and writes, and how its input is split.

    `first_shard` and `shard_count` are those of a run that processes a part of a larger job.
    """

    input: str = text(
        "The objects to process: `s3://bucket/prefix/` for all below a prefix, `s3://bucket/key` "
        "for one.",
        check=check_input,
        option=Option(
            "--input-s3",
            "The objects to process: a prefix that ends with /, or one object.",
            "s3://…",
        ),
    )
    output: str = text(
        "The prefix for the results, which must be empty: below `outputs/` of the deployment's "
        "bucket, or in one of its `writable_buckets`.",
        check=check_output,
        option=Option("--output-s3", "The prefix for the results, which must be empty.", "s3://…/"),
    )
    workers: int = whole_number(
        "Number of processes that run the script at the same time on an instance.",
        least=1,
        most=MAX_WORKERS,
        default=1,
        option=Option(
            "--workers",
            "Number of processes on an instance; each processes one shard at a time (default: 1).",
            "N",
            Syntax.NUMBER,
        ),
        is_setting=True,
    )
    instances: int = whole_number(
        "Number of instances. With more than one, the request starts the state machine of "
        "processing jobs, whose members are runs.",
        least=1,
        most=MAX_INSTANCES,
        default=1,
        option=Option(
            "--instances",
            "Number of instances; the shards are divided among them (default: 1).",
            "N",
            Syntax.NUMBER,
        ),
    )
    shard_files: int = optional_number(
        "Number of files in a shard. Default: 1, or as many as `shard_bytes` allows.",
        least=1,
        most=MAX_SHARD_FILES,
        option=Option(
            "--shard-files",
            "Number of files in a shard, which one call of the script processes (default: 1).",
            "N",
            Syntax.NUMBER,
        ),
    )
    shard_bytes: int = optional_number(
        "Size of a shard in bytes: files are added to it in the order of their keys until the next "
        "one would exceed this. A larger file is a shard by itself.",
        least=1,
        most=MAX_SHARD_BYTES,
        option=Option(
            "--shard-bytes",
            "Put files into a shard up to this many bytes.",
            "N",
            Syntax.NUMBER,
        ),
    )
    retries: int = whole_number(
        "How often a shard whose script fails is tried again. Interruptions do not count.",
        least=0,
        most=100,
        default=3,
        option=Option(
            "--shard-retries",
            "How often a shard whose script fails is tried again (default: 3).",
            "N",
            Syntax.NUMBER,
        ),
        is_setting=True,
    )
    tolerated_failures: float = fraction(
        "Part of the shards that may fail, from 0 to 1; with more, the run fails.",
        default=0.0,
        option=Option(
            "--tolerated-failures",
            "Part of the shards that may fail, such as 0.01 (default: 0).",
            "0..1",
            Syntax.FRACTION,
        ),
        is_setting=True,
    )
    first_shard: int = optional_number(
        "The first shard of a run that processes a part of a job.", least=0, most=10**9
    )
    shard_count: int = optional_number(
        "The number of shards of a run that processes a part of a job. Default: all.",
        least=1,
        most=10**9,
    )

    @property
    def files_a_shard(self) -> int:
        """The largest number of files of a shard."""
        return self.shard_files or (MAX_SHARD_FILES if self.shard_bytes else 1)


def _problem_with_place(options: Mapping[str, Any]) -> str:
    """Return why a prefix cannot take the results of an input, with the remedy."""
    source, target = options.get("input"), options.get("output")
    if not isinstance(source, str) or not isinstance(target, str) or not source or not target:
        return ""
    if target == source:
        return f"{target} is the input, too; choose a prefix outside of it"
    if target.startswith(source) and source.endswith("/"):
        return (
            f"{target} is inside the input {source}, so the results would be inputs; choose a "
            "prefix outside of it"
        )
    if source.startswith(target):
        return f"{target} contains the input {source}; choose a prefix that has nothing else"
    return ""


def processing_contradictions(document: Mapping[str, Any]) -> Iterator[Problem]:
    """Yield problems of a request of the kind `process` with its other fields."""
    if document.get("kind") != PROCESS:
        return
    process = document.get("process")
    process = process if isinstance(process, Mapping) else {}
    for name, advice in (
        ("input", "name the objects to process (--input-s3 s3://bucket/prefix/)"),
        ("output", "name the prefix for the results (--output-s3 s3://bucket/prefix/)"),
    ):
        if not process.get(name):
            yield Problem(f"process.{name}", f"missing; {advice}")
    if problem := _problem_with_place(process):
        yield Problem("process.output", problem)
    if process.get("shard_count") and not document.get("group"):
        yield Problem("process.shard_count", "only for a run of a group, which sets it; remove it")
    first = process.get("first_shard")
    if type(first) is int and first >= 0 and not process.get("shard_count"):
        yield Problem(
            "process.first_shard", "only with shard_count, of a run of a group; remove it"
        )
    if document.get("inputs"):
        yield Problem(
            "inputs",
            "not allowed with kind process, whose RUNCTL_INPUT_DIR has the files of a shard; put "
            "small files into the project",
        )
    checkpoint = document.get("checkpoint")
    if isinstance(checkpoint, Mapping) and checkpoint.get("dir"):
        yield Problem(
            "checkpoint.dir",
            "not allowed with kind process, whose shards save to RUNCTL_CHECKPOINT_DIR",
        )
