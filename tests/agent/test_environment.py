"""The trainer's environment: declared in many ways, built once, usable at any root."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, TextIO

import pytest

from runctl.agent.instance.archive import unpack
from runctl.agent.prepare.committing import EnvironmentCommitter
from runctl.agent.prepare.dependencies import Declared, find_dependencies
from runctl.agent.prepare.environment import Environments, Place
from runctl.agent.prepare.installer import Installer, Tools
from runctl.agent.prepare.shared_environments import SharedEnvironments
from runctl.aws.environments import EnvironmentStore
from runctl.model.errors import RequestError
from tests.agent.machine import Cloud, packed
from tests.agent.packages import make_wheel

UV = Path(sys.prefix) / "bin/uv"
BASE = Path(sys.base_prefix) / "bin" / "python3"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "train.py").touch()
    return folder


def make_environments(
    cloud: Cloud,
    root: Path,
    *,
    wait: Callable[[float], None] = time.sleep,
    log: Callable[[], TextIO] | None = None,
    there: bool = False,
    uv: Path | None = UV,
    run_id: str = "run-1",
) -> Environments:
    """Return what an agent of a machine at `root` uses; commits are real processes."""
    import pip

    folder = root / "environments"
    folder.mkdir(parents=True, exist_ok=there)
    store = EnvironmentStore(cloud.clients["s3"], bucket=cloud.name)
    environ = {"PATH": os.environ["PATH"], "HOME": str(root)}
    return Environments(
        SharedEnvironments(store, run_id, folder),
        Place(folder=folder, bucket=cloud.name, region="us-east-1", run_id=run_id),
        installer=Installer(
            Tools(python=BASE, pip=Path(pip.__file__).parent, environ=environ, uv=uv),
            folder,
            log=log or (lambda: (root / "log").open("a")),
            wait=wait,
        ),
        committer=EnvironmentCommitter(
            environ={
                **environ,
                "AWS_ENDPOINT_URL": cloud.endpoint,
                **cloud.access_of("i-1"),
            },
            niceness=0,
        ),
    )


def run(program: Path, *arguments: str) -> str:
    done = subprocess.run(
        [str(program), *arguments], capture_output=True, text=True, check=True, timeout=240
    )
    return done.stdout.strip()


@pytest.mark.slow
def test_environment_is_built_once_cached_and_usable_at_another_root(
    cloud: Cloud, tmp_path: Path, project: Path
) -> None:
    wheel = make_wheel(tmp_path)
    (project / "requirements.txt").write_text(f"{wheel}\n")
    declared = find_dependencies(project, "train.py")
    first = make_environments(cloud, tmp_path / "one")
    built = first.prepare(declared)
    first.finish(120)
    assert run(built / "bin/greeter") == "greeter 1.0"
    assert first.prepare(declared) == built
    first.finish(120)
    wheel.unlink()  # from here on it can only come from the cache
    second = make_environments(cloud, tmp_path / "two")
    cached = second.prepare(declared)
    assert tmp_path / "two" in cached.parents
    (built / "bin/greeter").unlink()
    assert run(cached / "bin/greeter") == "greeter 1.0"
    assert run(cached / "bin/python", "-c", "import sys; print(sys.prefix)") == str(cached)
    assert len(cloud.keys("environments/current/")) == 1
    second.finish(120)


@pytest.mark.slow
def test_environment_contains_nothing_of_the_developers(
    cloud: Cloud, tmp_path: Path, project: Path
) -> None:
    declared = find_dependencies(project, "train.py")
    environment = make_environments(cloud, tmp_path / "one").prepare(declared)
    program = "import importlib.util as u; print([n for n in ('boto3', 'moto') if u.find_spec(n)])"
    assert run(environment / "bin/python", "-c", program) == "[]"
    assert cloud.keys("environments/") == []


@pytest.mark.slow
def test_dependency_that_does_not_exist_fails_with_pips_own_words(
    cloud: Cloud, tmp_path: Path, project: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    (project / "requirements.txt").write_text("--no-index\nno-such-wheel\n")
    environments = make_environments(cloud, tmp_path / "one")
    with pytest.raises(RequestError, match=r"requirements\.txt failed to install.*no-such-wheel"):
        environments.prepare(find_dependencies(project, "train.py"))
    assert "no-such-wheel" in caplog.text


class Outage:
    """A package index that becomes available after `waits` waits."""

    def __init__(self, folder: Path, *, waits: int) -> None:
        handler = partial(QuietFiles, directory=str(folder))
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler, bind_and_activate=False)
        self._server.server_bind()  # the port is ours, and refuses until somebody listens
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/"
        self.waited: list[float] = []
        self._waits = waits

    def wait(self, seconds: float) -> None:
        self.waited.append(seconds)
        if len(self.waited) == self._waits:
            self._server.server_activate()
            threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        if len(self.waited) >= self._waits:
            self._server.shutdown()
        self._server.server_close()


class QuietFiles(SimpleHTTPRequestHandler):
    def log_message(self, *_args: Any) -> None:
        pass


@pytest.mark.slow
def test_full_disk_hides_no_message_of_pip_and_half_an_environment_frees_its_space(
    cloud: Cloud, project: Path, tmp_path: Path
) -> None:
    (project / "requirements.txt").write_text("--no-index\nno-such-package-anywhere\n")
    environments = make_environments(
        cloud, tmp_path / "root", log=partial(Path("/dev/full").open, "a")
    )
    with pytest.raises(RequestError, match="no-such-package-anywhere"):
        environments.prepare(find_dependencies(project, "train.py"))
    assert list((tmp_path / "root/environments").iterdir()) == []


def test_temporarily_unreachable_index_does_not_fail_the_run(
    cloud: Cloud, tmp_path: Path, project: Path
) -> None:
    pages = tmp_path / "index/greeter"
    pages.mkdir(parents=True)
    wheel = make_wheel(pages)
    (pages / "index.html").write_text(f'<a href="{wheel.name}">{wheel.name}</a>')
    outage = Outage(tmp_path / "index", waits=1)
    (project / "requirements.txt").write_text(f"--index-url {outage.url}\ngreeter\n")
    environments = make_environments(cloud, tmp_path / "one", wait=outage.wait)
    try:
        built = environments.prepare(find_dependencies(project, "train.py"))
        environments.finish(120)
    finally:
        outage.close()
    assert run(built / "bin/greeter") == "greeter 1.0"
    assert len(outage.waited) == 1


@pytest.mark.slow
def test_index_that_never_responds_is_distinguished_from_a_wrong_requirement(
    cloud: Cloud, tmp_path: Path, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runctl.agent.prepare.installer.NETWORK_WAITS", (1.0,))
    outage = Outage(tmp_path, waits=99)
    (project / "requirements.txt").write_text(f"--index-url {outage.url}\ngreeter\n")
    environments = make_environments(cloud, tmp_path / "one", wait=outage.wait)
    with pytest.raises(RequestError, match=r"index cannot be reached.*tried 2 times"):
        environments.prepare(find_dependencies(project, "train.py"))
    outage.close()
    assert outage.waited == [1.0]


@pytest.mark.slow
def test_python_that_the_project_cannot_use_is_reported(
    cloud: Cloud, tmp_path: Path, project: Path
) -> None:
    (project / "train.py").write_text(
        "# /// script\n# requires-python = '>=9.1'\n# dependencies = []\n# ///\n"
    )
    environments = make_environments(cloud, tmp_path / "one")
    with pytest.raises(RequestError, match=r"train\.py requires Python >=9\.1, this instance has"):
        environments.prepare(find_dependencies(project, "train.py"))


def declare(project: Path, files: dict[str, str], script: str = "train.py") -> Declared:
    for name, text in {"train.py": "", **files}.items():
        path = project / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return find_dependencies(project, script)


@pytest.mark.parametrize(
    ("files", "script", "source"),
    [
        ({}, "train.py", "no dependency file"),
        ({"requirements.txt": "a"}, "train.py", "requirements.txt"),
        ({"requirements.txt": "a", "sub/x.py": ""}, "sub/x.py", "requirements.txt"),
        (
            {"requirements.txt": "a", "sub/requirements.txt": "b", "sub/x.py": ""},
            "sub/x.py",
            "sub/requirements.txt",
        ),
        ({"pyproject.toml": "[project]\ndependencies = ['a']"}, "train.py", "pyproject.toml"),
        ({"pyproject.toml": "[tool.ruff]"}, "train.py", "no dependency file"),
        (
            {"pyproject.toml": "", "uv.lock": "version = 1", "requirements.txt": "a"},
            "train.py",
            "uv.lock",
        ),
        (
            {"train.py": "# /// script\n# dependencies = ['a']\n# ///\n", "requirements.txt": "b"},
            "train.py",
            "the script metadata of train.py",
        ),
    ],
)
def test_nearest_declaration_wins(
    project: Path, files: dict[str, str], script: str, source: str
) -> None:
    assert declare(project, files, script).source == source


def test_fingerprint_follows_the_content_and_what_it_includes(project: Path) -> None:
    files = {"requirements.txt": "-r more.txt\n", "more.txt": "a==1\n"}
    first = declare(project, files).fingerprint
    assert declare(project, files).fingerprint == first
    assert declare(project, {**files, "more.txt": "a==2\n"}).fingerprint != first


def test_broken_toml_is_named(project: Path) -> None:
    with pytest.raises(RequestError, match=r"pyproject\.toml: is not valid TOML"):
        declare(project, {"pyproject.toml": "[project"})


@pytest.mark.parametrize("name", ["../outside", "/absolute/outside"])
def test_archive_that_would_escape_is_refused_or_kept_inside(tmp_path: Path, name: str) -> None:
    archive = tmp_path / "a.tar.gz"
    archive.write_bytes(packed({name: "evil"}))
    try:
        unpack(archive, tmp_path / "deep/folder")
    except RequestError:
        pass
    else:
        assert (tmp_path / "deep/folder/absolute/outside").exists()
    assert not (tmp_path / "deep/outside").exists()
    assert not Path("/absolute").exists()


@pytest.mark.parametrize(
    "content",
    [b"", b"no archive at all", packed({"a": "b" * 5000})[:60]],
    ids=["empty", "text", "cut off"],
)
def test_damaged_archive_is_reported(tmp_path: Path, content: Any) -> None:
    archive = tmp_path / "a.tar.gz"
    archive.write_bytes(content)
    with pytest.raises(RequestError, match="cannot be unpacked"):
        unpack(archive, tmp_path / "folder")
