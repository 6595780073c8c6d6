"""What bootstrap leaves on a machine: the agent, its timers, and a trainer behind a fence."""

from __future__ import annotations

import pytest

from tests.e2e.testbed import wait_for
from tests.machine.machines import Machine

pytestmark = pytest.mark.e2e

ASK = (
    "curl --silent --show-error --max-time 5 --request PUT "
    "--header 'X-aws-ec2-metadata-token-ttl-seconds: 60' http://169.254.169.254/latest/api/token"
)
USER, SLICE = "runctl-trainer", "runctl-trainer.slice"
SCOPE = "/runctl.slice/runctl-trainer.slice/"


def trainer(machine: Machine) -> int:
    # Not systemd-run, which has the same words in its command until it becomes the trainer.
    command = "^/var/lib/runctl/environments/.* train[.]py"
    return wait_for(lambda: next(iter(machine.processes(command)), None), "the trainer")


def main_pid(machine: Machine, unit: str) -> int:
    return int(properties(machine, unit, "MainPID")["MainPID"])


def properties(machine: Machine, unit: str, *names: str) -> dict[str, str]:
    lines = machine.run("systemctl", "show", unit, *(f"--property={name}" for name in names))
    return dict(line.split("=", 1) for line in lines.splitlines())


def test_unmodified_user_data_leaves_the_agent_and_its_dead_man(machine: Machine) -> None:
    assert machine.run("systemctl", "is-system-running") == "running"
    assert machine.run("systemctl", "is-active", "runctl-agent", "runctl-fence") == "active\nactive"
    timer = properties(machine, "runctl-deadman.timer", "ActiveState", "AccuracyUSec")
    assert timer == {"ActiveState": "active", "AccuracyUSec": "1s"}
    enabled = machine.run("systemctl", "is-enabled", "runctl-agent", "runctl-deadman.timer")
    assert enabled == "enabled\nenabled"
    assert machine.attempt("systemctl", "is-active", "apt-daily.timer").stdout == "inactive\n"


def test_the_trainer_is_in_a_scope_of_the_fenced_slice(machine: Machine) -> None:
    group = machine.control_group(trainer(machine))
    assert group.startswith(SCOPE)
    scope = group.removeprefix(SCOPE).partition("/")[0]
    assert properties(machine, scope, "OOMPolicy", "Slice") == {
        "OOMPolicy": "continue",
        "Slice": "runctl-trainer.slice",
    }
    assert (
        machine.control_group(main_pid(machine, "runctl-agent"))
        == "/system.slice/runctl-agent.service"
    )


def test_the_fence_refuses_the_trainer_and_nobody_else(machine: Machine) -> None:
    # Both at once; by the slice alone, as a program with `root: true`; by the user alone.
    for user, group in ((USER, SLICE), ("", SLICE), (USER, "")):
        refused = machine.attempt("sh", "-c", ASK, user=user, in_slice=group)
        assert refused.returncode == 7, refused  # no connection, and at once
        assert refused.stdout == ""
    # Neither root nor another user outside of it.
    for user in ("", "nobody"):
        assert machine.run("sh", "-c", ASK, user=user)


def test_an_upgrade_of_a_library_restarts_others_but_not_the_agent(machine: Machine) -> None:
    program = "import ssl, time\nprint('loaded', flush=True)\ntime.sleep(3600)\n"
    machine.write("/usr/local/lib/control.py", program)
    machine.write(
        "/etc/systemd/system/control.service",
        "[Service]\nType=exec\nExecStart=/usr/bin/python3 /usr/local/lib/control.py\n",
    )
    machine.run("systemctl", "daemon-reload")
    machine.run("systemctl", "start", "control")
    wait_for(lambda: any("loaded" in line for line in machine.journal("control")), "its start")
    before = {unit: main_pid(machine, unit) for unit in ("control", "runctl-agent")}
    training = trainer(machine)

    library = "/usr/lib/*/libssl.so.3"
    machine.run("sh", "-c", f"for it in {library}; do cp $it $it.new; mv $it.new $it; done")
    # As the hook of apt runs it on Ubuntu 24.04: restart what uses a library that was replaced.
    machine.run("needrestart", "-r", "a", "-l")

    assert main_pid(machine, "control") != before["control"]
    assert main_pid(machine, "runctl-agent") == before["runctl-agent"]
    assert trainer(machine) == training
    # Only because of its settings: it knows that the agent uses the replaced library.
    assert "NEEDRESTART-SVC: runctl-agent.service" in machine.run("needrestart", "-b", "-l")


def test_fence_agent_and_trainer_are_back_after_a_reboot_without_a_shutdown(
    machine: Machine,
) -> None:
    machine.reboot_at_once()
    assert "169.254.169.254" in machine.run("nft", "list", "ruleset")
    assert machine.control_group(trainer(machine)).startswith(SCOPE)
    assert machine.as_trainer(ASK).returncode != 0
    assert machine.run("sh", "-c", ASK)
