"""Programs that were saved with Windows line endings, which Linux cannot start."""

# Enough of a program to know how its lines end.
HEAD_BYTES = 64 * 1024


def problem_with_line_endings(name: str, head: bytes) -> str:
    """Return the problem with a program's line endings and the remedy; empty if there is none.

    Python reads either kind. A shell takes the carriage return for part of each word, and the
    kernel for part of the interpreter's name.
    """
    first = head.partition(b"\n")[0]
    is_shell = name.endswith(".sh")
    is_started = first.startswith(b"#!") and not name.endswith(".py")
    if (is_started and first.endswith(b"\r")) or (is_shell and b"\r\n" in head):
        return (
            "has Windows line endings (CRLF), with which Linux cannot run it; convert it with "
            f"`sed -i 's/\\r$//' {name}`, and put `*.sh text eol=lf` into "
            ".gitattributes"
        )
    return ""
