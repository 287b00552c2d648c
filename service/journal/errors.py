"""Every error of the journal, as one exception tree.

    JournalError
    |- JournalAddressError   the address of the journal breaks a rule
    |- RecordError           bytes that no version of the journal has written
    `- SinkError             a sink did not keep what it was called with

No message holds a password.
"""

from __future__ import annotations


class JournalError(Exception):
    """Base class; the message says what to do."""


class JournalAddressError(JournalError, ValueError):
    """The address of the journal breaks a rule."""


class RecordError(JournalError, ValueError):
    """Bytes that no version of the journal has written."""


class SinkError(JournalError):
    """A sink did not keep the records that it was called with; they may be written again."""
