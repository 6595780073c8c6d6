"""The functions as the state machine and the logs see them: their results are JSON documents."""

import functools
import json
from collections.abc import Callable
from typing import Any

from runctl.control import clean_up as clean_up_module
from runctl.control import confirm_checkpoint as confirm_checkpoint_module
from runctl.control import decide_next as decide_next_module
from runctl.control import finish_run as finish_run_module
from runctl.control import handle_instance_change as handle_instance_change_module
from runctl.control import handle_interruption as handle_interruption_module
from runctl.control import launch_instances as launch_instances_module
from runctl.control import prepare_run as prepare_run_module
from runctl.control import reconcile as reconcile_module
from runctl.control import record_image as record_image_module
from runctl.control import train as train_module
from runctl.control.results import Result


def _as_document(function: Callable[..., Result]) -> Callable[..., Any]:
    @functools.wraps(function)
    def call(*args: Any, **options: Any) -> Any:
        return json.loads(json.dumps(function(*args, **options).as_document()))

    return call


prepare_run = _as_document(prepare_run_module.prepare_run)
record_image = _as_document(record_image_module.record_image)
launch_instances = _as_document(launch_instances_module.launch_instances)
train = _as_document(train_module.train)
confirm_checkpoint = _as_document(confirm_checkpoint_module.confirm_checkpoint)
decide_next = _as_document(decide_next_module.decide_next)
finish_run = _as_document(finish_run_module.finish_run)
clean_up = _as_document(clean_up_module.clean_up)
handle_interruption = _as_document(handle_interruption_module.handle_interruption)
handle_rebalance = _as_document(handle_interruption_module.handle_rebalance)
handle_event = _as_document(handle_interruption_module.handle_event)
handle_instance_change = _as_document(handle_instance_change_module.handle_instance_change)
handle_change_event = _as_document(handle_instance_change_module.handle_event)
reconcile = _as_document(reconcile_module.reconcile)
