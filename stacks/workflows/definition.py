"""The definition of the state machine, and the functions that it names."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

DEFINITION = Path(__file__).with_name("train.asl.yaml")
_PLACEHOLDER = re.compile(r"\$\{(\w+)\}")


def read_definition(path: Path = DEFINITION) -> dict[str, Any]:
    """Read the definition; CloudFormation and Step Functions accept only JSON."""
    found: dict[str, Any] = yaml.safe_load(path.read_text())
    return found


def placeholders(definition: Mapping[str, Any]) -> set[str]:
    """Return the names of the functions that a definition calls."""
    return set(_PLACEHOLDER.findall(json.dumps(definition)))


def rendered(definition: Mapping[str, Any], arn_of: Callable[[str], str]) -> str:
    """Return the definition as JSON, bound to functions as CloudFormation binds it."""
    return _PLACEHOLDER.sub(lambda found: arn_of(found[1]), json.dumps(definition))
