"""Assets: the same inputs produce the same bytes, and wheels contain only pure Python."""

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from runctl.agent.instance.archive import unpack
from stacks.assets import AssetError, build_agent, build_functions
from stacks.settings import PROJECT

FOLDERS = ("runctl", "lambdas", "instance_scripts")


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a separate build folder, filled once."""
    build = tmp_path_factory.mktemp("build")
    build_functions(build=build)
    build_agent(build=build)
    return build


@pytest.fixture
def project(tmp_path: Path, built: Path) -> Path:
    """Return a copy of the sources in another place, with the wheels."""
    for folder in FOLDERS:
        shutil.copytree(
            PROJECT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__")
        )
    for wheels in built.glob("wheels-*"):
        shutil.copytree(wheels, tmp_path / "build" / wheels.name)
    return tmp_path


@pytest.mark.parametrize("build", [build_functions, build_agent])
def test_builds_in_two_places_produce_the_same_bytes(build, built: Path, project: Path) -> None:
    for path in project.rglob("*.py"):
        path.touch()
    first, second = build(build=built), build(project)
    assert first.path != second.path
    assert first.sha256 == second.sha256
    assert first.path.name == second.path.name


def test_an_unchanged_build_is_not_repeated(project: Path) -> None:
    first = build_functions(project)
    before = first.path.stat()
    assert build_functions(project).path.stat().st_ino == before.st_ino


def test_a_change_produces_another_asset(project: Path) -> None:
    first = build_functions(project)
    (project / "lambdas/services.py").write_text("# changed\n")
    second = build_functions(project)
    assert first.path != second.path
    assert first.sha256 != second.sha256


def test_caches_and_hidden_files_are_excluded(project: Path) -> None:
    first = build_agent(project)
    (project / "runctl/agent/__pycache__").mkdir(exist_ok=True)
    (project / "runctl/agent/__pycache__/x.cpython-311.pyc").write_bytes(b"x")
    (project / "runctl/agent/.swp").write_bytes(b"x")
    assert build_agent(project).sha256 == first.sha256


def test_an_agent_with_bytecode_compiles_nothing(built: Path, tmp_path: Path) -> None:
    compiled = build_agent(build=built, bytecode=True)
    assert compiled.path != build_agent(build=built).path
    unpack(compiled.path, tmp_path / "agent")
    program = (
        "import sys; sys.path[:0] = sys.argv[1:]\n"
        "from importlib.machinery import SourceFileLoader\n"
        "compiled = []\n"
        "SourceFileLoader.source_to_code = lambda *words, **_: compiled.append(words[2])\n"
        "import runctl.agent.__main__, runctl.agent.service, boto3\n"
        "print(compiled)"
    )
    base = Path(sys.base_prefix, "bin/python3")
    folders = [tmp_path / "agent", tmp_path / "agent/vendor"]
    done = subprocess.run(
        [base, "-I", "-c", program, *folders], check=True, capture_output=True, text=True
    )
    assert done.stdout == "[]\n"


def test_a_changed_module_is_not_run_from_its_bytecode(built: Path, tmp_path: Path) -> None:
    unpack(build_agent(build=built, bytecode=True).path, tmp_path / "agent")
    module = tmp_path / "agent/runctl/fault_points.py"
    before = module.stat()
    module.write_text("CHANGED = 1\n".ljust(before.st_size))
    os.utime(module, ns=(before.st_atime_ns, before.st_mtime_ns))
    program = "import sys; sys.path.insert(0, sys.argv[1]); from runctl.fault_points import CHANGED"
    base = Path(sys.base_prefix, "bin/python3")
    subprocess.run([base, "-I", "-c", program, tmp_path / "agent"], check=True)


def test_the_functions_import_from_their_archive(built: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(build_functions(build=built).path) as archive:
        archive.extractall(tmp_path)
    names = [path.stem for path in (tmp_path / "lambdas").glob("*.py") if path.stem != "__init__"]
    program = "import importlib, sys\nfor name in sys.argv[1:]:\n    importlib.import_module(name)"
    subprocess.run(
        [sys.executable, "-c", program, *(f"lambdas.{name}" for name in names)],
        cwd=tmp_path,
        check=True,
        env={"PYTHONDONTWRITEBYTECODE": "1"},
    )


def test_the_agent_contains_its_libraries_and_no_other_service(built: Path) -> None:
    with tarfile.open(build_agent(build=built).path) as archive:
        members = archive.getmembers()
    names = {member.name for member in members}
    assert {name.partition("/")[0] for name in names} == {"runctl", "vendor"}
    assert "runctl/agent/__main__.py" in names
    assert "runctl/aws/ledger.py" in names
    services = {
        name.split("/")[3]
        for name in names
        if name.startswith("vendor/botocore/data/") and name.count("/") > 3
    }
    assert services == {
        "dynamodb", "ecr", "lambda", "logs", "s3", "secretsmanager", "ssm", "sso", "sso-oidc",
        "stepfunctions", "sts",
    }  # fmt: skip
    assert any(name.startswith("vendor/pip-") and name.endswith(".whl") for name in names)
    assert {(member.uid, member.gid, member.mtime, member.mode) for member in members} == {
        (0, 0, 315_532_800, 0o644)
    }


def test_the_agents_clients_work_from_the_archive(built: Path, tmp_path: Path) -> None:
    unpack(build_agent(build=built).path, tmp_path)
    program = (
        "import sys; sys.path[:0] = sys.argv[1:]\n"
        "import boto3\n"
        "for name in ('s3', 'dynamodb', 'stepfunctions', 'logs', 'sts', 'secretsmanager', 'ssm'):\n"
        "    boto3.client(name, region_name='eu-west-1')\n"
        "print(boto3.__file__)"
    )
    base = Path(sys.base_prefix, "bin/python3")
    done = subprocess.run(
        [str(base), "-I", "-c", program, str(tmp_path), str(tmp_path / "vendor")],
        check=True,
        capture_output=True,
        text=True,
    )
    assert done.stdout.startswith(str(tmp_path / "vendor"))


def test_the_agent_installs_the_trainers_helper_from_the_archive(
    built: Path, tmp_path: Path
) -> None:
    unpack(build_agent(build=built).path, tmp_path)
    program = (
        "import pathlib, sys; sys.path.insert(0, sys.argv[1])\n"
        "from runctl.agent.runtime.training_path import lay_out\n"
        "lay_out(pathlib.Path(sys.argv[1], 'training-path'))"
    )
    base = Path(sys.base_prefix, "bin/python3")
    subprocess.run([str(base), "-I", "-c", program, str(tmp_path)], check=True)
    use = "from runctl import training; print(training.run_id)"
    environment = {"PYTHONPATH": str(tmp_path / "training-path")}
    done = subprocess.run(
        [str(base), "-c", use], env=environment, cwd="/", check=True, capture_output=True, text=True
    )
    assert done.stdout == "local\n"


def test_the_agent_unpacks_where_python_lacks_the_filter(built: Path, tmp_path: Path) -> None:
    """As with Debian 12, whose Python is 3.11.2."""
    unpack(build_agent(build=built).path, tmp_path)
    for name, link in (("good", "file"), ("bad", "../file")):
        with tarfile.open(tmp_path / f"{name}.tar.gz", "w:gz") as archive:
            archive.addfile(tarfile.TarInfo("file"))
            info = tarfile.TarInfo("link")
            info.type, info.linkname = tarfile.SYMTYPE, link
            archive.addfile(info)
    program = (
        "import pathlib, sys, tarfile; sys.path[:0] = sys.argv[1:]\n"
        "vars(tarfile).pop('data_filter', None)\n"
        "from runctl.agent.instance.archive import unpack\n"
        "from runctl.model.errors import RequestError\n"
        "top = pathlib.Path(sys.argv[1])\n"
        "unpack(top / 'good.tar.gz', top / 'good')\n"
        "try:\n"
        "    unpack(top / 'bad.tar.gz', top / 'bad')\n"
        "except RequestError as exc:\n"
        "    print(exc, sys.modules['backports.tarfile'].__file__)"
    )
    done = subprocess.run(
        [Path(sys.base_prefix, "bin/python3"), "-I", "-c", program, tmp_path, tmp_path / "vendor"],
        check=True,
        capture_output=True,
        text=True,
    )
    assert "the archive would write outside its folder" in done.stdout
    assert f"{tmp_path}/vendor/backports" in done.stdout
    assert (tmp_path / "good/link").samefile(tmp_path / "good/file")
    assert not (tmp_path / "bad/link").is_symlink()


def test_the_agents_botocore_is_the_version_that_the_tests_use() -> None:
    import botocore

    wanted = (PROJECT / "instance_scripts/requirements.txt").read_text()
    assert f"botocore=={botocore.__version__} " in wanted


def test_a_wheel_with_machine_code_is_refused(project: Path) -> None:
    # A wheel for one platform, which pip would accept here without our options.
    requirements = project / "lambdas/requirements.txt"
    requirements.write_text("psutil==7.0.0 --hash=sha256:" + "0" * 64 + "\n")
    with pytest.raises(AssetError, match="pip cannot download"):
        build_functions(project)


def test_a_wheel_with_another_hash_is_refused(project: Path) -> None:
    requirements = project / "lambdas/requirements.txt"
    requirements.write_text("jmespath==1.1.0 --hash=sha256:" + "0" * 64 + "\n")
    with pytest.raises(AssetError, match="DO NOT MATCH"):
        build_functions(project)


def test_a_project_without_an_agent_is_refused(project: Path) -> None:
    shutil.rmtree(project / "runctl/agent")
    with pytest.raises(AssetError, match="runctl/agent has no files"):
        build_agent(project)
