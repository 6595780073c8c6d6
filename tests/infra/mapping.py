"""A definition with a Distributed Map, with everything that ours may use."""

from __future__ import annotations

from typing import Any

LABEL = "Members"


def mapping_definition() -> dict[str, Any]:
    """Return the definition; it refers to a function, to the machine of runs and to the bucket."""
    key = "{% 'groups/' & $states.context.Execution.Name & '/items.jsonl' %}"
    member = {
        "Type": "Task",
        "Resource": "arn:aws:states:::states:startExecution.sync:2",
        "Arguments": {
            "StateMachineArn": "${run_machine}",
            "Name": "{% $states.input.run_id %}",
            "Input": "{% $states.input.request %}",
        },
        "End": True,
    }
    members = {
        "Type": "Map",
        "Label": LABEL,
        "ItemReader": {
            "Resource": "arn:aws:states:::s3:getObject",
            "ReaderConfig": {"InputType": "JSONL"},
            "Arguments": {"Bucket": "${bucket}", "Key": key},
        },
        "ItemSelector": {"run_id": "{% $states.context.Map.Item.Value.run_id %}"},
        "ItemBatcher": {"MaxItemsPerBatch": 10},
        "ItemProcessor": {
            "ProcessorConfig": {"Mode": "DISTRIBUTED", "ExecutionType": "STANDARD"},
            "StartAt": "Member",
            "States": {"Member": member},
        },
        "ResultWriter": {
            "Resource": "arn:aws:states:::s3:putObject",
            "Arguments": {"Bucket": "${bucket}", "Prefix": "groups/results"},
        },
        "MaxConcurrency": "{% $states.input.instances %}",
        "ToleratedFailurePercentage": "{% $states.input.tolerated %}",
        "Output": "{% $states.result.ResultWriterDetails %}",
        "Next": "Finish",
    }
    finish = {
        "Type": "Task",
        "Resource": "arn:aws:states:::lambda:invoke",
        "Arguments": {"FunctionName": "${finish}", "Payload": "{% $states.input %}"},
        "End": True,
    }
    return {
        "QueryLanguage": "JSONata",
        "StartAt": LABEL,
        "States": {LABEL: members, "Finish": finish},
    }
