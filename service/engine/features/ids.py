"""The one rule for ids, in logs and tables (model.data.ids) as in requests (service.http.ids).

An id is text without the blanks around it, or a whole number, which is its decimal text: 9, 9.0,
"9" and " 9 " are one id. Booleans, other fractions and blank text are no ids.
"""

from __future__ import annotations

# Unicode's White_Space.
BLANKS = "\t\n\v\f\r \x85\xa0\u1680" + "".join(map(chr, range(0x2000, 0x200B)))
BLANKS += "\u2028\u2029\u202f\u205f\u3000"
# Below this, an integral float64 is exactly the number that was written.
EXACT_FLOATS = 1 << 53


class SentId(str):
    """An id that was sent in another form than its text: it is equal to the text."""

    __slots__ = ("sent",)
    sent: int | float | str

    def __new__(cls, text: str, sent: int | float | str) -> SentId:
        """Return the id `text`, which was sent as a number or with blanks around it."""
        item = super().__new__(cls, text)
        item.sent = sent
        return item


def read_id(value: object) -> str:
    """Return the id that `value` stands for, a SentId if it is not its own text.

    Raises ValueError for a value that is no id.
    """
    if isinstance(value, str):
        text = value.strip(BLANKS)
        if not text:
            raise ValueError
        return value if len(text) == len(value) else SentId(text, value)
    if isinstance(value, float):
        if not (value.is_integer() and abs(value) < EXACT_FLOATS):
            raise ValueError
        return SentId(str(int(value)), value)
    if isinstance(value, int) and not isinstance(value, bool):
        return SentId(str(value), value)
    raise ValueError


def as_sent(value: object) -> object:
    """Return ids as the client sent them, alone or in a list, and any other value unchanged."""
    if isinstance(value, list):
        return [entry.sent if isinstance(entry, SentId) else entry for entry in value]
    return value.sent if isinstance(value, SentId) else value
