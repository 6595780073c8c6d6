"""Any content of `.runctl.toml` causes at most one message."""

import os
import subprocess
import sys

import pytest

from runctl.cli.project.ignore import read_rules
from runctl.cli.project.settings import read_settings
from runctl.model.errors import SettingsError

BAD = {
    "not-utf-8": b"max_attempts = 3 # \xff\xfe",
    "not-toml": b"max_attempts",
    "nul": b"\x00" * 100,
    "deep-array": b"env = " + b"[" * 100_000,
    "deep-closed-array": b"env = " + b"[" * 50_000 + b"]" * 50_000,
    "deep-table": b"env = " + b"{a=" * 20_000,
    "long-key": b".".join([b"a"] * 50_000) + b" = 1",
    "huge-number": b"max_attempts = " + b"9" * 10_000,
    "huge-hexadecimal": b"max_attempts = 0x" + b"f" * 10_000,
    "not-a-number": b"max_attempts = nan",
    "infinite": b"[checkpoint]\nkeep_last = inf",
    "a-date": b"market = 2030-01-01T00:00:00Z",
    "tables-for-values": b"[market]\na = 1\n[max_attempts]\nb = 1\n[aws.profile]\nc = 1",
    "values-for-tables": b"aws = 1\ncheckpoint = 2\nretry = []\nenv = 3\nproject = 'x'",
    "list-of-lists": b"instance_types = [[1], [2]]",
    "many-unknown": b"".join(b"k%d = 1\n" % number for number in range(50_000)),
    "long-value": b"market = '" + b"x" * 900_000 + b"'",
    "huge": b"#" * 3_000_000,
    "two-documents": b"[env]\na='1'\n[env]\na='2'",
    "controls": b"\x1b]52;c;AAAA\x07 = 1",
    "controls-in-a-name": b'"\\u001b]52;c;AAAA\\u0007\\u202e" = 1',
}


@pytest.mark.parametrize("content", BAD.values(), ids=BAD.keys())
def test_bad_settings_are_one_short_message(tmp_path, content):
    (tmp_path / ".runctl.toml").write_bytes(content)
    with pytest.raises(SettingsError) as caught:
        read_settings(tmp_path)
    assert str(caught.value).startswith(str(tmp_path / ".runctl.toml"))
    assert len(str(caught.value)) < 1_500


# In a separate process, so that neither a hang nor excessive memory affects the tests.
READ = """
import resource, sys
from pathlib import Path
from runctl.cli.project.settings import read_settings
from runctl.model.errors import SettingsError
resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30))
try:
    read_settings(Path(sys.argv[1]))
except SettingsError as error:
    print(error)
"""


@pytest.mark.parametrize("kind", ["pipe", "zero", "random", "terminal", "folder"])
def test_settings_that_are_no_file_are_refused_and_not_waited_for(tmp_path, kind):
    path = tmp_path / ".runctl.toml"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to(
            {"zero": "/dev/zero", "random": "/dev/urandom", "terminal": "/dev/tty"}[kind]
        )
    words = [sys.executable, "-c", READ, str(tmp_path)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=240, check=True)
    assert done.stdout.startswith(f"{path} ")
    assert done.stdout.count("\n") == 1


@pytest.mark.parametrize("target", ["/dev/zero", "pipe"])
def test_ignore_files_that_are_no_files_are_refused(tmp_path, target):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / ".gitignore").symlink_to(target)
    with pytest.raises(SettingsError, match="is not a regular file; replace it with one"):
        read_rules(tmp_path, "", ".gitignore")


def test_a_link_to_nothing_is_said(tmp_path):
    (tmp_path / ".runctl.toml").symlink_to("gone.toml")
    with pytest.raises(SettingsError, match="cannot be read"):
        read_settings(tmp_path)
