"""`Codec`: what happens to user data on its way to the store and back. `AesGcm` encrypts it."""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from durable_flow.errors import ConfigError, MissingExtraError
from durable_flow.ids import token_hex

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

VERSION = 1
"""The first byte of what `AesGcm` makes. Behind it: the length of the key's id, the id, the nonce, the ciphertext."""

KEY, NONCE, TAG = 32, 12, 16
"""Bytes of a key, of a nonce, and of what the ciphertext is longer than the data."""


@runtime_checkable
class Codec(Protocol):
    """Turns data into what is stored, and back. Both functions are called in the event loop, for every value that is
    stored or read: they must be quick and must not wait. (Fetch data keys from a key service before.)

    `context` names the place of the data: the execution id, and which part of the execution it is. Data is decoded
    with the context it was encoded with; a codec that encrypts authenticates it, so that nothing can be moved.

    A codec may have an attribute `accept_plain`: True reads also what was stored without a codec.
    """

    def encode(self, data: bytes, *, context: str) -> bytes:
        """What is stored for `data`."""

    def decode(self, data: bytes, *, context: str) -> bytes:
        """What was encoded. Raises ValueError, saying what is wrong and what to do, where that cannot be found out;
        StoreUnavailable where trying again may help."""


class AesGcm:
    """Encrypts with AES-256-GCM. `keys` are 32 random bytes each, by an id that is stored, readable, with what the key
    encrypted; new data is encrypted with the `active` one, old data is read with whichever it names.

    No key encrypts anything itself: every place (the `context`) has a key that is derived from it with HMAC-SHA-256.
    So random nonces, of which a key should not see more than 2^32, are enough for any number of executions.

    `accept_plain` lets a store that was not encrypted before go on: what is stored as plain text is read as it is. That
    also accepts plain text that somebody else put there; without it, plain text is refused.

    Raises ConfigError for keys that are none.

    >>> codec = AesGcm(keys={"2026-01": bytes(range(32))}, active="2026-01")
    >>> codec.decode(codec.encode(b"Ada", context="e1 input"), context="e1 input")
    b'Ada'
    >>> codec
    AesGcm(keys=['2026-01'], active='2026-01')
    >>> codec.decode(codec.encode(b"Ada", context="e1 input"), context="e2 input")
    Traceback (most recent call last):
        ...
    ValueError: it was changed, moved here from another place, or encrypted with another key '2026-01'
    """

    def __init__(self, *, keys: Mapping[str, bytes], active: str, accept_plain: bool = False) -> None:
        self._keys = _checked(keys)
        if active not in self._keys:
            raise ConfigError(f"the active key {active!r} is not among the keys ({_named(self._keys)})")
        self.active = active
        self.accept_plain = accept_plain
        self._cipher = _cipher()
        self._header = bytes([VERSION, len(active.encode())]) + active.encode()

    def __repr__(self) -> str:
        plain = ", accept_plain=True" if self.accept_plain else ""
        return f"AesGcm(keys={list(self._keys)!r}, active={self.active!r}{plain})"

    def encode(self, data: bytes, *, context: str) -> bytes:
        """The data, encrypted with the active key."""
        place = context.encode()
        nonce = bytes.fromhex(token_hex(NONCE))
        derived = self._cipher(hmac.digest(self._keys[self.active], place, "sha256"))
        return self._header + nonce + derived.encrypt(nonce, data, self._header + place)

    def decode(self, data: bytes, *, context: str) -> bytes:
        """The data, decrypted with the key it names. Raises ValueError."""
        if data[:1] != bytes([VERSION]):
            raise ValueError("it is not of a form that AesGcm of this release makes")
        begin = 2 + data[1] if len(data) > 1 else 2
        if len(data) < begin + NONCE + TAG:
            raise ValueError("it was cut off")
        header, nonce, sealed = data[:begin], data[begin : begin + NONCE], data[begin + NONCE :]
        try:
            key_id = header[2:].decode()
        except UnicodeDecodeError:
            raise ValueError("it was changed: it names no key") from None
        if (key := self._keys.get(key_id)) is None:
            raise ValueError(
                f"it is encrypted with key {key_id!r}, which the codec does not have "
                f"(it has {_named(self._keys)}): add it to the keys"
            )
        place = context.encode()
        from cryptography.exceptions import InvalidTag  # there since the cipher is

        try:
            return self._cipher(hmac.digest(key, place, "sha256")).decrypt(nonce, sealed, header + place)
        except InvalidTag:
            raise ValueError(
                f"it was changed, moved here from another place, or encrypted with another key {key_id!r}"
            ) from None


def _checked(keys: Any) -> dict[str, bytes]:
    if not isinstance(keys, Mapping) or not keys:
        raise ConfigError('keys are a mapping of ids to bytes: keys={"2026-01": …}')  # without what was given
    for key_id, key in keys.items():
        if not isinstance(key_id, str) or not key_id.isprintable() or not 1 <= len(key_id.encode()) <= 64:
            raise ConfigError("the id of a key is a short printable text such as 2026-01, of at most 64 bytes")
        if not isinstance(key, bytes):
            raise ConfigError(f"key {key_id!r} must be {KEY} bytes, not {type(key).__name__} (base64 must be decoded)")
        if len(key) != KEY:
            raise ConfigError(
                f"key {key_id!r} has {len(key)} bytes; AES-256 needs {KEY}, for example os.urandom({KEY})"
            )
    return dict(keys)


def _named(keys: Mapping[str, bytes]) -> str:
    return ", ".join(repr(key_id) for key_id in keys)


def _cipher() -> type[AESGCM]:
    try:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    except ImportError:
        raise MissingExtraError("crypto", "cryptography") from None
    return AESGCM
