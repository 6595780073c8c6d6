"""bootstrap.sh for real: signed fetch, checks, retries, units, and an end when it cannot work."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from tests.agent.doubles import Double, MetadataDouble

SCRIPT = Path(__file__).parents[2] / "instance_scripts/bootstrap.sh"
pytestmark = pytest.mark.slow


class StoreDouble(Double):
    """S3 that checks signatures and can fail, once for each status in `failures`."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.failures: list[int] = []
        self.problems: list[str] = []
        self.requests = 0
        super().__init__()

    def answer(
        self, method: str, path: str, headers: dict[str, str], body: bytes
    ) -> tuple[int, bytes, dict[str, str]]:
        self.requests += 1
        if self.failures:
            return self.failures.pop(0), b"", {}
        if problem := self._problem(method, path, headers):
            self.problems.append(problem)
            return 403, b"", {}
        return 200, self.content, {}

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


def an_archive() -> bytes:
    content = io.BytesIO()
    text = b"def main():\n    print('the agent runs')\n    return 0\n"
    with tarfile.open(fileobj=content, mode="w:gz") as archive:
        for name, body in {
            "runctl/__init__.py": b"",
            "runctl/agent/__init__.py": b"",
            "runctl/agent/__main__.py": text,
        }.items():
            info = tarfile.TarInfo(name)
            info.size = len(body)
            archive.addfile(info, io.BytesIO(body))
    return content.getvalue()


class Boot:
    """A root folder to boot into, with shims of systemctl and shutdown that take notes."""

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
        }
        shims = root / "bin"
        shims.mkdir(parents=True)
        for name in ("systemctl", "shutdown"):
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
            timeout=60,
            check=False,
        )

    def calls(self) -> list[str]:
        path = self.root / "calls"
        return path.read_text().splitlines() if path.exists() else []

    def has_agent(self) -> bool:
        return (self.root / "opt/runctl/agent/runctl/agent/__main__.py").exists()


@pytest.fixture
def boot(tmp_path: Path) -> Iterator[Boot]:
    made = Boot(tmp_path / "root")
    yield made
    made.metadata.close()
    made.store.close()


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
    assert (boot.root / "run/runctl/born").stat().st_mtime_ns == born


def test_failing_store_is_asked_again(boot: Boot) -> None:
    boot.store.failures = [503, 500]
    assert boot.run().returncode == 0
    assert boot.store.requests == 3
    assert boot.has_agent()


def test_archive_with_another_hash_is_never_unpacked(boot: Boot) -> None:
    done = boot.run(RUNCTL_AGENT_SHA256="0" * 64)
    assert done.returncode == 1
    assert "another SHA-256" in done.stderr
    assert not boot.has_agent()
    assert boot.calls()[-1] == "shutdown -h now"


def test_missing_credentials_end_the_instance(boot: Boot) -> None:
    boot.metadata.has_credentials = False
    done = boot.run()
    assert done.returncode == 1
    assert "no credentials" in done.stderr
    assert boot.store.requests == 0
    assert boot.calls()[-1] == "shutdown -h now"
    # The dead-man stands before anything can fail.
    assert "systemctl enable --now runctl-deadman.timer" in boot.calls()


@pytest.mark.parametrize("name", ["RUNCTL_AGENT_URI", "RUNCTL_TABLE"])
def test_incomplete_header_is_named(boot: Boot, name: str) -> None:
    done = boot.run(**{name: ""})
    assert done.returncode == 1
    assert name in done.stderr
    assert boot.calls()[-1] == "shutdown -h now"


def test_image_without_a_python_is_said(boot: Boot) -> None:
    (boot.root / "tools").mkdir()
    for tool in ("bash", "mkdir", "touch", "cat", "chmod", "mv", "sleep"):
        (boot.root / "tools" / tool).symlink_to(f"/usr/bin/{tool}")
    done = boot.run(PATH=f"{boot.root / 'bin'}:{boot.root / 'tools'}")
    assert done.returncode == 1
    assert "no Python 3.10" in done.stderr
    assert boot.calls()[-1] == "shutdown -h now"


def test_user_data_stays_far_below_its_limit() -> None:
    assert SCRIPT.stat().st_size < 12 * 1024


def deadman(boot: Boot, **variables: str) -> list[str]:
    """Run the dead-man once; return the calls that it made."""
    before = len(boot.calls())
    subprocess.run(
        [str(boot.root / "opt/runctl/bin/runctl-deadman")],
        env={
            "PATH": f"{boot.root / 'bin'}:/usr/bin:/bin",
            "RUNCTL_FLUSH_SECONDS": "1",
            **variables,
        },
        check=True,
        capture_output=True,
        timeout=30,
    )
    return boot.calls()[before:]


def make_older(path: Path, seconds: int) -> None:
    path.touch()
    os.utime(path, (time.time() - seconds, time.time() - seconds))


def test_deadman_leaves_an_instance_alone_while_heartbeats_are_accepted(boot: Boot) -> None:
    boot.run()
    make_older(boot.root / "run/runctl/lease", 1700)
    assert deadman(boot) == []


def test_deadman_asks_the_agent_to_stop_and_shuts_down_after_thirty_minutes(boot: Boot) -> None:
    boot.run()
    make_older(boot.root / "run/runctl/lease", 1900)
    assert deadman(boot)[-1] == "shutdown -h now"


def test_deadman_waits_for_ec2_after_a_notice_in_the_first_hour(boot: Boot) -> None:
    boot.run()
    run = boot.root / "run/runctl"
    make_older(run / "lease", 1900)
    make_older(run / "born", 2000)
    (run / "notice").touch()
    assert deadman(boot) == []
    make_older(run / "born", 3700)
    assert deadman(boot)[-1] == "shutdown -h now"


def test_deadman_is_armed_again_after_a_reboot(boot: Boot) -> None:
    boot.run()
    run = boot.root / "run/runctl"
    shutil.rmtree(run)
    assert deadman(boot) == []
    assert (run / "lease").exists()
    assert (run / "born").exists()
    make_older(run / "lease", 1900)
    assert deadman(boot)[-1] == "shutdown -h now"


def test_deadman_works_without_an_agent(boot: Boot) -> None:
    boot.run(RUNCTL_AGENT_SHA256="0" * 64)
    make_older(boot.root / "run/runctl/lease", 1900)
    assert deadman(boot)[-1] == "shutdown -h now"
