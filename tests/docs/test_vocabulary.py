"""Replaced terms return neither to code nor to prose."""

from __future__ import annotations

import ast
import fnmatch
import io
import re
import subprocess
import tokenize
from dataclasses import dataclass
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]

# The names that were replaced, a line for each group of them, and what replaced them.
TABLE = """
Crew                                    TrainingSession
Life.live                               AttemptRunner.run
Farewell.tell, was_told                 FinalReport.send, was_sent
Patience.until, result_of               CancellableWait.wait_until, run_in_background
Keeper                                  FolderWatcher and CheckpointSaver
Inbox, Ending, Cause, nudge             Mailbox, StopRequest, StopCause, wake
Watch                                   InterruptionWatcher
Take, hot, left_out                     Snapshot, recently_modified, incomplete
Seen, View, look                        FileState, FolderState, scan_folder
Saves, Pace                             SaveEvents, CheckpointSchedule
told_end, note_told, telling            notified_end, record_notified, notifications
creating.on_record(wish, make)          pending_launches.replayable(key, build)
TRAINING, training_at                   RUNNING, running_at
start_training                          train
Desks, desk, leave                      BufferPool, acquire, release
Recognizer                              ChunkIndex
Piece                                   Chunk
share                                   run_workers
Room.taken                              ByteBudget.reserve
LightSender, Lesson                     FastS3Sender, EndpointState
items.pack, unpack                      serialize, deserialize
hand_over, continue_run                 continue_as_new, resume_run
lend_instance, loan                     use_existing_instance, existing instance
end_strays, doomed                      terminate_orphans, to_terminate
door, Stage, accompany                  gateway, Testbed, attach
wording.say_size                        format_size
MOST_, LONGEST_, LEAST_                 MAX_, MIN_
one                                     the thing's own name
"""


@dataclass(frozen=True)
class Rule:
    """Where a replaced word counts; everywhere else it is ordinary English."""

    files: str = "*"  # identifiers in these files
    defined: bool = False  # only as the name of a function or class
    prose: str = ""  # a pattern for it in comments, docstrings, messages and documents


WORDS = {
    "Crew": Rule(prose=r"crews?"),
    "Life": Rule(),
    "live": Rule(defined=True),
    "Farewell": Rule(prose=r"farewells?"),
    "tell": Rule(defined=True),
    "was_told": Rule(),
    "Patience": Rule(prose=r"patience"),
    "until": Rule(defined=True),
    "result_of": Rule(),
    "Keeper": Rule(prose=r"keepers?"),
    "Inbox": Rule(prose=r"inbox"),
    "Ending": Rule(),
    "Cause": Rule(),
    "nudge": Rule(prose=r"nudge[sd]?"),
    "Watch": Rule(),
    "Take": Rule(),
    "hot": Rule(),
    "left_out": Rule(files="runctl/checkpoint/*"),
    "Seen": Rule(),
    "View": Rule(),
    "look": Rule(),
    "Saves": Rule(),
    "Pace": Rule(),
    "told_end": Rule(),
    "note_told": Rule(),
    "telling": Rule(),
    "on_record": Rule(),
    "wish": Rule(),
    "make": Rule(files="runctl/cli/commands/*"),
    "TRAINING": Rule(),
    "training_at": Rule(),
    "start_training": Rule(),
    "Desks": Rule(prose=r"desks"),
    "desk": Rule(prose=r"desk"),
    "leave": Rule(defined=True),
    "Recognizer": Rule(prose=r"recognizers?"),
    "Piece": Rule(),
    "share": Rule(),
    "Room": Rule(),
    "taken": Rule(files="runctl/aws/fast_s3/*"),
    "LightSender": Rule(prose=r"light senders?"),
    "Lesson": Rule(prose=r"lessons?"),
    "pack": Rule(files="runctl/aws/items.py"),
    "unpack": Rule(files="runctl/aws/items.py"),
    "hand_over": Rule(),
    "continue_run": Rule(),
    "lend_instance": Rule(),
    "loan": Rule(prose=r"loan(?:s|ed)?"),
    "end_strays": Rule(),
    "doomed": Rule(prose=r"doomed"),
    "door": Rule(prose=r"doors?"),
    "Stage": Rule(),
    "accompany": Rule(prose=r"accompan(?:y|ies|ied)"),
    "say_size": Rule(),
    "one": Rule(),
}
PREFIXES = {"MOST_": r"_?MOST_.+", "LONGEST_": r"_?LONGEST_.+", "LEAST_": r"_?LEAST_.+"}
PROSE = re.compile(
    rf"\b(?:{'|'.join(rule.prose for rule in WORDS.values() if rule.prose)})\b", re.IGNORECASE
)
# What a module has to contain to be read word by word, and the words for which it has to be parsed.
CANDIDATE = re.compile(rf"\b_*(?:(?:{'|'.join(WORDS)})_*\b|{'|'.join(PREFIXES)})")
IN_A_PLACE = {"one", *(word for word, rule in WORDS.items() if rule.defined)}
MODULES = {"creating", "items", "wording"}
# The items of earlier versions, which must still be read, have the words of those versions.
RECORDED = {"tests/aws/test_recorded_items.py"}


def tracked(*patterns: str) -> list[str]:
    listed = subprocess.run(
        ["git", "ls-files", *patterns], cwd=PROJECT, check=True, capture_output=True, text=True
    )
    own = str(Path(__file__).relative_to(PROJECT))
    return [path for path in listed.stdout.split() if path != own and path not in RECORDED]


def replaced_words() -> set[str]:
    """Return the words of the table's left column."""
    words: set[str] = set()
    for line in TABLE.strip().splitlines():
        words |= set(re.findall(r"\w+", re.split(r"\s{2,}", line)[0]))
    return words - MODULES


def names_in(path: str, source: str) -> set[str]:
    """Return the replaced names that a module uses, without leading underscores."""
    if CANDIDATE.search(source) is None:
        return set()
    used = {
        token.string
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.NAME
    }
    found: set[str] = set()
    defined: set[str] = set()
    if any(name.strip("_") in IN_A_PLACE for name in used):
        nodes = list(ast.walk(ast.parse(source)))
        found.update(loop_variables(nodes))
        defined.update(
            node.name
            for node in nodes
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
        )
    for name in used:
        bare = name.strip("_")
        rule = WORDS.get(bare)
        if bare == "one" or (rule is None and not is_prefixed(name)):
            continue
        if rule is None or (
            fnmatch.fnmatch(path, rule.files) and (not rule.defined or name in defined)
        ):
            found.add(name)
    return found


def is_prefixed(name: str) -> bool:
    return any(re.fullmatch(pattern, name) for pattern in PREFIXES.values())


def loop_variables(nodes: list[ast.AST]) -> list[str]:
    """Return `one` for each loop or comprehension that uses it as its variable."""
    return [
        name.id
        for node in nodes
        if isinstance(node, ast.For | ast.AsyncFor | ast.comprehension)
        for name in ast.walk(node.target)
        if isinstance(name, ast.Name) and name.id == "one"
    ]


def terms_in(text: str) -> list[str]:
    return [match[0] for match in PROSE.finditer(text)]


def test_the_list_is_that_of_the_table():
    assert {*WORDS, *PREFIXES} == replaced_words()


def test_no_module_uses_a_replaced_name():
    found = {
        path: names
        for path in tracked("*.py")
        if (names := names_in(path, (PROJECT / path).read_text()))
    }
    assert found == {}


def test_no_document_or_comment_uses_a_replaced_term():
    found = {
        path: terms
        for path in tracked("*.md", "*.py", "*.sh", "*.yml", "*.yaml", "*.toml", "Makefile")
        if (terms := terms_in((PROJECT / path).read_text()))
    }
    assert found == {}


@pytest.mark.parametrize("word", sorted(WORDS.keys() - {"one"}))
def test_each_replaced_word_is_found(word: str):
    path = WORDS[word].files.replace("*", "a.py")
    for source in (f"def {word}(): ...\n", f"class _{word}: ...\n"):
        assert names_in(path, source)
    if not WORDS[word].defined:
        assert names_in(path, f"x = y.{word}\n") == {word}


@pytest.mark.parametrize("prefix", sorted(PREFIXES))
def test_each_replaced_prefix_is_found(prefix: str):
    for name in (f"{prefix}FILES", f"_{prefix}FILES"):
        assert names_in("a.py", f"{name} = 3\n") == {name}


@pytest.mark.parametrize(
    "source",
    [
        "for one in runs: pass",
        "async def f():\n    async for one in runs: pass",
        "x = [one.name for one in runs]",
        "x = {key: one for key, one in runs}",
        "x = any(one for one in runs)",
    ],
)
def test_one_is_found_as_a_loop_variable(source: str):
    assert names_in("a.py", source + "\n") == {"one"}


@pytest.mark.parametrize("word", sorted(word for word, rule in WORDS.items() if rule.prose))
def test_each_replaced_term_is_found_in_prose(word: str):
    shown = {"LightSender": "light sender"}.get(word, word)
    assert terms_in(f"# The {shown.lower()} ends.") == [shown.lower()]


@pytest.mark.parametrize(
    "source",
    ["x = live.update()", "alive = stream.tell()", "a, one = pair", "MOST = 3", "until = now"],
)
def test_ordinary_names_are_accepted(source: str):
    assert names_in("a.py", source + "\n") == set()
