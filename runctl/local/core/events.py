# ruff: noqa: SLF001 - services publish inside ministack, as they do inside AWS
"""Events that services send to EventBridge, delivered in the order in which they happened."""

from __future__ import annotations

import json
import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from ministack.services import eventbridge

from runctl.local.core import records
from runctl.local.core.knobs import Knobs

logger = logging.getLogger(__name__)


class EventBus:
    """Publishes what AWS services publish; `put_events` refuses sources that begin with `aws.`."""

    def __init__(self, knobs: Knobs, *, account: str, region: str) -> None:
        self._knobs, self._account, self._region = knobs, account, region
        # One thread: two events of one instance never overtake each other by accident.
        self._sender = ThreadPoolExecutor(max_workers=1, thread_name_prefix="event-bus")

    def publish(
        self, detail_type: str, detail: dict[str, Any], *, resource: str, source: str = "aws.ec2"
    ) -> None:
        """Send an event of a service, as often and as late as the knobs state."""
        if {detail_type, "*"} & set(self._knobs.drop_events):
            return
        copies = 1 + _for_type(self._knobs.duplicate_events, detail_type, 0)
        delay = float(_for_type(self._knobs.delay_events, detail_type, 0.0))
        entry = {
            "Source": source,
            "DetailType": detail_type,
            "Detail": json.dumps(detail),
            "Resources": [resource],
        }
        for _ in range(copies):
            if delay:
                timer = threading.Timer(delay, self._sender.submit, (self._send, entry))
                timer.daemon = True
                timer.start()
            else:
                self._sender.submit(self._send, entry)

    def _send(self, entry: dict[str, Any]) -> None:
        with records.scope(self._account, self._region):
            try:
                eventbridge._put_events({"Entries": [dict(entry)]}, allow_aws_source=True)
            except Exception:
                logger.exception("an event was lost: %s", entry["DetailType"])
                raise


def _for_type(values: dict[str, Any], detail_type: str, default: Any) -> Any:
    return values.get(detail_type, values.get("*", default))
