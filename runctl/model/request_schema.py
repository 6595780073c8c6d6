"""The published JSON Schema of the run request."""

from collections.abc import Mapping
from typing import Any

from runctl.model.identity import RUN_ID
from runctl.model.request import FIELDS
from runctl.model.request_fields import Field


def request_schema(fields: Mapping[str, Field] = FIELDS) -> dict[str, Any]:
    """Return the JSON Schema of an execution's input."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "RunRequest",
        "description": "The input of an execution. `run_id`, alone or with "
        "`fresh_environment`, continues a run that has ended.",
        "type": "object",
        "additionalProperties": False,
        "properties": {
            **{name: dict(field.schema) for name, field in fields.items()},
            "run_id": {
                "type": "string",
                "pattern": f"^{RUN_ID.pattern}$",
                "description": "The run that this execution continues; excludes other fields, "
                "except `fresh_environment`, which drops the recorded versions of its packages.",
            },
        },
        "oneOf": [
            {"required": ["script"]},
            {"required": ["command"]},
            {"required": ["run_id"]},
            # The program is the image's own command.
            {
                "required": ["docker"],
                "not": {
                    "anyOf": [{"required": [name]} for name in ("script", "command", "run_id")]
                },
            },
        ],
    }
