"""Types that the deployment's images do not support are recognized before a launch."""

import pytest

from runctl.model.pool import MachineKind
from runctl.policy.images import problem_with_images


@pytest.mark.parametrize(
    "name",
    [
        "g4dn.xlarge", "g5.xlarge", "g6.xlarge", "g6e.xlarge", "gr6.4xlarge", "p4d.24xlarge",
        "p4de.24xlarge", "p5.48xlarge", "p5e.48xlarge", "p5en.48xlarge", "p6-b200.48xlarge",
        "m5.large", "m7g.large", "c7i.xlarge", "g7e.2xlarge",
    ],
)  # fmt: skip
def test_types_that_the_images_support_are_accepted(name: str) -> None:
    assert problem_with_images([name], own_images=frozenset()) == ""


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("p2.xlarge", "x86_gpu"), ("p3.2xlarge", "x86_gpu"), ("p3dn.24xlarge", "x86_gpu"),
        ("g3.4xlarge", "x86_gpu"), ("g4ad.xlarge", "x86_gpu"), ("inf2.xlarge", "x86_cpu"),
        ("trn1.2xlarge", "x86_cpu"), ("dl1.24xlarge", "x86_cpu"), ("vt1.3xlarge", "x86_cpu"),
    ],
)  # fmt: skip
def test_other_types_are_refused_with_the_remedy_unless_the_image_is_the_owners(
    name: str, kind: str
) -> None:
    problem = problem_with_images(["g5.xlarge", name], own_images=frozenset())
    assert problem.startswith(f"{name} needs an image with ")
    assert f"-c image_{kind}=AMI" in problem
    own = frozenset({MachineKind(kind)})
    assert problem_with_images(["g5.xlarge", name], own_images=own) == ""
    others = frozenset(MachineKind) - own
    assert problem_with_images([name], own_images=others) == problem
