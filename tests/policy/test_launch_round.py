"""The verdict on a launch without a machine: whether to wait, and the message."""

from hypothesis import given
from hypothesis import strategies as st

from runctl.model.pool import UNKNOWN, Pool
from runctl.model.quota import QUOTAS
from runctl.model.refusal import RefusalKind, kind_of
from runctl.policy.launch_round import QuotaFacts, Round, judge

ZONES = ("us-east-1a", "us-east-1b")
TYPES = ("g5.xlarge", "g5.2xlarge", "m5.large", "p5.48xlarge")
MARKETS = ("spot", "on-demand")
POOLS = tuple(Pool(kind, zone, market) for market in MARKETS for kind in TYPES for zone in ZONES)
SIZES = {"g5.xlarge": 4, "g5.2xlarge": 8, "m5.large": 2, "p5.48xlarge": 192}
HOPEFUL = ["InsufficientInstanceCapacity", "RequestLimitExceeded", "InternalError", "SomethingNew"]
CODES = ["Unsupported", "InvalidFleetConfiguration", "MaxSpotInstanceCountExceeded", *HOPEFUL]

candidates = st.lists(st.sampled_from(POOLS), min_size=1, unique=True).map(tuple)
allowed = st.dictionaries(
    st.sampled_from(list(QUOTAS.values())), st.none() | st.sampled_from([0, 4, 8, 10_000])
)


@st.composite
def rounds(draw):
    asked = draw(candidates)
    refusals = draw(
        st.dictionaries(st.sampled_from(asked), st.sampled_from(CODES), max_size=len(asked))
    )
    return Round(
        candidates=asked,
        refusals=refusals,
        quotas=QuotaFacts(
            region="us-east-1",
            allowed=draw(allowed),
            vcpus=draw(st.sampled_from([SIZES, {}])),
        ),
        had_machine=draw(st.booleans()),
    )


@given(asked=rounds())
def test_the_next_try_is_soon_exactly_if_ec2_gave_no_answer(asked):
    verdict = judge(asked)
    unanswered = {RefusalKind.UNANSWERED, RefusalKind.UNKNOWN}
    kinds = {kind_of(code) for code in asked.refusals.values()}
    assert verdict.retry_soon == bool(kinds & unanswered)


@given(asked=rounds(), pool=st.data())
def test_one_answer_of_another_kind_is_enough_to_wait(asked, pool):
    chosen = pool.draw(st.sampled_from(asked.candidates))
    code = pool.draw(st.sampled_from(HOPEFUL))
    hopeful = Round(
        candidates=asked.candidates,
        refusals={**asked.refusals, chosen: code},
        quotas=asked.quotas,
    )
    assert not judge(hopeful).is_final


@given(asked=candidates, code=st.sampled_from(["Unsupported", "InvalidFleetConfiguration"]))
def test_a_whole_round_of_unsupported_types_ends_the_run_and_names_types_and_zones(asked, code):
    verdict = judge(Round(candidates=asked, refusals=dict.fromkeys(asked, code)))
    assert verdict.is_final
    for pool in asked:
        assert pool.instance_type in verdict.reason
        assert pool.zone in verdict.reason


@given(asked=candidates, left=st.data())
def test_a_pool_that_was_not_requested_is_enough_to_wait(asked, left):
    missing = left.draw(st.sampled_from(asked))
    refusals = {pool: "Unsupported" for pool in asked if pool != missing}
    assert not judge(Round(candidates=asked, refusals=refusals)).is_final


@given(asked=candidates, quotas=allowed)
def test_quotas_end_a_run_only_when_each_is_known_to_be_smaller_than_every_type(asked, quotas):
    refusals = dict.fromkeys(asked, "VcpuLimitExceeded")
    verdict = judge(
        Round(
            candidates=asked,
            refusals=refusals,
            quotas=QuotaFacts(region="r", allowed=quotas, vcpus=SIZES),
        )
    )
    codes = {
        ("g5", "spot"): "L-3819A6DF", ("g5", "on-demand"): "L-DB2E81BA",
        ("m5", "spot"): "L-34B43A08", ("m5", "on-demand"): "L-1216C47A",
        ("p5", "spot"): "L-C4BD4855", ("p5", "on-demand"): "L-417A185B",
    }  # fmt: skip
    known = {quota.code: value for quota, value in quotas.items()}
    values = [
        (known.get(codes[pool.instance_type[:2], pool.market]), SIZES[pool.instance_type])
        for pool in asked
    ]
    hopeless = all(value is not None and value < size for value, size in values)
    assert verdict.is_final == hopeless


def test_a_limiting_quota_is_reported_with_code_name_value_need_and_page():
    asked = tuple(pool for pool in POOLS if pool.instance_type[:2] == "g5")
    verdict = judge(
        Round(
            candidates=asked,
            refusals=dict.fromkeys(asked, "MaxSpotInstanceCountExceeded"),
            quotas=QuotaFacts(
                region="eu-west-1",
                allowed={QUOTAS["L-3819A6DF"]: 0, QUOTAS["L-DB2E81BA"]: 2},
                vcpus=SIZES,
            ),
        )
    )
    page = "https://eu-west-1.console.aws.amazon.com/servicequotas/home/services/ec2/quotas"
    assert verdict.reason == (
        "the launch was refused, and waiting will not help: quota L-3819A6DF (All G and VT Spot "
        "Instance Requests) is 0 vCPUs in eu-west-1, and the run needs 4 vCPUs for g5.xlarge; "
        f"request a higher quota at {page}/L-3819A6DF, or name types of other families; quota "
        "L-DB2E81BA (Running On-Demand G and VT instances) is 2 vCPUs in eu-west-1, and the run "
        f"needs 4 vCPUs for g5.xlarge; request a higher quota at {page}/L-DB2E81BA, or name types "
        "of other families"
    )


def test_an_error_that_leaves_out_the_zone_concerns_all_zones_of_its_type():
    asked = tuple(Pool("m5.lrage", zone, "spot") for zone in ZONES)
    whole = Pool("m5.lrage", UNKNOWN, "spot")
    verdict = judge(Round(candidates=asked, refusals={whole: "InvalidFleetConfiguration"}))
    assert verdict.is_final


def test_a_quota_of_a_family_that_is_not_known_is_waited_for_with_the_page_of_all():
    asked = (Pool("p9.48xlarge", ZONES[0], "spot"),)
    refusals = dict.fromkeys(asked, "MaxSpotInstanceCountExceeded")
    quotas = QuotaFacts(region="eu-west-1")
    verdict = judge(Round(candidates=asked, refusals=refusals, quotas=quotas))
    assert not verdict.is_final
    assert verdict.reason.endswith("servicequotas/home/services/ec2/quotas")
