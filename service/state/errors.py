"""Every error of the entity store, as one exception tree.

    StateError
    |- AddressError        the address of the store breaks a rule
    |- EntityError         an entity, or a line of a file of entities, breaks a rule
    |  `- NewerEntity        its bytes are of a later version of the service
    `- EngineError         the engine did not do what it was called for
       |- StateUnavailable   it cannot be reached, opened or read
       |  |- StateTimeout    it did not respond in time
       |  `- StateReplaced   its file was removed or replaced, so that it must be opened anew
       |- StateNewer         an entity to change is of a later version of the service
       `- StateFull          it has no room; Redis may have kept a part of the write

No message holds a password.
"""

from __future__ import annotations


class StateError(Exception):
    """Base class; the message says what to do."""


class AddressError(StateError, ValueError):
    """The address of the store breaks a rule."""


class EntityError(StateError, ValueError):
    """A field of an entity breaks a rule: `field`, `rule`, `value`."""

    def __init__(self, field: str, rule: str, value: object) -> None:
        try:
            text = repr(value)
        except RecursionError:
            text = f"a deeply nested {type(value).__name__}"
        super().__init__(f"{field}: {rule}, got {text[:100]}{'...' if len(text) > 100 else ''}")
        self.field, self.rule, self.value = field, rule, value


class NewerEntity(EntityError):
    """The bytes of an entity are of a later version of the service."""


class EngineError(StateError):
    """The engine did not do what it was called for."""


class StateUnavailable(EngineError):
    """The engine cannot be reached, opened or read."""


class StateTimeout(StateUnavailable):
    """The engine did not respond in time."""


class StateReplaced(StateUnavailable):
    """The file of the engine was removed or replaced; writes to the old one are not kept."""


class StateNewer(EngineError):
    """An entity to change is of a later version of the service; nothing of the write was kept."""


class StateFull(EngineError):
    """The engine has no room for a write, which was not kept."""
