"""Instances are real: they boot, run their user data, and leave nothing running at their end."""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from botocore.exceptions import ClientError

from runctl.local import daemon
from runctl.local.client import LocalCloudError
from tests.local.clouds import Cloud, eventually

pytestmark = pytest.mark.slow

METADATA = """#!/bin/bash
set -u
curl() { command curl -s "$@"; }
base=$AWS_EC2_METADATA_SERVICE_ENDPOINT/latest
token=$(curl -X PUT -H 'X-aws-ec2-metadata-token-ttl-seconds: 60' "$base/api/token")
get() { curl -f -H "X-aws-ec2-metadata-token: $token" "$base/meta-data/$1"; }
"""
LOOP = "sleep 1000"


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"


def pids(cloud: Cloud, instance_id: str, name: str, count: int) -> list[int]:
    """Wait for `count` process ids in a file below the instance's root."""
    path = cloud.root(instance_id) / name

    def check() -> list[int] | None:
        words = path.read_text().split() if path.exists() else []
        return [int(word) for word in words] if len(words) >= count else None

    found: list[int] = eventually(check)
    return found


def text_of(cloud: Cloud, instance_id: str, name: str) -> str:
    path = cloud.root(instance_id) / name
    eventually(lambda: path.exists() and path.read_text().endswith("\n"))
    return path.read_text()


def test_user_data_learns_who_it_is_from_its_metadata(cloud: Cloud) -> None:
    script = METADATA + 'echo "$(get instance-id) $(get tags/instance/run)" > $RUNCTL_ROOT/who\n'
    tags = [{"ResourceType": "instance", "Tags": [{"Key": "run", "Value": "r7"}]}]
    instance_id = cloud.launch(script, TagSpecifications=tags)
    assert text_of(cloud, instance_id, "who") == f"{instance_id} r7\n"


def test_metadata_without_a_token_is_refused(cloud: Cloud) -> None:
    script = METADATA + "command curl -s -o /dev/null -w '%{http_code}\\n' "
    script += "$base/meta-data/instance-id > $RUNCTL_ROOT/code\n"
    assert text_of(cloud, cloud.launch(script), "code") == "401\n"


def test_tags_are_hidden_unless_the_template_shows_them(cloud: Cloud) -> None:
    script = METADATA + "get tags/instance/; echo $? > $RUNCTL_ROOT/code\n"
    instance_id = cloud.launch(script, data={"MetadataOptions": {"HttpTokens": "required"}})
    assert text_of(cloud, instance_id, "code") == "22\n"


def test_the_environment_holds_nothing_of_the_developers(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    instance_id = cloud.launch("#!/bin/sh\nenv | cut -d= -f1 | sort > $RUNCTL_ROOT/env\n")
    names = set(text_of(cloud, instance_id, "env").split())
    assert names - {"_", "PWD", "SHLVL", "OLDPWD"} == {
        "AWS_DEFAULT_REGION",
        "AWS_EC2_METADATA_SERVICE_ENDPOINT",
        "AWS_ENDPOINT_URL",
        "DOCKER_HOST",
        "HOME",
        "LANG",
        "PATH",
        "RUNCTL_FREE_PORTS",
        "RUNCTL_ROOT",
        "RUNCTL_STATE_DIR",
        *(["RUNCTL_TRAINER_USER"] if cloud.admin.health()["own_user"] else []),
    }


def test_the_interpreter_is_not_the_developers_environment(cloud: Cloud) -> None:
    script = "#!/bin/sh\npython3 -c 'import sys; print(sys.prefix == sys.base_prefix)'"
    instance_id = cloud.launch(script + " > $RUNCTL_ROOT/plain\n")
    assert text_of(cloud, instance_id, "plain") == "True\n"


def test_output_of_user_data_is_the_console_output(cloud: Cloud) -> None:
    instance_id = cloud.launch("#!/bin/sh\necho hello; echo problem >&2\n")
    ec2 = cloud.client("ec2")
    eventually(
        lambda: ec2.get_console_output(InstanceId=instance_id)["Output"] == "hello\nproblem\n"
    )


def test_a_notice_is_seen_in_metadata_and_the_deadline_kills_everything(cloud: Cloud) -> None:
    script = METADATA + (
        f"{LOOP} & echo $! >> $RUNCTL_ROOT/pids\n"
        f"setsid sh -c 'echo $$ >> $RUNCTL_ROOT/pids; trap \"\" TERM; exec {LOOP}' &\n"
        "until get spot/instance-action > $RUNCTL_ROOT/notice.new; do sleep 0.05; done\n"
        "echo >> $RUNCTL_ROOT/notice.new; mv $RUNCTL_ROOT/notice.new $RUNCTL_ROOT/notice\n"
    )
    instance_id = cloud.launch(script)
    running = pids(cloud, instance_id, "pids", 2)
    noticed_at = time.monotonic()
    cloud.admin.interrupt(instance_id, notice_seconds=1.5)
    assert json.loads(text_of(cloud, instance_id, "notice"))["action"] == "terminate"
    assert all(is_alive(pid) for pid in running)
    ended = cloud.admin.wait_for_state(instance_id, "terminated")
    assert 1.4 < time.monotonic() - noticed_at < 5
    assert ended["reason"] == "Server.SpotInstanceTermination"
    assert not any(is_alive(pid) for pid in running)
    assert cloud.describe(instance_id)["StateReason"]["Code"] == "Server.SpotInstanceTermination"


def test_a_terminated_instance_keeps_its_files_but_not_its_programs(cloud: Cloud) -> None:
    script = (
        "#!/bin/sh\n"
        "mkdir -p $RUNCTL_ROOT/opt/runctl/agent/vendor $RUNCTL_ROOT/var/lib/docker/image\n"
        "touch $RUNCTL_ROOT/opt/runctl/agent/vendor/module.py $RUNCTL_ROOT/opt/runctl/kept\n"
        "echo > $RUNCTL_ROOT/written\n"
    )
    instance_id = cloud.launch(script)
    text_of(cloud, instance_id, "written")
    root = cloud.root(instance_id)
    assert (root / "opt/runctl/agent/vendor/module.py").exists()
    cloud.admin.interrupt(instance_id, notice=False)
    cloud.admin.wait_for_state(instance_id, "terminated")
    removed = [root / "opt/runctl/agent", root / "var/lib/docker"]
    eventually(lambda: not any(folder.exists() for folder in removed))
    assert (root / "opt/runctl/kept").exists()


def test_without_a_notice_an_instance_disappears_at_once(cloud: Cloud) -> None:
    script = f"#!/bin/sh\nsetsid {LOOP} & echo $! > $RUNCTL_ROOT/pids; trap '' TERM; {LOOP}\n"
    instance_id = cloud.launch(script)
    running = pids(cloud, instance_id, "pids", 1)
    cloud.admin.interrupt(instance_id, notice=False)
    cloud.admin.wait_for_state(instance_id, "terminated")
    assert not any(is_alive(pid) for pid in running)
    events = [
        event["what"] for event in cloud.admin.events() if event["instance_id"] == instance_id
    ]
    assert "notice" not in events


def test_on_demand_instances_cannot_be_interrupted(cloud: Cloud) -> None:
    instance_id = cloud.launch(market="on-demand")
    with pytest.raises(LocalCloudError, match="not a running or pending Spot Instance"):
        cloud.admin.interrupt(instance_id)


def test_a_warning_reaches_the_rules_and_so_does_every_state(cloud: Cloud) -> None:
    read = cloud.queue_for({"source": ["aws.ec2"]})
    instance_id = cloud.launch()
    cloud.admin.wait_for_state(instance_id, "running")
    cloud.admin.interrupt(instance_id, notice_seconds=0.3)

    def mine() -> list[dict]:  # type: ignore[type-arg]
        return [event for event in read() if event["detail"].get("instance-id") == instance_id]

    eventually(lambda: any(event["detail"].get("state") == "terminated" for event in mine()))
    states = [event["detail"]["state"] for event in mine() if "state" in event["detail"]]
    assert states == ["pending", "running", "shutting-down", "terminated"]
    (warning,) = (event for event in mine() if "Interruption" in event["detail-type"])
    assert warning["detail"] == {"instance-id": instance_id, "instance-action": "terminate"}
    assert {"version", "id", "account", "time", "region", "resources"} <= set(warning)


def test_events_can_be_dropped_and_duplicated(cloud: Cloud) -> None:
    cloud.admin.set_knobs(
        drop_events=["EC2 Instance State-change Notification"],
        duplicate_events={"EC2 Instance Rebalance Recommendation": 1},
    )
    read = cloud.queue_for({"source": ["aws.ec2"]})
    instance_id = cloud.launch()
    cloud.admin.wait_for_state(instance_id, "running")
    cloud.admin.rebalance(instance_id)
    eventually(lambda: len(read()) >= 2)
    assert {event["detail-type"] for event in read()} == {"EC2 Instance Rebalance Recommendation"}


def test_shutdown_from_inside_terminates_the_instance(cloud: Cloud) -> None:
    script = f"#!/bin/sh\nsetsid {LOOP} & echo $! > $RUNCTL_ROOT/pids; shutdown -h now; {LOOP}\n"
    instance_id = cloud.launch(script)
    running = pids(cloud, instance_id, "pids", 1)
    ended = cloud.admin.wait_for_state(instance_id, "terminated")
    assert ended["reason"] == "Client.InstanceInitiatedShutdown"
    assert not any(is_alive(pid) for pid in running)


def test_an_on_demand_instance_that_shuts_down_is_only_stopped_by_default(cloud: Cloud) -> None:
    data = {"InstanceInitiatedShutdownBehavior": "stop"}
    instance_id = cloud.launch("#!/bin/sh\npoweroff\n", market="on-demand", data=data)
    cloud.admin.wait_for_state(instance_id, "stopped")


# Writes at once when it is asked to end.
HEEDFUL = """#!/bin/sh
exec python3 -c 'import os, pathlib, signal
root = pathlib.Path(os.environ["RUNCTL_ROOT"])
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
(root / "pids").write_text(f"{os.getpid()}\\n")
signal.sigwait([signal.SIGTERM])
(root / "bye").touch()'
"""


def test_without_a_notice_no_process_is_asked_to_end(cloud: Cloud) -> None:
    instance_id = cloud.launch(HEEDFUL)
    (running,) = pids(cloud, instance_id, "pids", 1)
    cloud.admin.interrupt(instance_id, notice=False)
    cloud.admin.wait_for_state(instance_id, "terminated")
    assert not is_alive(running)
    assert not (cloud.root(instance_id) / "bye").exists()


def test_terminating_lets_services_shut_down_in_order(cloud: Cloud) -> None:
    script = (
        "#!/bin/bash\n"
        "cat > $RUNCTL_ROOT/etc/systemd/system/a.service <<UNIT\n"
        "[Service]\n"
        'ExecStart=/bin/bash -c \'trap "echo bye >> $RUNCTL_ROOT/bye; exit" TERM; '
        "echo up >> $RUNCTL_ROOT/up; while :; do sleep 0.05; done'\n"
        "UNIT\n"
        "systemctl daemon-reload && systemctl enable --now a.service\n"
    )
    instance_id = cloud.launch(script)
    text_of(cloud, instance_id, "up")
    cloud.client("ec2").terminate_instances(InstanceIds=[instance_id])
    cloud.admin.wait_for_state(instance_id, "terminated")
    assert text_of(cloud, instance_id, "bye") == "bye\n"


def test_a_service_is_restarted_and_stopped_with_all_its_processes(cloud: Cloud) -> None:
    script = """#!/bin/bash
cat > $RUNCTL_ROOT/work <<'WORK'
#!/bin/bash
echo $$ >> $WHERE/starts
[ $(wc -l < $WHERE/starts) -lt 3 ] && exit 1
setsid bash -c 'trap "" TERM; echo $$ > $WHERE/stubborn; while :; do sleep 0.1; done' &
wait
WORK
chmod +x $RUNCTL_ROOT/work
cat > $RUNCTL_ROOT/etc/systemd/system/a.service <<UNIT
[Service]
Environment=WHERE=$RUNCTL_ROOT
ExecStart=$RUNCTL_ROOT/work
Restart=on-failure
RestartSec=50ms
TimeoutStopSec=300ms
UNIT
systemctl start a
until [ -s $RUNCTL_ROOT/stubborn ]; do sleep 0.05; done
systemctl is-active a > $RUNCTL_ROOT/active
systemctl stop a
systemctl is-active a
echo $? > $RUNCTL_ROOT/stopped
"""
    instance_id = cloud.launch(script)
    assert text_of(cloud, instance_id, "stopped") == "3\n"
    assert text_of(cloud, instance_id, "active") == "active\n"
    assert len(pids(cloud, instance_id, "starts", 3)) == 3
    assert not is_alive(pids(cloud, instance_id, "stubborn", 1)[0])


def test_a_scope_is_only_the_program_itself(cloud: Cloud) -> None:
    run = "systemd-run --scope --quiet --collect --slice=trainer.slice -- echo in scope"
    instance_id = cloud.launch(f"#!/bin/sh\n{run} > $RUNCTL_ROOT/scope\n")
    assert text_of(cloud, instance_id, "scope") == "in scope\n"


def test_a_service_that_announces_itself_is_active_from_then_on(cloud: Cloud) -> None:
    announce = "import os, socket; s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM); "
    announce += "s.sendto(b'READY=1', os.environ['NOTIFY_SOCKET'])"
    script = f"""#!/bin/sh
cd $RUNCTL_ROOT
cat > slow.sh <<'END'
touch begun; until [ -e go ]; do sleep 0.05; done
python3 -c "{announce}"; touch ready; sleep 1000
END
for name in slow hasty; do
    printf "[Service]\\nType=notify\\nExecStart=/bin/sh $name.sh\\n" \
        > etc/systemd/system/$name.service
done
echo 'exit 0' > hasty.sh
systemctl start --no-block slow
until [ -e begun ]; do sleep 0.05; done
systemctl is-active slow
touch go
systemctl start slow; ls begun; systemctl is-active slow
systemctl start hasty 2> /dev/null || echo failed
systemctl is-active --quiet hasty || echo inactive
touch ended
"""
    instance_id = cloud.launch(script)
    eventually((cloud.root(instance_id) / "ended").exists)
    said = cloud.client("ec2").get_console_output(InstanceId=instance_id)["Output"].split()
    assert said == ["activating", "begun", "active", "failed", "inactive"]


def test_a_timer_runs_its_service_repeatedly(cloud: Cloud) -> None:
    script = (
        "#!/bin/bash\ncd $RUNCTL_ROOT/etc/systemd/system\n"
        "printf '[Service]\\nType=oneshot\\nExecStart=/bin/sh -c \"echo tick >> "
        "'$RUNCTL_ROOT'/ticks\"\\n' > beat.service\n"
        "printf '[Timer]\\nOnActiveSec=50ms\\nOnUnitInactiveSec=50ms\\n' > beat.timer\n"
        "systemctl enable --now beat.timer\n"
    )
    instance_id = cloud.launch(script)
    path = cloud.root(instance_id) / "ticks"
    eventually(lambda: path.exists() and path.read_text().count("tick") >= 3)


def test_the_credentials_in_metadata_are_those_of_the_role(cloud: Cloud) -> None:
    role = cloud.role()
    data = {"IamInstanceProfile": {"Name": cloud.profile(role)}}
    name = role.rpartition("/")[2]
    script = METADATA + f"get iam/security-credentials/{name} > $RUNCTL_ROOT/c.new; "
    script += "echo >> $RUNCTL_ROOT/c.new; mv $RUNCTL_ROOT/c.new $RUNCTL_ROOT/c\n"
    instance_id = cloud.launch(script, data=data)
    got = json.loads(text_of(cloud, instance_id, "c"))
    sts = cloud.client(
        "sts",
        aws_access_key_id=got["AccessKeyId"],
        aws_secret_access_key=got["SecretAccessKey"],
        aws_session_token=got["Token"],
    )
    assert sts.get_caller_identity()["Arn"].endswith(f"assumed-role/{name}/{instance_id}")


def test_an_instance_terminated_before_it_booted_never_runs_its_user_data(cloud: Cloud) -> None:
    cloud.admin.set_knobs(boot_delay=30)
    instance_id = cloud.launch("#!/bin/sh\ntouch $RUNCTL_ROOT/ran\n")
    cloud.client("ec2").terminate_instances(InstanceIds=[instance_id])
    cloud.admin.wait_for_state(instance_id, "terminated")
    assert not (cloud.root(instance_id) / "ran").exists()


def test_two_local_clouds_are_independent(cloud: Cloud, tmp_path: Path) -> None:
    instance_id = cloud.launch()
    other = daemon.start(tmp_path, die_with_parent=True)
    try:
        assert other.url != cloud.endpoint.url
        stranger = Cloud(other, cloud.admin)
        with pytest.raises(ClientError, match="does not exist"):
            stranger.describe(instance_id)
    finally:
        assert daemon.stop(tmp_path)
    assert daemon.find(tmp_path) is None


def test_two_simultaneous_starts_yield_a_single_local_cloud(tmp_path: Path) -> None:
    with ThreadPoolExecutor(2) as pool:
        starts = [pool.submit(daemon.start, tmp_path) for _ in range(2)]
        first, second = (start.result() for start in starts)
    try:
        assert first == second
    finally:
        daemon.stop(tmp_path)


def test_a_local_cloud_that_cannot_start_says_why(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(daemon.LocalCloudStartError, match="Address already in use"):
            daemon.start(tmp_path, port=port)


def test_a_killed_local_cloud_ends_its_instances(tmp_path: Path) -> None:
    from runctl.local.client import LocalCloudClient

    endpoint = daemon.start(tmp_path, die_with_parent=True)
    cloud = Cloud(endpoint, LocalCloudClient(endpoint.url))
    cloud.admin.set_knobs(boot_delay=0)
    script = f"#!/bin/sh\nsetsid {LOOP} & echo $! > $RUNCTL_ROOT/pids; trap '' TERM; {LOOP}\n"
    instance_id = cloud.launch(script)
    running = pids(cloud, instance_id, "pids", 1)
    os.kill(endpoint.pid, signal.SIGKILL)
    eventually(lambda: not any(is_alive(pid) for pid in running))
    daemon.stop(tmp_path)
