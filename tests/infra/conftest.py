"""One synth, checked by every rule, for all tests of this folder."""

from types import ModuleType

import pytest

from tests.infra.templates import Synthesized


@pytest.fixture(scope="session")
def check() -> ModuleType:
    """Import the checks, and the CDK with them: three seconds, which no other test should wait."""
    from stacks import check

    return check


@pytest.fixture(scope="session")
def app(check: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Synthesized:
    outdir = tmp_path_factory.mktemp("cdk.out")
    return Synthesized(outdir, check.synthesize(outdir))
