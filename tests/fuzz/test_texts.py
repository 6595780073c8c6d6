"""Settings, metrics and output from anybody."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from hypothesis import example, given
from hypothesis import strategies as st

from runctl.agent.reporting.display_lines import DisplayLines
from runctl.agent.reporting.json_lines import Follower
from runctl.agent.reporting.progress import Progress
from runctl.agent.saving.save_events import SaveEvents
from runctl.cli.project.settings import parse_settings
from runctl.model.checkpoint import is_step
from runctl.model.errors import SettingsError
from runctl.model.metrics import MAX_NAMES, read_metrics
from tests.fuzz.budget import fuzz, fuzzed
from tests.fuzz.hostile import NUMBERS, VALUES

PLACE = Path(tempfile.mkdtemp(prefix="runctl-fuzz-"))
KEYS = st.sampled_from(
    ["market", "auto_resume", "max_attempts", "instance_types", "env", "checkpoint", "retry",
     "credentials", "aws", "project", "max_size_mb", "profile", "region", "dir", "keep_last",
     "grace_seconds", "exit_codes", "max_failures", "interval_seconds", "other", '"a b"', "a.b.c"]
)  # fmt: skip
TOML_VALUES = st.recursive(
    st.sampled_from(
        ["1", "-1", "0", "true", "nan", "-inf", "1e400", "9" * 30, "0x" + "f" * 40, "1979-05-27",
         "07:32:00", '""', '"a"', "'''\n'''", '"\\u0000"', '"\\ud800"', "\"\\u001b[2J\"", '"a\\nb"']
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(lambda found: f"[{', '.join(found)}]"),
        st.dictionaries(KEYS, inner, max_size=3).map(
            lambda found: "{" + ", ".join(f"{key} = {value}" for key, value in found.items()) + "}"
        ),
    ),
    max_leaves=6,
)  # fmt: skip
LINES = (
    st.tuples(KEYS, TOML_VALUES).map(" = ".join)
    | KEYS.map("[{}]".format)
    | KEYS.map("[[{}]]".format)
)
TOML = st.lists(LINES | st.text(max_size=5), max_size=6).map("\n".join)


@fuzzed
@example(("a = " + "[" * 100_000).encode())
@example(("a = " + "9" * 5000).encode())
@example(b"a = 0x" + b"f" * 100_000)
@example(b"\xff\xfe")
@given(content=TOML.map(lambda text: text.encode(errors="surrogatepass")) | st.binary(max_size=50))
def check_settings(content: bytes) -> None:
    path = PLACE / ".runctl.toml"
    path.write_bytes(content)
    try:
        parse_settings(path)
    except SettingsError as exc:
        assert str(path) in str(exc)  # noqa: PT017


JSON_LINES = st.one_of(
    st.dictionaries(
        st.sampled_from(["step", "loss", "seconds", "signal"]) | st.text(max_size=5),
        NUMBERS | VALUES,
        max_size=4,
    ).map(lambda values: json.dumps(values).encode()),
    VALUES.map(lambda value: json.dumps(value).encode()),
    st.binary(max_size=30),
    st.sampled_from(
        [b"[" * 100_000, b'{"a":' * 100_000, b"x" * 300_000, b'{"step": 1', b"\r", b"\x00"]
    ),
)


@fuzzed
@example([b'{"step": %d, "loss": %d}' % (10**400, -(10**400))])
@example([b'{"step": 1, "seconds": 1e400}', b'{"step": ' + b"9" * 5000 + b"}"])
@example([b'{"\\ud800": 1}'])
@example([b"[" * 100_000])
@given(lines=st.lists(JSON_LINES, max_size=8))
def check_json_lines(lines: list[bytes]) -> None:
    path = PLACE / "lines.jsonl"
    path.write_bytes(b"\n".join(lines) + b'\n{"step": 7}\n')
    follower, progress = Follower(path), Progress()
    found = None
    while read := follower.read(everything=True):
        for line in read:
            found = read_metrics(line)
            if found is not None:
                progress.measure(found.step, found.values)
    assert found is not None
    assert found.step == 7
    measured = progress.snapshot()
    assert is_step(measured.step)
    metrics = dict(measured.metrics)
    assert len(metrics) <= MAX_NAMES
    json.dumps(metrics, allow_nan=False, ensure_ascii=False).encode()
    saves = SaveEvents(path)
    for _ in range(len(lines) + 2):
        saves.read()
    assert saves.step == 7
    path.unlink()


OUTPUT = st.lists(
    st.sampled_from([b"\r", b"\n", b"\r\n", b"\x1b[A", b"\x1b[999B", b"\x1b[G", b"\x1b[",
                     b"\x1b]52;", b"50%|#", b"\xff", b"\xf0\x9f", b"\x00", b"\b\b", b"x" * 300_000,
                     "é".encode()])
    | st.binary(max_size=20),
    max_size=12,
)  # fmt: skip


@fuzzed
@given(pieces=OUTPUT)
def check_output(pieces: list[bytes]) -> None:
    lines, size = DisplayLines("log"), 0
    for number, piece in enumerate(pieces):
        size += len(piece)
        for event in lines.feed(piece, number * 0.7):
            assert len(event.encode()) <= 256 * 1024
    for event in lines.end(100.0):
        assert len(event.encode()) <= 256 * 1024
    assert lines.done == size


def test_hostile_settings_are_read_or_refused_with_their_path() -> None:
    fuzz(check_settings)


def test_hostile_lines_of_a_trainer_end_neither_metrics_nor_saves() -> None:
    fuzz(check_json_lines)


def test_output_of_any_program_becomes_log_events() -> None:
    fuzz(check_output)
