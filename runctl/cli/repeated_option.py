"""An option that takes several words: `--hyperparameters a:1,2 b:3,4`."""

from __future__ import annotations

from collections.abc import Sequence

END = "--"


def repeat_option(words: Sequence[str], option: str) -> list[str]:
    """Return the words with the option before each of the words that follow it.

    The words of an option end at the next option or at `--`.
    """
    repeated: list[str] = []
    is_inside, has_value = False, False
    for number, word in enumerate(words):
        if word == END:
            return [*repeated, *words[number:]]
        if word == option:
            is_inside, has_value = True, False
            repeated.append(word)
        elif word.startswith("-"):
            is_inside = word.startswith(f"{option}=")
            has_value = is_inside
            repeated.append(word)
        elif is_inside and has_value:
            repeated += [option, word]
        else:
            has_value = True
            repeated.append(word)
    return repeated
