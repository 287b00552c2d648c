"""What uvicorn answers itself, before there is a request that the application could see."""

from __future__ import annotations

import uuid

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from service.errors import problem_of


class Protocol(HttpToolsProtocol):
    """Refuses what is not HTTP with a problem, like everything else that is refused."""

    def send_400_response(self, msg: str) -> None:
        """Answer 400 `bad_http` and close the connection: where the next request begins is lost."""
        request_id = uuid.uuid4().hex
        headers = {"X-Request-ID": request_id, "Connection": "close"}
        answer = problem_of(400, "bad_http", msg, request_id, headers=headers)
        lines = [b"%b: %b\r\n" % pair for pair in answer.raw_headers]
        self.transport.write(b"".join([STATUS_LINE[400], *lines, b"\r\n", bytes(answer.body)]))
        self.transport.close()
