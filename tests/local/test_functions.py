"""The environments of functions begin, serve and end as on AWS."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.local.clouds import Cloud, eventually, packed

pytestmark = pytest.mark.slow

COUNTING = """
import os
served = 0

def handler(event, context):
    global served
    served += 1
    if event == "raise":
        raise ValueError("as asked")
    if event == "exit":
        os._exit(1)
    return [served, os.getpid(), os.path.realpath(os.environ["LAMBDA_TASK_ROOT"])]
"""


def invoke(cloud: Cloud, function: str, event: Any = None) -> Any:
    answer = cloud.client("lambda").invoke(FunctionName=function, Payload=json.dumps(event))
    return json.load(answer["Payload"])


def test_an_exception_leaves_the_environment_to_the_next_event(cloud: Cloud) -> None:
    function = cloud.function(COUNTING)
    _, process, _ = invoke(cloud, function)
    refused = invoke(cloud, function, "raise")
    assert (refused["errorType"], refused["errorMessage"]) == ("ValueError", "as asked")
    assert invoke(cloud, function)[:2] == [3, process]


def test_a_process_that_ends_is_replaced_by_a_new_one(cloud: Cloud) -> None:
    function = cloud.function(COUNTING)
    _, process, _ = invoke(cloud, function)
    assert "errorMessage" in invoke(cloud, function, "exit")
    served, other, _ = invoke(cloud, function)
    assert served == 1
    assert other != process


def test_functions_with_the_same_code_share_one_copy_of_it_but_no_state(cloud: Cloud) -> None:
    code = COUNTING + "# two functions\n"
    first, second = (invoke(cloud, cloud.function(code)) for _ in range(2))
    assert first[0] == second[0] == 1
    assert first[1] != second[1]
    assert first[2] == second[2]


def test_an_update_is_served_and_the_code_before_it_is_removed(cloud: Cloud) -> None:
    function = cloud.function(COUNTING + "# before the update\n")
    old = invoke(cloud, function)[2]
    lambda_ = cloud.client("lambda")
    code = "def handler(event, context):\n    return 'updated'\n"
    lambda_.update_function_code(FunctionName=function, ZipFile=packed(code))
    assert invoke(cloud, function) == "updated"
    eventually(lambda: not Path(old).exists())
