"""Two runs of a group on one machine: nothing of the first reaches the second."""

from __future__ import annotations

import json

import pytest

from runctl.aws.group_ledger import DynamoGroupLedger
from runctl.aws.services import SystemClock
from runctl.model.group import Group
from tests.e2e.testbed import wait_for
from tests.machine.machines import Machine, MachineRun, Machines

pytestmark = pytest.mark.e2e

# What a program may try to leave, and how the next one looks for it.
PLACES = """
import ctypes, json, os, pathlib, subprocess, syslog, time

KEY = 0x52554E43
CREATE = 0o1600
LIBC = ctypes.CDLL(None, use_errno=True)
FILES = ["/tmp/left", "/var/tmp/left", "/dev/shm/left", "/run/lock/left", "/dev/mqueue/left"]
FILES += ["/tmp/.X11-unix/left", "/tmp/.ICE-unix/left"]
FILES += [os.path.expanduser("~/.config/systemd/user/default.target.wants/left.service")]
SHARED = {
    "shared memory": lambda flags: LIBC.shmget(KEY, 4096, flags),
    "semaphore": lambda flags: LIBC.semget(KEY, 1, flags),
    "message queue": lambda flags: LIBC.msgget(KEY, flags),
}
# Keyrings: of the session, of the user, of the user's sessions, and the one that outlives all.
ADD_KEY, KEYCTL = {"x86_64": (248, 250), "aarch64": (217, 219)}[os.uname().machine]
GET_PERSISTENT, SEARCH = 22, 10
PERSISTENT = LIBC.syscall(KEYCTL, GET_PERSISTENT, -1, -2)
RINGS = {"session": -3, "user": -4, "user session": -5, "persistent": PERSISTENT}
add_key = lambda ring: LIBC.syscall(ADD_KEY, b"user", b"left", b"x", 1, ring) != -1
find_key = lambda ring: LIBC.syscall(KEYCTL, SEARCH, ring, b"user", b"left", 0) != -1
HOME = os.path.expanduser("~")
LOGGED = "logged by the first run"
journal = lambda: subprocess.run(["journalctl", "--quiet"], text=True, capture_output=True).stdout
SCHEDULED = {
    "crontab": (["crontab", "-"], "* * * * * sleep 4711\\n"),
    "at": (["at", "now + 1 hour"], "sleep 4711\\n"),
    "lingering": (["loginctl", "enable-linger", "runctl-trainer"], ""),
    "own manager": (["systemd-run", "--user", "--wait", "true"], ""),
}
os.environ["XDG_RUNTIME_DIR"] = f"/run/user/{os.getuid()}"
report = lambda found: print("found", json.dumps(sorted(found)), flush=True)
"""
LEAVE = f"""{PLACES}
found = set()
for path in map(pathlib.Path, FILES):
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
        found.add(str(path))
    except OSError as exc:
        print(path, exc, flush=True)
found |= {{name for name, make in SHARED.items() if make(CREATE) != -1}}
found |= {{f"key of {{name}}" for name, ring in RINGS.items() if add_key(ring)}}
os.setxattr(HOME, "user.left", b"x")
os.chmod(HOME, 0o777)
found.add("note on the home folder")
syslog.syslog(LOGGED)
for _ in range(300):
    if LOGGED in journal():
        found.add("journal")
        break
    time.sleep(0.1)
for name, (words, text) in SCHEDULED.items():
    try:
        done = subprocess.run(words, input=text, text=True, timeout=30, capture_output=True)
    except (OSError, subprocess.TimeoutExpired) as exc:
        print(name, exc, flush=True)
        continue
    print(name, done.returncode, done.stdout, done.stderr, flush=True)
    found |= set() if done.returncode else {{name}}
report(found)
"""
LOOK = f"""{PLACES}
found = {{path for path in FILES if os.path.lexists(path)}}
found |= {{name for name, find in SHARED.items() if find(0) != -1}}
found |= {{f"key of {{name}}" for name, ring in RINGS.items() if find_key(ring)}}
found |= {{"note on the home folder"}} if os.listxattr(HOME) else set()
found |= {{"mode of the home folder"}} if os.stat(HOME).st_mode & 0o77 else set()
found |= {{"journal"}} if LOGGED in journal() else set()
for name in filter(str.isdigit, os.listdir("/proc")):
    try:
        if os.stat(f"/proc/{{name}}").st_uid == os.getuid() and int(name) != os.getpid():
            found.add(pathlib.Path("/proc", name, "comm").read_text())
    except OSError:
        pass
report(found)
"""
LEFT = {
    *("/tmp/left", "/var/tmp/left", "/dev/shm/left", "/run/lock/left", "/dev/mqueue/left"),
    "/var/lib/runctl/home/.config/systemd/user/default.target.wants/left.service",
    *("/tmp/.X11-unix/left", "/tmp/.ICE-unix/left"),
    *("shared memory", "semaphore", "message queue", "note on the home folder", "journal"),
}


@pytest.fixture(scope="module")
def group(machines: Machines) -> str:
    testbed = machines.testbed
    name = machines.new_name()
    arn = f"{testbed.deployment.state_machine_arn}:{name}".replace(":stateMachine:", ":execution:")
    ledger = DynamoGroupLedger(testbed.clients.get("dynamodb"), testbed.deployment.table)
    ledger.create_group(
        Group(
            group_id=name,
            kind="sweep",
            execution=name,
            execution_arn=arn,
            started_at=SystemClock().now(),
        )
    )
    return name


@pytest.fixture(scope="module")
def first(machines: Machines, group: str) -> MachineRun:
    run = machines.start(LEAVE, group=group, instance_types=["m5.large"])
    assert run.wait_for_end() == "SUCCEEDED", machines.testbed.story(run.run_id)
    return run


def found_by(run: MachineRun) -> set[str]:
    log = run.testbed.log(run.run_id, 1)
    lines = [line for line in log if line.startswith("found ")]
    assert len(lines) == 1, "\n".join(log)
    names: list[str] = json.loads(lines[0].removeprefix("found "))
    return set(names)


def properties(machine: Machine, unit: str, name: str) -> str:
    return machine.attempt("systemctl", "show", "--value", f"--property={name}", unit).stdout


def test_program_cannot_arrange_to_be_started_again(first: MachineRun) -> None:
    machine = first.machine(1)
    # Without these, nothing would be refused here that an image of Ubuntu may permit.
    machine.run("sh", "-c", "command -v at crontab loginctl")
    machine.run("systemctl", "is-active", "polkit", "cron", "atd", "systemd-logind")
    assert found_by(first) == LEFT, "\n".join(first.testbed.log(first.run_id, 1))
    assert machine.attempt("ls", "/var/lib/systemd/linger").stdout == ""
    manager = "user@58113.service"
    assert properties(machine, manager, "LoadState") == "masked\n"

    # Without the settings of bootstrap.sh it could.
    settings = "/etc/polkit-1/rules.d/10-runctl.rules /etc/systemd/system/user*@58113.service"
    machine.run("sh", "-c", f"rm {settings} && systemctl daemon-reload && systemctl restart polkit")
    machine.run("loginctl", "enable-linger", "runctl-trainer", user="runctl-trainer")
    wait_for(lambda: properties(machine, manager, "ActiveState") == "active\n", manager)
    pid = int(properties(machine, manager, "MainPID"))
    assert "/runctl-trainer.slice/" not in machine.control_group(pid)
    assert "NoNewPrivs:\t0" in machine.read(f"/proc/{pid}/status")


def test_second_run_of_a_machine_finds_nothing_that_the_first_has_left(
    machines: Machines, group: str, first: MachineRun
) -> None:
    second = machines.start(LOOK, group=group, instance_types=["m5.large"])
    assert second.wait_for_end() == "SUCCEEDED", machines.testbed.story(second.run_id)
    assert second.machine(1).instance_id == first.machine(1).instance_id
    assert found_by(second) == set(), "\n".join(second.testbed.log(second.run_id, 1))
