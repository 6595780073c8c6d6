"""Asynchronous successive halving."""

import pytest

from runctl.policy.halving import goes_on, rung_at


@pytest.mark.parametrize(
    ("step", "rung"),
    [(0, None), (1, None), (2, 2), (5, 2), (6, 6), (17, 6), (18, 18), (100, 54)],
)
def test_rungs_are_a_geometric_series(step, rung):
    assert rung_at(step, first=2, factor=3) == rung


def test_the_first_trial_at_a_rung_goes_on():
    assert goes_on(9.0, [], direction="minimize", reduction_factor=3)


@pytest.mark.parametrize(
    ("value", "others", "direction", "expected"),
    [
        (0.5, [0.4], "minimize", False),
        (0.3, [0.4], "minimize", True),
        (0.5, [0.4], "maximize", True),
        (0.3, [0.4], "maximize", False),
        # A tie with the last that goes on is good enough.
        (0.4, [0.4, 0.9], "minimize", True),
        # The best two of six go on.
        (0.2, [0.1, 0.3, 0.4, 0.5, 0.6], "minimize", True),
        (0.35, [0.1, 0.3, 0.4, 0.5, 0.6], "minimize", False),
    ],
)
def test_one_in_three_goes_on(value, others, direction, expected):
    assert goes_on(value, others, direction=direction, reduction_factor=3) is expected
