"""Failures are equal unless they differ in more than numbers, addresses and times."""

import pytest

from runctl.model.failure import fingerprint, masked
from runctl.model.outcome import Outcome, OutcomeKind

SAME = [
    ("loss is nan at step 120", "loss is nan at step 4711"),
    ("<Model object at 0x7f3a5c0d1e80>", "<Model object at 0x7ffe00112233>"),
    ("[2026-11-28 21:22:34,117] ERROR rank 3", "[2026-11-29 03:01:00,002] ERROR rank 0"),
    ("File '/tmp/tmpab12x/shard.bin' is missing", "File '/tmp/tmpzz9_q/shard.bin' is missing"),
    ("part 3f2a9c01be77d1aa of ckpt-2", "part 00aa11bb22cc33dd of ckpt-12"),
    (
        "CUDA out of memory. Tried to allocate 2.50 GiB",
        "CUDA out of memory. Tried to allocate 1e3 GiB",
    ),
    ("a\n  b", "a b"),
    ("job 0f8fad5b-d9cb-469f-a165-70867728950e", "job 7c9e6679-7425-40de-944b-e07fc1f90ae7"),
]


@pytest.mark.parametrize(("one", "other"), SAME)
def test_details_that_change_between_runs_make_no_difference(one, other):
    assert masked(one) == masked(other)
    assert fingerprint(1, one) == fingerprint(1, other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("KeyError: 'optimizer'", "KeyError: 'model'"),
        ("FileNotFoundError: ckpt-2/b.json", "FileNotFoundError: ckpt-2/a.bin"),
        ("", "Killed"),
    ],
)
def test_other_words_are_another_failure(one, other):
    assert fingerprint(1, one) != fingerprint(1, other)


def test_another_exit_code_is_another_failure():
    assert fingerprint(1, "died") != fingerprint(2, "died")


def test_an_outcome_keeps_the_fingerprint_of_its_failure():
    first = Outcome(kind=OutcomeKind.FAILED, exit_code=1, reason="exit code 1: died at step 5")
    later = Outcome(kind=OutcomeKind.FAILED, exit_code=1, reason="exit code 1: died at step 7")
    explained = Outcome(
        kind=OutcomeKind.FAILED, exit_code=1, reason="tried twice", fingerprint=first.failure_id
    )
    assert first.failure_id == later.failure_id == explained.failure_id
    assert Outcome.from_document(explained.as_document()) == explained
