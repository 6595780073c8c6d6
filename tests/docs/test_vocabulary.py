"""Terms that were replaced by the field's own come back neither in code nor in prose."""

import io
import re
import subprocess
import tokenize
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]
# Identifiers as a whole: parts of them, such as `left_out`, are ordinary English.
IDENTIFIERS = {
    "Crew": "TrainingSession",
    "Life": "AttemptRunner",
    "Keeper": "FolderWatcher, CheckpointSaver",
    "Farewell": "FinalReport",
    "was_told": "was_sent",
    "Patience": "CancellableWait",
    "Inbox": "Mailbox",
    "Ending": "StopRequest",
    "Cause": "StopCause",
    "nudge": "wake",
    "Watch": "InterruptionWatcher",
    "Take": "Snapshot",
    "hot": "recently_modified",
    "Seen": "FileState",
    "View": "FolderState",
    "Saves": "SaveEvents",
    "Pace": "CheckpointSchedule",
    "told_end": "notified_end",
    "note_told": "record_notified",
    "telling": "notifications",
    "on_record": "replayable",
    "start_training": "train",
    "training_at": "running_at",
    "Desks": "BufferPool",
    "desk": "buffer",
    "Recognizer": "ChunkIndex",
    "recognizer": "ChunkIndex",
    "LightSender": "FastS3Sender",
    "Lesson": "EndpointState",
    "lesson": "EndpointState",
    "hand_over": "continue_as_new",
    "continue_run": "resume_run",
    "lend_instance": "use_existing_instance",
    "loan": "existing instance",
    "loan_of": "existing_instance_request",
    "record_loan": "record_existing_instance",
    "end_strays": "terminate_orphans",
    "doomed": "to_terminate",
    "accompany": "attach",
    "say_size": "format_size",
}
PREFIXES = re.compile(r"_?(?:MOST|LONGEST|LEAST|SHORTEST|LARGEST)(?:_|$)|.*PATIENCE")
PROSE = re.compile(
    r"\b(crews?|farewells?|nudge[sd]?|doomed|desks?|recognizers?|loans?|light senders?"
    r"|inbox|front doors?)\b",
    re.IGNORECASE,
)
# Recorded items have the words of the version that stored them.
RECORDED = {"tests/aws/test_recorded_items.py"}


def tracked(*patterns: str) -> list[str]:
    listed = subprocess.run(
        ["git", "ls-files", *patterns], cwd=PROJECT, check=True, capture_output=True, text=True
    )
    own = str(Path(__file__).relative_to(PROJECT))
    return [path for path in listed.stdout.split() if path != own and path not in RECORDED]


def replaced_names(source: str) -> set[str]:
    names = {
        token.string
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.NAME
    }
    return {name for name in names if name.strip("_") in IDENTIFIERS or PREFIXES.match(name)}


def replaced_terms(text: str) -> list[str]:
    return [match[0] for match in PROSE.finditer(text)]


def test_no_identifier_is_a_replaced_term():
    found = {
        path: names
        for path in tracked("*.py")
        if (names := replaced_names((PROJECT / path).read_text()))
    }
    assert found == {}


def test_no_replaced_term_is_left_in_prose():
    found = {
        path: terms
        for path in tracked("*.md", "*.py", "*.sh", "*.yml", "*.toml")
        if (terms := replaced_terms((PROJECT / path).read_text()))
    }
    assert found == {}


@pytest.mark.parametrize(
    "source", ["Crew()", "x = self._nudge", "MOST_FILES = 3", "A_PATIENCE = 1"]
)
def test_replaced_identifiers_are_found(source: str):
    assert replaced_names(source + "\n")


@pytest.mark.parametrize(
    "text", ["It waits at the desk.", "# The crew ends.", "A recognizer knows."]
)
def test_replaced_terms_are_found(text: str):
    assert replaced_terms(text)
