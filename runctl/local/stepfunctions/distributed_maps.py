# ruff: noqa: SLF001 - it changes how ministack's interpreter of state machines behaves
"""Distributed Maps: each item, or batch of items, is an execution of its own.

Sources: "Distributed mode", "IAM policies for using Distributed Map states" and "Redriving Map
Runs" in the Step Functions Developer Guide. The children are executions of the state machine
`NAME/LABEL`, which the Map's processor defines.
"""

from __future__ import annotations

import json
import uuid
from typing import Any

from ministack.services import stepfunctions as sfn

from runctl.local.core import iam
from runctl.local.stepfunctions import map_requests
from runctl.local.stepfunctions.executions import (
    Execution,
    StopFlags,
    StoppedError,
    definition_of,
    role_of,
)
from runctl.local.stepfunctions.map_fields import MapFields
from runctl.local.stepfunctions.map_items import child_inputs, read_items
from runctl.local.stepfunctions.map_results import ResultWriter
from runctl.local.stepfunctions.map_run import Bounds, MapRun

_TOO_MANY_FAILED = "States.ExceedToleratedFailureThreshold"


def install(stop_flags: StopFlags) -> None:
    """Replace ministack's Distributed Maps, once."""
    run_items = sfn._run_map_items

    def run_map_items(state: dict[str, Any], data: Any, execution: Execution, context: Any) -> Any:
        processor = state.get("ItemProcessor") or {}
        if (processor.get("ProcessorConfig") or {}).get("Mode") != "DISTRIBUTED":
            return run_items(state, data, execution, context)
        effective = sfn._apply_input_path(state, data, context)
        return DistributedMap(
            MapFields(state, data, effective, context), execution, stop_flags
        ).execute()

    sfn._run_map_items = run_map_items
    map_requests.install()


class DistributedMap:
    """A Distributed Map that an execution has entered."""

    def __init__(self, fields: MapFields, execution: Execution, stop_flags: StopFlags) -> None:
        self._fields, self._execution, self._stop_flags = fields, execution, stop_flags
        self._role = role_of(execution)

    def execute(self) -> tuple[Any, str | None]:
        """Run the children; return the state's output and the name of the next state."""
        run = self._run_to_continue()
        if run is None:
            # AWS knows the number of items that an ItemReader reads only later.
            has_reader = "ItemReader" in self._fields.state
            items = None if has_reader else read_items(self._fields, self._role)
            run = self._new_run()
            self._note("MapStateStarted", mapStateStartedEventDetails={"length": len(items or [])})
            self._note("MapRunStarted", mapRunStartedEventDetails={"mapRunArn": run.arn})
        else:
            items = None
            run.begin_again(self._execution)
            details = {"mapRunArn": run.arn, "redriveCount": run.redrives}
            self._note("MapRunRedriven", mapRunRedrivenEventDetails=details)
        try:
            result = self._result(run, items)
            self._note("MapRunSucceeded")
        except StoppedError:
            run.finish("ABORTED")
            raise
        except sfn._ExecutionError as exc:
            run.finish("FAILED")
            self._note(
                "MapRunFailed", mapRunFailedEventDetails={"error": exc.error, "cause": exc.cause}
            )
            self._note("MapStateFailed")
            raise
        run.finish("SUCCEEDED")
        self._note("MapStateSucceeded")
        return self._output(result), sfn._next_or_end(self._fields.state)

    def _result(self, run: MapRun, items: list[Any] | None) -> Any:
        writer = ResultWriter(self._fields, self._role)
        self._check_role(run)
        if run.children is None:
            if items is None:
                items = read_items(self._fields, self._role)
            run.add(child_inputs(self._fields, items))
        has_succeeded = run.run()
        if not has_succeeded:
            if writer.is_exporting:
                writer.output(run)
            raise sfn._ExecutionError(
                _TOO_MANY_FAILED, "The specified tolerated failure threshold was exceeded"
            )
        return writer.output(run)

    def _output(self, result: Any) -> Any:
        state, data, context = self._fields.state, self._fields.data, self._fields.context
        if self._fields.is_jsonata:
            output = sfn._apply_jsonata_output(state, data, context, result=result, default=result)
            sfn._apply_state_assign(state, data, context, result=result)
            return output
        result = sfn._apply_result_selector(state, result)
        output = sfn._apply_result_path(state, data, result)
        return sfn._apply_output_path(state, output, context)

    def _run_to_continue(self) -> MapRun | None:
        """Return the Map Run that a redrive of this execution continues; a Retry begins another.

        An iteration of another Map cannot tell which Map Run was its own.
        """
        if not self._execution.get("resumes") or "Map" in self._fields.context:
            return None
        ended = [
            run
            for run in map_requests.runs_of(self._execution)
            if run.state == self._name and run.life < self._execution.get("redriveCount", 0)
        ]
        if not ended:
            return None
        ended[-1].wait_for_end()
        return ended[-1] if ended[-1].is_redrivable else None

    def _new_run(self) -> MapRun:
        parent = self._execution["stateMachineArn"]
        label = self._fields.state.get("Label") or uuid.uuid5(uuid.NAMESPACE_OID, self._name).hex
        machine = f"{parent}/{label}"
        processor = self._fields.state["ItemProcessor"]
        language = (definition_of(self._execution) or {}).get("QueryLanguage", "JSONPath")
        definition = json.dumps({"QueryLanguage": language, **processor})
        sfn._state_machines[machine] = {
            **sfn._state_machines[parent],
            "stateMachineArn": machine,
            "name": machine.rpartition(":")[2],
            "definition": definition,
            "type": processor["ProcessorConfig"].get("ExecutionType", "STANDARD"),
        }
        run = MapRun(
            arn=f"{machine.replace(':stateMachine:', ':mapRun:')}:{uuid.uuid4()}",
            machine=machine,
            state=self._name,
            definition=definition,
            stop_flags=self._stop_flags,
            bounds=self._bounds(),
            parent=self._execution,
            life=self._execution.get("redriveCount", 0),
        )
        map_requests.add(run)
        return run

    def _bounds(self) -> Bounds:
        def number(name: str) -> float | None:
            return self._fields.number(self._fields.state, name)

        return Bounds(
            concurrency=int(number("MaxConcurrency") or 0),
            failure_count=number("ToleratedFailureCount"),
            failure_percentage=number("ToleratedFailurePercentage"),
        )

    def _check_role(self, run: MapRun) -> None:
        """Check that the role may start the state machine, and redrive children if it has to."""
        executions = run.machine.replace(":stateMachine:", ":execution:")
        facts = {"machine": [run.machine.partition("/")[0]], "execution": [f"{executions}:any"]}
        for call in ("map", *(["map:redrive"] if run.redrives else [])):
            if refusal := iam.refusal_of_role(self._role, "states", call, facts):
                raise sfn._ExecutionError("States.Permissions", refusal)

    @property
    def _name(self) -> str:
        return str(self._fields.context["State"]["Name"])

    def _note(self, kind: str, **details: Any) -> None:
        sfn._add_event(self._execution, kind, details)
