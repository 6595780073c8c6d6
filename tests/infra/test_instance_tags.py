"""A tag that would keep instances from being launched fails the synth, not the first launch."""

from __future__ import annotations

import pytest
from aws_cdk import App, CfnResource, Stack, Tags
from aws_cdk import aws_s3 as s3

from stacks.instance_tags import InstanceTags, problems


@pytest.mark.parametrize("key", ["Cost Center", "team/owner", "é", ".", "..", "_index", "k" * 128])
def test_a_key_that_the_metadata_cannot_show_is_named_with_the_remedy(key: str) -> None:
    (told,) = problems([(key, "x")])
    assert f"tag {key!r}" in told
    assert "use letters, digits and -_+=,.@: only" in told


@pytest.mark.parametrize("key", ["Cost-Center", "team:owner@example.com", "a=b,c.d+e_f", "k" * 127])
def test_a_key_that_it_can_show_is_fine(key: str) -> None:
    assert list(problems([(key, "x" * 256)])) == []


def test_what_no_resource_takes_is_named_too() -> None:
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


def test_good_tags_pass_the_synth() -> None:
    app = App(analytics_reporting=False)
    stack = Stack(app, "Compute")
    stack.node.add_validation(InstanceTags(stack))
    Tags.of(app).add("team", "research")
    app.synth()
