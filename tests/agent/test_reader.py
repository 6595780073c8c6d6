"""A folder of another user is read as that user, and its name adds no setting to root's unit."""

import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import boto3
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runctl.agent.instance.environment_file import write_environment
from runctl.agent.instance.reader import Reader, reader_of
from runctl.agent.monitor.find_trainer import Process, as_settings
from runctl.local.guest.environment_files import parse_environment
from runctl.model.errors import RequestError
from tests.agent.doubles import MetadataDouble
from tests.agent.machine import wait_until
from tests.moto_server import serving

PROJECT = Path(__file__).parents[2]
BOB, ALICE = 51002, 51001
BUCKET = "theirs"
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")

# A training process of another user, who may not read this interpreter, so it imports first.
THEIRS = """
import os, pathlib, sys, time
uid, home = int(sys.argv[1]), pathlib.Path(sys.argv[2])
if uid:
    os.setgroups([]); os.setresgid(uid, uid, uid); os.setresuid(uid, uid, uid)
os.chdir(home)
held = open("checkpoints/log.txt", "a")
print("ready", flush=True)
for line in sys.stdin:
    temporary = pathlib.Path("checkpoints/tmp")
    temporary.write_bytes(line.strip().encode() * 1000)
    temporary.rename(f"checkpoints/step-{line.strip()}.pt")
    print("saved", flush=True)
"""
# The real program. Later imports have to happen before it becomes another user, who may not read
# the interpreter of a test; on an instance everybody may.
AGENT = """
import sys
import boto3.s3.inject, boto3.s3.transfer, encodings.idna, s3transfer.manager, sqlite3
import concurrent.futures.thread, runctl.agent.monitor.monitor, stringprep, http.client
from runctl.agent.monitor.service import run
from runctl.agent.instance.paths import Paths
from pathlib import Path
import runctl.agent.monitor.service as service
prepared = service._store
def store(environ):
    made = prepared(environ)
    made.probe()
    return made
service._store = store
sys.exit(run(sys.argv[1], Paths(Path(sys.argv[2]))))
"""


class Theirs:
    """A training process of another user, in a home that only its owner can enter."""

    def __init__(self, home: Path, *, uid: int, owner: int | None = None) -> None:
        self.home = home
        self.folder = home / "checkpoints"
        self.folder.mkdir(parents=True)
        for path in (home, self.folder):
            os.chown(path, owner or uid, owner or uid)
            path.chmod(0o700)
        self.process = subprocess.Popen(
            [sys.executable, "-c", THEIRS, str(uid), str(home)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout.readline() == "ready\n"

    def save(self, step: int) -> None:
        self.process.stdin.write(f"{step}\n")
        self.process.stdin.flush()
        assert self.process.stdout.readline() == "saved\n"

    def end(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def open_path() -> Iterator[Path]:
    """A folder that everybody can enter; each session of pytest closes the one above its own."""
    with tempfile.TemporaryDirectory(prefix="runctl-test-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.fixture
def theirs(open_path: Path) -> Iterator[Callable[..., Theirs]]:
    started: list[Theirs] = []

    def start(**words: int) -> Theirs:
        started.append(Theirs(open_path / f"home-{len(started)}", **words))
        return started[-1]

    yield start
    for theirs in started:
        theirs.end()


@pytest.fixture(scope="module")
def s3_url() -> Iterator[str]:
    with serving() as url:
        yield url


@pytest.fixture
def s3(s3_url: str):
    client = boto3.client(
        "s3", endpoint_url=s3_url, region_name="us-east-1", aws_access_key_id="t",
        aws_secret_access_key="t",
    )  # fmt: skip
    client.create_bucket(Bucket=BUCKET)
    yield client
    for item in client.list_objects_v2(Bucket=BUCKET).get("Contents", ()):
        client.delete_object(Bucket=BUCKET, Key=item["Key"])


class Agent:
    """The monitor as the unit starts it: as root, with the settings that it found."""

    def __init__(self, root: Path, s3_url: str, metadata: MetadataDouble) -> None:
        self.root = root
        self._environ = {
            **os.environ,
            "PYTHONPATH": str(PROJECT),
            "AWS_ENDPOINT_URL": s3_url,
            "AWS_EC2_METADATA_SERVICE_ENDPOINT": metadata.url,
            "RUNCTL_REGION": "us-east-1",
            "MONITOR_URI": f"s3://{BUCKET}/x",
            "MONITOR_SIGTERM": "no",
        }

    def find(self, pid: int, **environ: str) -> subprocess.CompletedProcess[str]:
        words = [sys.executable, "-c", AGENT, "find-trainer", str(self.root)]
        environ = {**self._environ, "MONITOR_PID": str(pid), **environ}
        return subprocess.run(words, capture_output=True, text=True, env=environ, check=False)

    def watch(self, settings: dict[str, str]) -> subprocess.Popen[str]:
        words = [sys.executable, "-c", AGENT, "monitor", str(self.root)]
        environ = {**self._environ, **settings}
        return subprocess.Popen(words, env=environ, stderr=subprocess.PIPE, text=True)


@pytest.fixture
def agent(open_path: Path, s3_url: str, s3) -> Iterator[Agent]:
    metadata = MetadataDouble()
    yield Agent(open_path / "root", s3_url, metadata)
    metadata.close()


def stored(s3) -> dict[str, bytes]:
    contents = {}
    for item in s3.list_objects_v2(Bucket=BUCKET).get("Contents", ()):
        with contextlib.suppress(s3.exceptions.NoSuchKey):  # old checkpoints are removed meanwhile
            contents[item["Key"]] = s3.get_object(Bucket=BUCKET, Key=item["Key"])["Body"].read()
    return contents


def is_saved(s3, content: bytes) -> bool:
    return content in stored(s3).values()


@needs_root
def test_a_folder_that_is_replaced_by_a_link_is_not_read_with_the_rights_of_root(
    theirs, agent, s3, tmp_path
):
    secret = tmp_path / "of-root"
    secret.mkdir(mode=0o700)
    (secret / "step-9.pt").write_bytes(b"secret of root" * 100)
    bob = theirs(uid=BOB)
    bob.save(3)
    found = agent.find(bob.process.pid)
    assert found.returncode == 0, found.stderr
    settings = parse_environment(found.stdout)
    assert settings["MONITOR_DIR"] == str(bob.folder)
    assert settings["MONITOR_READER"].startswith(f"{BOB}:{BOB}")
    monitor = agent.watch(settings)
    try:
        wait_until(lambda: is_saved(s3, b"3" * 1000), why="the first save")
        bob.save(4)
        wait_until(lambda: is_saved(s3, b"4" * 1000), why="the second save")
        status = Path(f"/proc/{monitor.pid}/status").read_text()
        assert f"Uid:\t{BOB}\t{BOB}\t{BOB}\t{BOB}\n" in status
        # From here on, only what bob may do in his own home.
        bob.folder.rename(bob.home / "aside")
        bob.folder.symlink_to(secret)
        os.chown(bob.folder, BOB, BOB, follow_symlinks=False)
        time.sleep(3)
        seen = stored(s3)
        bob.folder.unlink()
        (bob.home / "aside").rename(bob.folder)
        (bob.folder / "step-5.pt").symlink_to(secret / "step-9.pt")
        bob.save(6)
        wait_until(lambda: is_saved(s3, b"6" * 1000), why="a save after that")
        bob.end()
        wait_until(lambda: monitor.poll() is not None, why="its end")
    finally:
        monitor.kill()
        log = monitor.communicate()[1]
    seen |= stored(s3)
    assert not [key for key, content in seen.items() if b"secret of root" in content], log


@needs_root
def test_a_process_of_root_in_somebodys_folder_is_watched_with_the_owners_rights(theirs, agent, s3):
    root = theirs(uid=0, owner=BOB)
    root.folder.chmod(0o755)
    root.save(3)
    settings = parse_environment(agent.find(root.process.pid).stdout)
    assert settings["MONITOR_READER"].startswith(f"{BOB}:")
    monitor = agent.watch(settings)
    try:
        wait_until(lambda: is_saved(s3, b"3" * 1000), why="the first save")
        # It still sees which files root's process holds open, and may signal it, but nothing else.
        status = Path(f"/proc/{monitor.pid}/status").read_text()
        assert "CapEff:\t0000000000080020\n" in status
        root.end()
        wait_until(lambda: monitor.poll() is not None, why="its end")
    finally:
        monitor.kill()
        monitor.communicate()


@needs_root
def test_a_folder_that_its_reader_cannot_read_is_reported(theirs, agent, tmp_path):
    hidden = tmp_path / "hidden"
    hidden.mkdir(mode=0o700)
    bob = theirs(uid=BOB)
    done = agent.find(bob.process.pid, MONITOR_DIR=str(hidden))
    assert done.returncode == 1
    assert f"user {BOB} cannot read {hidden}: Permission denied" in done.stderr
    assert done.stdout == ""


ATTACK = 'x"\nLD_PRELOAD="/tmp/evil.so"\nX="'


@needs_root
def test_the_name_of_a_folder_adds_no_variable_to_roots_unit(theirs, agent):
    bob = theirs(uid=BOB)
    evil = bob.home / ATTACK.replace("/", "\u2215")
    evil.mkdir()
    (evil / "model.pt").write_bytes(b"1")
    done = agent.find(bob.process.pid)
    assert done.returncode == 1
    assert done.stdout == ""
    assert "has a control character" in done.stderr
    os.chown(evil, BOB, BOB)
    evil.rename(bob.home / 'a "$(b)`c`\\" d')
    done = agent.find(bob.process.pid)
    assert done.returncode == 0, done.stderr
    assert parse_environment(done.stdout)["MONITOR_DIR"].endswith('a "$(b)`c`\\" d')
    assert set(parse_environment(done.stdout)) == {
        "MONITOR_URI", "MONITOR_PID", "MONITOR_BORN", "MONITOR_DIR", "MONITOR_READER",
        "MONITOR_SIGTERM",
    }  # fmt: skip


@pytest.mark.parametrize("folder", [ATTACK, "/a\rb", "/a\0b", "/a\x7f", "/a\udcff", "/\x1b]0;x"])
def test_values_that_an_environment_file_cannot_hold_are_refused(folder):
    process = Process(pid=7, parent=1, born=1, command="python")
    with pytest.raises(RequestError, match="has a control character, or is not UTF-8"):
        as_settings(process, Path(folder), {"MONITOR_URI": "s3://b/p"})


VALUES = st.one_of(
    st.sampled_from("\"\\`$'# ;=é\u2028"),
    st.characters(min_codepoint=32, exclude_characters="\x7f", exclude_categories=["Cs"]),
)


@given(st.text(alphabet=VALUES))
def test_any_other_value_is_read_back_unchanged(value):
    text = write_environment({"BEFORE": "1", "VALUE": value, "AFTER": "2"})
    assert parse_environment(text) == {"BEFORE": "1", "VALUE": value, "AFTER": "2"}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("A=b", "b"),
        ("A= b c \n", "b c"),
        ("A='b \\ c'", "b \\ c"),
        ('A="b\\"c\\$d\\e"', 'b"c$d\\e'),
        ("A=b\\ c\\\nd", "b cd"),
        ('A="b\nc"', "b\nc"),
        ("A=b'c'", "b'c'"),
        ("A='b''c'd", "bcd"),
        ("# x\\\nA=no\nA=yes", "yes"),
        ("; x\n\nA=", ""),
        ("A=é # b", "é # b"),
    ],
)
def test_environment_files_are_read_as_systemd_reads_them(text, value):
    assert parse_environment(text) == {"A": value}


@needs_root
def test_the_reader_of_roots_processes_is_the_user_who_can_replace_the_folder(open_path):
    tmp_path = open_path
    deep = tmp_path / "of-bob/of-root/checkpoints"
    deep.mkdir(parents=True)
    own = os.getpid()
    assert reader_of(own, deep) == Reader(uid=0, gid=0)
    os.chown(tmp_path / "of-bob", BOB, BOB)
    assert reader_of(own, deep).uid == BOB
    (tmp_path / "link").symlink_to(tmp_path)
    os.chown(tmp_path / "link", ALICE, ALICE, follow_symlinks=False)
    assert reader_of(own, tmp_path / "link").uid == ALICE
    os.chown(tmp_path / "of-bob", 0, 0)
    (tmp_path / "of-bob").chmod(0o777)
    with pytest.raises(RequestError, match=r"run `chmod go-w .*/of-bob`"):
        reader_of(own, deep)
    (tmp_path / "of-bob").chmod(0o1777)
    assert reader_of(own, deep).uid == 0


def test_a_reader_is_read_back_as_it_was_written():
    reader = Reader(uid=1000, gid=100, groups=(4, 27))
    assert Reader.parse(str(reader)) == reader
