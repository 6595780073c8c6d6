"""Rules for the tags that instances inherit from the stack."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

import jsii
from aws_cdk import Stack, TagManager
from constructs import IConstruct, IValidation

# Instances show their tags in the metadata service, where each is a path: EC2 launches no instance
# with any other key. Using_Tags.html documents the remaining rules.
_KEY = re.compile(r"[0-9a-zA-Z\-_+=,.@:]{1,127}")
_RESERVED = frozenset({".", "..", "_index"})
_MAX_VALUE = 256
# Each launch adds tags for run, attempt and deployment.
_MAX_TAGS = 40


def problems(tags: Iterable[tuple[str, str]]) -> Iterator[str]:
    """Yield a message, with the remedy, for each tag that prevents launches."""
    given = dict(tags)
    for key, value in sorted(given.items()):
        if not _KEY.fullmatch(key) or key in _RESERVED:
            yield (
                f"tag {key!r}: EC2 launches no instance with this key, because tags are shown in "
                "the metadata service; use only letters, digits and -_+=,.@: (not '.', '..' or "
                "'_index')"
            )
        elif key.lower().startswith("aws:"):
            yield f"tag {key!r}: keys that begin with aws: are reserved; choose another"
        if len(value) > _MAX_VALUE:
            yield f"tag {key!r}: its value has {len(value)} characters; use at most {_MAX_VALUE}"
    if len(given) > _MAX_TAGS:
        yield (
            f"{len(given)} tags: EC2 takes 50, and each launch adds some; use at most {_MAX_TAGS}"
        )


@jsii.implements(IValidation)
class InstanceTags:
    """A validation that fails the synth of a stack whose tags would prevent launches."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack

    def validate(self) -> list[str]:
        """Return the problems of the tags, once all of them have been added."""
        tags = dict(self._stack.tags.tag_values())
        for construct in self._stack.node.find_all():
            tags |= _tags_of(construct)
        return list(problems(tags.items()))


def _tags_of(construct: IConstruct) -> dict[str, str]:
    manager = TagManager.of(construct)
    return dict(manager.tag_values()) if manager is not None else {}
