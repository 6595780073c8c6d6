"""Hostile text, in any field of any command, cannot steer the terminal."""

import io
import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.live import Live

from runctl.aws.checkpoints import CheckpointStore
from runctl.aws.versions import VersionStore
from runctl.cli.display import console as consoles
from runctl.cli.display.output import Output
from runctl.cli.display.streams import guarded_streams
from runctl.model.checkpoint import Manifest
from runctl.model.checkpoint_entry import Entry
from runctl.model.outcome import OutcomeKind, RunStatus
from runctl.model.printable import escape_json, printable
from runctl.model.versions import PackageVersion, Versions
from tests.attempts import report
from tests.cli.deployed import BUCKET, TABLE, Deployed, now

PROJECT = Path(__file__).parents[3]
EVIL = (
    "evil\x1b]52;c;cm0gLXJmIC8=\x07\x1b[2J\x1b[3A\x1b]8;;http://e\x1b\\\x1bc\x9b2J\x9d0;t\x9c"
    "\u202egnp.exe\u202c\u2066\u2069\u200e\u200f\u061c\u200b\ufeff\x08\x08\x0c\x7fend"
)
# The sequences that the display itself writes: colours, cursor up, erase, hide, show, column.
OURS = re.compile(r"\x1b\[(?:[0-9;]*m|[0-9]*[AKG]|\?25[lh])")
BAD = re.compile(
    "[\x00-\x08\x0b-\x0c\x0e-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff]"
)

# Runs several commands in one process, because starting one takes longer than all of them.
SEVERAL = """
import json, sys
from runctl.cli import cloud, main
cloud.POLL_SECONDS = 0.1
for words in json.loads(sys.argv[1]):
    print("=====", flush=True)
    sys.argv = ["runctl", *words]
    try:
        main.main()
    except SystemExit as end:
        print("=====", end.code, flush=True)
"""


def on_a_terminal(environment: dict[str, str], *commands: list[str]) -> str:
    """Run commands under a pseudo-terminal and return the characters that reach it."""
    master, slave = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", SEVERAL, json.dumps(commands)],
        stdin=slave,
        stdout=slave,
        stderr=slave,
        env={**os.environ, **environment, "TERM": "xterm-256color", "PYTHONPATH": str(PROJECT)},
        close_fds=True,
    )
    os.close(slave)
    parts = []
    while True:
        try:
            part = os.read(master, 65536)
        except OSError:  # its last process has closed it
            break
        if not part:
            break
        parts.append(part)
    os.close(master)
    assert process.wait(60) == 0
    return b"".join(parts).decode()


def assert_harmless(shown: str) -> None:
    left = OURS.sub("", shown.replace("\r\n", "\n"))
    found = BAD.search(left)
    assert found is None, ascii(left[max(0, found.start() - 80) : found.end() + 80])


@pytest.fixture
def poisoned(deployed: Deployed) -> Deployed:
    """A run in which every text that others can write is hostile."""
    deployed.begin("my-run", args=[EVIL], env={"NOTE": EVIL})
    deployed.train("my-run", 1, pool=EVIL)
    report(
        deployed.ledger,
        "my-run", 1, phase=EVIL, now=now(), step=1, resume_step=None,
        metrics={EVIL: 1.0, "loss": 0.5}, timeline={"started": now()}, warning=EVIL,
    )  # fmt: skip
    get = deployed.clients.get
    store = CheckpointStore(get("s3"), bucket=BUCKET, run_id="my-run")
    key = store.put_manifest(
        Manifest(
            run_id="my-run",
            step=1,
            save=1,
            attempt=1,
            taken_at=now().isoformat(),
            entries=(Entry(path=".", kind="dir", mode=0o755, mtime_ns=0),),
        )
    )
    deployed.ledger.commit_checkpoint(
        "my-run", 1, step=1, save=1, manifest=key, progressed=True, now=now()
    )
    VersionStore(get("s3"), bucket=BUCKET, run_id="my-run").record(
        Versions(
            attempt=1,
            python=EVIL,
            platform=EVIL,
            packages=(PackageVersion(name="torch", version=EVIL),),
        )
    )
    deployed.say("my-run", 1, f"a line\t{EVIL}", EVIL)
    deployed.say("my-run", 1, f"agent {EVIL}", suffix="-agent")
    deployed.end_attempt("my-run", 1, OutcomeKind.FAILED, f"exit code 1: {EVIL}\n{EVIL}")
    deployed.end("my-run", RunStatus.FAILED, f"exit code 1: {EVIL}\n{EVIL}")
    return deployed


LOOKING = (
    ["list"],
    ["status", "my-run"],
    ["logs", "my-run"],
    ["logs", "my-run", "--agent"],
    ["checkpoints", "my-run"],
    ["stop", "my-run"],
    ["status", EVIL],
    ["-v", "status", EVIL],
    ["list", "--status", EVIL],
    ["aws", "train", EVIL],
    ["aws", "terminate", "--yes", EVIL],
    ["aws", "spot-monitor", EVIL, "--upload-to-s3", EVIL, "--checkpoint-dir", EVIL],
    ["checkpoints", "prune", "my-run", "--keep", "1"],
    ["checkpoints", "pull", "my-run", EVIL],
    ["--profile", EVIL, "list"],
    ["doctor"],
    [EVIL],
    ["--json", "status", "my-run"],
    ["--json", "logs", "my-run"],
    ["--json", EVIL],
)


def test_no_command_prints_sequences_that_steer_a_terminal(poisoned):
    shown = on_a_terminal(poisoned.environment(), *LOOKING)
    assert shown.count("evil") > 2 * len(LOOKING)  # the fields were shown
    assert_harmless(shown)


def test_documents_keep_hostile_text_escaped(runctl, poisoned):
    for words in (["status", "my-run"], ["list"], ["logs", "my-run"]):
        done = runctl("--json", *words)
        assert_harmless(done.stdout)
        assert any(EVIL in text for text in texts_of(done.document)), words
    assert EVIL in runctl("--json", "logs", "my-run").document["lines"][1]["text"]


def texts_of(value):
    if isinstance(value, dict):
        for key, inner in value.items():
            yield key
            yield from texts_of(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from texts_of(inner)
    elif isinstance(value, str):
        yield value


def test_every_stored_text_may_be_hostile(runctl, poisoned, monkeypatch):
    """Each attribute of each item in turn; an error about it must be harmless too."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    table = poisoned.clients.get("dynamodb")
    items = table.scan(TableName=TABLE)["Items"]
    tried = 0
    for item in items:
        for name, value in item.items():
            if name in {"pk", "sk", "listed", "unsettled", "run_id"} or "S" not in value:
                continue
            tried += 1
            table.put_item(TableName=TABLE, Item={**item, name: {"S": EVIL}})
            for words in (["status", "my-run"], ["list"], ["-v", "status", "my-run"]):
                done = runctl(*words)
                assert_harmless(done.stdout + done.stderr)
        table.put_item(TableName=TABLE, Item=item)
    assert tried > 10


def test_live_views_are_printable():
    stream = io.StringIO()
    console = consoles.PrintableConsole(file=stream, force_terminal=True, width=80)
    with Live(console=console, auto_refresh=False) as live:
        live.update(EVIL, refresh=True)
        print(EVIL)
    with console.status(EVIL):
        pass
    assert "evil" in stream.getvalue()
    assert_harmless(stream.getvalue())


def test_progress_bars_and_hints_are_printable(capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    output = Output()
    with output.progress(EVIL, total=10) as advance:
        advance(10)
    with output.spinner(EVIL) as say:
        say(EVIL)
    output.note(EVIL, style="yellow")
    output.fail(OSError(EVIL), hint=EVIL)
    shown = capsys.readouterr()
    assert shown.err.count("evil") > 4
    assert_harmless(shown.out + shown.err)


def test_a_brief_spinner_prints_one_line_where_nobody_watches(capsys):
    output = Output()
    with output.spinner("verifying", is_brief=True) as say:
        say("1 of 2")
        say("2 of 2")
    with output.spinner("deploying") as say:
        say("the stacks")
        say("the stacks")
    assert capsys.readouterr().err.splitlines() == ["verifying", "deploying", "the stacks"]


def test_all_other_output_goes_through_the_guard(capsys):
    with guarded_streams():
        print(EVIL)
        print(EVIL, file=sys.stderr)
        sys.stdout.writelines([EVIL, EVIL])
        sys.excepthook(OSError, OSError(EVIL), None)
        assert sys.stdout.isatty() is False
    shown = capsys.readouterr()
    assert shown.out.count("evil") == 3
    assert_harmless(shown.out + shown.err)


def test_names_that_are_not_text_can_be_printed(capsys):
    name = os.fsdecode(b"model\xff\xfe.pt")
    with guarded_streams():
        print(name)
    Output().note(name)
    Output(as_json=True).result({"name": name})
    shown = capsys.readouterr()
    assert shown.err == "model\ufffd\ufffd.pt\n"
    assert json.loads(shown.out.partition("\n")[2]) == {"name": name}


@given(st.text(alphabet=st.sampled_from("a\x1b[]m2J;\x07\x9b\x9d\x9c\\\u202e\u200d\r\n\t \x00é👨")))
def test_no_printable_text_has_control_sequences(text):
    shown = printable(text)
    assert BAD.search(shown) is None
    assert "\r" not in shown
    assert printable(shown) == shown


@given(st.text(alphabet=st.characters()))
def test_escaped_documents_mean_the_same(text):
    document = escape_json(json.dumps({text: [text]}, ensure_ascii=False))
    assert json.loads(document) == {text: [text]}
    assert BAD.search(document) is None
    document.encode()


@pytest.mark.parametrize(
    "text",
    [
        "plain",
        "tab\tand\nline",
        "é ü 漢字 ✓ ── · …",
        "👨\u200d👩\u200d👧",
        "می\u200cخواهم",
        "\u00a0",
        "❤\ufe0f",
    ],
)
def test_text_of_any_language_is_kept(text):
    assert printable(text) == text


def test_an_incomplete_sequence_hides_no_text():
    assert printable("a\x1b]52;c;text that goes on\nnext") == "a]52;c;text that goes on\nnext"
