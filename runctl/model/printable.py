"""Text from elsewhere as it may be shown: nothing in it steers a terminal or hides what it says."""

import re

# Sequences that a terminal obeys, in their 7-bit and 8-bit forms: colours and cursor (CSI); titles,
# links and the clipboard (OSC), and other strings, when they are complete; two-character escapes.
_SEQUENCES = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]"
    r"|(?:\x1b[\]PX^_]|[\x90\x98\x9d-\x9f])[^\x07\x1b\x9c\n]*(?:\x07|\x1b\\|\x9c)"
    r"|\x1b[ -/]*[0-Z\\^-~]"
)
# Control characters (C0 but for tab and line feed, DEL, C1), separators of lines that are none to a
# terminal, marks that reorder or hide text, and characters that take no room. U+200C and U+200D are
# part of scripts and emoji, so they stay between characters that are not ASCII.
_HIDDEN = (
    r"\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f"
    r"\ufeff\ufff9-\ufffb\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e007f"
)
_UNPRINTABLE = re.compile(f"[{_HIDDEN}]")
_LONE_JOINERS = re.compile(r"(?<![^\x00-\x7f])[\u200c\u200d]+|[\u200c\u200d]+(?![^\x00-\x7f])")
_SURROGATES = re.compile("[\ud800-\udfff]")
_UNSAFE_IN_JSON = re.compile(r"[\x7f-\x9f\u00ad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f"
                             r"\ud800-\udfff\ufeff\ufff9-\ufffb\U0001bca0-\U0001bca3"
                             r"\U0001d173-\U0001d17a\U000e0000-\U000e007f]")  # fmt: skip


def printable(text: str) -> str:
    """Return text without what steers a terminal; tabs and line feeds stay.

    Bytes of a file's name that are not text become U+FFFD.
    """
    if text.isprintable():
        return text
    # The rest of a sequence that was cut off is text, and shown.
    text = _UNPRINTABLE.sub("", _SEQUENCES.sub("", text))
    return _LONE_JOINERS.sub("", _SURROGATES.sub("\ufffd", text))


def escape_json(text: str) -> str:
    """Return a JSON text with what `printable` removes as escapes; it means the same."""
    return text if text.isascii() and "\x7f" not in text else _UNSAFE_IN_JSON.sub(_escaped, text)


def _escaped(match: re.Match[str]) -> str:
    units = match[0].encode("utf-16-be", errors="surrogatepass")
    return "".join(f"\\u{units[at]:02x}{units[at + 1]:02x}" for at in range(0, len(units), 2))
