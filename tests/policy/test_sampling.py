"""Samplers without memory: a trial's number decides, so a repeated call changes nothing."""

import pytest

from runctl.model.sweep_options import RANDOM, SweepOptions
from runctl.policy.sampling import choose


def texts(options, number, group_id="search"):
    chosen = choose(options, group_id=group_id, number=number)
    return tuple(value.text for value in chosen.values())


def test_a_grid_is_tried_in_the_order_of_its_points():
    options = SweepOptions(hyperparameters={"lr": "0.1,0.2", "size": "32,64"})
    assert [texts(options, number) for number in range(1, 5)] == [
        ("0.1", "32"), ("0.1", "64"), ("0.2", "32"), ("0.2", "64"),
    ]  # fmt: skip


def test_random_points_follow_from_seed_and_number():
    options = SweepOptions(
        hyperparameters={"lr": "1e-5..1e-1:log"}, sampler=RANDOM, max_trials=10, seed=7
    )
    drawn = [texts(options, number) for number in range(1, 11)]
    assert len(set(drawn)) == 10
    assert drawn == [texts(options, number, "another") for number in range(1, 11)]


def test_without_a_seed_two_sweeps_try_different_points():
    options = SweepOptions(hyperparameters={"lr": "0.0..1.0"}, sampler=RANDOM, max_trials=3)
    assert texts(options, 1, "search-a") != texts(options, 1, "search-b")


@pytest.mark.parametrize("max_trials", [0, 7, 12])
def test_random_points_of_a_space_that_ends_are_all_different(max_trials):
    options = SweepOptions(
        hyperparameters={"a": "1..4", "b": "x,y,z"}, sampler=RANDOM, max_trials=max_trials
    )
    drawn = {texts(options, number) for number in range(1, options.trials + 1)}
    assert len(drawn) == options.trials == (max_trials or 12)


def test_more_points_than_can_be_counted_are_drawn_one_by_one():
    huge = {f"p{number}": "1..1000000000" for number in range(10)}
    options = SweepOptions(hyperparameters=huge, sampler=RANDOM, max_trials=5)
    assert len({texts(options, number) for number in range(1, 6)}) == 5
