"""The calls of EC2 about capacity: prices, offerings and instance types."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Any

from runctl.local.core import catalog, records
from runctl.local.core.market import Market, Pool
from runctl.local.core.protocol import ApiError
from runctl.local.ec2.disk_keys import Authorize
from runctl.local.ec2.filters import check_filters, filters_of, matches, page
from runctl.local.ec2.responses import type_of

_STEP = timedelta(hours=1)
_PRODUCTS = {"Linux/UNIX", "Linux/UNIX (Amazon VPC)"}


class MarketCalls:
    """Answers what can be launched where, and at which price."""

    def __init__(self, market: Market) -> None:
        self._market = market

    def price_history(self, request: dict[str, Any], authorize: Authorize) -> dict[str, Any]:
        """DescribeSpotPriceHistory: the price of each pool, hour by hour."""
        authorize("DescribeSpotPriceHistory")
        filters = filters_of(request)
        check_filters(filters, known=("instance-type", "availability-zone", "product-description"))
        wanted = (request.get("ProductDescriptions"), filters.get("product-description"))
        if any(names is not None and not set(names) & _PRODUCTS for names in wanted):
            return {"SpotPriceHistory": [], "NextToken": ""}
        types = (
            request.get("InstanceTypes") or filters.get("instance-type") or catalog.known_types()
        )
        zones = (
            [request["AvailabilityZone"]]
            if "AvailabilityZone" in request
            else (filters.get("availability-zone") or records.zones())
        )
        now = datetime.now(timezone.utc)
        start = request.get("StartTime") or now
        end = min(request.get("EndTime") or now, now)
        moments = [end - _STEP * step for step in range(90 * 24) if end - _STEP * step >= start]
        rows = [
            {
                "AvailabilityZone": zone,
                "InstanceType": instance_type,
                "ProductDescription": "Linux/UNIX",
                "SpotPrice": f"{self._market.price(Pool(instance_type, zone)):.6f}",
                "Timestamp": moment,
            }
            for moment in moments[:24] or [end]
            for instance_type in types
            for zone in zones
        ]
        shown, token = page(rows, request, least=1)
        return {"SpotPriceHistory": shown, "NextToken": token or ""}

    def offerings(self, request: dict[str, Any], authorize: Authorize) -> dict[str, Any]:
        """DescribeInstanceTypeOfferings: where the types are offered."""
        authorize("DescribeInstanceTypeOfferings")
        kind = request.get("LocationType", "region")
        if kind not in {"region", "availability-zone"}:
            raise ApiError("UnsupportedOperation", f"The local cloud has no offerings by {kind}.")
        filters = filters_of(request)
        check_filters(filters, known=("instance-type", "location"))
        places = records.zones() if kind == "availability-zone" else [records.region()]
        rows = [
            {"InstanceType": name, "LocationType": kind, "Location": place}
            for name in catalog.known_types()
            for place in places
            if matches(name, filters.get("instance-type"))
            and matches(place, filters.get("location"))
            and self._market.error(Pool(name, place)) != "Unsupported"
        ]
        shown, token = page(rows, request)
        return {"InstanceTypeOfferings": shown, "NextToken": token}

    def instance_types(self, request: dict[str, Any], authorize: Authorize) -> dict[str, Any]:
        """DescribeInstanceTypes: the sizes of instance types."""
        authorize("DescribeInstanceTypes")
        filters = filters_of(request)
        check_filters(filters, known=("instance-type",))
        names = request.get("InstanceTypes") or [
            name for name in catalog.known_types() if matches(name, filters.get("instance-type"))
        ]
        shown, token = page([catalog.look_up(name) for name in names], request)
        return {"InstanceTypes": [type_of(shape) for shape in shown], "NextToken": token}
