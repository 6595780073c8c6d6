"""The handlers over a world in memory, fed with events as AWS writes them."""

import json
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.control.scenes import prepared

RECORDED = Path(__file__).parent / "recorded"
HANDLERS = (
    "clean_up",
    "confirm_checkpoint",
    "decide_next",
    "finish_run",
    "handle_instance_change",
    "handle_interruption",
    "launch_instances",
    "prepare_run",
    "prune_environments",
    "train",
    "reconcile",
)


@dataclass
class Context:
    function_name: str = "any"
    memory_limit_in_mb: int = 512
    invoked_function_arn: str = "arn:aws:lambda:us-east-1:123456789012:function:any"
    aws_request_id: str = "52fdfc07-2182-454f-963f-5f0f9a621d72"


def recorded(name: str, /, **detail) -> dict:
    """Return an event as AWS's documentation prints it, with other values in its detail."""
    event = json.loads((RECORDED / f"{name}.json").read_text())
    event["detail"] |= {key.replace("_", "-"): value for key, value in detail.items()}
    return event


@pytest.fixture
def world(monkeypatch):
    world = prepared()
    for name in HANDLERS:
        module = __import__(f"lambdas.{name}", fromlist=["services"])
        monkeypatch.setattr(module, "services", lambda: world)
    return world


@pytest.fixture
def invoke():
    def call(name: str, event: dict) -> dict:
        module = __import__(f"lambdas.{name}", fromlist=["handler"])
        # The input and output of a function are JSON.
        return json.loads(json.dumps(module.handler(json.loads(json.dumps(event)), Context())))

    return call
