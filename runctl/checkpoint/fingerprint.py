"""Recognition of chunks that the last save held, at a fraction of the cost of SHA-256."""

import contextlib
import ctypes
import hashlib
import secrets
import threading
import weakref
from typing import Any

from runctl.checkpoint.chunks import CHUNK_BYTES, Chunk
from runctl.model.checkpoint_entry import Part

KEY_BYTES = 32
TAG_BYTES = 16
ALGORITHM = b"POLY1305"
POINTER, TEXT, SIZE = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t
# openssl/evp.h: name, return type, argument types.
SIGNATURES: tuple[tuple[str, Any, tuple[Any, ...]], ...] = (
    ("EVP_MAC_fetch", POINTER, (POINTER, TEXT, TEXT)),
    ("EVP_MAC_CTX_new", POINTER, (POINTER,)),
    ("EVP_MAC_CTX_free", None, (POINTER,)),
    ("EVP_MAC_init", ctypes.c_int, (POINTER, TEXT, SIZE, POINTER)),
    ("EVP_MAC_update", ctypes.c_int, (POINTER, POINTER, SIZE)),
    ("EVP_MAC_final", ctypes.c_int, (POINTER, POINTER, ctypes.POINTER(SIZE), SIZE)),
)


class ChunkIndex:
    """Identifies the part that a chunk of a file is; safe to share between threads.

    A file is often rewritten, or changed in place, with most of its bytes unchanged. Large chunks
    are therefore looked up by a fingerprint first, and hashed only if the last save did not hold
    them. Changes tend to cluster: after an unknown chunk, the next ones are hashed right away,
    until one of them turns out to be known.
    """

    def __init__(self) -> None:
        self._poly1305: Poly1305 | None = None
        with contextlib.suppress(OSError):  # without it, everything is hashed
            self._poly1305 = Poly1305()
        self._lock = threading.Lock()
        self._before: dict[bytes, Part] = {}
        self._now: dict[bytes, Part] = {}
        self._looks_up = False

    def begin(self) -> None:
        """Begin a save; chunks are looked up in the previous one."""
        self._before, self._now = self._now, {}
        self._looks_up = bool(self._before)

    def identify(self, chunk: Chunk) -> Part:
        """Return the part that a chunk is; raises whatever reading it raises."""
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
                # From the very bytes that are hashed: the file may change between two reads.
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
    """Creates OpenSSL's Poly1305 (RFC 8439) objects with `update` and `digest`, like hashlib's.

    Its key is random and never leaves this object. Two different chunks of 8 MiB have the same tag
    with a probability below 2^-83, whatever they hold (8 L / 2^106 for L blocks of 16 bytes:
    Bernstein, "The Poly1305-AES message-authentication code", 2005): good for comparing what one
    process has seen, and for nothing else. Raises OSError where OpenSSL 3 cannot be called.
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
        # Kept for the lifetime of this process.
        self.method = library.EVP_MAC_fetch(None, ALGORITHM, None)
        self.new().digest()

    def new(self) -> "_Tag":
        """Begin another chunk."""
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
        """Add bytes from a writable buffer."""
        first = ctypes.byref(ctypes.c_char.from_buffer(chunk))
        if not self._library.EVP_MAC_update(self._context, first, len(chunk)):
            raise OSError("OpenSSL failed to update a Poly1305 tag")

    def digest(self) -> bytes:
        """Return the tag; no more bytes can be added."""
        tag, length = ctypes.create_string_buffer(TAG_BYTES), ctypes.c_size_t()
        if not self._library.EVP_MAC_final(self._context, tag, ctypes.byref(length), TAG_BYTES):
            raise OSError("OpenSSL failed to finish a Poly1305 tag")
        return tag.raw
