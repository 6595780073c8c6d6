"""The command line on other systems than Linux, where only the local cloud refuses."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.main import get_command

from runctl.cli.main import app

PROJECT = Path(__file__).parents[2]

# Removes what Windows lacks for runctl's own modules; the standard library has already imported
# its modules for this system. `sys.platform` is read at run time, so it can be changed.
ELSEWHERE = """
import builtins, importlib, os, pkgutil, signal, sys
import asyncio, concurrent.futures, http.client, logging.handlers, multiprocessing, sqlite3
import subprocess, sysconfig, tarfile, tempfile, urllib.request, uuid
import boto3, rich.live, rich.progress, rich.table, typer

MODULES = set("curses fcntl grp pty pwd readline resource syslog termios tty".split())
SIGNALS = set("SIGABRT SIGBREAK SIGFPE SIGILL SIGINT SIGSEGV SIGTERM".split())
import_anything = builtins.__import__

def import_as_elsewhere(name, scope=None, *rest, **more):
    if name in MODULES and str((scope or {}).get("__name__")).startswith("runctl"):
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)
    return import_anything(name, scope, *rest, **more)

sysconfig.get_config_vars()  # looks for the file of this system, once
builtins.__import__ = import_as_elsewhere
for name in sys.argv[2].split():
    delattr(os, name)
os.supports_dir_fd = set()
for name in dir(signal):
    if name.startswith("SIG") and not name.startswith("SIG_") and name not in SIGNALS:
        delattr(signal, name)
sys.platform = sys.argv[1]
"""
MISSING = (
    "O_CLOEXEC O_DIRECTORY O_NOCTTY O_NOFOLLOW O_NONBLOCK WNOHANG chown fchmod fchown fork geteuid "
    "getegid getgid getpgid getuid killpg lchown mkfifo mknod posix_fadvise pread preadv pwrite "
    "sched_getaffinity setsid sync wait4 waitid"
)
IMPORT_ALL = """
import runctl.cli, runctl.model.errors
for module in pkgutil.walk_packages(runctl.cli.__path__, "runctl.cli."):
    try:
        importlib.import_module(module.name)
    except runctl.model.errors.SetupError:
        print(module.name)
"""
RUN = """
from runctl.cli.main import app
app(sys.argv[3:])
"""


def elsewhere(program: str, *words: str, platform: str = "win32") -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", ELSEWHERE + program, platform, MISSING, *words],
        env={**os.environ, "PYTHONPATH": str(PROJECT)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_modules_import_without_what_windows_lacks_except_those_of_the_local_cloud() -> None:
    done = elsewhere(IMPORT_ALL)
    assert done.returncode == 0, done.stderr
    refused = done.stdout.split()
    assert "runctl.cli.commands.local.up" in refused
    for name in refused:
        assert name.startswith(
            ("runctl.cli.commands.local.", "runctl.cli.commands.demo", "runctl.cli.endpoint")
        )


def test_checkpoints_are_neither_fetched_nor_stored_on_windows() -> None:
    program = """
from runctl.cli.commands.checkpoints.transfers import fetch_checkpoint, store_checkpoint
for move in (
    lambda: fetch_checkpoint(None, "key", None, force=False, output=None),
    lambda: store_checkpoint(None, None, None, None, step=1, output=None),
):
    try:
        move()
    except Exception as error:
        print(type(error).__name__, error)
"""
    done = elsewhere(program)
    for line, name in zip(done.stdout.splitlines(), ("pull", "push"), strict=True):
        assert line.startswith(f"SetupError checkpoints {name} runs on Linux and macOS, not on Win")


def local_commands() -> list[str]:
    local = get_command(app).commands["local"]
    return sorted(local.commands)


ARGUMENTS = {
    "capacity": ("m5.large/us-east-1a/spot", "1"),
    "fail-check": ("run",),
    "interrupt": ("run",),
    "maintain": ("run",),
    "quota": ("L-34B43A08", "1"),
}


@pytest.mark.parametrize("platform", ["darwin", "win32"])
@pytest.mark.parametrize(
    "words",
    [
        ("demo",),
        ("list", "--local"),
        *(("local", name, *ARGUMENTS.get(name, ())) for name in local_commands()),
    ],
    ids=" ".join,
)
def test_commands_that_need_the_local_cloud_name_the_container_image(words, platform) -> None:
    done = elsewhere(RUN, "--json", *words, platform=platform)
    error = json.loads(done.stdout)["error"]
    system = {"darwin": "macOS", "win32": "Windows"}[platform]
    assert (done.returncode, error["type"]) == (2, "SetupError"), error
    assert (
        f"the local cloud runs on Linux, not on {system}: use the container image"
        in (error["message"])
    )


def test_help_is_there_on_every_system() -> None:
    for words in (("--help",), ("local", "--help"), ("aws", "train", "--help")):
        assert "Usage: runctl" in elsewhere(RUN, *words).stdout


def test_help_on_a_command_of_the_local_cloud_names_the_container_image() -> None:
    for words in (("demo", "--help"), ("local", "up", "--help")):
        assert "use the container image" in elsewhere(RUN, *words).stderr
