"""Prices of capacity pools."""

from datetime import datetime
from decimal import Decimal
from typing import Any

from runctl.aws.errors import translated
from runctl.model.pool import Pool


def read_spot_price(client: Any, pool: Pool, *, now: datetime) -> Decimal | None:
    """Return a spot pool's current price in USD an hour with an EC2 client, None when unknown.

    With `now` as the start EC2 answers the price that holds now.
    """
    with translated():
        answer = client.describe_spot_price_history(
            InstanceTypes=[pool.instance_type],
            AvailabilityZone=pool.zone,
            ProductDescriptions=["Linux/UNIX"],
            StartTime=now,
            MaxResults=10,
        )
    history = sorted(answer["SpotPriceHistory"], key=lambda row: row["Timestamp"])
    return Decimal(history[-1]["SpotPrice"]) if history else None
