"""A machine that is unlike an image of AWS, in all ways at once."""

from __future__ import annotations

import json

import pytest

from tests.machine.machines import Machines, only_in_test_machine
from tests.machine.test_isolation import PROGRAM, PROJECT, outputs

pytestmark = [only_in_test_machine, pytest.mark.e2e]

NUMBER = 4242
# No program can be started in /tmp and /var/tmp, nobody but root sees the processes of others, the
# files of runs are on another file system, and somebody has made the user already, with a home.
LAYOUT = f"""
mount -o remount,noexec /tmp
mount -t tmpfs -o noexec,nosuid,mode=1777 tmpfs /var/tmp
mkdir -p /var/lib/runctl
mount -t tmpfs -o nosuid,mode=755 tmpfs /var/lib/runctl
mount -o remount,hidepid=2 /proc
useradd --uid {NUMBER} --create-home --shell /bin/bash runctl-trainer
"""
FACTS = """
import json

print("home", pathlib.Path.home(), "user", os.getuid(), flush=True)
numbers = {path.stat().st_uid for path in pathlib.Path("/proc").glob("[1-9]*")}
print("sees", numbers == {os.getuid()}, flush=True)
mounts = [line.split() for line in open("/proc/mounts")]
layout = {where: "noexec" in options for _, where, kind, options, *_ in mounts if kind == "tmpfs"}
places = ("/tmp", "/var/tmp", "/var/lib/runctl")
pathlib.Path(os.environ["RUNCTL_OUTPUT_DIR"], "layout").write_text(
    json.dumps({where: layout.get(where) for where in places}))
"""
# Built here, too: an environment that the other tests have stored would be fetched.
OWN_PROJECT = PROJECT | {"helpful/layout.txt": LAYOUT}


def test_a_run_is_confined_and_completes_on_a_machine_with_an_odd_layout(
    machines: Machines,
) -> None:
    machines.testbed.cloud.set_knobs(environment={"RUNCTL_MACHINE_LAYOUT": LAYOUT})
    run = machines.start(PROGRAM + FACTS, files=OWN_PROJECT)
    status = run.wait_for_end()
    story = run.testbed.story(run.run_id)
    assert status == "SUCCEEDED", story
    log = run.testbed.log(run.run_id, 1)
    assert f"home /var/lib/runctl/home user {NUMBER}" in log, story
    assert "sees True" in log, story
    assert json.loads(outputs(machines, run.run_id, "layout")) == {
        "/tmp": True, "/var/tmp": True, "/var/lib/runctl": False
    }  # fmt: skip
    # A build, and a file that runs at each start, gain nothing: the fence has the number, too.
    for name in ("build", "start"):
        found = json.loads(outputs(machines, run.run_id, name))
        assert found["uid"] == NUMBER
        assert found["gained"] == [], name
