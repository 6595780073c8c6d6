"""What a person has who installs the wheel and nothing else of the repository."""

import json
import subprocess
import zipfile
from pathlib import Path

import pytest

from hatch_build import APPLICATION, FOLDER
from stacks.assets import build_agent, build_functions
from stacks.settings import PROJECT

pytestmark = pytest.mark.slow


def committed(*folders: str) -> set[str]:
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", *folders],
        cwd=PROJECT,
        check=True,
        capture_output=True,
        text=True,
    )
    return {name for name in listed.stdout.splitlines() if (PROJECT / name).exists()}


def test_the_wheel_holds_the_package_and_the_application_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
        for name in committed(*APPLICATION):
            assert archive.read(f"{FOLDER}/{name}") == (PROJECT / name).read_bytes()
    application = {f"{FOLDER}/{name}" for name in committed(*APPLICATION)}
    assert names == committed("runctl") | application


def test_help_and_version_need_no_checkout(installed) -> None:
    where = installed.run("python", "-c", "import runctl; print(runctl.__file__)")
    assert Path(where.strip()).is_relative_to(installed.environment)
    assert "deploy" in installed.run("runctl", "--help")
    assert "CDK-OPTIONS" in installed.run("runctl", "deploy", "--help")


def test_a_bad_option_reaches_the_packaged_application_through_the_real_cdk(installed) -> None:
    done = installed.run("runctl", "--json", "deploy", "-c", "name=Bad", code=3)
    assert "cdk deploy failed" in json.loads(done)["error"]["message"]


@pytest.mark.e2e
def test_the_packaged_application_is_deployed_and_trains(installed) -> None:
    up = json.loads(installed.run("runctl", "--json", "local", "up"))
    try:
        assert len(up["stacks"]) == 3
        (installed.project / "hello.py").write_text("print('hello')\n")
        run = json.loads(installed.run("runctl", "--json", "--local", "aws", "train", "hello.py"))
        assert run["status"] == "completed"
        variables = json.loads(installed.run("runctl", "--json", "local", "env"))
        again = installed.run(
            "runctl", "--json", "deploy", "--bootstrap", "--require-approval", "never", **variables
        )
        assert sorted(json.loads(again)["stacks"]) == up["stacks"]
    finally:
        installed.run("runctl", "local", "down")
    for asset in (build_agent(), build_functions()):
        packaged = installed.cdk_folder / "build" / asset.path.name
        assert packaged.read_bytes() == asset.path.read_bytes()
