"""References of dependency files are installed as by pip, and are part of the environment's key."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from runctl.agent.prepare.dependencies import Declared, find_dependencies
from runctl.agent.prepare.installer import network_cause
from runctl.model.errors import RequestError
from tests.agent.machine import Cloud
from tests.agent.packages import below, make_wheel, source_package
from tests.agent.test_environment import make_environments, run

UV = Path(sys.prefix) / "bin/uv"


def plant(project: Path, files: dict[str, str]) -> Path:
    for name, text in {"train.py": "", **files}.items():
        (project / name).parent.mkdir(parents=True, exist_ok=True)
        (project / name).write_text(text)
    return project


def says(environment: Path, *modules: str) -> list[str]:
    program = (
        "import importlib, sys; "
        "print(*[importlib.import_module(name).SAYS for name in sys.argv[1:]], sep='|')"
    )
    return run(environment / "bin/python", "-c", program, *modules).split("|")


def build(cloud: Cloud, root: Path, declared: Declared) -> Path:
    environments = make_environments(cloud, root)
    environment = environments.prepare(declared)
    environments.finish(120)
    return environment


OFFLINE = "--no-index\n"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("line", "module"),
    [
        ("./wheels/greeter-1.0-py3-none-any.whl", "greeter"),
        ("greeter @ file:./wheels/greeter-1.0-py3-none-any.whl", "greeter"),
        ("--find-links wheels\ngreeter", "greeter"),
        ("-r other/requirements.txt", "greeter"),
        ("-e .", "own"),
        (".", "own"),
        ("-e .[dev] --find-links wheels".replace(" --", "\n--"), "greeter"),
        ("./pkg[dev] ; python_version > '3'\n-f wheels", "greeter"),
        ("-e ./pkg", "pkg"),
        ("pkg @ file:pkg", "pkg"),
        ("-c constraints.txt\n--find-links wheels\ngreeter", "greeter"),
    ],
)
def test_relative_requirements_work_as_on_the_users_machine(
    cloud: Cloud, tmp_path: Path, line: str, module: str
) -> None:
    project = plant(
        tmp_path / "project",
        {
            **source_package("own", extra="greeter"),
            **below("pkg", source_package("pkg", extra="greeter")),
            "requirements.txt": f"{OFFLINE}{line}\n",
            "constraints.txt": "greeter<2\n",
            "other/requirements.txt": "--find-links wheels\n-r more/names.txt\n",
            "other/more/names.txt": "greeter\n",
        },
    )
    make_wheel(project / "wheels")
    make_wheel(project / "other/wheels")
    if line.startswith("-c"):
        make_wheel(project / "wheels", version="2.0")
    environment = build(cloud, tmp_path / "one", find_dependencies(project, "train.py"))
    expected = "greeter 1.0" if module == "greeter" else module
    assert says(environment, module) == [expected]


def fingerprint(project: Path, files: dict[str, str]) -> bytes:
    return find_dependencies(plant(project, files), "train.py").fingerprint


PACKAGE = source_package("pkg")
PEP723 = (
    "# /// script\n# dependencies = ['x']\n# [tool.uv.sources]\n# x = {path = 'a.whl'}\n# ///\n"
)
LOCK = '[[package]]\nname = "m"\nversion = "1"\nsource = { directory = "pkg" }\n'


@pytest.mark.parametrize(
    ("files", "change"),
    [
        ({"requirements.txt": "./a.whl\n", "a.whl": "1"}, {"a.whl": "2"}),
        ({"requirements.txt": "-f links\nx\n", "links/a.whl": "1"}, {"links/b.whl": "1"}),
        ({"requirements.txt": "-r n/r.txt\n", "n/r.txt": "./a.whl", "a.whl": "1"}, {"a.whl": "2"}),
        ({"requirements.txt": "-c c.txt\nx", "c.txt": "x<1"}, {"c.txt": "x<2"}),
        ({"requirements.txt": "./pkg\n", **below("pkg", PACKAGE)}, {"pkg/pkg.py": "SAYS = 2\n"}),
        (
            {"requirements.txt": "-e ./pkg\n", **below("pkg", PACKAGE)},
            below("pkg", source_package("pkg", "2.0")),
        ),
        (
            {"requirements.txt": "-e ./pkg\n", **below("pkg", PACKAGE), "pkg/fast.pyx": "1"},
            {"pkg/fast.pyx": "2"},
        ),
        ({"requirements.txt": "-e ./pkg\n", **below("pkg", PACKAGE)}, {"pkg/new/__init__.py": ""}),
        ({"train.py": PEP723, "a.whl": "1"}, {"train.py": PEP723, "a.whl": "2"}),
        (
            {"uv.lock": LOCK, "pyproject.toml": "", **below("pkg", PACKAGE)},
            {"pkg/pkg.py": "SAYS = 2\n"},
        ),
    ],
    ids=[
        "a wheel", "find-links", "a nested file", "constraints", "a source folder",
        "an editable's metadata", "an editable's C", "an editable's packages", "PEP 723", "uv.lock",
    ],
)  # fmt: skip
def test_what_is_referred_to_is_part_of_the_key(
    tmp_path: Path, files: dict[str, str], change: dict[str, str]
) -> None:
    before = fingerprint(tmp_path, files)
    assert fingerprint(tmp_path, files) == before
    assert fingerprint(tmp_path, change) != before


@pytest.mark.parametrize(
    "change", [{"pkg/pkg.py": "SAYS = 2\n"}, {"train.py": "x"}, {"data/a.csv": "1"}]
)
def test_changed_python_files_of_an_editable_package_cause_no_new_build(
    tmp_path: Path, change: dict[str, str]
) -> None:
    files = {"requirements.txt": "-e ./pkg\n", **below("pkg", PACKAGE)}
    before = fingerprint(tmp_path, files)
    assert fingerprint(tmp_path, change) == before


@pytest.mark.slow
def test_cached_editable_environment_follows_the_code_of_another_machine(
    cloud: Cloud, tmp_path: Path
) -> None:
    files = {"requirements.txt": f"{OFFLINE}-e ./pkg\n", **below("pkg", source_package("pkg"))}
    first = plant(tmp_path / "first/project", files)
    build(cloud, tmp_path / "one", find_dependencies(first, "train.py"))
    assert (first / "pkg/pkg_built.py").exists()
    second = plant(tmp_path / "second/project", {**files, "pkg/pkg.py": "SAYS = 'changed'\n"})
    environment = build(cloud, tmp_path / "two", find_dependencies(second, "train.py"))
    assert len(cloud.keys("environments/current/")) == 1
    assert says(environment, "pkg") == ["changed"]
    # The file that the first build left in the sources is there too.
    assert run(environment / "bin/python", "-c", "import pkg_built; print(pkg_built.__file__)") == (
        str(second / "pkg/pkg_built.py")
    )


@pytest.mark.slow
def test_changed_code_behind_a_source_folder_is_installed_again(
    cloud: Cloud, tmp_path: Path
) -> None:
    files = {"requirements.txt": f"{OFFLINE}./pkg\n", **below("pkg", source_package("pkg"))}
    project = plant(tmp_path / "project", files)
    environment = build(cloud, tmp_path / "one", find_dependencies(project, "train.py"))
    assert says(environment, "pkg") == ["pkg"]
    plant(project, {"pkg/pkg.py": "SAYS = 'changed'\n"})
    environment = build(cloud, tmp_path / "two", find_dependencies(project, "train.py"))
    assert says(environment, "pkg") == ["changed"]


@pytest.mark.slow
def test_lock_with_local_packages_is_installed_together_with_hashed_ones(
    cloud: Cloud, tmp_path: Path
) -> None:
    project = plant(
        tmp_path / "project",
        {
            "pyproject.toml": (
                '[project]\nname = "app"\nversion = "0"\nrequires-python = ">=3.10"\n'
                'dependencies = ["pkg", "edit", "greeter", "listed"]\n[[tool.uv.index]]\n'
                'name = "own"\nurl = "./links"\nformat = "flat"\n[tool.uv.sources]\n'
                'pkg = { path = "pkg" }\nedit = { path = "edit", editable = true }\n'
                'greeter = { path = "wheels/greeter-1.0-py3-none-any.whl" }\n'
            ),
            **below("pkg", source_package("pkg")),
            **below("edit", source_package("edit")),
        },
    )
    make_wheel(project / "wheels")
    make_wheel(project / "links", "listed")
    subprocess.run([UV, "lock", "--offline", "-q", "--project", project], check=True, timeout=240)
    environments = make_environments(cloud, tmp_path / "one")
    tool = tmp_path / "one/environments/uv"
    (tool / "bin").mkdir(parents=True)
    (tool / "bin/uv").symlink_to(UV)  # that of the tests, so no index is contacted
    (tool / "ready").touch()
    environment = environments.prepare(find_dependencies(project, "train.py"))
    environments.finish(120)
    found = says(environment, "pkg", "edit", "greeter", "listed")
    assert found == ["pkg", "edit", "greeter 1.0", "listed 1.0"]


def test_packages_of_a_lock_are_looked_up_in_its_indexes(tmp_path: Path) -> None:
    torch, flat = "https://download.example.com/whl/cu121", "https://example.com/files"
    entries = "".join(
        f'[[package]]\nname = "p{number}"\nversion = "1"\nsource = {{ registry = "{index}" }}\n'
        for number, index in enumerate(("https://index.example.org/simple", torch, torch, flat))
    )
    indexes = f'[[tool.uv.index]]\nname = "torch"\nurl = "{torch}/"\n'
    indexes += f'[[tool.uv.index]]\nname = "f"\nurl = "{flat}"\nformat = "flat"\n'
    project = plant(tmp_path, {"uv.lock": entries, "pyproject.toml": indexes})
    declaration = find_dependencies(project, "train.py").declaration
    assert declaration.options == (f"--extra-index-url {torch}", f"--find-links {flat}")


def test_what_is_not_in_the_package_is_refused_before_anything_is_built(tmp_path: Path) -> None:
    project = plant(tmp_path, {"requirements.txt": "\n-e ./gone\n"})
    with pytest.raises(RequestError, match=r"requirements\.txt:2: '-e \./gone': gone is not in"):
        find_dependencies(project, "train.py")


PYPROJECT = "[project]\nname = 'pro'\nrequires-python = '>=3.99'\n"


@pytest.mark.slow
@pytest.mark.parametrize(
    "files",
    [
        {},
        {"requirements.txt": OFFLINE},
        {"train.py": "# /// script\n# dependencies = []\n# ///\n"},
        {"uv.lock": "version = 1\n"},
    ],
    ids=["alone", "with requirements.txt", "with script metadata", "with uv.lock"],
)
def test_requires_python_is_honored_in_every_case(
    cloud: Cloud, tmp_path: Path, files: dict[str, str]
) -> None:
    project = plant(tmp_path / "project", {"pyproject.toml": PYPROJECT, **files})
    environments = make_environments(cloud, tmp_path / "one")
    message = r"pyproject\.toml requires Python >=3\.99, this instance has 3\.\d+\.\d+; change"
    with pytest.raises(RequestError, match=message):
        environments.prepare(find_dependencies(project, "train.py"))
    assert list((tmp_path / "one/environments").iterdir()) == []


@pytest.mark.slow
def test_requires_python_is_honored_though_the_environment_is_cached(
    cloud: Cloud, tmp_path: Path
) -> None:
    make_wheel(tmp_path / "project/wheels")
    files = {"requirements.txt": f"{OFFLINE}-f wheels\ngreeter\n"}
    project = plant(tmp_path / "project", files)
    build(cloud, tmp_path / "one", find_dependencies(project, "train.py"))
    plant(project, {"pyproject.toml": PYPROJECT})
    for root in ("one", "two"):  # on this instance, and in the bucket
        environments = make_environments(cloud, tmp_path / root, there=root == "one")
        with pytest.raises(RequestError, match=r"requires Python >=3\.99"):
            environments.prepare(find_dependencies(project, "train.py"))


@pytest.mark.parametrize(
    ("line", "cause"),
    [
        ("fatal: unable to access 'https://x/': Could not resolve host: x", "the repository"),
        ("fatal: unable to access 'https://x/': Failed to connect to x port 443", "the repository"),
        ("ssh: connect to host x port 22: Connection timed out", "the repository"),
        ("ssh: Could not resolve hostname x: Name or service not known", "the repository"),
        ("fatal: unable to access 'https://x/': The requested URL returned error: 503", "the repo"),
        ("error: RPC failed; curl 92 HTTP/2 stream 0 was not closed cleanly", "the repository"),
        ("fatal: unable to access 'https://x/': The requested URL returned error: 404", ""),
        ("fatal: unable to access 'https://x/': server certificate verification failed.", ""),
        ("fatal: Authentication failed for 'https://x/'", ""),
        ("WARNING: Retrying (Retry(total=1)) after connection broken", "the package index"),
        ("ERROR: No matching distribution found for x", ""),
    ],
)
def test_network_failures_are_distinguished_from_refusals(line: str, cause: str) -> None:
    found = network_cause(line)
    assert found.startswith(cause)
    assert bool(found) == bool(cause)


@pytest.mark.slow
def test_unreachable_repository_is_tried_again(
    cloud: Cloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runctl.agent.prepare.installer.NETWORK_WAITS", (1.0,))
    waited: list[float] = []
    project = plant(
        tmp_path / "project", {"requirements.txt": "x @ git+http://127.0.0.1:9/x@main\n"}
    )
    environments = make_environments(cloud, tmp_path / "one", wait=waited.append)
    with pytest.raises(RequestError) as caught:
        environments.prepare(find_dependencies(project, "train.py"))
    assert waited == [1.0]
    message = str(caught.value)
    assert message.startswith(
        "the dependencies of requirements.txt failed to install: the repository cannot be reached: "
    )
    assert message.endswith("(tried 2 times)")


@pytest.mark.slow
def test_reason_starts_at_the_start_of_a_line_and_keeps_its_end(
    cloud: Cloud, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    files = below("pkg", source_package("pkg"))
    noise = "".join(f"print('line {number:03} ' + 'x' * 80)\n" for number in range(40))
    files["pkg/backend.py"] = f"{noise}raise SystemExit('the last words')\n"
    project = plant(tmp_path / "project", {"requirements.txt": f"{OFFLINE}./pkg\n", **files})
    with pytest.raises(RequestError) as caught:
        make_environments(cloud, tmp_path / "one").prepare(find_dependencies(project, "train.py"))
    reason = str(caught.value).partition("failed to install: ")[2]
    first = reason.removeprefix("… ").partition(" | ")[0]
    assert first in caplog.messages
    assert reason.endswith(caplog.messages[-1])
