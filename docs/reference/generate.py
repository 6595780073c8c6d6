"""The generator of the reference pages that come from code: `make docs`."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from runctl.model.request_fields import FIELDS, MAX_ENV_BYTES, request_schema

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
every error with its field. The JSON Schema is in
[run-request.schema.json](run-request.schema.json).

| field | type | default | meaning |
|---|---|---|---|
"""

NOTES = f"""
- `script` is a path inside `code`, or the s3:// URI of one file when there is no `code`. The
  deployment's own bucket is readable; others are after `cdk deploy -c readable_buckets=NAME,…`.
- `env` is limited to {MAX_ENV_BYTES // 1024} KiB; names beginning with `RUNCTL_` are reserved.
- The name of the first execution is the run's name: 1 to 64 letters, digits, `_` or `-`.
- `retry` is off by default: `{{"exit_codes": [1, 137], "max_failures": 3}}`.
  Exit codes are those of a shell, from 1 to 255; see [failures](trainer.md#when-it-fails).
- `{{"run_id": "NAME"}}`, alone, continues an ended run from its newest checkpoint; the execution
  then needs another name, `NAME-r2` by convention. `runctl resume NAME` does the same.
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


def rows() -> Iterator[str]:
    """Yield a table row for every field; those of an object follow it."""
    for name, field in FIELDS.items():
        yield row(name, field.schema)
        for inner, schema in field.schema.get("properties", {}).items():
            yield row(f"{name}.{inner}", schema)


def row(name: str, schema: Mapping[str, Any]) -> str:
    """Return one row of the table."""
    return f"| `{name}` | {type_of(schema)} | {default_of(schema)} | {schema['description']} |\n"


def pages() -> dict[Path, str]:
    """Return the text of each generated page."""
    return {
        HERE / "run-request.md": INTRODUCTION + "".join(rows()) + NOTES,
        HERE / "run-request.schema.json": json.dumps(request_schema(), indent=2) + "\n",
    }


def main() -> None:
    """Write the pages."""
    for path, text in pages().items():
        path.write_text(text)


if __name__ == "__main__":
    main()
