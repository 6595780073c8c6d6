"""What a run may not do on its machine, tried by programs that mean harm."""

from __future__ import annotations

import json
import textwrap

import pytest

from tests.machine.machines import Machine, Machines

pytestmark = pytest.mark.e2e

ASK = (
    "import urllib.request as r; print(r.urlopen(r.Request('http://169.254.169.254/latest/api/token',"
    " method='PUT', headers={'X-aws-ec2-metadata-token-ttl-seconds': '60'}), timeout=5).status)"
)

# A package of the project that does harm while it is built, and again whenever Python starts in the
# environment: a `.pth` file runs even with -I.
PYPROJECT = """
[project]
name = "helpful"
version = "1.0"
[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]
"""
HARM = """
import json, os, pathlib, subprocess, sys
if not os.environ.get("ONCE"):
    os.environ["ONCE"] = "1"
    found = {"uid": os.getuid(), "gained": []}
    def attempt(what, act):
        try:
            act()
        except Exception:
            return
        found["gained"].append(what)
    def run(*words):
        subprocess.run(words, check=True, timeout=20, stdin=subprocess.DEVNULL,
                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    def is_agent(pid):
        try:
            return b"runctl.agent.__main__" in open(f"/proc/{pid}/cmdline", "rb").read()
        except OSError:
            return False
    # Where the processes of others are hidden, it tries the first one.
    agent = next((pid for pid in os.listdir("/proc") if pid.isdigit() and is_agent(pid)), "1")
    ask = [sys.executable, "-S", "-c", ASK_TEXT]
    attempt("write /etc", lambda: pathlib.Path("/etc/planted").touch())
    attempt("write a cron job", lambda: pathlib.Path("/etc/cron.d/planted").touch())
    attempt("change the agent", lambda: pathlib.Path("/opt/runctl/agent/planted").touch())
    attempt("change a request", lambda: pathlib.Path("/run/runctl/requests/stop").touch())
    attempt("read the agent's log", lambda: os.listdir("/var/lib/runctl/log"))
    attempt("read the agent's environment", lambda: open(f"/proc/{agent}/environ", "rb").read())
    attempt("read the agent's memory", lambda: open(f"/proc/{agent}/mem", "rb").read(1))
    attempt("signal the agent", lambda: os.kill(int(agent), 0))
    attempt("read /etc/shadow", lambda: open("/etc/shadow").read())
    attempt("become root", lambda: os.setuid(0))
    attempt("ask the metadata service", lambda: run(*ask))
    attempt("leave by systemd-run", lambda: run("systemd-run", "--pipe", "--wait", "true"))
    attempt("leave by a user's manager", lambda: run("systemd-run", "--user", "--wait", "true"))
    attempt("stop the agent", lambda: run("systemctl", "stop", "runctl-agent"))
    attempt("sudo", lambda: run("sudo", "-n", "true"))
    attempt("setuid program", lambda: run("/usr/local/bin/setuid-true"))
    attempt("setpriv", lambda: run("setpriv", "--reuid", "0", "true"))
    attempt("change the environment", lambda: pathlib.Path(sys.prefix, "planted").touch())
    if WHERE == "build":
        found["gained"] = [each for each in found["gained"] if each != "change the environment"]
    place = pathlib.Path(os.environ.get("RUNCTL_OUTPUT_DIR", "/var/lib/runctl/home"), WHERE)
    place.write_text(json.dumps(found))
""".replace("ASK_TEXT", repr(ASK))
BACKEND = """
import pathlib, zipfile
def build_wheel(folder, config_settings=None, metadata_directory=None):
    name = "helpful-1.0-py3-none-any.whl"
    info = "helpful-1.0.dist-info"
    with zipfile.ZipFile(pathlib.Path(folder, name), "w") as wheel:
        wheel.writestr(f"{info}/METADATA",
                       "Metadata-Version: 2.1\\nName: helpful\\nVersion: 1.0\\n")
        wheel.writestr(f"{info}/WHEEL",
                       "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
        wheel.writestr("helpful.py", pathlib.Path("helpful.py").read_text())
        wheel.writestr("planted.pth", "import helpful\\n")
        wheel.writestr(f"{info}/RECORD", "")
    return name
"""
PROGRAM = """
import os, pathlib, shutil
shutil.copy("/var/lib/runctl/home/build", os.environ["RUNCTL_OUTPUT_DIR"])
"""
PROJECT = {
    "requirements.txt": "--no-index\n./helpful\n",
    "helpful/pyproject.toml": PYPROJECT,
    "helpful/helpful.py": HARM.replace("WHERE", '"start"'),
    "helpful/backend.py": HARM.replace("WHERE", '"build"') + BACKEND,
}


def outputs(machines: Machines, run_id: str, name: str) -> bytes:
    testbed = machines.testbed
    found = testbed.clients.get("s3").get_object(
        Bucket=testbed.deployment.bucket, Key=f"runs/{run_id}/outputs/{name}"
    )
    content: bytes = found["Body"].read()
    return content


def test_neither_a_build_nor_a_planted_pth_file_gains_anything(machines: Machines) -> None:
    run = machines.start(PROGRAM, files=PROJECT)
    status = run.wait_for_end()
    assert status == "SUCCEEDED", machines.testbed.attempts(run.run_id)[-1].ended.reason
    for name in ("build", "start"):
        found = json.loads(outputs(machines, run.run_id, name))
        assert found == {"uid": 58113, "gained": []}, name


def test_program_that_needs_root_is_root_on_request(machines: Machines) -> None:
    program = """
        import os, pathlib
        pathlib.Path("/etc/changed").touch()
        pathlib.Path(os.environ["RUNCTL_OUTPUT_DIR"], "who").write_text(str(os.getuid()))
    """
    run = machines.start(textwrap.dedent(program), root=True)
    assert run.wait_for_end() == "SUCCEEDED"
    assert outputs(machines, run.run_id, "who") == b"0"


def test_trainer_owns_its_folders_and_nothing_else(machine: Machine) -> None:
    state = "/var/lib/runctl"
    names = ("checkpoint", "project", "output", "home", "metrics.jsonl", "input", "environments")
    owners = machine.run("stat", "--format=%U", *(f"{state}/{name}" for name in names)).split()
    assert owners == ["runctl-trainer"] * 5 + ["root"] * 2
    assert machine.run("stat", "--format=%U", state, "/run/runctl") == "root\nroot"
    (pid,) = machine.processes("train[.]py$")
    status = machine.read(f"/proc/{pid}/status")
    assert "NoNewPrivs:\t1" in status
    assert "CapEff:\t0000000000000000" in status
    assert machine.read(f"/proc/{pid}/oom_score_adj").strip() == "500"


def test_user_is_refused_by_the_metadata_service_outside_of_its_slice(machine: Machine) -> None:
    words = ("python3", "-c", ASK)
    assert machine.run(*words) == "200"
    refused = machine.attempt(*words, user="runctl-trainer")
    assert refused.returncode != 0
    assert "Connection refused" in refused.stderr
