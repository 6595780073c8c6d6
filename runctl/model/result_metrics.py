"""The metrics of a run's result: what its program writes into `metrics.json` of its outputs."""

import json
import math
from collections.abc import Mapping
from typing import Any

FILE = "metrics.json"
# The ledger's item of a run has 400 KB for everything.
MAX_METRICS_BYTES = 32 * 1024
MAX_NAME_LENGTH = 200
MAX_LEVELS = 2
# Larger whole numbers lose digits in most readers of JSON.
_MAX_WHOLE = 2**53


class BadMetricsError(ValueError):
    """The metrics cannot be stored; the message says why, and what to do."""


def read_result_metrics(content: bytes) -> dict[str, Any]:
    """Read the content of the file: numbers, texts and booleans by name, or objects of such.

    Numbers that JSON does not have (NaN, Infinity) and whole numbers that are too large for most
    readers become texts; null is left out. Raises BadMetricsError for anything else.
    """
    if len(content) > MAX_METRICS_BYTES:
        raise BadMetricsError(too_large(len(content)))
    try:
        document = json.loads(content)
    except (ValueError, RecursionError) as exc:  # UnicodeDecodeError included
        raise BadMetricsError(
            f"it is not JSON ({exc}); write an object of names and numbers"
        ) from exc
    if not isinstance(document, dict):
        raise BadMetricsError(f"it is {_kind(document)}; write an object of names and numbers")
    metrics = _read(document, "", level=1)
    # Escapes of characters may make it longer.
    if (size := len(stored_text(metrics))) > MAX_METRICS_BYTES:
        raise BadMetricsError(too_large(size))
    return metrics


def too_large(size: int) -> str:
    """Return that so many bytes are too many, and the remedy."""
    return (
        f"{size:,} bytes exceed the limit of {MAX_METRICS_BYTES:,}; keep the figures to compare "
        "here, and write the rest to another file"
    )


def stored_text(metrics: Mapping[str, Any]) -> str:
    """Return the text that the ledger stores."""
    return json.dumps(metrics, allow_nan=False, separators=(",", ":"))


def flat_metrics(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Return the metrics by one name each, those of an object with the object's name before it."""
    flat: dict[str, Any] = {}
    for name, value in metrics.items():
        if isinstance(value, Mapping):
            flat |= {f"{name}.{inner}": each for inner, each in value.items()}
        else:
            flat[name] = value
    return flat


def _read(document: Mapping[str, Any], prefix: str, *, level: int) -> dict[str, Any]:
    metrics: dict[str, Any] = {}
    for name, value in document.items():
        path = f"{prefix}{name}"
        if not name or len(name) > MAX_NAME_LENGTH or not name.isprintable():
            raise BadMetricsError(
                f"{path[:MAX_NAME_LENGTH]!a} is not a valid name; use 1 to {MAX_NAME_LENGTH} "
                "printable characters"
            )
        if isinstance(value, dict) and level < MAX_LEVELS:
            metrics[name] = _read(value, f"{path}.", level=level + 1)
        elif value is not None:
            metrics[name] = _value(value, path)
    return metrics


def _value(value: Any, path: str) -> Any:
    if isinstance(value, bool | str):
        return value
    if isinstance(value, int):
        return value if abs(value) <= _MAX_WHOLE else str(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else _word(value)
    raise BadMetricsError(
        f"{path} is {_kind(value)}; a metric is a number, a text or a boolean, or an object of "
        "these"
    )


def _word(value: float) -> str:
    if math.isnan(value):
        return "NaN"
    return "Infinity" if value > 0 else "-Infinity"


def _kind(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, Mapping):
        return "an object"
    if isinstance(value, list):
        return "a list"
    return "a text" if isinstance(value, str) else "a number or a boolean"


def is_number(value: Any) -> bool:
    """Whether a metric is a number, which can be compared and drawn."""
    return isinstance(value, int | float) and not isinstance(value, bool)
