"""The generator of the pages and pictures that come from code: `make docs`."""

import inspect
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from docs.reference.command_page import command_page
from docs.reference.state_machine import draw
from runctl.model.request import RunRequest, groups_of
from runctl.model.request_checks import MAX_ENV_BYTES
from runctl.model.request_fields import Field, entries
from runctl.model.request_schema import request_schema
from runctl.model.sweep_options import SweepOptions
from runctl.model.sweep_request import sweep_schema
from stacks.workflows.definition import RUN, definition_names, read_definition

HERE = Path(__file__).parent

INTRODUCTION = """\
# The run request

The input of an execution. `runctl aws train` writes it; the Step Functions console and
`aws stepfunctions start-execution` accept it as shown here. Only `script` (or `command`) is
required:

```json
{"script": "s3://BUCKET/train.py"}
```

An invalid request fails in PrepareRun, before anything is launched, with one message that lists
every error with its field. The fields stand side by side in JSON; here they are in groups, with the
option of [`runctl aws train`](cli.md) that sets each. The JSON Schema is in
[run-request.schema.json](run-request.schema.json).

"""

TABLE = """\
| field | type | default | option | meaning |
|---|---|---|---|---|
"""

NOTES = f"""
## Notes

- `script` is a path inside `code`, or the S3 URI of one file if there is no `code`. The
  deployment's own bucket is readable; others are after `cdk deploy -c readable_buckets=NAME,…`.
- `inputs` may also be in the settings file: `{{"cifar": "s3://bucket/cifar/"}}`; see
  [data](../how-to/data.md).
- `env` is limited to {MAX_ENV_BYTES // 1024} KiB; names beginning with `RUNCTL_` are reserved.
- The name of the first execution is the run's name: 1 to 64 letters, digits, `_` or `-`.
- `retry` is off by default: `{{"exit_codes": [1, 137], "max_failures": 3}}`.
  Exit codes are those of a shell, from 1 to 255; see [failures](trainer.md#when-it-fails).
- `{{"run_id": "NAME"}}` continues a run that has ended from its newest checkpoint; the execution
  then needs another name, `NAME-r2` by convention. `runctl resume NAME` does the same. The only
  other field that it may have is `fresh_environment`: with `true`, the recorded versions of the
  run's packages are dropped, and the next attempt resolves them anew.
"""


def type_of(schema: Mapping[str, Any]) -> str:
    """Return a field's type in words."""
    if "enum" in schema:
        return " or ".join(f"`{value}`" for value in schema["enum"])
    if "oneOf" in schema:
        return " or ".join(type_of(each) for each in schema["oneOf"])
    if "const" in schema:
        return f"`{schema['const']}`"
    if schema["type"] == "array":
        kind = {"integer": "whole numbers", "string": "strings"}
        return f"list of {kind[schema['items']['type']]}"
    kind = {"object": "object", "integer": "whole number"}
    return kind.get(schema["type"], schema["type"])


def default_of(schema: Mapping[str, Any]) -> str:
    """Return a field's default as JSON, empty when it has none."""
    if "default" not in schema:
        return ""
    if isinstance(schema["default"], list) and len(schema["default"]) > 2:
        return f"{len(schema['default'])} general-purpose types"
    return f"`{json.dumps(schema['default'])}`"


def request_page(request: type[RunRequest] = RunRequest) -> str:
    """Return the page of the run request, with a section for each group of fields."""
    sections = [INTRODUCTION, TABLE, *rows(entries(request))]
    for group, holder in groups_of(request).items():
        about = inspect.cleandoc(holder.__doc__ or "").partition("\n")[0]
        sections += [f"\n## {group.capitalize()}\n\n{about}\n\n", TABLE, *rows(entries(holder))]
    return "".join([*sections, NOTES])


SWEEP = """\
# The request of a sweep

The input of an execution of the state machine of sweeps: a [run request](run-request.md) for the
trials, with an object `sweep` that has these fields. `runctl aws hyperparameter-tune` writes it,
and the options are its own; [Tune hyperparameters](../how-to/tuning.md) explains them. Only
`hyperparameters` is required:

```json
{"script": "s3://BUCKET/train.py", "sweep": {"hyperparameters": {"lr": "0.001,0.01,0.1"}}}
```

The name of the execution is that of the sweep: 1 to 58 letters, digits, `_` or `-`. Its trials are
runs, named `SWEEP-0001` and so on. `{"group_id": "SWEEP"}` continues a sweep that has ended; the
execution then needs another name, `SWEEP-r2` by convention. The JSON Schema is in
[sweep-request.schema.json](sweep-request.schema.json).

"""


def sweep_page() -> str:
    """Return the page of the request of a sweep."""
    return "".join([SWEEP, TABLE, *rows(entries(SweepOptions))])


# What the state machine with each definition runs.
SUBJECTS = {RUN: "a run", "sweep": "a sweep", "process": "a processing job"}


def rows(fields: Mapping[str, Field], prefix: str = "") -> Iterator[str]:
    """Yield a table row for every field; those of an object follow it."""
    for name, field in fields.items():
        option = f"`{field.option.name}`" if field.option else ""
        cells = [
            f"`{prefix}{name}`",
            type_of(field.schema),
            default_of(field.schema),
            option,
            field.schema["description"],
        ]
        yield f"| {' | '.join(cells)} |\n"
        yield from rows(field.fields, f"{prefix}{name}.")


def pages() -> dict[Path, str]:
    """Return the text of each generated file."""
    return {
        HERE / "cli.md": command_page(),
        HERE / "run-request.md": request_page(),
        HERE / "run-request.schema.json": json.dumps(request_schema(), indent=2) + "\n",
        HERE / "sweep-request.md": sweep_page(),
        HERE / "sweep-request.schema.json": json.dumps(sweep_schema(), indent=2) + "\n",
        **dict(map(picture, definition_names())),
    }


def picture(definition: str) -> tuple[Path, str]:
    """Return the picture of a state machine, with its path."""
    drawing = draw(read_definition(definition), SUBJECTS[definition])
    suffix = "" if definition == RUN else f"-{definition}"
    return HERE.parent / f"assets/state-machine{suffix}.svg", drawing


def main() -> None:
    """Write the pages."""
    for path, text in pages().items():
        path.write_text(text)


if __name__ == "__main__":
    main()
