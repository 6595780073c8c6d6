"""The fields of a run request about an evaluation: a checkpoint, the data to test it on."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from runctl.model.errors import Problem
from runctl.model.identity import RUN_ID
from runctl.model.input_sources import parse_input
from runctl.model.request_fields import Option, Syntax, boolean, text

# The fields that name inputs, by the names of those.
INPUT_FIELDS = {"checkpoint": "evaluate.checkpoint", "test-data": "evaluate.test_data"}
# The names of an evaluation's inputs: folders below RUNCTL_INPUT_DIR.
CHECKPOINT, TEST_DATA = INPUT_FIELDS

_REFERENCE = re.compile(rf"run:(?P<run>{RUN_ID.pattern})(@(?P<step>[0-9]{{1,15}}))?")
_EXAMPLES = "s3://bucket/checkpoints/best.pt, s3://bucket/checkpoints/, run:RUN or run:RUN@STEP"


@dataclass(frozen=True)
class RunReference:
    """A checkpoint of a run: that of a step, or the newest one if `step` is None."""

    run_id: str
    step: int | None = None


def parse_run_reference(value: str) -> RunReference | None:
    """Return the checkpoint of a run that `run:RUN` or `run:RUN@STEP` names, else None."""
    found = _REFERENCE.fullmatch(value)
    if found is None:
        return None
    return RunReference(found["run"], None if found["step"] is None else int(found["step"]))


def check_checkpoint(value: Any) -> str | None:
    """Check where a checkpoint is."""
    if isinstance(value, str) and value.startswith("run:"):
        if parse_run_reference(value) is None:
            return f"{value!r} is not a checkpoint of a run; write run:RUN, or run:RUN@STEP"
        return None
    return _problem_with_uri(value, f"a checkpoint; write {_EXAMPLES}")


def check_test_data(value: Any) -> str | None:
    """Check where the data is."""
    return None if value == "" else _problem_with_uri(value, "an S3 URI; write s3://bucket/prefix/")


def check_output(value: Any) -> str | None:
    """Check where the outputs are copied to."""
    return None if value == "" else _problem_with_uri(value, "an S3 URI; write s3://bucket/prefix/")


def _problem_with_uri(value: Any, what: str) -> str | None:
    problem = f"{value!r} is not {what}"
    if not isinstance(value, str):
        return problem
    try:
        source = parse_input(value)
    except ValueError:
        return problem
    return None if source.key else f"{value!r} is a whole bucket; name an object or a prefix in it"


@dataclass(frozen=True, kw_only=True)
class EvaluationOptions:
    """What is evaluated, and on which data."""

    checkpoint: str = text(
        "The checkpoint: an object of S3, all objects below a prefix (`s3://bucket/prefix/`), the "
        "newest checkpoint of a run (`run:RUN`), or that of a step (`run:RUN@STEP`). It is in "
        "`RUNCTL_INPUT_DIR/checkpoint` before the program starts.",
        check=check_checkpoint,
        option=Option(
            "--checkpoint",
            "The checkpoint to evaluate, which the script gets as --checkpoint PATH: an object or "
            "a prefix of S3, run:RUN for the newest one of a run, or run:RUN@STEP.",
            "WHERE",
        ),
    )
    test_data: str = text(
        "The data to test it on: an object of S3, or a prefix that ends with `/`. It is in "
        "`RUNCTL_INPUT_DIR/test-data`.",
        check=check_test_data,
        option=Option(
            "--test-data",
            "The data to test it on, which the script gets as --test-data PATH: an object of S3, "
            "or a prefix that ends with /.",
            "s3://…",
        ),
    )
    output: str = text(
        "A prefix of S3 to which the outputs are copied as well: in one of the deployment's "
        "`writable_buckets`, or below `outputs/` in its own bucket.",
        check=check_output,
        option=Option(
            "--output",
            "A prefix of S3 for the results, which the script gets as --output PATH: in one of the "
            "deployment's writable_buckets, or below outputs/ in its own bucket.",
            "s3://…",
        ),
    )
    every_checkpoint: bool = boolean(
        "Follow the run of `checkpoint`, which is `run:RUN`, and evaluate each checkpoint that it "
        "commits, until it ends.",
        default=False,
        option=Option(
            "--every-checkpoint",
            "With --checkpoint run:RUN: evaluate each checkpoint as the run commits it.",
            syntax=Syntax.SWITCH,
        ),
    )

    @property
    def reference(self) -> RunReference | None:
        """The checkpoint of a run that is evaluated, None for objects of S3."""
        return parse_run_reference(self.checkpoint)

    @property
    def inputs(self) -> dict[str, str]:
        """The objects of S3 that are staged, by the names of their folders."""
        named = {CHECKPOINT: self.checkpoint, TEST_DATA: self.test_data}
        return {name: uri for name, uri in named.items() if uri.startswith("s3://")}

    @property
    def output_prefix(self) -> str:
        """The prefix to which outputs are copied, with its last slash; empty for none."""
        return f"{self.output.rstrip('/')}/" if self.output else ""


def check_evaluation(value: Mapping[str, Any]) -> str | None:
    """Check that all checkpoints of a run can be followed; a value may be invalid by itself."""
    checkpoint = value.get("checkpoint")
    if not value.get("every_checkpoint") or not isinstance(checkpoint, str):
        return None
    reference = parse_run_reference(checkpoint)
    if reference is None or reference.step is not None:
        return (
            "every_checkpoint: follows a run, so checkpoint must be run:RUN, without a step "
            f"(not {checkpoint!r})"
        )
    return None


def _problem_with_place(options: Mapping[str, Any]) -> str:
    """Return why a prefix cannot take results, with the remedy; a value may be invalid itself."""
    output = options.get("output")
    if not isinstance(output, str) or not output:
        return ""
    target = f"{output.rstrip('/')}/"
    for field in ("checkpoint", "test_data"):
        source = options.get(field)
        if not isinstance(source, str) or not source.startswith("s3://"):
            continue
        if source.endswith("/") and target.startswith(source):
            return (
                f"{output} is inside {source}, so the next evaluation would read these results as "
                "well; choose a prefix outside of it"
            )
    return ""


def evaluation_problems(document: Mapping[str, Any], *, kind: str) -> Iterator[Problem]:
    """Check a request of the kind `kind` that evaluates against its other fields."""
    if document.get("kind") != kind:
        return
    evaluate = document.get("evaluate")
    if "evaluate" not in document:
        yield Problem("evaluate.checkpoint", f"missing; give {_EXAMPLES}")
    elif isinstance(evaluate, Mapping) and (problem := _problem_with_place(evaluate)):
        yield Problem("evaluate.output", problem)
    inputs = document.get("inputs")
    for name in (CHECKPOINT, TEST_DATA):
        if isinstance(inputs, Mapping) and name in inputs:
            yield Problem(
                f"inputs.{name}", "is the name of an input of the evaluation; choose another one"
            )
