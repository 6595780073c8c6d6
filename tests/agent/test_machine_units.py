"""The units and settings of a machine that bootstrap.sh leaves, and what its fence unit reports."""

from __future__ import annotations

import configparser
import shutil
import socket
import subprocess
from pathlib import Path

import pytest

from runctl.agent.instance.paths import Paths
from runctl.agent.runtime.fence import probe, prove_fence, require_fence
from runctl.model.errors import RequestError
from tests.agent.machine import Cloud
from tests.agent.test_bootstrap import SCRIPT, Boot
from tests.agent.test_existing_instance import ExistingInstance

pytestmark = pytest.mark.slow

FAILING_NFT = """#!/bin/sh
echo "/etc/runctl/fence.nft:6:16-40: Error: cgroupv2 path fails: No such file or directory" >&2
echo "        socket cgroupv2 level 2" >&2
exit 1
"""
# A stand-in for systemd: `restart` of the fence runs its program and returns the result.
SYSTEMCTL = """#!/bin/sh
echo "systemctl $*" >> "{root}/calls"
[ "$*" != "restart runctl-fence.service" ] || exec "{root}/opt/runctl/bin/runctl-fence"
"""


def write_program(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)


def start_fence_for_real(boot: Boot, nft: str) -> None:
    write_program(boot.root / "bin/nft", nft)
    write_program(boot.root / "bin/sleep", "#!/bin/sh\n")
    write_program(boot.root / "bin/systemctl", SYSTEMCTL.format(root=boot.root))


def fence_result(boot: Boot) -> str:
    return (boot.root / "run/runctl/fence").read_text()


def unit(boot: Boot, name: str) -> configparser.ConfigParser:
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(boot.root / "etc/systemd/system" / name)
    return parser


def test_fence_is_loaded_by_a_unit_of_its_own_before_the_agent_at_every_boot(boot: Boot) -> None:
    start_fence_for_real(boot, '#!/bin/sh\nshift; cp "$1" "${0%/*}/loaded.nft"\n')
    assert boot.run().returncode == 0
    calls = boot.calls()
    assert calls.index("systemctl restart runctl-fence.service") < calls.index(
        "systemctl restart runctl-agent.service"
    )
    rules = (boot.root / "bin/loaded.nft").read_text()
    assert "169.254.169.254 reject" in rules
    assert "fd00:ec2::254 reject" in rules
    assert fence_result(boot) == "loaded\n"
    fence, agent = unit(boot, "runctl-fence.service"), unit(boot, "runctl-agent.service")
    assert fence["Unit"]["Before"] == "runctl-agent.service"
    assert fence["Unit"]["Requires"] == "runctl-trainer.slice"
    # A service that flushes all rules when it starts must have started before.
    assert {"runctl-trainer.slice", "nftables.service"} <= set(fence["Unit"]["After"].split())
    assert "runctl-fence.service" in agent["Unit"]["Wants"].split()
    assert "runctl-fence.service" in agent["Unit"]["After"].split()
    assert agent["Install"]["WantedBy"] == "multi-user.target"
    # A reboot empties /run and runs the unit's program, without the user data.
    shutil.rmtree(boot.root / "run")
    path = f"{boot.root / 'bin'}:/usr/bin:/bin"
    subprocess.run([fence["Service"]["ExecStart"]], env={"PATH": path}, check=True, timeout=240)
    assert fence_result(boot) == "loaded\n"


def test_fence_that_cannot_be_loaded_is_reported_with_its_cause(boot: Boot) -> None:
    start_fence_for_real(boot, FAILING_NFT)
    done = boot.run()
    assert "cgroupv2 path fails" in fence_result(boot)
    assert fence_result(boot).count("\n") == 1
    assert "no trainer can start, since the metadata fence failed" in done.stderr
    assert "cgroupv2 path fails" in done.stderr
    # The agent starts nevertheless, to report it; tests below show that it starts no trainer.
    assert "systemctl restart runctl-agent.service" in boot.calls()


def test_image_without_nft_is_reported_as_such(boot: Boot) -> None:
    assert boot.run().returncode == 0
    tools = boot.root / "tools"
    tools.mkdir()
    for tool in ("sh", "mkdir", "head", "mv", "sleep"):
        (tools / tool).symlink_to(f"/usr/bin/{tool}")
    done = subprocess.run(
        [str(boot.root / "opt/runctl/bin/runctl-fence")], env={"PATH": str(tools)}, check=False
    )
    assert done.returncode == 1
    assert fence_result(boot) == "nft is not installed (package nftables)\n"


def test_existing_machine_without_a_fence_is_reported_and_left_untouched(
    existing: ExistingInstance,
) -> None:
    kept = existing.root / "var/lib/runctl/checkpoint/a.pt"
    kept.parent.mkdir(parents=True)
    kept.touch()
    start_fence_for_real(existing, FAILING_NFT)
    for done in (existing.command("check"), existing.start("run-1")):
        assert done.returncode == 1
        assert "cgroupv2 path fails" in done.stderr
    assert kept.exists()
    assert "systemctl restart runctl-agent.service" not in existing.calls()
    write_program(existing.root / "bin/nft", "#!/bin/sh\n")
    assert existing.command("check").returncode == 0
    assert existing.start("run-1").returncode == 0


def test_agent_starts_no_trainer_without_the_fence(tmp_path: Path) -> None:
    paths = Paths(tmp_path)
    with pytest.raises(RequestError, match=r"runctl-fence.service left no result"):
        require_fence(paths)
    paths.fence.parent.mkdir(parents=True)
    paths.fence.write_text("nft is not installed (package nftables)\n")
    with pytest.raises(RequestError, match=r"nft is not installed .*image needs nft"):
        require_fence(paths)
    paths.fence.write_text("loaded\n")
    require_fence(paths)
    prove_fence(paths, ["127.0.0.1:1"])


class OwnMachine(Paths):
    """A machine of its own, whose root is `/`."""

    fence = Path()


def test_run_ends_with_the_reason_when_its_machine_has_no_fence(cloud: Cloud, launch) -> None:
    cloud.create_run("from pathlib import Path\nPath('began').touch()\n")
    cloud.open_attempt()
    cloud.give_token()
    machine = launch(start=False)
    machine.report_fence("nft is not installed (package nftables)")
    machine.start()
    outcome = cloud.outcome()
    assert outcome["kind"] == "failed"
    assert "no trainer was started" in outcome["reason"]
    assert "nft is not installed (package nftables)" in outcome["reason"]
    machine.wait()
    assert not (machine.state / "project/began").exists()
    assert machine.shut_down


def test_loaded_but_ineffective_fence_starts_no_trainer(tmp_path: Path) -> None:
    class Here(OwnMachine):
        fence = tmp_path / "fence"

    Here.fence.write_text("loaded\n")
    with socket.create_server(("127.0.0.1", 0)) as service:
        address = f"127.0.0.1:{service.getsockname()[1]}"
        with pytest.raises(
            RequestError, match=f"are loaded, but .* answers the trainer at {address}"
        ):
            prove_fence(Here(Path("/")), ["127.0.0.1:1", address])
    prove_fence(Here(Path("/")), ["127.0.0.1:1", "[::1]:1"])


def test_fence_that_cannot_be_tested_does_not_count(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("runctl.agent.runtime.fence.PROBE_PAUSE", 0)
    monkeypatch.setattr("runctl.agent.runtime.fence.scope", lambda: ["/bin/false"])
    assert "exit code 1" in probe(["127.0.0.1:1"])
    monkeypatch.setattr("runctl.agent.runtime.fence.scope", lambda: ["/nowhere/systemd-run"])
    assert "testing them failed" in probe(["127.0.0.1:1"])


def test_scope_that_systemd_refuses_once_fails_no_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    busy = tmp_path / "systemd-run"
    write_program(busy, f'#!/bin/sh\nmkdir "{tmp_path}/tried" && exit 1\nexec "$@"\n')
    monkeypatch.setattr("runctl.agent.runtime.fence.PROBE_PAUSE", 0)
    monkeypatch.setattr("runctl.agent.runtime.fence.scope", lambda: [str(busy)])
    assert probe(["127.0.0.1:1"]) == ""


def test_library_upgrades_restart_none_of_our_services(boot: Boot) -> None:
    snippet = boot.root / "etc/needrestart/conf.d/runctl.conf"
    assert boot.run().returncode == 0
    assert not snippet.exists(), "there is no needrestart here"
    (boot.root / "etc/needrestart").mkdir()
    assert boot.run().returncode == 0
    # As needrestart reads it, after its own defaults, and decides.
    program = """
        our %nrconf = (override_rc => {qr(^dbus) => 0});
        eval do { local $/; <> }; die $@ if $@;
        foreach my $rc (qw(runctl-agent.service runctl-monitor.service cron.service dbus.service)) {
            my $restart = 1;
            foreach my $re (sort keys %{$nrconf{override_rc}}) {
                next unless $rc =~ /$re/;
                $restart = $nrconf{override_rc}->{$re};
                last;
            }
            print "$rc=$restart\\n";
        }"""
    decided = subprocess.check_output(["perl", "-e", program, str(snippet)], text=True)
    assert decided.split() == [
        "runctl-agent.service=0",
        "runctl-monitor.service=0",
        "cron.service=1",
        "dbus.service=0",
    ]


def test_existing_machine_keeps_its_upgrades_and_restarts_none_of_our_services(
    existing: ExistingInstance,
) -> None:
    (existing.root / "etc/needrestart").mkdir(parents=True)
    assert existing.start("run-1").returncode == 0
    assert (existing.root / "etc/needrestart/conf.d/runctl.conf").exists()
    assert not [call for call in existing.calls() if "apt-daily" in call]


def test_machine_of_a_run_makes_no_upgrades_of_its_own(boot: Boot) -> None:
    assert boot.run().returncode == 0
    assert "systemctl disable --now apt-daily.timer apt-daily-upgrade.timer" in boot.calls()
    # An image without apt refuses that.
    systemctl = boot.root / "bin/systemctl"
    write_program(systemctl, systemctl.read_text() + '[ "$1" != disable ]\n')
    assert boot.run().returncode == 0


def test_deadman_is_punctual(boot: Boot) -> None:
    assert boot.run().returncode == 0
    timer = unit(boot, "runctl-deadman.timer")["Timer"]
    assert (timer["OnUnitInactiveSec"], timer["AccuracySec"]) == ("60", "1s")


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd-analyze")
def test_systemd_understands_every_unit(boot: Boot) -> None:
    assert SCRIPT.exists()
    assert boot.run().returncode == 0
    units = sorted((boot.root / "etc/systemd/system").glob("runctl-*"))
    assert len(units) == 5
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", "--recursive-errors=no", *map(str, units)],
        env={"PATH": "/usr/bin:/bin", "SYSTEMD_UNIT_PATH": f"{units[0].parent}:"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
