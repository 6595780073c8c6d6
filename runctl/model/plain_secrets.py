"""Values that look like secrets: in the environment and the arguments that a request contains.

A request is stored in the ledger and in the history of its execution, and is shown by commands, so
it must not contain a secret. Both ways to know one are heuristics. The shape of a value is enough
where a service gives its keys a prefix; otherwise the name and the value must fit each other:
`SORT_KEY=val_loss` and `MAX_TOKENS=4096` are not secrets. A request names the values that look like
secrets and are not in `not_secrets`.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from runctl.model.request import mask_unknown
from runctl.model.secret_references import is_reference

MASK = "***"
BUILD_ARGS = "docker.build_args"
WORD_FIELDS = ("command", "args", "resume_args")

# Keys that are known by their shape, wherever in a value they stand.
_SHAPES: Mapping[str, re.Pattern[str]] = {
    name: re.compile(rf"(?<![A-Za-z0-9]){pattern}", re.DOTALL)
    for name, pattern in {
        "a Hugging Face token": r"hf_[A-Za-z0-9]{20,}",
        "an API key": r"(?:sk|rk|gsk|nvapi|r8)[-_][\w-]*?(?=[A-Za-z]*\d)[A-Za-z0-9]{16,}[\w-]*",
        "a GitHub token": r"(?:gh[pousr]_[A-Za-z0-9]{16,}|github_pat_\w{16,})",
        "a GitLab token": r"gl[a-z]{2,5}t-[\w-]{16,}|(?<![A-Za-z0-9])glpat-[\w-]{16,}",
        "an AWS access key": r"(?:AKIA|ASIA)[A-Z0-9]{16}(?![A-Za-z0-9])",
        "a Slack token": r"(?:xox[a-z]|xapp)-[\w-]{10,}",
        "a Google API key": r"AIza[\w-]{35}",
        "a package registry token": r"(?:npm_[A-Za-z0-9]{30,}|pypi-[\w-]{16,}|dckr_pat_[\w-]{16,})",
        "a JSON Web Token": r"eyJ[\w-]{8,}\.eyJ[\w-]{8,}\.[\w-]*",
        "a private key": r"-----BEGIN (?!CERTIFICATE|(RSA )?PUBLIC KEY|X509 CRL)[A-Z0-9 ]+-----.*",
        "a password in a URL": r"[a-z][a-z0-9+.-]*://[^\s/:@]*:[^\s/@$]+(?=@)",
    }.items()
}  # fmt: skip
_ACCESS_KEY = _SHAPES["an AWS access key"]
_AWS_SECRET_KEY = re.compile(r"(?=.*[a-z])(?=.*[A-Z])(?=.*\d)[A-Za-z0-9/+]{40}")

_WORDS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")
_PASSWORDS = frozenset({"PASSWORD", "PASSWD", "PASSPHRASE"})
_STRONG = frozenset({"SECRET", "CREDENTIAL", "CREDENTIALS", "APIKEY"})
_STRONG_PAIRS = frozenset(
    {f"{word} KEY" for word in ("ACCESS", "API", "AUTH", "ENCRYPTION", "PRIVATE", "SECRET",
                                "SIGNING")}
    | {f"{word} TOKEN" for word in ("ACCESS", "API", "AUTH", "BEARER", "BOT", "GITHUB", "GITLAB",
                                    "HF", "HUB", "REFRESH", "SESSION")}
)  # fmt: skip
_WEAK = frozenset({"KEY", "TOKEN"})
# Words before KEY or TOKEN in names that have nothing to do with secrets.
_HARMLESS = frozenset(
    {
        "BOS", "CACHE", "CLS", "COLUMN", "DATA", "DATASET", "DICT", "EOS", "FEATURE", "FOREIGN",
        "GROUP", "IMAGE", "INDEX", "INPUT", "JSON", "LABEL", "LOSS", "MASK", "METRIC", "MONITOR",
        "NUM", "OBJECT", "OUTPUT", "PAD", "PARTITION", "PRIMARY", "PUBLIC", "SEP", "SORT",
        "SPECIAL", "STATE", "STOP", "TARGET", "TEXT", "UNK",
    }
)  # fmt: skip
_MIN_STRONG = 6
_MIN_CHUNK = 12
_LONG_CHUNK = 20
# Words that stand where a program insists on a key, such as vLLM's and llama.cpp's.
_PLACEHOLDERS = frozenset(
    {
        "disabled", "dummy", "empty", "fake", "false", "no", "none", "null", "off", "offline", "on",
        "placeholder", "sk-no-key-required", "test", "true", "yes", MASK,
    }
)  # fmt: skip
_PATH = re.compile(r"(?:~?/|\.{1,2}/|[A-Za-z]:\\|[a-z][a-z0-9+.-]*://)")
_NUMBER = re.compile(r"-?\d+(\.\d+)?")
_ASSIGNMENT = re.compile(r"(?P<name>(?:--?|\+{1,2})?[A-Za-z_][\w.-]*)=(?P<value>.*)", re.DOTALL)
_OPTION = re.compile(r"--?[A-Za-z][\w.-]*")


@dataclass(frozen=True, kw_only=True)
class PlainSecret:
    """A value that looks like a secret.

    `where` is its place in the request, `label` what `not_secrets` calls it, `reason` how it was
    known. `value` is what has to be masked, which may be a part of a text.
    """

    where: str
    label: str
    reason: str
    value: str = field(repr=False)


def find_plain_secrets(document: Mapping[str, Any]) -> list[PlainSecret]:
    """Return what looks like a secret in a request, apart from what it declares not to be one."""
    declared = document.get("not_secrets")
    names: set[str] = set()
    if isinstance(declared, list | tuple):
        names = {name for name in declared if isinstance(name, str)}
    found = [*_in_env(document.get("env"))]
    docker = document.get("docker")
    if isinstance(docker, Mapping):
        found += _in_env(docker.get("build_args"), BUILD_ARGS)
    for name in WORD_FIELDS:
        found += _in_words(name, document.get(name))
    return [secret for secret in found if secret.label not in names]


def shape_of_secret(text: str) -> str:
    """Return what kind of secret a text contains, known by its shape alone; empty for none."""
    return next((kind for kind, shape in _SHAPES.items() if shape.search(text)), "")


def mask_request(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return a request as it may be shown: names stay, what looks like a secret is masked.

    So are all fields of a newer version: only that version knows what in them is a secret.
    """
    masked = mask_unknown(document, MASK)
    for secret in find_plain_secrets(document):
        outer, _, name = secret.where.partition(".")
        if outer == "env":
            masked["env"] = {**masked["env"], name: MASK}
        elif outer == "docker":
            name = name.partition(".")[2]
            arguments = {**masked["docker"]["build_args"], name: MASK}
            masked["docker"] = {**masked["docker"], "build_args": arguments}
        else:
            outer = outer.partition("[")[0]
            masked[outer] = [_without(str(word), secret.value) for word in masked[outer]]
    return masked


def mask_words(words: Sequence[str], not_secrets: Sequence[str] = ()) -> list[str]:
    """Return the words of a command line as they may be shown."""
    shown = mask_request({"command": list(words), "not_secrets": list(not_secrets)})["command"]
    return [str(word) for word in shown]


def mask_text(text: str) -> str:
    """Return a text with the secrets masked that it shows: assignments, options, known shapes."""
    masked = text
    for secret in _in_words("command", [text]):
        masked = _without(masked, secret.value)
    return masked


def _without(text: str, value: str) -> str:
    return text.replace(value, MASK)


def _in_env(env: Any, outer: str = "env") -> Iterator[PlainSecret]:
    if not isinstance(env, Mapping):
        return
    texts = {str(name): value for name, value in env.items() if isinstance(value, str)}
    has_access_key = any(_ACCESS_KEY.search(value) for value in texts.values())
    for name, value in texts.items():
        reason, secret = _judge(name, value)
        if not reason and has_access_key and _AWS_SECRET_KEY.fullmatch(value):
            reason, secret = "it looks like the secret key of an AWS access key", value
        if reason:
            yield PlainSecret(where=f"{outer}.{name}", label=name, reason=reason, value=secret)


def _in_words(outer: str, words: Any) -> Iterator[PlainSecret]:
    if not isinstance(words, list | tuple):
        return
    texts = [str(word) for word in words]
    named_by = ""
    for number, word in enumerate(texts):
        place = f"{outer}[{number}]"
        for label, reason, secret in _in_word(word, named_by):
            yield PlainSecret(where=place, label=label or place, reason=reason, value=secret)
        named_by = word if _OPTION.fullmatch(word) else ""


def _in_word(word: str, named_by: str) -> Iterator[tuple[str, str, str]]:
    """Yield label, reason and value of what looks like a secret in one word of a command line."""
    if assigned := _ASSIGNMENT.fullmatch(word):
        name, value = assigned["name"].lstrip("+"), assigned["value"]
    else:
        name, value = named_by, word
    reason, secret = _judge(name, value)
    if reason:
        yield name, reason, secret
    elif re.search(r"\s", word):
        # A shell's program, or a text of several words: each counts, also in quotation marks.
        parts = [part.strip("\"';()`") for part in word.split()]
        before = ""
        for part in parts:
            yield from _in_word(part, before)
            before = part if _OPTION.fullmatch(part) else ""


def _judge(name: str, value: str) -> tuple[str, str]:
    """Return why a value looks like a secret and which part of it does; empty when none does."""
    if is_reference(value):
        return "", ""
    for kind, shape in _SHAPES.items():
        if shown := shape.search(value):
            return f"it looks like {kind}", shown[0]
    if name and _fits(name, value):
        return f"a variable or option named {name} usually contains one", value
    return "", ""


def _fits(name: str, value: str) -> bool:
    words = [word.upper() for word in _WORDS.findall(name)]
    if not words or not value or value.lower() in _PLACEHOLDERS or value.startswith("$"):
        return False
    if _PATH.match(value) and not _AWS_SECRET_KEY.fullmatch(value):
        return False
    if words[-1] in _PASSWORDS:
        return True
    if _NUMBER.fullmatch(value):
        return False
    if words[-1] in _STRONG or " ".join(words[-2:]) in _STRONG_PAIRS:
        return len(value) >= _MIN_STRONG
    is_weak = words[-1] in _WEAK and not _HARMLESS & set(words[:-1])
    return is_weak and _looks_random(value)


def _looks_random(value: str) -> bool:
    """Return whether a value is not made of words, as names of columns and metrics are."""
    for chunk in re.findall(r"[A-Za-z0-9]+", value):
        turns = len(re.findall(r"[A-Za-z]+|\d+", chunk)) - 1
        is_mixed = chunk not in (chunk.lower(), chunk.upper(), chunk.capitalize())
        if len(chunk) >= _MIN_CHUNK and turns > 1:
            return True
        if len(chunk) >= _LONG_CHUNK and (turns or is_mixed):
            return True
    return False
