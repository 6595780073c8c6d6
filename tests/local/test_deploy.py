"""The real CDK deploys to a local cloud."""

from __future__ import annotations

from pathlib import Path

import pytest

from runctl.local import daemon
from runctl.local.client import LocalCloudClient
from runctl.local.core import keys
from runctl.local.deploy import deploy
from runctl.model.errors import SetupError
from tests.local.clouds import Cloud, eventually, open_to_others

pytestmark = pytest.mark.slow
TINY_APP = Path(__file__).parent / "tiny_app"


def test_a_cdk_app_is_deployed_and_its_resources_are_used(tmp_path: Path) -> None:
    endpoint = daemon.start(tmp_path, die_with_parent=True)
    try:
        cloud = Cloud(endpoint, LocalCloudClient(endpoint.url))
        steps: list[str] = []
        outputs = deploy(endpoint, project=TINY_APP, progress=steps.append)["Tiny"]
        assert "deploying the stacks" in steps
        assert cloud.admin.health()["enforced"]
        cloud.admin.set_knobs(boot_delay=0)
        request = cloud.fleet_request("unused")
        request["LaunchTemplateConfigs"][0]["LaunchTemplateSpecification"] = {
            "LaunchTemplateId": outputs["TemplateId"],
            "Version": "$Latest",
        }
        got = cloud.client("ec2").create_fleet(**request)
        assert got["Errors"] == []
        root = cloud.root(got["Instances"][0]["InstanceIds"][0])
        eventually((root / "region").exists)
        eventually(lambda: (root / "region").read_text() == "us-east-1\n")
        assert (tmp_path / "cdk.out").is_dir()
        assert open_to_others(tmp_path) == []
        # Again, now that IAM is enforced.
        assert deploy(endpoint, project=TINY_APP)["Tiny"] == outputs
    finally:
        daemon.stop(tmp_path)


def test_a_project_without_the_cdk_is_told_what_to_do(tmp_path: Path) -> None:
    endpoint = daemon.Endpoint("http://127.0.0.1:1", 1, "us-east-1", "0", tmp_path, keys.generate())
    with pytest.raises(SetupError, match="npm ci"):
        deploy(endpoint, project=tmp_path)
