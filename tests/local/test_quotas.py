"""vCPU quotas are reported by Service Quotas and enforced by CreateFleet, as on AWS."""

from __future__ import annotations

import pytest
from botocore.exceptions import ClientError

from runctl.aws.quotas import Ec2Quotas
from runctl.local.client import LocalCloudError
from runctl.local.core.allocation import Offer, allocate
from runctl.local.core.knobs import Knobs
from runctl.local.core.market import Lifecycle, Market, Pool
from runctl.local.ec2.quotas import Quotas
from runctl.model.quota import QUOTAS
from tests.local.clouds import ZONES, Cloud

SPOT, ON_DEMAND, SPOT_G = "L-34B43A08", "L-1216C47A", "L-3819A6DF"
SENTENCES = {
    "spot": ("MaxSpotInstanceCountExceeded", "Max spot instance count exceeded"),
    "on-demand": ("VcpuLimitExceeded", "than your current vCPU limit of 7 allows"),
}


def offers(lifecycle: Lifecycle, *types: str) -> list[Offer]:
    return [Offer(Pool(kind, ZONES[0], lifecycle), order) for order, kind in enumerate(types)]


def granted(market: Market, quota: dict[str, int], asked: list[Offer], wanted: int) -> list[str]:
    check = Quotas(Knobs(vcpu_quotas=quota), market).shortage
    got = allocate(market, asked, wanted=wanted, strategy="lowest-price", quota_check=check)
    return [offer.pool.instance_type for offer in got.granted]


def test_a_quota_counts_the_vcpus_of_all_types_of_its_families() -> None:
    asked = offers("spot", "c5.large", "m5.xlarge")
    assert granted(Market(), {SPOT: 7}, asked, 9) == ["c5.large"] * 3
    market = Market(in_use={Pool("r5.large", ZONES[1], "spot"): 2})
    assert granted(market, {SPOT: 7}, asked, 9) == ["c5.large"]
    # Neither the other market's instances nor those of other families count.
    others = {Pool("r5.large", ZONES[1], "on-demand"): 9, Pool("g5.xlarge", ZONES[1], "spot"): 9}
    assert granted(Market(in_use=others), {SPOT: 2}, asked, 1) == ["c5.large"]


@pytest.mark.parametrize("lifecycle", ["spot", "on-demand"])
def test_beyond_a_quota_the_error_depends_on_the_market(lifecycle: Lifecycle) -> None:
    market = Market(in_use={Pool("m5.xlarge", ZONES[1], lifecycle): 1})
    check = Quotas(Knobs(vcpu_quotas={SPOT: 7, ON_DEMAND: 7}), market).shortage
    asked = offers(lifecycle, "m5.xlarge")
    (refusal,) = allocate(
        market, asked, wanted=1, strategy="lowest-price", quota_check=check
    ).refused
    code, sentence = SENTENCES[lifecycle]
    assert refusal.code == code
    assert sentence in refusal.message


def test_create_fleet_refuses_requests_beyond_a_quota(cloud: Cloud) -> None:
    cloud.admin.set_quota(SPOT, 1)
    got = cloud.client("ec2").create_fleet(**cloud.fleet_request(cloud.template()))
    assert [error["ErrorCode"] for error in got["Errors"]] == ["MaxSpotInstanceCountExceeded"]
    cloud.admin.set_quota(SPOT, None)
    assert cloud.launch()


def test_service_quotas_returns_the_value_in_force(cloud: Cloud) -> None:
    client = cloud.client("service-quotas")
    ours = Ec2Quotas(client, cloud.client("ec2"))
    with pytest.raises(ClientError, match="NoSuchResourceException"):
        client.get_service_quota(ServiceCode="ec2", QuotaCode=SPOT_G)
    assert ours.allowed(QUOTAS[SPOT_G]) == 10_000  # AWS's default
    cloud.admin.set_quota(SPOT_G, 0)
    answer = client.get_service_quota(ServiceCode="ec2", QuotaCode=SPOT_G)["Quota"]
    assert (answer["QuotaName"], answer["Value"]) == ("All G and VT Spot Instance Requests", 0.0)
    assert ours.allowed(QUOTAS[SPOT_G]) == 0
    assert ours.vcpus(["g5.xlarge", "m5.large", "g5xlarge"]) == {"g5.xlarge": 4, "m5.large": 2}


def test_reading_quotas_needs_a_permission(strict_cloud: Cloud) -> None:
    strict_cloud.admin.set_quota(SPOT_G, 0)
    client = strict_cloud.client("service-quotas", **strict_cloud.assume(strict_cloud.role()))
    with pytest.raises(ClientError, match="AccessDeniedException"):
        client.get_service_quota(ServiceCode="ec2", QuotaCode=SPOT_G)
    assert Ec2Quotas(client, strict_cloud.client("ec2")).allowed(QUOTAS[SPOT_G]) is None


@pytest.mark.parametrize(
    ("quotas", "problem"),
    [
        ({"L-34B43A0": 1}, "'L-34B43A0' is not a known quota; did you mean 'L-34B43A08'"),
        ({SPOT: -1}, "not a number of at least 0"),
        ({SPOT: 1.5}, "1.5 for L-34B43A08 is not a number of vCPUs"),
        ({SPOT: "8"}, "'8' for L-34B43A08 is not a number of vCPUs"),
    ],
)
def test_an_invalid_quota_is_refused(cloud: Cloud, quotas: dict[str, object], problem: str) -> None:
    with pytest.raises(LocalCloudError, match=problem):
        cloud.admin.set_knobs(vcpu_quotas=quotas)
