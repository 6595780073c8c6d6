# ruff: noqa: SLF001 - it evaluates expressions with ministack's interpreter of state machines
"""The fields of a Map state, evaluated for its input in either query language."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ministack.services import stepfunctions as sfn

# What is written where the field of another query language has a fixed value.
_ARGUMENTS = ("Arguments", "Parameters")


@dataclass(frozen=True)
class MapFields:
    """A Map state with its input.

    `effective` is the input behind `InputPath`, which only JSONPath has.
    """

    state: dict[str, Any]
    data: Any
    effective: Any
    context: dict[str, Any]

    @property
    def is_jsonata(self) -> bool:
        """Whether expressions are JSONata."""
        return bool(sfn._state_query_language(self.state, self.context) == "JSONata")

    def number(self, part: dict[str, Any], name: str) -> float | None:
        """Return a bound: a number, an expression, or the number at a path; None without one."""
        value = self.evaluate(part.get(name))
        if value is None and (path := part.get(f"{name}Path")):
            value = sfn._resolve_path_or_ctx(path, self.effective, self.context)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
            error = "States.QueryEvaluationError" if self.is_jsonata else "States.Runtime"
            raise sfn._ExecutionError(error, f"{name} must be a number from 0, not {value!r}")
        return value

    def evaluate(self, template: Any) -> Any:
        """Return a template with its expressions evaluated."""
        return self.evaluate_with(template, self.context)

    def arguments(self, part: dict[str, Any]) -> dict[str, Any]:
        """Return the arguments of a reader or writer."""
        found: Any = next((part[name] for name in _ARGUMENTS if name in part), {})
        evaluated: dict[str, Any] = self.evaluate(found)
        return evaluated

    def select(self, index: int, item: Any) -> Any:
        """Return the input that the `ItemSelector` makes of an item."""
        selector = self.state.get("ItemSelector") or self.state.get("Parameters")
        if not selector:
            return item
        context = {**self.context, "Map": {"Item": {"Index": index, "Value": item}}}
        return self.evaluate_with(selector, context)

    def evaluate_with(self, template: Any, context: dict[str, Any]) -> Any:
        """Evaluate a template in another context."""
        if self.is_jsonata:
            return sfn._apply_jsonata_template(template, self.data, context)
        return sfn._resolve_params_obj(template, self.effective, context)
