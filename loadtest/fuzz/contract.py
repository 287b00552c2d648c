"""Checks of every response to a fuzzed request: HTTP, its problem, or the ranked lists in it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jsonschema_rs
import ormsgpack

from loadtest.fuzz.bundle import Bundle
from loadtest.fuzz.checks import LIST_CHECKS, OF_TABLE
from loadtest.fuzz.entity_checks import entity, repeated, schema_of, stored
from loadtest.fuzz.exchange import Exchange
from loadtest.fuzz.http_rules import HTTP_CHECKS, method, negotiated, ranking_path, routes_of
from loadtest.fuzz.json_text import ambiguous_key, finite, is_json, no_number, wrong_field
from loadtest.fuzz.messages import (
    IN_TURN,
    MSGPACK,
    PATHS,
    Manner,
    Message,
    Response,
    is_msgpack,
)
from loadtest.fuzz.transport import Outcome, is_kept

SCHEMAS = ("RerankRequest", "BatchRequest", "RerankResponse", "BatchResponse", "Problem")
OF_STORE = ("PutResponse", "FeedbackResponse", "UserRecord", "ItemRecord")
CONSTRAINTS = ("pinned", "blocked", "max_per_group")
CHECKS_OF_STORE = {Manner.STORED: stored, Manner.REPEATED: repeated}
Result = tuple[str, str | None]  # name of a check, and its error


class Contract:
    """The checks of one service, with its OpenAPI document and its /info."""

    def __init__(self, document: dict[str, Any], info: dict[str, Any], bundle: Bundle) -> None:
        self._info, self._bundle = info, bundle
        self._routes = routes_of(document)
        self._schemas = {
            name: jsonschema_rs.validator_for(
                {"$ref": f"#/components/schemas/{name}", "components": document["components"]}
            )
            for name in (*SCHEMAS, *OF_STORE)
            if name in SCHEMAS or name in document["components"]["schemas"]
        }

    def check(self, message: Message, response: Response) -> Iterator[Result]:
        """Yield the name of each check that applies, with its error."""
        for check in HTTP_CHECKS:
            yield check.__name__, check(message, response)
        if message.path in self._routes:
            yield "method", method(self._routes, message, response)
        if response.status >= 400:
            yield from self._check_problem(message, response)
            return
        path = ranking_path(message)
        schema = schema_of(message)
        if response.status == 200 and schema in self._schemas:
            yield from self._check_entity(message, response, schema)
        if response.status != 200 or message.method != "POST" or path is None:
            return
        yield "negotiated", negotiated(message, response)
        kind = "Batch" if path in PATHS[2:] else "Rerank"
        try:
            request = decoded_request(message)
        except ValueError as error:
            yield "request", f"accepted what does not read: {error}"
            return
        if not is_msgpack(message.headers):
            key = ambiguous_key(message.body)
            yield "repeated_key", None if key is None else f"{key!r} has two values"
        error_of_request = self._schema_error(f"{kind}Request", request)
        yield "request", error_of_request
        if error_of_request is not None:  # the checks below read it as the document has it
            return
        try:
            content = _decoded(response)
        except ValueError as error:
            yield "response", str(error)
            return
        error_of_response = self._schema_error(f"{kind}Response", content)
        yield "response", error_of_response
        if error_of_response is None:
            yield from self._check_lists(kind, request, content)

    def _check_entity(self, message: Message, response: Response, schema: str) -> Iterator[Result]:
        yield "negotiated", negotiated(message, response)
        try:
            content = _decoded(response)
        except ValueError as error:
            yield "response", str(error)
            return
        error_of_response = self._schema_error(schema, content)
        yield "response", error_of_response
        if error_of_response is None:
            yield "entity", entity(message, content)

    def _check_lists(
        self, kind: str, request: dict[str, Any], content: dict[str, Any]
    ) -> Iterator[Result]:
        lists: Sequence[tuple[Any, Any]] = [(request, content)]
        if kind == "Batch":
            counts = len(request["requests"]), len(content["responses"])
            yield "one_answer_per_list", None if counts[0] == counts[1] else "not one per list"
            lists = list(zip(request["requests"], content["responses"], strict=False))
        for one, answer in lists:
            exchange = Exchange(one, answer, self._bundle, self._info)
            for name, check in LIST_CHECKS.items():
                if name not in OF_TABLE or not exchange.is_written:
                    yield name, check(exchange)

    def _check_problem(self, message: Message, response: Response) -> Iterator[Result]:
        """Check an error response."""
        kind = response.headers.get("content-type")
        if kind != "application/problem+json":
            yield "problem", f"content type {kind}"
            return
        if message.method == "HEAD":
            return
        sent = message.wire()  # a response may quote its values
        if any(m in response.body and m[:4] not in sent for m in (b"Traceback", b'File \\"')):
            yield "problem", "a stack trace"
            return
        try:
            problem = json.loads(response.body, parse_constant=no_number)
        except ValueError as error:
            yield "problem", str(error)
            return
        error_of_problem = self._schema_error("Problem", problem)
        yield "problem", error_of_problem or _inconsistent(message, response, problem)
        if error_of_problem is None and problem["code"] == "invalid_request":
            yield "errors_name_fields", _wrong_errors(message, problem["errors"])

    def _schema_error(self, name: str, value: Any) -> str | None:
        error = next(self._schemas[name].iter_errors(value), None)
        return None if error is None else f"{name}: {error.message}"[:300]


def check_conversation(outcome: Outcome) -> Iterator[Result]:
    """Yield the checks of a conversation as a whole: every message answered, in order."""
    conversation, responses = outcome.conversation, outcome.responses
    messages, manner = conversation.messages, conversation.manner
    if manner is Manner.DEPARTED:
        return
    yield "answered", outcome.error or _missing(outcome)
    if manner is Manner.TWINS and len(responses) == len(messages):
        yield "twins", _difference(*responses[:2])
    elif manner in CHECKS_OF_STORE and len(responses) == len(messages):
        yield manner.value, CHECKS_OF_STORE[manner](messages, responses)
    elif manner not in IN_TURN:
        rest = f"{len(outcome.rest)} bytes follow the last response" if outcome.rest else None
        yield manner.value, rest


def _missing(outcome: Outcome) -> str | None:
    """Return an error if a message that could be answered was not."""
    messages, responses = outcome.conversation.messages, outcome.responses
    needed = len(messages) - (outcome.conversation.manner is Manner.CUT)
    if len(responses) >= needed:
        return None
    if responses and not is_kept(messages[len(responses) - 1], responses[-1]):
        return None
    return f"{len(responses)} responses to {needed} complete requests"


def _difference(one: Response, other: Response) -> str | None:
    """Return an error if two forms of a request got different statuses or codes."""
    outcomes = [f"{response.status} {_code(response)}".strip() for response in (one, other)]
    return None if outcomes[0] == outcomes[1] else f"{outcomes[1]}, the first form {outcomes[0]}"


def _code(response: Response) -> str:
    try:
        return str(json.loads(response.body)["code"]) if response.status >= 400 else ""
    except (ValueError, LookupError, TypeError):
        return ""  # the check of the problem says why


def _inconsistent(message: Message, response: Response, problem: Mapping[str, Any]) -> str | None:
    returned = response.headers.get("x-request-id")
    if problem["status"] != response.status or problem["request_id"] != returned:
        return "status or request_id is another than the response's"
    refused = problem["code"] == "bad_json" and not is_msgpack(message.headers)
    if refused and is_json(message.body) and ambiguous_key(message.body) is None:
        return "JSON refused as none"
    return None


def _wrong_errors(message: Message, errors: Sequence[Mapping[str, Any]]) -> str | None:
    """Return an error unless every entry names a field of the request and what is wrong with it."""
    if not errors:
        return "no field is named"
    try:
        payload = decoded_request(message)
        ambiguous = not is_msgpack(message.headers) and ambiguous_key(message.body) is not None
    except (ValueError, RecursionError):
        return None  # refused for a header, or for its depth
    if ambiguous:
        return None  # the field may be in either value
    wrong = next(filter(None, (wrong_field(error["field"], payload) for error in errors)), None)
    if wrong is not None:
        return wrong
    for error in errors:
        if error["field"].rpartition(".")[2] == "constraints" and isinstance(payload, dict):
            text = f"{error['rule']} {error['value']}"
            if not any(name in text for name in CONSTRAINTS) and error["rule"] != "an object":
                return f"{error['rule']!r} does not say which constraint"
    return None


def decoded_request(message: Message) -> Any:
    """Return the body of a request. Raises ValueError."""
    if is_msgpack(message.headers):
        return _with_text(ormsgpack.unpackb(message.body))
    return json.loads(message.body)


def _with_text(value: Any) -> Any:
    """Return a value with text in place of bytes, which the document describes as strings."""
    match value:
        case bytes():
            return value.decode("latin-1")
        case list():
            return [_with_text(entry) for entry in value]
        case dict():
            return {key: _with_text(entry) for key, entry in value.items()}
    return value


def _decoded(response: Response) -> Any:
    """Return the content of a response. Raises ValueError."""
    if response.headers.get("content-type") == MSGPACK:
        return ormsgpack.unpackb(response.body)
    return json.loads(response.body, parse_constant=no_number, parse_float=finite)
