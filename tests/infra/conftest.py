"""The fixtures of the folder: one synth, checked by every rule."""

from types import ModuleType

import pytest

from tests.infra.templates import Synthesized


@pytest.fixture(scope="session")
def check() -> ModuleType:
    """Import the checks and the CDK, which takes three seconds that other tests should not wait."""
    from stacks import check

    return check


@pytest.fixture(scope="session")
def app(check: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Synthesized:
    outdir = tmp_path_factory.mktemp("cdk.out")
    return Synthesized(outdir, check.synthesize(outdir))
