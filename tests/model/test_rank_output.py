"""Of what ranks and torchrun print when one rank fails, the cause is left."""

from __future__ import annotations

import pytest

from runctl.model.rank_output import (
    exit_code_of_rank,
    explain_failure,
    follows_from_another,
)

# As torch 2.13 has printed them, shortened: rank 1 fails, and its peers lose the connection.
CAUSE = """\
[rank1]: Traceback (most recent call last):
[rank1]:   File "/project/train.py", line 12, in <module>
[rank1]:     step()
[rank1]: ValueError: the loss is nan
"""
CONSEQUENCE = """\
[rank{rank}]: Traceback (most recent call last):
[rank{rank}]:   File "/project/train.py", line 13, in <module>
[rank{rank}]:     dist.all_reduce(t)
[rank{rank}]: RuntimeError: [/gloo/pair.cc:553] Connection closed by peer [127.0.0.1]:2185. \
This is typically caused by a remote worker crashing. GLHF! 🏖️
"""
SENDING = (
    "W1130 23:02:11.232000 27560 torch/distributed/elastic/multiprocessing/api.py:1028] "
    "Sending process 28781 closing signal SIGTERM\n"
)
FAILED = (
    "E1130 23:02:11.300000 27560 torch/distributed/elastic/multiprocessing/api.py:1002] "
    "failed (exitcode: {code}) local_rank: 1 (pid: 28782) of binary: /env/bin/python\n"
)
REPORT = """\
Traceback (most recent call last):
  File "<frozen runpy>", line 198, in _run_module_as_main
  File "/env/torch/distributed/launcher/api.py", line 383, in launch_agent
    raise ChildFailedError(
torch.distributed.elastic.multiprocessing.errors.ChildFailedError:\x20
============================================================
train.py FAILED
------------------------------------------------------------
Failures:
[1]:
  time      : 2026-11-30_23:02:11
  host      : localhost
  rank      : 0 (local_rank: 0)
  exitcode  : -15 (pid: 28781)  (SIGTERM)
  error_file: <N/A>
  traceback : Signal 15 (SIGTERM) received by PID 28781
------------------------------------------------------------
Root Cause (first observed failure):
[0]:
  time      : 2026-11-30_23:02:11
  host      : localhost
  rank      : 1 (local_rank: 1)
  exitcode  : {code} (pid: 28782)\x20
  error_file: <N/A>
  traceback : To enable traceback see: https://pytorch.org/docs/stable/elastic/errors.html
============================================================
"""
WARNING = "/env/lib/thing.py:3: UserWarning: something is old\n"
OF_LIBRARY = "[rank1]:[W1130 23:02:09.1 ProcessGroupGloo.cpp:1] a warning\n"


def printed(*parts: str, code: int = 1, restarts: bool = False) -> str:
    end = SENDING + FAILED.format(code=code)
    return "".join([*parts, end, "" if restarts else REPORT.format(code=code)])


def follows(*ranks: int) -> str:
    return "".join(CONSEQUENCE.format(rank=rank) for rank in ranks)


@pytest.mark.parametrize(
    "tracebacks",
    [(CAUSE, follows(2, 0)), (follows(2), CAUSE, follows(0)), (follows(2, 0), CAUSE), (CAUSE,)],
    ids=["first", "between", "last", "alone"],
)
def test_the_traceback_of_the_rank_that_failed_is_left_wherever_it_is(
    tracebacks: tuple[str, ...],
) -> None:
    found = explain_failure(printed(WARNING, OF_LIBRARY, *tracebacks))
    assert found == CAUSE.rstrip("\n")
    assert not follows_from_another(found)


def test_tracebacks_that_are_printed_at_the_same_time_are_told_apart() -> None:
    lines = [CAUSE.splitlines(), follows(0).splitlines()]
    mixed = "".join(f"{line}\n" for pair in zip(*lines, strict=True) for line in pair)
    assert explain_failure(printed(mixed)) == CAUSE.rstrip("\n")


def test_another_launcher_than_torchrun_reports_nothing() -> None:
    assert explain_failure(WARNING + follows(0) + CAUSE) == CAUSE.rstrip("\n")


@pytest.mark.parametrize(
    ("code", "end"), [(-9, "rank 1: ended by signal 9"), (7, "rank 1: exit code 7")]
)
def test_a_rank_that_dies_without_a_traceback_is_named(code: int, end: str) -> None:
    found = explain_failure(printed("gave up\n", follows(0, 2), code=code))
    assert found.split("\n") == ["gave up", "", end]
    assert exit_code_of_rank(printed("gave up\n", code=code)) == code
    assert not follows_from_another(found)


def test_a_rank_that_fails_before_it_joins_is_named_after_what_it_printed() -> None:
    own = "Traceback (most recent call last):\n  File \"train.py\"\nKeyError: 'boom'\n"
    assert explain_failure(printed(own)) == f"{own}\nrank 1: exit code 1"


def test_ranks_that_have_all_lost_one_of_another_node_say_so() -> None:
    found = explain_failure(printed(follows(0, 1)))
    assert found == follows(1).rstrip("\n")
    assert follows_from_another(found)


def test_what_torchrun_has_restarted_is_not_the_cause() -> None:
    first = CAUSE.replace("the loss is nan", "of an earlier round")
    text = printed(first, restarts=True) + printed(follows(0), CAUSE)
    assert explain_failure(text) == CAUSE.rstrip("\n")


def test_a_report_that_is_cut_leaves_the_output_without_it() -> None:
    cut = printed(follows(0)).partition("Root Cause")[0]
    assert explain_failure(cut) == follows(0)


@pytest.mark.parametrize("number", ["9" * 5000, "x"])
def test_numbers_that_a_program_has_made_up_change_nothing(number: str) -> None:
    text = "words\n" + REPORT.format(code=1).replace("rank      : 1", f"rank      : {number}")
    assert explain_failure(text) == "words\n"


@pytest.mark.parametrize(
    "output",
    [
        "",
        "Traceback (most recent call last):\n  File\nKeyError: 1\n",
        "ChildFailedError: of another program",
        CAUSE + "the program has handled it\nTypeError: something else\n",
        OF_LIBRARY,
    ],
)
def test_other_output_is_left_alone(output: str) -> None:
    assert explain_failure(output) == output
    assert exit_code_of_rank(output) is None
