"""Pages of 60, 80 and 120 columns: nothing is truncated, and no word is divided."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta, timezone

import pytest
from rich.console import Console, RenderableType

from runctl.cli.display.following import following_view, summary
from runctl.cli.display.list_page import list_page
from runctl.cli.display.reasons import last_lines_text
from runctl.cli.display.status_page import status_page
from runctl.model.outcome import Outcome, OutcomeKind, RunStatus
from runctl.model.request import RunRequest
from runctl.model.run import Attempt, AttemptStage, Existing, Launched, Run, summarize
from runctl.model.shard_progress import ShardProgress
from runctl.model.staging import Staging
from runctl.report.reasons import brief
from runctl.report.run_document import document_of
from runctl.report.run_list import entry_of
from tests.attempts import make_attempt

NOW = datetime(2026, 11, 28, 12, tzinfo=timezone.utc)
NAME = "resnet50-imagenet-large-batch-20261128-120000-ab12"
POOL = "g5.xlarge/us-east-1a/spot"
TRACEBACK = """exit code 1: …
  File "/var/lib/runctl/environments/0f3b7c1d9e8a/lib/python3.12/site-packages/torch/nn/module.py", line 15, in call
    return self._call_impl(*args, **kwargs)
           ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
  File "/var/lib/runctl/project/src/models/transformer_encoder.py", line 88, in forward
    x = self.attention(x, mask=self.mask[:, : x.size(1)], need_weights=False)
        ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has 22.19 GiB."""  # noqa: E501


def attempt(number: int, kind: OutcomeKind, reason: str) -> Attempt:
    return make_attempt(
        number,
        run_id=NAME,
        stage=AttemptStage.ENDED,
        instance_id="i-1",
        pool=POOL,
        launched_at=NOW - timedelta(hours=9 - number),
        ended_at=NOW - timedelta(hours=8 - number),
        noticed_at=NOW,
        ended=Outcome(kind=kind, reason=reason, step=100 * number),
    )


ATTEMPTS = [
    attempt(1, OutcomeKind.INTERRUPTED, "EC2 takes the instance (notice)"),
    attempt(2, OutcomeKind.FAILED, TRACEBACK),
]
RUN = Run(
    run_id=NAME,
    request=RunRequest.of(script="training/train_with_checkpoints.py", code="s3://b/c.tar.gz"),
    started_at=NOW - timedelta(hours=9),
    execution="e",
    execution_arn="arn",
    ended=RunStatus.FAILED,
    ended_at=NOW,
    reason=TRACEBACK,
    newest="manifest",
    step=200,
    committed_at=NOW,
)
DOCUMENT = document_of(RUN, ATTEMPTS, now=NOW)


def printed(page: RenderableType, width: int) -> list[str]:
    console = Console(width=width, highlight=False, markup=False, emoji=False)
    with console.capture() as captured:
        console.print(page)
    return captured.get().splitlines()


@pytest.mark.parametrize("width", [60, 80, 120])
def test_status_of_a_failed_run_shows_its_traceback_once_and_whole(width: int) -> None:
    lines = printed(status_page(DOCUMENT, width=width), width)
    assert len(lines) < 30
    assert max(map(len, lines)) <= width
    text = "\n".join(lines)
    assert text.count("_call_impl(*args, **kwargs)") == 1
    assert 'module.py", line 15, in call' in text
    assert 'transformer_encoder.py", line 88, in forward' in text
    assert "torch.OutOfMemoryError: CUDA out of memory." in text
    assert "          ^^^^" in text  # below the line that it marks
    assert text.count(POOL) == 2


def test_status_shows_the_plan_of_a_launch_and_when_the_next_one_is_planned() -> None:
    live = replace(RUN, ended=None, ended_at=None, reason="")
    refused = Outcome(
        kind=OutcomeKind.NO_CAPACITY, reason="none", retry_at=NOW + timedelta(minutes=5)
    )
    waiting = Attempt(run_id=NAME, number=1, stage=AttemptStage.ENDED, ended=refused)
    text = "\n".join(printed(status_page(document_of(live, [waiting], now=NOW), width=120), 120))
    assert "next launch" in text
    assert "2026-11-28 12:05:00" in text
    late = NOW + timedelta(minutes=6)
    assert "next launch" not in "\n".join(
        printed(status_page(document_of(live, [waiting], now=late), width=120), 120)
    )
    launching = Attempt(
        run_id=NAME,
        number=2,
        stage=AttemptStage.LAUNCHING,
        source=Launched("{}", plan="2 pools; after spot launched nothing"),
    )
    page = status_page(document_of(live, [waiting, launching], now=NOW), width=120)
    words = " ".join("\n".join(printed(page, 120)).split())
    assert "2 pools; after spot launched nothing" in words


def test_status_and_the_live_view_show_how_much_of_the_inputs_is_there() -> None:
    def shown(done_bytes: int) -> tuple[str, str]:
        staging = Staging(done_bytes=done_bytes, total_bytes=5_000_000_000)
        live = make_attempt(
            1, run_id=NAME, instance_id="i-1", launched_at=NOW, phase="inputs", staging=staging
        )
        document = document_of(replace(RUN, ended=None, ended_at=None), [live], now=NOW)
        pages = status_page(document, width=80), following_view(NAME, document)
        status, following = ("\n".join(printed(page, 80)) for page in pages)
        return status, following

    for page in shown(1_250_000_000):
        assert "[#####---------------] 1.2 GB of 5.0 GB" in page
    for page in shown(5_000_000_000):
        assert " of 5.0 GB" not in page


@pytest.mark.parametrize("width", [60, 80, 120])
def test_list_and_summary_keep_a_long_name_whole(width: int) -> None:
    lines = printed(list_page([entry_of(RUN, summarize(ATTEMPTS))], now=NOW, width=width), width)
    assert any(NAME in line for line in lines)
    assert any("failed" in line for line in lines)
    assert "…" not in "".join(lines)
    lines = printed(summary(DOCUMENT, width=width), width)
    assert max(map(len, lines)) <= width
    assert NAME in lines[0]


def test_a_list_that_fits_is_a_table() -> None:
    short = Run(**{**vars(RUN), "run_id": "lm"})
    page = list_page([entry_of(short, summarize(ATTEMPTS))], now=NOW, width=60)
    heading, line = printed(page, 60)
    assert heading.split() == ["run", "status", "step", "attempt", "started"]
    assert line.split()[:4] == ["lm", "failed", "200", "2"]


@pytest.mark.parametrize(
    ("reason", "expected"),
    [
        (TRACEBACK, "exit code 1: … torch.OutOfMemoryError: CUDA out of memory. Tried"),
        ("stopped by the user", "stopped by the user"),
        ("exit code 1: one line", "exit code 1: one line"),
        ("one\ntwo\n\n", "two"),
        ("", ""),
    ],
)
def test_reason_in_one_line_has_the_summary_and_the_end(reason: str, expected: str) -> None:
    assert brief(reason).startswith(expected)
    assert "\n" not in brief(reason)


def test_word_that_is_wider_than_the_page_is_not_divided() -> None:
    word = "s3://bucket/" + "x" * 80
    lines = str(last_lines_text(f"exit code 1: Error:\n    cannot read {word} at all", width=40))
    assert lines.splitlines() == [
        "  Error:",
        "      cannot read",
        f"        {word}",
        "        at all",
    ]


def test_a_run_that_processes_data_has_shards_and_no_checkpoint() -> None:
    process = RunRequest.of(kind="process", script="clean.py", code="s3://b/c.tar.gz")
    young = replace(
        RUN, request=process, ended=None, ended_at=None, reason="", newest=None, step=None,
        committed_at=None,
    )  # fmt: skip
    assert "checkpoint" not in "".join(
        printed(following_view(NAME, document_of(young, [], now=NOW)), 120)
    )
    shards = ShardProgress(total=6, done=4, failed=2)
    last = make_attempt(1, run_id=NAME, stage=AttemptStage.ENDED, shards=shards)
    ended = replace(young, ended=RunStatus.COMPLETED, ended_at=NOW)
    (line,) = printed(summary(document_of(ended, [last], now=NOW), width=120), 120)
    assert "completed: 4 of 6 shards, 2 failed, 1 attempt" in line


def test_the_end_of_an_evaluation_has_its_metrics() -> None:
    request = RunRequest.of(kind="evaluate", script="evaluate.py", code="s3://b/c.tar.gz")
    metrics = {"accuracy": 0.89562, "loss": 0.3718, "recall": {"cat": 1}}
    run = replace(
        RUN, request=request, ended=RunStatus.COMPLETED, ended_at=NOW, reason="", metrics=metrics,
        newest=None, step=None,
    )  # fmt: skip
    last = make_attempt(1, run_id=NAME, stage=AttemptStage.ENDED)
    first, *others = printed(summary(document_of(run, [last], now=NOW), width=120), 120)
    assert "completed: 1 attempt, " in first
    assert others == ["accuracy 0.8956 · loss 0.3718 · recall.cat 1"]


def test_one_shard_is_singular() -> None:
    process = RunRequest.of(kind="process", script="clean.py", code="s3://b/c.tar.gz")
    run = replace(RUN, request=process, ended=RunStatus.COMPLETED, ended_at=NOW, newest=None)
    last = make_attempt(
        1, run_id=NAME, stage=AttemptStage.ENDED, shards=ShardProgress(total=1, done=1)
    )
    (line,) = printed(summary(document_of(run, [last], now=NOW), width=120), 120)
    assert "completed: 1 of 1 shard, 1 attempt" in line


def test_the_page_of_a_run_on_an_existing_instance_says_when_it_was_assigned() -> None:
    given = replace(ATTEMPTS[0], source=Existing("i-1"))
    for attempts, heading in (([given], "assigned"), ([given, ATTEMPTS[1]], "launched")):
        page = "\n".join(printed(status_page(document_of(RUN, attempts, now=NOW), width=160), 160))
        assert {"assigned", "launched"} & set(page.split()) == {heading}
