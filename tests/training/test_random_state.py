"""The random states of a checkpoint include every generator of a program."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.training.place import Place

pytestmark = pytest.mark.slow


def test_a_restored_state_draws_what_the_saved_one_would_have(
    place: Place, frameworks: Path
) -> None:
    program = """
        import random
        import numpy, torch
        from runctl import training
        from runctl.hooks.pytorch import random_state, set_random_state
        def draw():
            return random.gauss(0, 1), numpy.random.normal(), torch.randn(3).tolist()
        draw()
        training.save(lambda path: torch.save(random_state(), path), 1)
        expected = draw()
        set_random_state(torch.load(training.restore().path, weights_only=True))
        print(draw() == expected, draw() == expected)
    """
    assert place.run(program, python=frameworks) == "True False\n"
