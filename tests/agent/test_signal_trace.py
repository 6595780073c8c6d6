"""The sender of SIGTERM, according to the kernel's trace."""

from __future__ import annotations

from pathlib import Path

from runctl.agent.runtime.signal_trace import Sent, SignalTrace, parse_trace, sent_by_others

TRACE = """\
# tracer: nop
         systemd-1       [001] d..1.  100.500000: signal_generate: sig=15 errno=0 code=0 comm=python pid=20 grp=1 res=0
   my-prog (x)-3 y-30    [000] d..1.  101.000000: signal_generate: sig=15 errno=0 code=0 comm=a b pid=21 grp=1 res=0
"""  # noqa: E501


def test_senders_are_read_whatever_their_names_are() -> None:
    assert parse_trace(TRACE.splitlines()) == [
        Sent("systemd", 1, 20, 100.5),
        Sent("my-prog (x)-3 y", 30, 21, 101.0),
    ]


def test_only_a_recent_signal_from_outside_to_a_member_counts() -> None:
    signals = parse_trace(TRACE.splitlines())
    last = sent_by_others(signals, is_member={20, 21}.__contains__, now=150)
    assert last is not None
    assert last.sender == 30
    assert sent_by_others(signals, is_member={20, 1}.__contains__, now=150) is None
    assert sent_by_others(signals, is_member={9}.__contains__, now=150) is None
    assert sent_by_others(signals, is_member={20, 21}.__contains__, now=5000) is None


def test_machine_without_tracefs_sees_nothing_and_says_so(tmp_path: Path, caplog) -> None:
    caplog.set_level("INFO")
    trace = SignalTrace(tmp_path / "nowhere")
    trace.start()
    assert not trace.is_tracing
    assert trace.sent_by_others(lambda _pid: True) is None
    assert "are not visible here" in caplog.text
    trace.stop()


def test_traces_of_agents_that_are_gone_are_removed(tmp_path: Path) -> None:
    left, other = tmp_path / "instances/runctl-4194999", tmp_path / "instances/runctl-1"
    left.mkdir(parents=True)
    other.mkdir()
    trace = SignalTrace(tmp_path)
    trace.start()
    assert not trace.is_tracing, "the folder is not a tracefs, so no event can be enabled"
    assert not left.exists()
    assert other.exists()
