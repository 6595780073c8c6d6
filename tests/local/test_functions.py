"""The environments of functions begin, serve and end as on AWS."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import psutil
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


@pytest.mark.parametrize("name", ["jmespath", "botocore"])
def test_a_part_of_the_sdk_that_the_code_brings_is_the_one_it_imports(
    cloud: Cloud, name: str
) -> None:
    code = f"import {name}\ndef handler(event, context):\n    return {name}.OWN\n"
    function = cloud.function(code, **{f"{name}.py": b"OWN = 'brought'\n"})
    assert invoke(cloud, function) == "brought"


def test_functions_that_share_their_code_are_started_ahead_of_their_events(
    cloud: Cloud, tmp_path: Path
) -> None:
    def begins(name: str) -> str:
        file = str(tmp_path / name)
        return f"open({file!r}, 'a').write('began ')\ndef handler(event, context):\n    return 1\n"

    alone = cloud.function(begins("alone"))
    for _ in range(2):
        cloud.function(begins("shared"))
    cloud.admin.warm_functions()
    shared = tmp_path / "shared"
    eventually(lambda: shared.exists() and shared.read_text().split() == ["began"] * 2)
    # It would have been the first.
    assert not (tmp_path / "alone").exists()
    assert invoke(cloud, alone) == 1
    assert (tmp_path / "alone").read_text() == "began "


def test_functions_do_not_draw_the_same_random_numbers(cloud: Cloud) -> None:
    code = "import random\ndef handler(event, context):\n    return random.random()\n"
    assert invoke(cloud, cloud.function(code)) != invoke(cloud, cloud.function(code))


def test_functions_start_again_after_the_process_that_forks_them_was_killed(cloud: Cloud) -> None:
    running = cloud.function(COUNTING)
    _, process, _ = invoke(cloud, running)
    forking = psutil.Process(process).parent()
    assert forking is not None
    assert forking.ppid() == cloud.endpoint.pid
    forking.kill()
    assert invoke(cloud, cloud.function(COUNTING))[0] == 1
    assert invoke(cloud, running)[:2] == [2, process]
