"""Routes out of a subnet: a gateway that exists and can be used, or every endpoint."""

import pytest

from runctl.policy.routes import NEEDED_ENDPOINTS, problem_with_routes

IGW, NAT = ("igw-1", True), ("nat-1", True)


@pytest.mark.parametrize(
    ("routes", "endpoints", "public", "problem"),
    [
        ([IGW], (), True, ""),
        ([NAT], (), False, ""),
        ([IGW, NAT], (), False, ""),
        ([IGW], (), False, "only instances with a public address"),
        ([], (), True, "no route out"),
        ([], NEEDED_ENDPOINTS, False, ""),
        ([IGW], NEEDED_ENDPOINTS, False, ""),
        ([], [name for name in NEEDED_ENDPOINTS if name != "sts"], False, "no endpoint for sts"),
        ([("nat-1", False)], (), False, "leads to nat-1, which is gone"),
        ([("nat-1", False), IGW], (), True, ""),
    ],
)
def test_a_subnet_needs_a_way_out(routes, endpoints, public, problem):
    found = problem_with_routes(routes, endpoints, has_public_address=public)
    assert problem in found
    assert bool(found) == bool(problem)
