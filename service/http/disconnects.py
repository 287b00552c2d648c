"""Names that the server and a ranking call share to cancel work whose client disconnects."""

from __future__ import annotations

# Key in a request's state of the callback that service.http.protocol calls on a disconnect.
ON_DISCONNECT = "on_disconnect"
# Message of that cancellation, which tells it from one of the task itself.
DISCONNECTED = "the client disconnected"
