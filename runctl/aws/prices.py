"""Prices of capacity pools."""

from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any

from runctl.aws.errors import translated
from runctl.model.pool import Pool


class Ec2Prices:
    """Implements `runctl.control.ports.Prices` for Spot; EC2 does not know the other prices."""

    def __init__(self, client: Any) -> None:
        self._client = client

    def current(self, pools: Sequence[Pool], *, now: datetime) -> dict[Pool, Decimal]:
        """Return the current price in USD an hour of those of `pools` whose price is known.

        With `now` as the start, the history begins with the price that applies now.
        """
        types = sorted({pool.instance_type for pool in pools if pool.market == "spot"})
        if not types:
            return {}
        pages = self._client.get_paginator("describe_spot_price_history").paginate(
            InstanceTypes=types, ProductDescriptions=["Linux/UNIX"], StartTime=now
        )
        with translated():
            rows = [row for page in pages for row in page["SpotPriceHistory"]]
        newest = {
            Pool(row["InstanceType"], row["AvailabilityZone"], "spot"): Decimal(row["SpotPrice"])
            for row in sorted(rows, key=lambda row: row["Timestamp"])
        }
        return {pool: newest[pool] for pool in pools if pool in newest}
