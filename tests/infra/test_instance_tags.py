"""Tags that would prevent launches fail the synth, not the first launch."""

from __future__ import annotations

import pytest
from aws_cdk import App, CfnResource, Stack, Tags
from aws_cdk import aws_s3 as s3

from stacks.instance_tags import InstanceTags, problems


@pytest.mark.parametrize("key", ["Cost Center", "team/owner", "é", ".", "..", "_index", "k" * 128])
def test_a_key_that_the_metadata_cannot_show_is_named_with_the_remedy(key: str) -> None:
    (problem,) = problems([(key, "x")])
    assert f"tag {key!r}" in problem
    assert "use only letters, digits and -_+=,.@:" in problem


@pytest.mark.parametrize("key", ["Cost-Center", "team:owner@example.com", "a=b,c.d+e_f", "k" * 127])
def test_a_key_that_the_metadata_can_show_is_accepted(key: str) -> None:
    assert list(problems([(key, "x" * 256)])) == []


def test_a_tag_that_no_resource_accepts_is_named_as_well() -> None:
    (reserved,) = problems([("AWS:mine", "x")])
    (long,) = problems([("mine", "x" * 257)])
    (many,) = problems((f"k{number}", "x") for number in range(41))
    assert "reserved" in reserved
    assert "257 characters" in long
    assert "41 tags" in many


@pytest.mark.parametrize("scope", ["app", "stack", "resource"])
def test_a_tag_fails_the_synth_wherever_it_is_added(scope: str) -> None:
    app = App(analytics_reporting=False)
    stack = Stack(app, "Compute")
    stack.node.add_validation(InstanceTags(stack))
    CfnResource(stack, "Untaggable", type="AWS::EC2::LaunchTemplate")
    bucket = s3.CfnBucket(stack, "Bucket")
    Tags.of({"app": app, "stack": stack, "resource": bucket}[scope]).add("Cost Center", "x")
    with pytest.raises(RuntimeError, match=r"\[Compute\] tag 'Cost Center': EC2 launches no"):
        app.synth()


def test_valid_tags_pass_the_synth() -> None:
    app = App(analytics_reporting=False)
    stack = Stack(app, "Compute")
    stack.node.add_validation(InstanceTags(stack))
    Tags.of(app).add("team", "research")
    app.synth()
