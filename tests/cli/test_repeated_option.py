"""An option that takes several words."""

import pytest

from runctl.cli.repeated_option import repeat_option


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("-p a b --n 5", "-p a -p b --n 5"),
        ("-p a --n 5 -p b c", "-p a --n 5 -p b -p c"),
        ("-p=a b", "-p=a -p b"),
        ("--n 5 -p a", "--n 5 -p a"),
        ("-p a -- -p b c", "-p a -- -p b c"),
        ("-p", "-p"),
        ("-p --n", "-p --n"),
        ("a b", "a b"),
        ("", ""),
    ],
)
def test_the_words_of_the_option_end_at_the_next_option(given: str, expected: str) -> None:
    assert repeat_option(given.split(), "-p") == expected.split()
