"""The options of a request that say what its program reads, and what it may reach."""

from collections.abc import Mapping
from dataclasses import dataclass

from runctl.model.input_sources import check_inputs
from runctl.model.request_fields import (
    Option,
    Syntax,
    choice,
    variables,
)

CREDENTIALS = ("none", "run")


@dataclass(frozen=True, kw_only=True)
class DataOptions:
    """What the program reads."""

    inputs: Mapping[str, str] = variables(
        "Objects of S3, by name: `s3://bucket/key` for one, `s3://bucket/prefix/` for all below a "
        "prefix. They are in `RUNCTL_INPUT_DIR/NAME` before the program starts.",
        check=check_inputs,
        option=Option(
            "--input",
            "Objects of S3 to have in $RUNCTL_INPUT_DIR/NAME before the program starts: an object, "
            "or a prefix that ends with /; repeatable.",
            "NAME=s3://…",
            Syntax.ASSIGNMENTS,
        ),
        is_setting=True,
    )


@dataclass(frozen=True, kw_only=True)
class AccessOptions:
    """What the program may reach."""

    credentials: str = choice(
        "AWS credentials for the trainer: with `run` it can read what belongs to its run and the "
        "deployment's `readable_buckets`, and write its outputs.",
        choices=CREDENTIALS,
        noun="value",
        default="none",
        option=Option(
            "--credentials",
            "AWS credentials for the trainer: none, or run for credentials limited to this run.",
            "WHOSE",
        ),
        is_setting=True,
    )
