"""Programs and builds run as a user of their own, which gains nothing and leaves nothing behind."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from functools import partial
from pathlib import Path

import pytest

from runctl.agent.instance import processes
from runctl.agent.instance.as_user import NOT_FOUND, OOM_SCORE
from runctl.agent.instance.left_ipc import find_ipc_of
from runctl.agent.instance.ownership import (
    give_to,
    remove_files_of,
    require_inside,
    shared_mode,
    take_back,
)
from runctl.agent.instance.paths import Paths
from runctl.agent.instance.settings import read_settings
from runctl.agent.prepare.built_files import BuiltFiles
from runctl.agent.prepare.dependencies import find_dependencies
from runctl.agent.prepare.environment import Environments
from runctl.agent.prepare.installer import Tools
from runctl.agent.runtime.environment import base_environment, has_bytecode
from runctl.agent.runtime.host_runtime import HostRuntime
from runctl.agent.runtime.ports import Contract
from runctl.agent.runtime.systemd_scope import CONTROL_GROUP
from runctl.agent.runtime.trainer_user import (
    COMPILER,
    TrainerUser,
    begin_anew,
    end_processes,
    find_user,
    starting,
    user_of,
)
from runctl.beneath.folder import Folder
from runctl.model.errors import RequestError
from runctl.model.request import RunRequest
from tests.agent.machine import Cloud, is_alive, wait_until
from tests.agent.packages import BACKEND
from tests.agent.test_environment import make_environments
from tests.agent_settings import make_settings

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can start others")
# The interpreter of these tests may be in the home folder of root.
PYTHON = "/usr/bin/python3"
ENVIRON = {"PATH": "/usr/local/bin:/usr/bin:/bin"}


@pytest.fixture
def place() -> Iterator[Path]:
    """Return a folder that everybody can reach, which pytest's own are not."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def user(place: Path) -> Iterator[TrainerUser]:
    """Return a user that no other test has, and end what it leaves."""
    uid = 30_000 + os.getpid() % 20_000
    home = place / "home"
    home.mkdir()
    os.chown(home, uid, uid)
    made = TrainerUser(name="tester", uid=uid, gid=uid, home=home)
    yield made
    end_processes(made)


def run_as(user: TrainerUser, *command: str, **variables: str) -> subprocess.CompletedProcess[str]:
    with starting(user, command, {**ENVIRON, **variables}) as start:
        return subprocess.run(
            start.words,
            stdin=start.stdin,
            env=start.environment,
            capture_output=True,
            text=True,
            check=False,
        )


def test_command_has_the_user_its_variables_and_nothing_of_root(user: TrainerUser) -> None:
    user = replace(user, groups=(44,))
    script = 'id -u; id -g; id -G; echo "$TEXT"; cat; cat /proc/self/oom_score_adj'
    done = run_as(user, "sh", "-c", script, TEXT="two\nlines = all")
    assert done.stderr == ""
    assert done.stdout.splitlines() == [
        str(user.uid), str(user.gid), f"{user.gid} 44", "two", "lines = all", str(OOM_SCORE),
    ]  # fmt: skip
    status = run_as(user, "cat", "/proc/self/status").stdout
    facts = dict(line.split(":\t") for line in status.splitlines() if ":\t" in line)
    assert facts["NoNewPrivs"] == "1"
    assert {int(facts[name], 16) for name in ("CapPrm", "CapEff", "CapInh", "CapAmb")} == {0}
    # Python ignores SIGPIPE: a command that inherited that would print forever into nothing.
    ignored = int(facts["SigIgn"], 16)
    assert not any(ignored >> number - 1 & 1 for number in (signal.SIGPIPE, signal.SIGXFSZ))


def test_no_variable_takes_effect_while_the_command_is_still_root(
    user: TrainerUser, place: Path
) -> None:
    shown = place / "shown"
    shown.touch(mode=0o666)
    shown.chmod(0o666)
    with starting(user, ["true"], {**ENVIRON, "LD_PRELOAD": "/planted.so", "SECRET": "s3"}) as it:
        assert set(it.environment) == {"PATH"}
        assert "s3" not in " ".join(it.words)
    done = run_as(user, "sh", "-c", f"echo $LD_PRELOAD >{shown}", LD_PRELOAD="/planted.so")
    assert shown.read_text() == "/planted.so\n"
    # Each program that finds no such file says so once: the shell, and neither of root's tools.
    assert done.stderr.count("planted.so") == 1


def test_setuid_program_gains_nothing(user: TrainerUser, place: Path) -> None:
    program = place / "id"
    shutil.copy("/usr/bin/id", program)
    program.chmod(0o4755)
    plain = subprocess.run(
        [str(program), "-u"], user=user.uid, capture_output=True, text=True, check=True
    )
    assert plain.stdout == "0\n", "without the precaution it is root"
    assert run_as(user, str(program), "-u").stdout == f"{user.uid}\n"


def test_files_and_memory_of_the_agent_cannot_be_read(user: TrainerUser, place: Path) -> None:
    secret = place / "secret"
    secret.write_text("s3cret")
    secret.chmod(0o600)
    ours = os.getpid()
    for path in (secret, f"/proc/{ours}/environ", f"/proc/{ours}/mem", f"/proc/{ours}/fd/0"):
        done = run_as(user, "cat", str(path))
        assert done.returncode != 0
        assert "Permission denied" in done.stderr
    assert run_as(user, "kill", "-0", str(ours)).returncode != 0


def test_command_that_does_not_exist_is_named(user: TrainerUser) -> None:
    done = run_as(user, "no-such-program")
    assert done.returncode == NOT_FOUND
    assert done.stderr == "'no-such-program' cannot be started: No such file or directory\n"


def test_as_root_the_command_is_started_as_it_is() -> None:
    with starting(None, ["true"], {"NAME": "value"}) as start:
        assert start.words[-1] == "true"
        assert sys.executable not in start.words
        assert start.environment == {"NAME": "value"}


def test_request_decides_between_the_user_and_root(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = make_settings(tmp_path, trainer_user="nobody")
    request = RunRequest.of(script="train.py")
    found = user_of(settings, request)
    assert found is not None
    assert (found.uid, found.home) == (65534, tmp_path / "var/lib/runctl/home")
    caplog.clear()
    assert user_of(settings, RunRequest.of(script="train.py", root=True)) is None
    assert "root: true" in caplog.text
    # It is ended and forgotten all the same.
    assert find_user(settings) == found


def test_machine_without_the_user_starts_only_what_requests_root() -> None:
    for name in ("", "no-such-user", "root"):
        settings = make_settings(Path("/"), trainer_user=name)
        with pytest.raises(RequestError, match=r"no user for it: .*needs useradd.*`root: true`"):
            user_of(settings, RunRequest.of(script="train.py"))
        assert user_of(settings, RunRequest.of(script="train.py", root=True)) is None


def test_elsewhere_the_log_says_what_is_not_isolated(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert user_of(make_settings(tmp_path), RunRequest.of(script="train.py")) is None
    (line,) = caplog.messages
    assert "nothing on this machine keeps them from the agent's files" in line


def test_name_of_the_user_comes_from_the_bootstrap() -> None:
    class Tags:
        def get(self, path: str) -> str | None:
            return {"instance-id": "i-1"}.get(path)

    environ = dict.fromkeys(
        ("RUNCTL_TABLE", "RUNCTL_BUCKET", "RUNCTL_LOG_GROUP", "RUNCTL_REGION", "RUNCTL_RUN_ID"), "x"
    )
    environ |= {"RUNCTL_ATTEMPT": "1", "RUNCTL_TRAINER_USER": "runctl-trainer"}
    settings = read_settings(Tags(), environ)  # type: ignore[arg-type]
    assert settings.trainer_user == "runctl-trainer"


def test_variables_name_the_user(user: TrainerUser) -> None:
    found = base_environment({"HOME": "/root", "USER": "root", "SHELL": "/bin/zsh"}, user)
    assert (found["HOME"], found["USER"], found["LOGNAME"]) == (str(user.home), "tester", "tester")
    assert found["SHELL"] == "/bin/sh"


# Leaves a process that no parent, session, variable or signal leads to.
DAEMON = """
import os, signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
if os.fork():
    os._exit(0)
os.setsid()
if os.fork():
    os._exit(0)
print(os.getpid(), flush=True)
os.close(1)
os.close(2)
time.sleep(600)
"""


def test_whatever_runs_as_the_user_ends_and_nothing_else(user: TrainerUser) -> None:
    other = replace(user, uid=user.uid + 1)
    left = int(run_as(user, PYTHON, "-c", DAEMON).stdout)
    kept = int(run_as(other, PYTHON, "-c", DAEMON).stdout)
    try:
        assert is_alive(left)
        assert end_processes(user) == 1
        assert not is_alive(left)
        assert is_alive(kept)
        assert end_processes(user) == 0
    finally:
        end_processes(other)
    assert end_processes(None) == 0


def test_container_of_somebody_else_with_the_same_number_goes_on(user: TrainerUser) -> None:
    script = f"import os, time; os.setresuid(*[{user.uid}] * 3); print(flush=True); time.sleep(600)"
    # As in a container: it sees other files, and is in a control group of its own.
    words = ["unshare", "--mount", PYTHON, "-c", script]
    with subprocess.Popen(words, stdout=subprocess.PIPE) as theirs:
        assert theirs.stdout is not None
        theirs.stdout.readline()
        assert end_processes(user) == 0
        assert is_alive(theirs.pid)
        theirs.kill()


@pytest.fixture
def machine_in_a_container() -> Iterator[Path]:
    """Return the control group of a container in which a whole machine runs, slice and all."""
    beside = Path("/sys/fs/cgroup/unified")  # of the controllers of version 1
    mount = beside if beside.is_dir() else Path("/sys/fs/cgroup")
    group = mount / f"runctl-test-{os.getpid()}"
    inner = group.joinpath(CONTROL_GROUP.lstrip("/"), "container")
    try:
        inner.mkdir(parents=True)
    except OSError as exc:
        pytest.skip(f"no control group can be made here: {exc}")
    yield group
    for folder in (inner, *inner.parents):
        if folder.is_relative_to(group):
            wait_until(partial(is_removed, folder))


def is_removed(group: Path) -> bool:
    with contextlib.suppress(OSError):  # what was killed takes a moment to be gone
        group.rmdir()
    return not group.exists()


def test_machine_in_a_container_is_not_ours_although_it_has_the_same_user_and_slice(
    user: TrainerUser, machine_in_a_container: Path
) -> None:
    script = f"import os, time; os.setresuid(*[{user.uid}] * 3); print(flush=True); time.sleep(600)"
    entered = machine_in_a_container.joinpath(CONTROL_GROUP.lstrip("/"), "container/cgroup.procs")
    words = ["unshare", "--mount", "sh", "-c", f'echo $$ >{entered}; exec "$@"', "-"]
    with subprocess.Popen([*words, PYTHON, "-c", script], stdout=subprocess.PIPE) as theirs:
        assert theirs.stdout is not None
        theirs.stdout.readline()
        assert end_processes(user) == 0
        assert is_alive(theirs.pid)
        # As it sees itself.
        seen = f"/{machine_in_a_container.name}{CONTROL_GROUP}"
        assert processes.of_user(user.uid, control_group=seen) == [theirs.pid]
        theirs.kill()


def test_command_is_started_by_a_python_that_was_built_for_old_systems(
    user: TrainerUser, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(os, "memfd_create")
    assert run_as(user, "sh", "-c", 'echo "$TEXT"', TEXT="given").stdout == "given\n"


def test_next_run_finds_nothing_of_the_last(user: TrainerUser, place: Path) -> None:
    paths = Paths(place)
    for folder in (place / "tmp", place / "dev/shm"):
        folder.mkdir(parents=True)
        folder.chmod(0o1777)
    ours = place / "tmp/ours"
    ours.write_text("kept")
    script = f"""
cd {place}/tmp
mkdir -p deep/er; ln -s {ours} deep/link; ln -s {place} deep/folder; echo x >deep/er/file
ln -s {ours} link; mkfifo pipe; echo x >{place}/dev/shm/psm_1; chmod 000 deep/er
"""
    assert run_as(user, "sh", "-c", script).stderr == ""
    pid = int(run_as(user, PYTHON, "-c", DAEMON).stdout)
    make_memory = "import ctypes; print(ctypes.CDLL(None).shmget(0, 4096, 0o1600))"
    shared = int(run_as(user, PYTHON, "-c", make_memory).stdout)
    assert list(find_ipc_of(user.uid)) == [("shm", shared)]
    paths.state.mkdir(parents=True)
    begin_anew(replace(user, home=paths.home), paths)
    assert not is_alive(pid)
    assert [path.name for path in (place / "tmp").iterdir()] == ["ours"]
    assert ours.read_text() == "kept"
    assert not any((place / "dev/shm").iterdir())
    assert not list(find_ipc_of(user.uid))
    home = paths.home.stat()
    assert (home.st_uid, stat.S_IMODE(home.st_mode)) == (user.uid, 0o700)


def test_what_a_user_left_in_folders_of_others_is_removed_but_no_mount_and_no_state(
    user: TrainerUser, place: Path
) -> None:
    folder, state, shared = place / "tmp", place / "tmp/runctl", place / "tmp/shared"
    # Of the same file system, and with a name that the kernel writes in another way.
    bound, origin = place / "tmp/bound here", place / "origin"
    inner = folder / "entered/inner"
    for path in (folder, folder / ".X11-unix", inner, state, shared, bound, origin):
        path.mkdir(parents=True, exist_ok=True)
        path.chmod(0o1777)
    (folder / "private/inner").mkdir(parents=True)
    (folder / "private").chmod(0o700)
    (folder / "private/inner").chmod(0o777)
    outside = place / "outside"
    outside.mkdir(mode=0o777)
    outside.chmod(0o777)
    (folder / "link").symlink_to(outside)
    theirs = folder / "entered/theirs"
    theirs.touch()
    left = [folder / ".X11-unix/left", folder / "entered/inner/left"]
    kept = [state / "checkpoint", outside / "file", shared / "file", bound / "file", theirs]
    script = "import sys; [open(name, 'w').close() for name in sys.argv[1:]]"
    subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=1777", "tmpfs", shared], check=True)
    subprocess.run(["mount", "--bind", origin, bound], check=True)
    try:
        names = [str(path) for path in (*left, *kept) if path != theirs]
        assert run_as(user, PYTHON, "-c", script, *names).stderr == ""
        remove_files_of(user.uid, [folder, place / "missing"], kept=state)
        assert [path for path in left if path.exists()] == []
        assert [path for path in kept if not path.exists()] == []
        # Also one that is the user's itself.
        for path in (shared, bound):
            os.chown(path, user.uid, user.gid)
        remove_files_of(user.uid, [folder], kept=state)
        assert (shared / "file").exists()
        assert (bound / "file").exists()
    finally:
        subprocess.run(["umount", shared, bound], check=True)


def test_what_disappears_at_that_moment_keeps_nothing_from_being_removed(
    user: TrainerUser, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = place / "tmp"
    folder.mkdir()
    for name in ("1", "2", "3"):
        (folder / name).touch()
        os.chown(folder / name, user.uid, user.gid)
    scandir = os.scandir

    @contextlib.contextmanager
    def scandir_before_the_end(path: Path) -> Iterator[Iterator[os.DirEntry[str]]]:
        with scandir(path) as items:
            found = sorted(items, key=lambda item: item.name)
        (folder / "1").unlink()
        yield iter(found)

    monkeypatch.setattr(os, "scandir", scandir_before_the_end)
    remove_files_of(user.uid, [folder])
    monkeypatch.undo()
    assert not any(folder.iterdir())


def test_giving_follows_no_link(user: TrainerUser, place: Path) -> None:
    secret, outside = place / "secret", place / "outside"
    secret.touch()
    outside.mkdir()
    (outside / "file").touch()
    given = place / "given"
    (given / "folder").mkdir(parents=True)
    (given / "folder/file").touch()
    (given / "link").symlink_to(secret)
    (given / "folders").symlink_to(outside)
    give_to(user.owner, [given, place / "missing"])
    with pytest.raises(NotADirectoryError):  # the folder above it is the user's by now
        give_to(user.owner, [given / "folders/file"])
    give_to(user.owner, [given / "folders"])
    for path in (given, given / "folder", given / "folder/file"):
        assert path.stat().st_uid == user.uid
    for path in (secret, outside, outside / "file"):
        assert path.stat().st_uid == 0


def test_folders_that_are_swapped_meanwhile_lead_nowhere(user: TrainerUser, place: Path) -> None:
    """Swap a folder for a link to root's files, again and again, while it is given."""
    target = place / "target"
    target.mkdir()
    for number in range(20):
        (target / f"{number}").touch()
    given = place / "given"
    (given / "a").mkdir(parents=True)
    for number in range(20):
        (given / "a" / f"{number}").touch()
    give_to(user.owner, [given])
    script = f"""
import os
os.chdir({str(given)!r})
print("ready", flush=True)
while True:
    os.rename("a", "b"); os.symlink({str(target)!r}, "a"); os.unlink("a"); os.rename("b", "a")
"""
    with (
        starting(user, [PYTHON, "-c", script], ENVIRON) as start,
        subprocess.Popen(
            start.words, stdin=start.stdin, env=start.environment, stdout=subprocess.PIPE
        ) as swapping,
    ):
        assert swapping.stdout is not None
        swapping.stdout.readline()
        try:
            for number in range(400):
                # Everything has another owner each time.
                with contextlib.suppress(OSError):
                    give_to((user.uid, number), [given])
        finally:
            swapping.kill()
    assert {path.stat().st_uid for path in target.iterdir()} == {0}


def test_what_was_taken_back_can_be_read_by_all_and_changed_by_root_only(
    user: TrainerUser, place: Path
) -> None:
    built = place / "built"
    built.mkdir()
    give_to(user.owner, [built])
    script = f"""
cd {built}; umask 0
echo x >plain; echo x >private; echo x >program; echo x >setuid; mkdir private-folder
echo x >private-folder/file; ln -s /etc/shadow link; ln plain again
chmod 600 private; chmod 700 program private-folder; chmod 6777 setuid; chmod 2777 .
"""
    assert run_as(user, "sh", "-c", script).stderr == ""
    before = Path("/etc/shadow").stat()
    take_back(built)
    found = {path.name: path.lstat() for path in (built, *built.rglob("*"))}
    assert {info.st_uid for info in found.values()} == {info.st_gid for info in found.values()}
    assert {info.st_uid for info in found.values()} == {0}
    modes = {
        name: stat.S_IMODE(info.st_mode)
        for name, info in found.items()
        if not stat.S_ISLNK(info.st_mode)
    }
    assert modes == {
        "built": 0o755, "plain": 0o644, "again": 0o644, "private": 0o644, "program": 0o755,
        "setuid": 0o755, "private-folder": 0o755, "file": 0o644,
    }  # fmt: skip
    assert Path("/etc/shadow").stat() == before
    assert run_as(user, "sh", "-c", f"echo y >>{built}/plain").returncode != 0
    assert run_as(user, "cat", f"{built}/private-folder/file").stdout == "x\n"


def test_nothing_that_could_block_a_reader_is_taken_back(place: Path) -> None:
    os.mkfifo(place / "pipe")
    with pytest.raises(OSError, match="'pipe' is neither a file, a folder nor a link"):
        take_back(place)


@pytest.mark.parametrize(
    ("mode", "shared"), [(0o600, 0o644), (0o4711, 0o755), (0o666, 0o644), (0o400, 0o444)]
)
def test_shared_mode(mode: int, shared: int) -> None:
    assert shared_mode(mode) == shared


def test_checkpoint_folder_behind_a_link_is_refused(place: Path) -> None:
    project = place / "project"
    project.mkdir()
    (project / "link").symlink_to("/etc")
    (project / "own").symlink_to("folder")
    require_inside(project / "own/checkpoints", project)
    with pytest.raises(RequestError, match=r"leads to /etc/checkpoints, out of the run's files"):
        require_inside(project / "link/checkpoints", project)


def contract_of(place: Path, user: TrainerUser, *command: str) -> Contract:
    log = place / "log"
    log.mkdir(mode=0o700)
    for name in ("project", "checkpoint"):
        (place / name).mkdir()
    return Contract(
        command=command,
        environment={**ENVIRON, "HOME": str(user.home)},
        working_folder=place / "project",
        checkpoint=place / "checkpoint",
        output=log / "out",
        errors=log / "err",
        save_request=place / "request",
        grace=timedelta(seconds=10),
        written=(place / "project", place / "checkpoint", place / "request", place / "saved"),
        owner=user.owner,
        user=user,
        # Not all descendants of the tests' own process belong to the program.
        is_one_of_many=True,
    )


# Writes to everything that it is given, and waits in its handler until it may end.
PROGRAM = """
import os, pathlib, signal, sys, time
place = pathlib.Path(sys.argv[1])
restored = place / "checkpoint/restored"
restored.write_text(restored.read_text() + "+")
(place / "saved").write_text("{}\\n")
open("/dev/stdout", "a").write("printed\\n")
os.makedirs("results")
try:
    (place / "planted").touch()
except PermissionError:
    print("no file of its own beside them", file=sys.stderr, flush=True)
def save(*_):
    (place / "checkpoint/step-1").write_text("saved")
    sys.exit(7)
signal.signal(signal.SIGTERM, save)
(place / "checkpoint/ready").touch()
held = open(place / "checkpoint/torn", "w")
while True:
    time.sleep(0.05)
"""


def test_program_of_the_user_is_started_watched_and_stopped(user: TrainerUser, place: Path) -> None:
    contract = contract_of(place, user, PYTHON, "-c", PROGRAM, str(place))
    (contract.checkpoint / "restored").write_text("old")
    (contract.checkpoint / "restored").chmod(0o600)
    runtime = HostRuntime(on_exit=lambda: None)
    program = runtime.start(contract)
    try:
        ready = contract.checkpoint / "ready"
        wait_until(lambda: ready.exists() or program.exit_code is not None)
        assert program.exit_code is None, program.last_words()
        program.observe()
        assert program.writers() == {"torn"}
        program.request_save()
        assert "at" in contract.save_request.read_text()
        program.request_stop(before_a_kill=lambda: None)
        wait_until(lambda: program.exit_code is not None)
        program.kill()
        assert program.exit_code == 7
        assert program.describe_exit().code == 7
    finally:
        program.close()
        runtime.close()
    assert (contract.checkpoint / "step-1").read_text() == "saved"
    assert (contract.checkpoint / "restored").read_text() == "old+"
    assert contract.output.read_text() == "printed\n"
    assert contract.errors.read_text() == "no file of its own beside them\n"
    for path in (contract.checkpoint / "step-1", place / "project/results", place / "saved"):
        assert path.stat().st_uid == user.uid


def test_kill_ends_a_program_of_the_user_that_ignores_its_stop(
    user: TrainerUser, place: Path
) -> None:
    contract = contract_of(place, user, "sh", "-c", "trap '' TERM; sleep 600 & wait")
    runtime = HostRuntime(on_exit=lambda: None)
    program = runtime.start(contract)
    try:
        wait_until(lambda: len(program.pids()) == 2)
        pids = program.pids()
        program.kill()
        assert not any(map(is_alive, pids))
    finally:
        program.close()


def environments_of(
    cloud: Cloud, place: Path, user: TrainerUser, tmp_path: Path
) -> tuple[Environments, Callable[[], str]]:
    """Return environments that the user builds with an interpreter that it can run."""
    made = make_environments(cloud, place / "state", uv=None, log=lambda: (place / "log").open("a"))
    tools = made._installer.tools
    pip = place / "pip"
    shutil.copytree(tools.pip, pip)
    made._installer.tools = Tools(python=Path(PYTHON), pip=pip, environ=ENVIRON)
    made.run_as(user)
    return made, (place / "log").read_text


# What a hostile package does while it is built.
HOSTILE = """
import os, pathlib, subprocess, sys
sys.stdout.flush()
facts = pathlib.Path(os.environ["HOME"]) / "facts"
status = pathlib.Path("/proc/self/status").read_text()
gains_nothing = "NoNewPrivs:\\t1" in status
facts.write_text(f"{os.getuid()} {gains_nothing} {os.environ['HOME']}")
for path in ("/etc/runctl-planted", "/usr/local/planted"):
    try:
        pathlib.Path(path).touch()
        facts.write_text("it could write to " + path)
    except PermissionError:
        pass
if not os.path.lexists("secret.cfg"):
    os.symlink("/etc/shadow", "secret.cfg")
subprocess.Popen(["sleep", "600"], start_new_session=True, stdout=subprocess.DEVNULL,
                 stderr=subprocess.DEVNULL)
"""


@pytest.mark.slow
def test_package_is_built_by_the_user_and_its_environment_kept_from_it(
    cloud: Cloud, place: Path, user: TrainerUser, tmp_path: Path
) -> None:
    project = place / "project"
    project.mkdir()
    (project / "train.py").touch()
    package = project / "greeter"
    package.mkdir()
    (package / "pyproject.toml").write_text(
        '[project]\nname = "greeter"\nversion = "1.0"\n'
        '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
    )
    (package / "backend.py").write_text(HOSTILE + BACKEND)
    (package / "greeter.py").write_text("WORD = 'hello'\n")
    (project / "requirements.txt").write_text("./greeter\n")
    give_to(user.owner, [project])
    environments, printed = environments_of(cloud, place, user, tmp_path)
    target = environments.prepare(find_dependencies(project, "train.py"))
    environments.finish(60)
    facts = (user.home / "facts").read_text()
    assert facts == f"{user.uid} True {user.home}", printed()
    assert processes.of_user(user.uid, control_group="/no.slice") == []
    assert {path.lstat().st_uid for path in (target, *target.rglob("*"))} == {0}
    assert run_as(user, str(target / "bin/python"), "-c", "import greeter; print(greeter.WORD)")
    (module,) = target.glob("lib/*/site-packages/greeter.py")
    assert run_as(user, "sh", "-c", f"echo planted >>{module}").returncode != 0
    assert not has_bytecode(target)
    # It was stored as it is, compiled by somebody whom neither the package nor a trainer can reach.
    assert cloud.keys("environments/current/")


def test_compiling_runs_as_another_user_and_executes_nothing(place: Path) -> None:
    target, scratch = place / "target", place / "scratch"
    packages = target / "lib/python3/site-packages"
    packages.mkdir(parents=True)
    (packages / "module.py").write_text(f"open({str(place / 'ran')!r}, 'w')\n")
    (packages / "evil.pth").write_text(f"import os; os.mkdir({str(place / 'ran')!r})\n")
    (packages / "broken.py").write_text("def\n")
    with Folder.opened(target) as folder:
        files = BuiltFiles(folder, scratch, built_ns=time.time_ns() + 10**12)
        files.scan()
        files.compile(Path(PYTHON), COMPILER)
    assert [path for path in files.view if path.endswith(".pyc")] != []
    assert not (place / "ran").exists()
    assert {path.stat().st_uid for path in scratch.iterdir()} == {0}


def test_environment_that_was_built_here_keeps_its_bytecode_at_home(
    place: Path, user: TrainerUser
) -> None:
    packages = place / "lib/python3.12/site-packages"
    packages.mkdir(parents=True)
    assert has_bytecode(place), "there is nothing to compile"
    (packages / "torch").mkdir()
    assert not has_bytecode(place)
    (packages / "torch/__pycache__").mkdir()
    assert has_bytecode(place)


def test_removing_stops_at_what_it_may_not_see(place: Path, user: TrainerUser) -> None:
    remove_files_of(user.uid, [place / "missing", Path("/proc/self/cmdline")])
    assert place.is_dir()
