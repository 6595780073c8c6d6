"""Knowing pieces again that the last save held, at a fraction of what SHA-256 costs."""

import contextlib
import ctypes
import hashlib
import secrets
import threading
from collections.abc import Callable

from runctl.agent.pieces import PIECE_BYTES, Piece
from runctl.model.checkpoint import Part

KEY_BYTES = 32
TAG_BYTES = 16
POLY1305 = b"POLY1305"

Mac = Callable[[memoryview], bytes]


class Recognizer:
    """Tells which part a piece of a file is; safe to share between threads.

    A file is often written anew, or in place, with most of its bytes as they were. Large pieces
    are therefore looked up by a fingerprint first, and hashed only when the last save did not hold
    them. When it held none of them at all, as when every weight moves, the next save does without
    the look-up, and the one after it too if nothing turns out to have been there before.
    """

    def __init__(self) -> None:
        self._mac = make_mac()
        self._lock = threading.Lock()
        self._before: dict[bytes, Part] = {}
        self._now: dict[bytes, Part] = {}
        self._found = 0
        self._looks_up = True

    def begin(self) -> None:
        """Begin with a save; what the one before held is what is looked up."""
        if self._before:
            self._looks_up = self._found > 0
        self._before, self._now, self._found = self._now, {}, 0

    def identify(self, piece: Piece) -> Part:
        """Return the part that a piece is; raises what reading it raises."""
        mac = self._mac
        if mac is None or piece.size_bytes < PIECE_BYTES:
            return self._hash(piece, None)
        if self._looks_up and self._before:
            tags = hashlib.sha256()
            for chunk in piece:
                tags.update(mac(chunk))
            known = self._before.get(tags.digest())
            if known is not None:
                self._note(tags.digest(), known)
                return known
        return self._hash(piece, mac)

    def _hash(self, piece: Piece, mac: Mac | None) -> Part:
        digest, tags = hashlib.sha256(), hashlib.sha256()
        for chunk in piece:
            digest.update(chunk)
            if mac is not None:
                # Of the very bytes that are hashed: the file may change between two readings.
                tags.update(mac(chunk))
        part = Part(sha256=digest.hexdigest(), size_bytes=piece.size_bytes)
        if mac is not None:
            self._note(tags.digest(), part)
        return part

    def _note(self, tag: bytes, part: Part) -> None:
        with self._lock:
            self._now[tag] = part
            self._found += tag in self._before


def make_mac() -> Mac | None:
    """Return OpenSSL's Poly1305 (RFC 8439), or None where it cannot be called.

    Its key is drawn here and never shown. Two different chunks of 256 KiB have the same tag with a
    probability below 2^-88, whatever they hold (8 L / 2^106 for L blocks of 16 bytes: Bernstein,
    "The Poly1305-AES message-authentication code", 2005): good for comparing what one process has
    seen, and for nothing beyond it.
    """
    try:
        compute = ctypes.CDLL("libcrypto.so.3").EVP_Q_mac
    except (OSError, AttributeError):
        return None
    pointer, text, size = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t
    compute.restype = pointer
    compute.argtypes = (
        *(pointer, text, text, text, pointer),  # library, name, properties, algorithm, parameters
        *(text, size),  # key
        *(pointer, size),  # data
        *(pointer, size, ctypes.POINTER(size)),  # tag
    )
    key = secrets.token_bytes(KEY_BYTES)

    def mac(chunk: memoryview) -> bytes:
        tag, length = ctypes.create_string_buffer(TAG_BYTES), size()
        data = (ctypes.c_char * len(chunk)).from_buffer(chunk)
        if not compute(
            *(None, POLY1305, None, None, None, key, KEY_BYTES),
            *(data, len(chunk), tag, TAG_BYTES, ctypes.byref(length)),
        ):
            raise OSError("OpenSSL has no Poly1305")
        return tag.raw

    with contextlib.suppress(OSError):
        mac(memoryview(bytearray(1)))
        return mac
    return None
