"""The incomplete saves of a gang that will never be whole, since later ones have followed."""

import pytest

from runctl.checkpoint.joining import replaced_saves
from runctl.checkpoint.save_groups import is_incomplete

OLD, NEW = "run/step-7/.metadata", "run/step-8/.metadata"


@pytest.mark.parametrize(
    ("flawed", "written"),
    [
        ([OLD], [OLD]),
        ([NEW], [OLD, NEW]),  # it may still become whole
        ([OLD, NEW], [OLD, NEW]),
        ([OLD], [OLD, "other/step-8/.metadata"]),
        ([OLD], [OLD, "run/epoch-8/.metadata"]),  # another series
        (["run/model/.metadata"], ["run/model/.metadata", NEW]),
        ([], [OLD, NEW]),
    ],
)
def test_a_save_that_may_become_whole_is_not_replaced(flawed, written):
    assert not replaced_saves(flawed, written)


def test_a_save_is_replaced_by_a_later_one_of_its_series_with_all_of_its_files():
    replaced = replaced_saves([OLD], [OLD, NEW])
    assert is_incomplete(replaced, "run/step-7/__0_0.distcp")
    assert is_incomplete(replaced, "run/step-7/optimizer/.metadata")
    assert not is_incomplete(replaced, NEW)
    assert not is_incomplete(replaced, "run/step-70/.metadata")
