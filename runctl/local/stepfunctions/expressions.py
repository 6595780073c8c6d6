"""JSONata expressions: the second that one may take is of processor time.

The port of JSONata counts the time of day, in which many threads of a busy machine do not get a
second of work done: expressions would fail by chance.
"""

from __future__ import annotations

import time
from typing import Any

from ministack.services import stepfunctions as sfn

_TOO_SLOW, _TOO_DEEP = "D1012", "D1011"


def install() -> None:
    """Change how the port of JSONata limits expressions, once."""
    limiter, failure = sfn.jsonata.timebox.Timebox, sfn.jsonata.jexception.JException
    initialize = limiter.__init__

    def start(box: Any, *arguments: Any, **options: Any) -> None:
        initialize(box, *arguments, **options)
        box.began = time.thread_time()

    def check_runaway(box: Any) -> None:
        if box.max_depth is not None and box.depth > box.max_depth:
            raise failure(_TOO_DEEP, -1)
        spent = (time.thread_time() - box.began) * 1000
        if box.timeout is not None and spent > box.timeout:
            raise failure(_TOO_SLOW, -1, box.timeout)

    limiter.__init__ = start
    limiter.check_runaway = check_runaway
