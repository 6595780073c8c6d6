"""The real bootstrap.sh: signed download, checks, retries, units, and the end if it cannot work."""

from __future__ import annotations

import hashlib
import io
import os
import platform
import shutil
import subprocess
import sys
import tarfile
import threading
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from stacks.user_data import user_data
from tests.agent.doubles import Double, MetadataDouble

SCRIPT = Path(__file__).parents[2] / "instance_scripts/bootstrap.sh"
STALLED, TORN = "stalled", "torn"
pytestmark = pytest.mark.slow

# Until 7.85 only these two headers are signed. The store refuses that before it verifies anything.
OLD_CURL = """#!{python} -IS
import os, sys
words = sys.argv[1:]
if "--aws-sigv4" in words:
    at = words.index("--aws-sigv4")
    words[at : at + 2] = [
        "-H", "x-amz-date: 20260101T000000Z", "-H",
        "authorization: AWS4-HMAC-SHA256 SignedHeaders=host;x-amz-date, Signature=00, "
        "Credential=AKIDEXAMPLE/20260101/us-east-1/s3/aws4_request",
    ]
os.execv({curl!r}, ["curl", *words])
"""


class StoreDouble(Double):
    """S3 that checks signatures and can fail, once for each status in `failures`.

    STALLED sends no answer for a minute, TORN an archive without its end.
    """

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.failures: list[int | str] = []
        self.problems: list[str] = []
        self.requests = 0
        self._closed = threading.Event()
        super().__init__()

    def close(self) -> None:
        self._closed.set()
        super().close()

    def answer(
        self, method: str, path: str, headers: dict[str, str], body: bytes
    ) -> tuple[int, bytes, dict[str, str]]:
        self.requests += 1
        failure = self.failures.pop(0) if self.failures else ""
        if isinstance(failure, int):
            return failure, b"", {}
        if problem := self._problem(method, path, headers):
            self.problems.append(problem)
            return 403, b"", {}
        if failure == STALLED:
            self._closed.wait(60)
        return 200, self.content[: -8 if failure == TORN else None], {}

    def _problem(self, method: str, path: str, headers: dict[str, str]) -> str:
        """Sign the same request with botocore and compare."""
        folded = {name.lower(): value for name, value in headers.items()}
        given = folded.get("authorization", "")
        signed = given.partition("SignedHeaders=")[2].partition(",")[0].split(";")
        for name in folded:
            if name.startswith("x-amz-") and name not in signed:
                return f"{name} is not signed"
        request = AWSRequest(
            method=method,
            url=f"{self.url}{path}",
            headers={name: folded[name] for name in signed if name in folded},
        )
        request.context["timestamp"] = folded["x-amz-date"]
        credentials = Credentials("AKIDEXAMPLE", "not-a-secret", "session-token")
        auth = S3SigV4Auth(credentials, "s3", "us-east-1")
        canonical = "\n".join(
            [
                method,
                urlsplit(path).path,
                "",
                *(f"{name}:{folded[name]}" for name in sorted(signed)),
                "",
                ";".join(sorted(signed)),
                folded["x-amz-content-sha256"],
            ]
        )
        expected = auth.signature(auth.string_to_sign(request, canonical), request)
        return "" if f"Signature={expected}" in given else "the signature is wrong"


def an_archive(**files: bytes) -> bytes:
    content = io.BytesIO()
    text = b"""import os
def main():
    print('the agent runs')
    return int(os.path.exists(os.environ["RUNCTL_ROOT"] + "/refuses"))
"""
    with tarfile.open(fileobj=content, mode="w:gz") as archive:
        for name, body in {
            "runctl/__init__.py": b"",
            "runctl/agent/__init__.py": b"",
            "runctl/agent/__main__.py": text,
            **files,
        }.items():
            info = tarfile.TarInfo(name)
            info.size = len(body)
            archive.addfile(info, io.BytesIO(body))
    return content.getvalue()


class Boot:
    """A root folder to boot into, with shims that record their calls."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.metadata = MetadataDouble()
        self.store = StoreDouble(an_archive())
        self.variables = {
            "RUNCTL_AGENT_URI": "s3://bucket/agent.tar.gz",
            "RUNCTL_AGENT_SHA256": hashlib.sha256(self.store.content).hexdigest(),
            "RUNCTL_TABLE": "table",
            "RUNCTL_BUCKET": "bucket",
            "RUNCTL_LOG_GROUP": "/runctl/trainer",
            "RUNCTL_REGION": "us-east-1",
            "RUNCTL_DEPLOYMENT": "runctl",
            "RUNCTL_CREDENTIALS_FUNCTION": "runctl-issue-credentials",
        }
        shims = root / "bin"
        shims.mkdir(parents=True)
        for name in ("systemctl", "shutdown", "nft", "apt-get"):
            (shims / name).write_text(f'#!/bin/sh\necho "{name} $*" >> "{root}/calls"\n')
            (shims / name).chmod(0o755)

    def run(self, **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["bash", str(SCRIPT)],
            env={
                "PATH": f"{self.root / 'bin'}:{Path(sys.base_prefix) / 'bin'}:/usr/bin:/bin",
                "HOME": str(self.root),
                "RUNCTL_ROOT": str(self.root),
                "RUNCTL_BOOT_TRIES": "3",
                "RUNCTL_BOOT_DELAY": "0",
                "AWS_ENDPOINT_URL": self.store.url,
                "AWS_EC2_METADATA_SERVICE_ENDPOINT": self.metadata.url,
                **self.variables,
                **variables,
            },
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )

    def calls(self) -> list[str]:
        path = self.root / "calls"
        return path.read_text().splitlines() if path.exists() else []

    def has_agent(self) -> bool:
        return (self.root / "opt/runctl/agent/runctl/agent/__main__.py").exists()


def test_agent_is_fetched_signed_unpacked_and_started(boot: Boot) -> None:
    done = boot.run()
    assert done.returncode == 0, done.stderr
    assert boot.store.problems == []
    assert boot.has_agent()
    assert "systemctl restart runctl-agent.service" in boot.calls()
    assert "systemctl enable --now runctl-deadman.timer" in boot.calls()
    assert not any(call.startswith("shutdown") for call in boot.calls())
    launcher = boot.root / "opt/runctl/bin/runctl-agent"
    assert "the agent runs" in subprocess.check_output([str(launcher), "run"], text=True)
    settings = (boot.root / "etc/runctl/agent.env").read_text()
    assert f"RUNCTL_ROOT={boot.root}\n" in settings
    assert "RUNCTL_TABLE=table\n" in settings
    for secret in ("not-a-secret", "session-token"):
        assert secret not in settings + done.stdout + done.stderr


def test_booting_again_changes_nothing(boot: Boot) -> None:
    boot.run()
    files = sorted(boot.root.rglob("*"))
    born = (boot.root / "run/runctl/born").stat().st_mtime_ns
    assert boot.run().returncode == 0
    assert sorted(boot.root.rglob("*")) == files
    assert born < 10**9 * 86400 * 3650, "an instant since boot"
    assert (boot.root / "run/runctl/born").stat().st_mtime_ns == born


def test_download_from_a_failing_store_is_repeated(boot: Boot) -> None:
    boot.store.failures = [503, 500]
    assert boot.run().returncode == 0
    assert boot.store.requests == 3
    assert boot.has_agent()


@pytest.mark.parametrize("failure", [STALLED, TORN])
def test_stalled_or_truncated_download_is_repeated(boot: Boot, failure: str) -> None:
    boot.store.failures = [failure, 503]
    done = boot.run(RUNCTL_BOOT_TIMEOUT="2")
    assert done.returncode == 0, done.stderr
    assert boot.store.requests == 3
    assert boot.store.problems == []
    assert boot.has_agent()


def test_security_token_is_signed_even_if_curl_is_too_old_to_do_it(boot: Boot) -> None:
    curl = boot.root / "bin/curl"
    curl.write_text(OLD_CURL.format(python=sys.executable, curl=shutil.which("curl")))
    curl.chmod(0o755)
    done = boot.run()
    assert boot.store.problems == []
    assert done.returncode == 0, done.stderr
    assert boot.has_agent()


def test_archive_with_another_hash_is_never_unpacked(boot: Boot) -> None:
    done = boot.run(RUNCTL_AGENT_SHA256="0" * 64)
    assert done.returncode == 1
    assert "SHA-256" in done.stderr
    assert not boot.has_agent()
    assert boot.calls()[-1] == "shutdown -h now"


def test_missing_credentials_end_the_instance(boot: Boot) -> None:
    boot.metadata.has_credentials = False
    done = boot.run()
    assert done.returncode == 1
    assert "no credentials" in done.stderr
    assert boot.store.requests == 0
    assert boot.calls()[-1] == "shutdown -h now"
    # The dead-man timer is set before anything can fail.
    assert "systemctl enable --now runctl-deadman.timer" in boot.calls()


@pytest.mark.parametrize("name", ["RUNCTL_AGENT_URI", "RUNCTL_TABLE"])
def test_incomplete_header_is_named(boot: Boot, name: str) -> None:
    done = boot.run(**{name: ""})
    assert done.returncode == 1
    assert name in done.stderr
    assert boot.calls()[-1] == "shutdown -h now"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a file system")
@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (os.urandom(1 << 20), "the agent could not be downloaded from s3://bucket/agent.tar.gz"),
        (an_archive(large=bytes(1 << 20)), "the script failed (2)"),
    ],
    ids=["no space to download", "no space to unpack"],
)
def test_full_disk_is_reported_and_ends_the_instance(
    boot: Boot, content: bytes, problem: str
) -> None:
    boot.store.content = content
    disk = boot.root / "opt"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", disk], check=True)
    try:
        done = boot.run(RUNCTL_AGENT_SHA256=hashlib.sha256(content).hexdigest())
    finally:
        subprocess.run(["umount", disk], check=True)
    assert done.returncode == 1
    said = f"runctl bootstrap: {problem}: the disk has only 0 MiB left -- shutting down"
    assert said in done.stderr.splitlines(), done.stderr
    assert boot.calls()[-1] == "shutdown -h now"


@pytest.fixture
def bare_path(boot: Boot) -> str:
    """Return a PATH with the tools that every image has, and no Python."""
    (boot.root / "tools").mkdir()
    for tool in ("bash", "sh", "mkdir", "touch", "cat", "chmod", "mv", "sleep", "flock"):
        (boot.root / "tools" / tool).symlink_to(f"/usr/bin/{tool}")
    return f"{boot.root / 'bin'}:{boot.root / 'tools'}"


def test_image_without_a_python_is_reported(boot: Boot, bare_path: str) -> None:
    done = boot.run(PATH=bare_path)
    assert done.returncode == 1
    assert "no Python 3.10" in done.stderr
    assert boot.calls()[-1] == "shutdown -h now"


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ("import sys; sys.modules['venv'] = None", "venv"),
        ("import sys; sys.version_info = (3, 9, 25)", "is too old"),
    ],
)
def test_unfit_python_is_named_with_its_version_and_what_it_lacks(
    boot: Boot, bare_path: str, change: str, problem: str
) -> None:
    python = boot.root / "tools/python3.11"
    python.write_text(f"""#!/bin/sh
shift 2
exec {sys.executable} -I -c "{change}
$@"
""")
    python.chmod(0o755)
    done = boot.run(PATH=bare_path)
    assert done.returncode == 1
    (said,) = (line for line in done.stderr.splitlines() if "no Python 3.10" in line)
    assert f"{python}: Python {platform.python_version()}" in said
    assert problem in said.partition(str(python))[2]
    assert boot.calls()[-1] == "shutdown -h now"


@pytest.mark.parametrize("is_reachable", [True, False])
def test_nft_is_installed_where_the_image_lacks_it(boot: Boot, is_reachable: bool) -> None:
    (boot.root / "bin/nft").unlink()
    install = f'printf "#!/bin/sh\n" > "{boot.root}/bin/nft"; chmod +x "{boot.root}/bin/nft"'
    (boot.root / "bin/apt-get").write_text(
        f'#!/bin/sh\necho "apt-get $*" >> "{boot.root}/calls"\n'
        + (f'case "$*" in *nftables) {install};; esac\n' if is_reachable else "exit 100\n"),
    )
    done = boot.run()  # with no /usr/sbin, where Debian has nft
    assert done.returncode == 0, done.stderr
    calls = boot.calls()
    asked = next(at for at, call in enumerate(calls) if call.endswith("nftables"))
    assert asked < calls.index("systemctl restart runctl-fence.service")
    assert ("nftables could not be installed" in done.stderr) is not is_reachable


def make_user(folder: Path, **programs: str) -> subprocess.CompletedProcess[str]:
    """Run the part of the script that makes the user of a machine of EC2, with some programs.

    The whole script would change the machine that the tests run on.
    """
    text = SCRIPT.read_text()
    function = text[text.index("make_user() {") : text.index("\n}\n", text.index("make_user() {"))]
    (folder / "shims").mkdir()
    for name, body in programs.items():
        (folder / "shims" / name).write_text(f"#!/bin/sh\n{body}\n")
        (folder / "shims" / name).chmod(0o755)
    script = 'set -euo pipefail\nroot="" user=""\nsay() { echo "$*" >&2; }\n'
    return subprocess.run(
        [str(shutil.which("bash")), "-c", f'{script}{function}\n}}\nmake_user\necho "user=$user"'],
        env={"PATH": f"{folder / 'shims'}:/nowhere"},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    ("taken", "has_number"), [("exit 2", True), ('[ "$2" = 58113 ]', False)], ids=["free", "taken"]
)
def test_user_gets_its_number_unless_another_has_it(
    tmp_path: Path, taken: str, has_number: bool
) -> None:
    called = tmp_path / "called"
    done = make_user(tmp_path, getent=taken, useradd=f'echo "$*" >{called}', id="echo 58113")
    assert done.stdout == "user=runctl-trainer\n", done.stderr
    words = called.read_text().split()
    assert ("--uid" in words and "58113" in words) is has_number
    assert words[-1] == "runctl-trainer"


@pytest.mark.parametrize(
    ("programs", "reason"),
    [
        (
            {"getent": "exit 2", "useradd": "echo 'cannot lock /etc/passwd' >&2; exit 1"},
            "cannot lock /etc/passwd",
        ),
        ({"getent": "exit 2"}, "useradd: command not found"),
        # Somebody has called root so: its name would not help.
        ({"getent": "echo runctl-trainer:x:0:0", "id": "echo 0"}, "runctl-trainer:x:0:0"),
    ],
    ids=["it fails", "it is missing", "the name is root's"],
)
def test_without_the_user_the_settings_name_none_and_the_boot_log_has_the_reason(
    tmp_path: Path, programs: dict[str, str], reason: str
) -> None:
    """So the agent starts no program, unless its request wants root, and reports that."""
    done = make_user(tmp_path, **programs)
    assert done.stdout == "user=\n"
    (said,) = done.stderr.splitlines()
    assert said.startswith("the user runctl-trainer could not be created: ")
    assert reason in said


def test_local_cloud_names_the_user_that_its_instances_have(boot: Boot) -> None:
    settings = boot.root / "etc/runctl/agent.env"
    assert boot.run().returncode == 0
    assert "RUNCTL_TRAINER_USER=\n" in settings.read_text()
    assert boot.run(RUNCTL_TRAINER_USER="root").returncode == 0
    assert "RUNCTL_TRAINER_USER=root\n" in settings.read_text()


def test_user_data_without_its_comments_does_the_same(
    boot: Boot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def files() -> dict[str, list[str]]:
        return {
            str(path.relative_to(boot.root)): [
                line for line in path.read_text().splitlines() if not line.lstrip().startswith("# ")
            ]
            for path in boot.root.rglob("*")
            if path.is_file() and {"etc", "opt"} & set(path.relative_to(boot.root).parts)
        }

    assert boot.run().returncode == 0
    calls, written = boot.calls(), files()
    shutil.rmtree(boot.root / "etc")
    shutil.rmtree(boot.root / "opt")
    script = tmp_path / "user-data"
    script.write_text(user_data({}, SCRIPT.read_text()))
    monkeypatch.setattr("tests.agent.test_bootstrap.SCRIPT", script)
    done = boot.run()
    assert done.returncode == 0, done.stderr
    assert boot.calls() == calls * 2
    assert files() == written


MINUTE = 60


class DeadMan:
    """The dead-man timer of a booted instance, run once a minute by the test's clock."""

    def __init__(self, boot: Boot) -> None:
        self.boot = boot
        self.run_folder = boot.root / "run/runctl"
        self.uptime = boot.root / "uptime"
        self.now = 30
        self.uptime.write_text("30.00 12.00\n")
        boot.variables["RUNCTL_UPTIME_FILE"] = str(self.uptime)
        boot.run()

    def hear(self) -> None:
        """Touch the lease as the agent does."""
        touch(self.run_folder / "lease")

    def check(self, **variables: str) -> list[str]:
        """Run the dead-man timer once, and return the calls that it made."""
        before = len(self.boot.calls())
        self.uptime.write_text(f"{self.now}.47 12.00\n")
        subprocess.run(
            [str(self.boot.root / "opt/runctl/bin/runctl-deadman")],
            env={
                "PATH": f"{self.boot.root / 'bin'}:/usr/bin:/bin",
                "RUNCTL_FLUSH_SECONDS": "1",
                "RUNCTL_UPTIME_FILE": str(self.uptime),
                **variables,
            },
            check=True,
            capture_output=True,
            timeout=240,
        )
        return self.boot.calls()[before:]

    def minutes_until_the_end(self, *, within: int, every: int = 5) -> int | None:
        """Let time pass; return after how many minutes it shut the instance down."""
        start = self.now
        while self.now < start + within * MINUTE:
            self.now += every * MINUTE
            if "shutdown -h now" in self.check():
                return (self.now - start) // MINUTE
        return None


@pytest.fixture
def dead_man(boot: Boot) -> DeadMan:
    return DeadMan(boot)


def test_deadman_leaves_an_instance_alone_while_heartbeats_are_accepted(dead_man: DeadMan) -> None:
    for _ in range(5):
        dead_man.hear()
        assert dead_man.minutes_until_the_end(within=25, every=25) is None
    assert not any(call.startswith("shutdown") for call in dead_man.boot.calls())


def test_deadman_shuts_down_after_thirty_minutes_without_one(dead_man: DeadMan) -> None:
    dead_man.hear()
    dead_man.check()
    assert dead_man.minutes_until_the_end(within=60) == 30


def test_deadman_asks_the_agent_to_flush_before_it_shuts_down(dead_man: DeadMan) -> None:
    launcher = dead_man.boot.root / "opt/runctl/bin/runctl-agent"
    launcher.write_text(f'#!/bin/sh\necho "runctl-agent $*" >> "{dead_man.boot.root}/calls"\n')
    dead_man.now += 31 * MINUTE
    assert dead_man.check() == [
        "runctl-agent stop",
        "systemctl is-active --quiet runctl-agent.service",
        "shutdown -h now",
    ]


@pytest.mark.parametrize("jump", [3600, -3600, 10 * 365 * 86400])
def test_no_clock_jump_ends_an_instance_or_keeps_it(dead_man: DeadMan, jump: int) -> None:
    """NTP steps the clock right after boot: the lease's time is then an hour old, or to come."""
    lease = dead_man.run_folder / "lease"
    dead_man.hear()
    dead_man.check()
    os.utime(lease, (lease.stat().st_atime, lease.stat().st_mtime - jump))
    dead_man.now += MINUTE
    assert dead_man.check() == []
    assert dead_man.minutes_until_the_end(within=25, every=25) is None
    assert dead_man.minutes_until_the_end(within=60) == 5


def test_deadman_waits_for_ec2_after_a_notice_in_the_first_hour(dead_man: DeadMan) -> None:
    touch(dead_man.run_folder / "notice")
    assert dead_man.minutes_until_the_end(within=180) == 60


def test_deadman_does_not_wait_for_ec2_after_the_first_hour(dead_man: DeadMan) -> None:
    dead_man.now += 61 * MINUTE
    dead_man.hear()
    dead_man.check()
    touch(dead_man.run_folder / "notice")
    assert dead_man.minutes_until_the_end(within=60) == 30


def test_deadman_is_armed_again_after_a_reboot(dead_man: DeadMan) -> None:
    dead_man.now += 20 * MINUTE
    dead_man.check()
    shutil.rmtree(dead_man.run_folder)
    dead_man.now = 10
    assert dead_man.check() == []
    assert dead_man.minutes_until_the_end(within=60) == 30


def test_deadman_works_without_an_agent(boot: Boot) -> None:
    boot.variables["RUNCTL_AGENT_SHA256"] = "0" * 64
    dead_man = DeadMan(boot)
    assert not boot.has_agent()
    assert dead_man.minutes_until_the_end(within=60) == 30


def test_an_agent_that_was_killed_and_masked_does_not_keep_the_instance(dead_man: DeadMan) -> None:
    """systemd does not restart it, and a request to it hangs: the timer continues without it."""
    launcher = dead_man.boot.root / "opt/runctl/bin/runctl-agent"
    launcher.write_text("#!/bin/sh\nexec sleep 1000\n")
    patient = dead_man.boot.root / "bin/timeout"
    patient.write_text('#!/bin/sh\n[ "$1" = -k ] && exec /usr/bin/timeout 1 "$4" "$5"\n'
                       'exec /usr/bin/timeout "$@"\n')  # fmt: skip
    patient.chmod(0o755)
    dead_man.now += 31 * MINUTE
    assert dead_man.check()[-1] == "shutdown -h now"


def test_an_agent_that_stays_active_is_waited_for_up_to_a_limit(dead_man: DeadMan) -> None:
    dead_man.now += 31 * MINUTE
    calls = dead_man.check(RUNCTL_FLUSH_SECONDS="2")
    assert calls.count("systemctl is-active --quiet runctl-agent.service") == 2
    assert calls[-1] == "shutdown -h now"


def test_a_refused_shutdown_is_followed_by_a_poweroff(dead_man: DeadMan) -> None:
    for name, code in (("shutdown", 1), ("poweroff", 0)):
        shim = dead_man.boot.root / "bin" / name
        shim.write_text(
            f'#!/bin/sh\necho "{name} $*" >> "{dead_man.boot.root}/calls"; exit {code}\n'
        )
        shim.chmod(0o755)
    dead_man.now += 31 * MINUTE
    assert dead_man.check()[-2:] == ["shutdown -h now", "poweroff "]


def touch(path: Path) -> None:
    """Touch with a time that differs from the one before, however coarse the filesystem's is."""
    before = path.stat().st_mtime_ns if path.exists() else 0
    path.touch()
    if path.stat().st_mtime_ns == before:
        os.utime(path, ns=(before, before + 1_000_000))
