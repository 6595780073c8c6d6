"""Knowing pieces again that the last save held, at a fraction of what SHA-256 costs."""

import contextlib
import ctypes
import hashlib
import secrets
import threading
import weakref
from typing import Any

from runctl.checkpoint.chunks import CHUNK_BYTES, Chunk
from runctl.model.checkpoint import Part

KEY_BYTES = 32
TAG_BYTES = 16
ALGORITHM = b"POLY1305"
POINTER, TEXT, SIZE = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t
# openssl/evp.h: name, what it returns, what it takes.
SIGNATURES: tuple[tuple[str, Any, tuple[Any, ...]], ...] = (
    ("EVP_MAC_fetch", POINTER, (POINTER, TEXT, TEXT)),
    ("EVP_MAC_CTX_new", POINTER, (POINTER,)),
    ("EVP_MAC_CTX_free", None, (POINTER,)),
    ("EVP_MAC_init", ctypes.c_int, (POINTER, TEXT, SIZE, POINTER)),
    ("EVP_MAC_update", ctypes.c_int, (POINTER, POINTER, SIZE)),
    ("EVP_MAC_final", ctypes.c_int, (POINTER, POINTER, ctypes.POINTER(SIZE), SIZE)),
)


class ChunkIndex:
    """Tells which part a piece of a file is; safe to share between threads.

    A file is often written anew, or in place, with most of its bytes as they were. Large pieces
    are therefore looked up by a fingerprint first, and hashed only when the last save did not hold
    them. What changed lies together more often than not: after a piece that was not known the next
    ones are hashed at once, until one of them turns out to have been there before.
    """

    def __init__(self) -> None:
        self._poly1305: Poly1305 | None = None
        with contextlib.suppress(OSError):  # without it everything is hashed
            self._poly1305 = Poly1305()
        self._lock = threading.Lock()
        self._before: dict[bytes, Part] = {}
        self._now: dict[bytes, Part] = {}
        self._looks_up = False

    def begin(self) -> None:
        """Begin with a save; what the one before held is what is looked up."""
        self._before, self._now = self._now, {}
        self._looks_up = bool(self._before)

    def identify(self, chunk: Chunk) -> Part:
        """Return the part that a chunk is; raises what reading it raises."""
        if self._poly1305 is None or chunk.size_bytes < CHUNK_BYTES:
            return self._hash(chunk, None)
        if self._looks_up:
            fingerprint = self._poly1305.new()
            for block in chunk:
                fingerprint.update(block)
            tag = fingerprint.digest()
            known = self._before.get(tag)
            if known is not None:
                self._note(tag, known)
                return known
        return self._hash(chunk, self._poly1305.new())

    def _hash(self, chunk: Chunk, fingerprint: "_Tag | None") -> Part:
        digest = hashlib.sha256()
        for block in chunk:
            digest.update(block)
            if fingerprint is not None:
                # Of the very bytes that are hashed: the file may change between two readings.
                fingerprint.update(block)
        part = Part(sha256=digest.hexdigest(), size_bytes=chunk.size_bytes)
        if fingerprint is not None:
            self._note(fingerprint.digest(), part)
        return part

    def _note(self, tag: bytes, part: Part) -> None:
        with self._lock:
            self._now[tag] = part
        self._looks_up = tag in self._before


class Poly1305:
    """Makes hashes, with `update` and `digest`, that are OpenSSL's Poly1305 (RFC 8439).

    Its key is drawn here and never shown. Two different pieces of 8 MiB have the same tag with a
    probability below 2^-83, whatever they hold (8 L / 2^106 for L blocks of 16 bytes: Bernstein,
    "The Poly1305-AES message-authentication code", 2005): good for comparing what one process has
    seen, and for nothing beyond it. Raises OSError where OpenSSL 3 cannot be called.
    """

    def __init__(self) -> None:
        try:
            library = ctypes.CDLL("libcrypto.so.3")
            for name, answer, arguments in SIGNATURES:
                function = getattr(library, name)
                function.restype, function.argtypes = answer, arguments
        except AttributeError as exc:
            raise OSError(f"OpenSSL has no {exc}") from exc
        self.library = library
        self.key = secrets.token_bytes(KEY_BYTES)
        # Kept for as long as this process lives.
        self.method = library.EVP_MAC_fetch(None, ALGORITHM, None)
        self.new().digest()

    def new(self) -> "_Tag":
        """Begin with another piece."""
        return _Tag(self)


class _Tag:
    def __init__(self, origin: Poly1305) -> None:
        self._library = library = origin.library
        self._context = library.EVP_MAC_CTX_new(origin.method) if origin.method else None
        weakref.finalize(self, library.EVP_MAC_CTX_free, self._context)
        if not self._context or not library.EVP_MAC_init(
            self._context, origin.key, KEY_BYTES, None
        ):
            raise OSError("OpenSSL has no Poly1305")

    def update(self, chunk: memoryview) -> None:
        """Take more bytes, of a buffer that can be written to."""
        first = ctypes.byref(ctypes.c_char.from_buffer(chunk))
        if not self._library.EVP_MAC_update(self._context, first, len(chunk)):
            raise OSError("OpenSSL cannot go on with Poly1305")

    def digest(self) -> bytes:
        """Return the tag; nothing can be taken after that."""
        tag, length = ctypes.create_string_buffer(TAG_BYTES), ctypes.c_size_t()
        if not self._library.EVP_MAC_final(self._context, tag, ctypes.byref(length), TAG_BYTES):
            raise OSError("OpenSSL cannot end Poly1305")
        return tag.raw
