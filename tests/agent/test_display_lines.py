"""Any output of a program becomes the lines that a terminal would show."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runctl.agent.reporting.display_lines import (
    MARKS_BYTES,
    MAX_EVENT_BYTES,
    REDRAW_SECONDS,
    UNFINISHED_LINE_SECONDS,
    DisplayLines,
)
from runctl.model.log_fragments import Joiner


def shown(content: bytes, *, block: int = 512 * 1024, seconds: float = 0) -> list[str]:
    """Return the events of a file that is read in blocks, within `seconds`."""
    lines, events = DisplayLines("out"), []
    blocks = range(0, len(content), block)
    for number, start in enumerate(blocks):
        now = seconds * number / len(blocks)
        events += lines.feed(content[start : start + block], now)
    return events + lines.end(seconds)


def joined(events: list[str]) -> list[str]:
    joiner: Joiner[None] = Joiner()
    found = [line for event in events if (line := joiner.join(None, event))]
    return [text for _, text in [*found, *joiner.take_unfinished()]]


@pytest.mark.parametrize("block", [1, 2, 3, 1000])
def test_lines_end_with_lf_or_crlf_however_they_are_read(block: int) -> None:
    content = "one\ntwo\r\n\nthree é€😀\r\n\r\nlast".encode()
    assert shown(content, block=block) == ["one", "two", " ", "three é€😀", " ", "last"]


@given(st.text(alphabet="a é€😀\n", max_size=200), st.integers(1, 7))
def test_no_character_is_lost_or_broken(text: str, block: int) -> None:
    lines = text.split("\n")
    expected = lines if lines[-1] else lines[:-1]
    assert shown(text.encode(), block=block) == [line or " " for line in expected]


def test_line_too_long_for_an_event_is_cut_between_characters_and_joined() -> None:
    line = "a" + "é" * 600_000
    events = shown(f"before\n{line}\nafter\n".encode())
    assert joined(events) == ["before", line, "after"]
    assert max(len(event.encode()) for event in events) <= MAX_EVENT_BYTES
    assert not any("�" in event for event in events)
    pieces = [event for event in events if "[runctl: line out:7 continue" in event]
    assert len(pieces) == len(events) - 2
    assert min(len(piece.encode()) for piece in pieces[:-1]) > MAX_EVENT_BYTES - 2 * MARKS_BYTES


def test_line_as_long_as_the_read_blocks_needs_no_more_memory_than_they_do() -> None:
    lines, pieces, held = DisplayLines("out"), 0, 0
    for _ in range(100):
        pieces += len(lines.feed(b"x" * 524_288, 0))
        held = max(held, len(lines._rest))
    assert pieces > 200
    assert held < MAX_EVENT_BYTES


@pytest.mark.parametrize("seed", range(5))
def test_binary_output_breaks_nothing(seed: int) -> None:
    content = random.Random(seed).randbytes(1_200_000)
    events = shown(content + b"\nthe end\n", block=333_333)
    assert max(len(event.encode()) for event in events) <= MAX_EVENT_BYTES
    assert events[-1] == "the end"


def test_latin_1_breaks_nothing_and_is_not_held_back() -> None:
    lines = DisplayLines("out")
    assert lines.feed("été\nà".encode("latin-1"), 0) == ["�t�"]
    assert lines.feed(b"", UNFINISHED_LINE_SECONDS + 1) == []
    assert lines.feed("\nfini".encode("latin-1"), 9) == ["�"]
    assert lines.end(9) == ["fini"]
    line = "é" * 400_000
    assert set("".join(joined(shown(f"{line}\n".encode("latin-1"))))) == {"�"}


def test_prompt_is_passed_on_after_a_while_and_joined_with_its_answer() -> None:
    lines = DisplayLines("out")
    assert lines.feed(b"Epoch 1 ...", 0) == []
    events = lines.feed(b"", UNFINISHED_LINE_SECONDS)
    assert events == ["Epoch 1 ...[runctl: line out:0 continues]"]
    events += lines.feed(" done é".encode()[:-1], UNFINISHED_LINE_SECONDS + 1)
    events += lines.feed(b"", 3 * UNFINISHED_LINE_SECONDS)
    events += lines.feed("é".encode()[1:] + b"\nEpoch 2\n", 3 * UNFINISHED_LINE_SECONDS)
    assert joined(events) == ["Epoch 1 ... done é", "Epoch 2"]


def test_dots_without_pause_are_passed_on_too() -> None:
    lines, events = DisplayLines("out"), []
    for second in range(20):
        events += lines.feed(b".", second)
    assert len(events) == 3
    assert joined(events + lines.feed(b" done\n", 20)) == ["." * 20 + " done"]


def test_restarted_agent_continues_in_the_middle_of_a_line() -> None:
    content = ("x" * 600_000 + "\nnext\n").encode()
    first = DisplayLines("out")
    events = first.feed(content[:524_288], 0)
    again = DisplayLines("out", position=first.done, line_start=first.line_start)
    events += again.feed(content[first.done :], 0)
    assert joined(events) == ["x" * 600_000, "next"]


def bar(states: int, *, end: str = "\n") -> bytes:
    drawn = "".join(f"\r{done:3d}%|{'#' * (done // 10)}|" for done in range(states))
    return f"{drawn}{end}".encode()


def test_progress_bar_leaves_one_line_a_second_and_its_last_state() -> None:
    events = shown(bar(792), block=5, seconds=8.5)
    assert 8 <= len(events) <= 10
    assert events[-1].startswith("791%|")
    assert shown(bar(792)) == [events[-1]]


def test_bar_that_is_never_ended_shows_its_last_state() -> None:
    lines = DisplayLines("err")
    assert lines.feed(bar(50, end=""), 0) == []
    assert lines.feed(b"", REDRAW_SECONDS) == [" 49%|####|"]
    assert lines.feed(b"", 10 * REDRAW_SECONDS) == []
    assert lines.end(20) == []


@pytest.mark.parametrize(
    ("content", "events"),
    [
        (b"10%\r50%\r100%\r\n", ["100%"]),
        (b"10%\r50%\rdone\n", ["50%", "done"]),
        (
            b"remote: 5% (1/9)\rremote: 100% (9/9), done.\n",
            ["remote: 5% (1/9)", "remote: 100% (9/9), done."],
        ),
        (b"\r10%\x1b[K\r20%\x1b[K\x1b[1G30%\x1b[K\n", ["30%\x1b[K"]),
        (b"5%\b\b\r10%\b\b\b\r20%\n", ["20%"]),
        (b"\r100%|##\r        \r", ["100%|##"]),
        (b"\r\r\n \r \r\nnext\n", ["next"]),
        (b"text\r\r\nnext\r\r\n", ["text", "next"]),
    ],
)
def test_only_the_last_state_of_redrawn_lines_within_a_second_is_kept(
    content: bytes, events: list[str]
) -> None:
    assert shown(content) == events


def test_nested_bars_are_two_rows_and_lines_between_them_stay_in_order() -> None:
    """As tqdm writes them: LF, CR, the bar, and the cursor moves up again."""
    content = "".join(
        f"\repochs {epoch}/3"
        + "".join(f"\n\rbatches {batch}/100\x1b[A" for batch in range(100))
        + f"\r          \n\r           \r\x1b[Anote {epoch}\n"
        for epoch in range(3)
    )
    events = shown(f"{content}\repochs 3/3\nthe end\n".encode())
    assert [event for event in events if "note" in event or "end" in event] == [
        "note 0", "note 1", "note 2", "the end",
    ]  # fmt: skip
    assert events[-2:] == ["epochs 3/3", "the end"]
    assert events.count("batches 99/100") == 3
    assert len(events) < 12


def test_redrawn_table_leaves_its_rows_once_a_second() -> None:
    frames = [f"loss {n}\nrate {n}\n" for n in range(200)]
    events = shown("\x1b[2A".join(frames).encode(), block=11, seconds=3.5)
    assert events[:2] == ["loss 0", "rate 0"]
    assert events[-2:] == ["loss 199", "rate 199"]
    assert len(events) < 14


def test_metrics_and_other_lines_of_json_keep_every_line() -> None:
    content = b"".join(b'{"step": %d}\n' % step for step in range(500))
    assert len(shown(content)) == 500
