"""One synth, checked by every rule, for all tests of this folder."""

import pytest

from stacks.check import synthesize
from tests.infra.templates import Synthesized


@pytest.fixture(scope="session")
def app(tmp_path_factory: pytest.TempPathFactory) -> Synthesized:
    outdir = tmp_path_factory.mktemp("cdk.out")
    return Synthesized(outdir, synthesize(outdir))
