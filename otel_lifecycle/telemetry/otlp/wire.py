"""The parts of protobuf's encoding that OTLP's spans are made of.

A message is a sequence of fields, each a tag and a value: a number of variable length (`varint`),
four or eight bytes, or a length and as many bytes. A tag is the field's number and the form of its
value. https://protobuf.dev/programming-guides/encoding
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from struct import Struct
from typing import Any, Final, cast

from otel_lifecycle.runtime.logs import get_logger

_logger = get_logger(__name__)

_SMALL_COUNT: Final = 2_048
_MOST_KEYS: Final = 1_024
_MOST_TEXTS: Final = 32
_MOST_ARRAYS: Final = 8
_LONGEST_TEXT: Final = 64  # characters; longer ones are rarely seen twice
_LONGEST_ARRAY: Final = 16
_MOST_REPORTED: Final = 100

pack_double = Struct("<d").pack
pack_fixed64 = Struct("<Q").pack

# Fields of `AnyValue`.
_STRING, _DOUBLE, _ARRAY, _MAP, _BYTES = b"\x0a", b"\x21", b"\x2a", b"\x32", b"\x3a"
_INT, _TRUE, _FALSE = b"\x18", b"\x10\x01", b"\x10\x00"


def _varint(number: int) -> bytes:
    encoded = bytearray()
    while number > 127:
        encoded.append(number & 127 | 128)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)


SMALL: Final = tuple(map(_varint, range(_SMALL_COUNT)))
"""The encoding of the numbers that are most frequent."""


def varint(number: int) -> bytes:
    """Return a number of at most 64 bits, not negative."""
    if number < _SMALL_COUNT:
        return SMALL[number]
    if number < 1 << 14:
        return bytes((number & 127 | 128, number >> 7))
    return _varint(number)


def int64(number: int) -> bytes:
    """Return a signed number, as `varint` of its two's complement.

    Raises:
        ValueError: It has more than 64 bits.
    """
    if 0 <= number < 1 << 63:
        return varint(number)
    if -1 << 63 <= number < 0:
        return _varint(number + (1 << 64))
    raise ValueError("has more than 64 bits")


def delimited(tag: bytes, body: bytes) -> bytes:
    """Return a field whose value is text, bytes or a message."""
    return tag + varint(len(body)) + body


def text(tag: bytes, value: str) -> bytes:
    """Return a field of text.

    Raises:
        UnicodeEncodeError: It has half a character.
    """
    return delimited(tag, str.encode(value))


class Texts(dict[str, bytes]):
    """Encoded text, which is encoded once while it is frequent. Thread-safe.

    Args:
        encode: Encodes it.
        most: The number of texts to keep.
    """

    def __init__(self, encode: Callable[[str], bytes], most: int = _MOST_TEXTS) -> None:
        super().__init__()
        self._encode = encode
        self._most = most

    def __missing__(self, value: str) -> bytes:
        encoded = self._encode(value)
        if len(value) <= _LONGEST_TEXT:
            if len(self) >= self._most:
                self.clear()
            self[value] = encoded
        return encoded


class Key:
    """Encodes the attributes of one name.

    Attributes:
        texts: Whole attributes, by their text.
        arrays: Whole attributes, by their texts.
        double: All of an attribute before its eight bytes.
        true: A whole attribute.
        false: The other one.
        ints: All of an attribute before its number, by the number's length in bytes.
    """

    __slots__ = ("_head", "_tag", "arrays", "double", "false", "ints", "texts", "true")

    def __init__(self, tag: bytes, name: str) -> None:
        self._tag = tag
        self._head = text(b"\x0a", name) + b"\x12"
        self.double = self._before(_DOUBLE, 8)
        self.true, self.false = self._before(_TRUE, 0), self._before(_FALSE, 0)
        self.ints = tuple(self._before(_INT, length) for length in range(11))
        self.texts = Texts(self._text)
        self.arrays: dict[tuple[object, ...], bytes] = {}

    def attribute(self, value: bytes) -> bytes:
        """Return a whole attribute, given its `AnyValue`."""
        return self._before(value, 0)

    def array(self, values: tuple[object, ...]) -> bytes:
        """Return a whole attribute, given its values; kept while it is frequent, as texts are."""
        try:
            return self.arrays[values]
        except (KeyError, TypeError):  # TypeError: an array within
            encoded = self.attribute(_array(values))
        # Of text alone: (1,) == (True,) == (1.0,).
        if len(values) <= _LONGEST_ARRAY and all(
            type(value) is str and len(value) <= _LONGEST_TEXT for value in values
        ):
            if len(self.arrays) >= _MOST_ARRAYS:
                self.arrays.clear()
            self.arrays[values] = encoded
        return encoded

    def _text(self, value: str) -> bytes:
        return self.attribute(text(_STRING, value))

    def _before(self, beginning: bytes, more: int) -> bytes:
        """An attribute whose value begins so, and has so many more bytes."""
        value = self._head + varint(len(beginning) + more) + beginning
        return self._tag + varint(len(value) + more) + value


class Keys(dict[str, Key]):
    """The attributes of one kind of message. Thread-safe.

    Args:
        tag: The tag of the field that holds them.
    """

    def __init__(self, tag: bytes) -> None:
        super().__init__()
        self._tag = tag

    def __missing__(self, name: str) -> Key:
        key = Key(self._tag, name)
        if len(name) <= _LONGEST_TEXT:
            if len(self) >= _MOST_KEYS:
                self.clear()
            self[name] = key
        return key

    def put(self, out: Callable[[bytes], object], attributes: Mapping[str, Any]) -> None:
        """Encode attributes; one that cannot be encoded is left out, as by the SDK.

        Args:
            out: Called with each piece.
            attributes: Attributes as the SDK takes them.
        """
        for name, value in attributes.items():
            try:
                self.put_one(out, name, value)
            except Exception as error:
                _report(name, error)

    def put_one(self, out: Callable[[bytes], object], name: str, value: object) -> None:
        """Encode an attribute whole, or raise what prevents it and put out nothing."""
        key, kind = self[name], type(value)
        given: Any = value
        # By type, never by value: 1 == True == 1.0.
        if kind is str:
            out(key.texts[given])
        elif kind is float:
            number = pack_double(given)
            out(key.double)
            out(number)
        elif kind is int:
            number = int64(given)
            out(key.ints[len(number)])
            out(number)
        elif kind is bool:
            out(key.true if value else key.false)
        elif kind is tuple:
            out(key.array(given))
        else:
            out(key.attribute(any_value(value)))


def any_value(value: object) -> bytes:
    """Return the `AnyValue` of a value, empty for None.

    Raises:
        Exception: There is none: a number is too large, text has half a character, a structure
            contains itself, or the type is not one that OTLP knows.
    """
    if value is None:
        return b""
    if isinstance(value, bool):
        return _TRUE if value else _FALSE
    if isinstance(value, str):
        return text(_STRING, value)
    if isinstance(value, int):
        return _INT + int64(int(value))
    if isinstance(value, float):
        return _DOUBLE + pack_double(value)
    if isinstance(value, bytes):
        return delimited(_BYTES, value)
    if isinstance(value, Sequence):
        return _array(cast("Sequence[object]", value))
    if isinstance(value, Mapping):
        entries = cast("Mapping[object, object]", value).items()
        pairs = [Key(b"\x0a", str(name)).attribute(any_value(each)) for name, each in entries]
        return delimited(_MAP, b"".join(pairs))
    raise TypeError(f"{type(value).__name__} is no type of OTLP")


def _array(values: Iterable[object]) -> bytes:
    elements = [
        ELEMENTS[each] if type(each) is str else delimited(b"\x0a", any_value(each))
        for each in values
    ]
    return delimited(_ARRAY, b"".join(elements))


ELEMENTS = Texts(lambda value: delimited(b"\x0a", text(_STRING, value)), 1_024)
_reported: set[str] = set()


def _report(name: str, error: Exception) -> None:
    """Say once of each name what is left out, and nothing of its value."""
    if name not in _reported and len(_reported) < _MOST_REPORTED:
        _reported.add(name)
        _logger.warning("attribute %s is not exported: %s", name, type(error).__name__)
