"""Requests for fuzzing, drawn by seed: from the OpenAPI document, and from strategies.

Schemathesis makes those from the document: bodies that fit the published schemas, and bodies that
barely do not. The strategies use the bundle: ids of items among other ids, every option, then
mutations of such bodies, and headers, methods and paths that no schema describes.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import ormsgpack
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode

PATHS = ("/rerank", "/v1/rerank", "/rerank/batch", "/v1/rerank/batch")
MARK = "@here@"  # stands for raw JSON text in a body that json.dumps writes
MSGPACK = "application/msgpack"


def is_msgpack(headers: tuple[tuple[str, str], ...]) -> bool:
    """Return True for a request whose first content type is MessagePack."""
    kinds = [value for name, value in headers if name.lower() == "content-type"]
    return bool(kinds) and "msgpack" in kinds[0]


@dataclass(frozen=True)
class Message:
    """One HTTP request as it is sent."""

    method: str
    target: str
    headers: tuple[tuple[str, str], ...]  # without the body's length
    body: bytes
    chunked: bool = False

    def wire(self) -> bytes:
        """Return the bytes of the request; header values are Latin-1."""
        length = ("Transfer-Encoding", "chunked")
        body = b"%x\r\n%b\r\n0\r\n\r\n" % (len(self.body), self.body)
        if not self.chunked or not self.body:  # an empty chunk already ends a body
            length, body = ("Content-Length", str(len(self.body))), self.body
        headers = self.headers
        if "host" not in (name.lower() for name, _ in headers):
            headers = (("Host", "127.0.0.1"), *headers)
        lines = [f"{name}: {value}" for name, value in (*headers, length)]
        head = "\r\n".join([f"{self.method} {self.target} HTTP/1.1", *lines, "", ""])
        return head.encode("latin-1") + body


def draw_messages(strategy: st.SearchStrategy[Message], key: str, count: int) -> list[Message]:
    """Return exactly `count` messages, the same ones for the same key."""
    messages: list[Message] = []

    @settings(
        max_examples=count,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def draw(message: Message) -> None:
        messages.append(message)

    for turn in itertools.count():
        if len(messages) >= count:
            break
        seed(f"{key}.{turn}")(draw)()  # again when hypothesis ends a search early
    return messages[:count]


def from_document(document: dict[str, Any]) -> st.SearchStrategy[Message]:
    """Return schemathesis's requests for an OpenAPI document, valid and invalid ones."""
    schema = schemathesis.openapi.from_dict(document)
    results: list[Any] = list(schema.get_all_operations())
    strategies = [
        operation.as_strategy(generation_mode=mode)
        for operation in (result.ok() for result in results)
        for mode in GenerationMode
        if mode is GenerationMode.POSITIVE or operation.body
        for _ in range(1 if "batch" in operation.path else 2)  # lists of lists take long to draw
    ]
    return st.one_of(strategies).map(_message)


def _message(case: Any) -> Message:
    """Return a schemathesis case as the bytes that requests would send."""
    parts = case.as_transport_kwargs(base_url="http://127.0.0.1")
    names = ("method", "url", "headers", "json", "data", "params", "cookies", "files")
    request = requests.Request(**{name: parts[name] for name in names if name in parts}).prepare()
    body: Any = request.body or b""
    dropped = ("content-length", "x-schemathesis-testcaseid")  # the latter is not drawn by seed
    headers = ((str(name), str(value)) for name, value in request.headers.items())
    return Message(
        str(request.method),
        request.path_url,
        tuple(pair for pair in headers if pair[0].lower() not in dropped),
        body.encode() if isinstance(body, str) else body,
    )


NAMES = st.text(min_size=1, max_size=8) | st.sampled_from(["x" * 256, "0", "\x00", "é", "🎬"])
FINITE = st.floats(allow_nan=False, allow_infinity=False)
ROUGH = [
    *("null", "true", "NaN", "Infinity", "-Infinity", "1e999", "-1e999", "1e308", "1e-320", "-0.0"),
    *("0", "-1", "1.0", "01", "9" * 20, "9" * 400, "18446744073709551616", "9223372036854775808"),
    *('""', '"0"', '"\\ud800"', '"\\udfff\\ud800"', '"\\u0000"', '"\ud800"', "'a'", '"\n"'),
    *("[]", "{}", "[[]]", '{"":{}}', '{"id": "1"}', '{"id": "1", "id": "2"}', "[1, 2,]", ""),
    *("[" * n + "]" * n for n in (60, 250, 500, 990, 1500, 100_000)),
    *('{"a":' * n + "1" + "}" * n for n in (60, 250, 500, 990, 1500)),
    *('"' + "x" * n + '"' for n in (257, 5_000, 100_000)),
]  # fmt: skip
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | FINITE | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner),
    max_leaves=6,
)
OPTIONAL = (
    "request_id", "user", "context", "slate_size", "reasoning", "temperatures", "sampling",
    "constraints", "timeout_ms", "model", "priority", "explain",
)  # fmt: skip
RAW = st.sampled_from(ROUGH) | JSON.map(json.dumps)


def bodies(ids: Sequence[str], categories: dict[str, list[str]]) -> st.SearchStrategy[Any]:
    """Return bodies of /rerank that the document allows; the service can satisfy nearly all.

    Args:
        ids: Ids of the bundle's items.
        categories: Vocabularies of the bundle's categories by name.
    """
    chosen = _candidate_ids(ids)
    options = _options(ids)
    shapes = _candidate_fields(categories)
    positions = st.integers(0, 11)  # among the candidates
    pinned = st.dictionaries(positions, st.integers(0, 9), max_size=3)
    blocked = st.lists(positions | NAMES, max_size=4)
    groups = st.sampled_from(["author", *categories])
    limits = st.dictionaries(groups, st.integers(0, 4), max_size=1)
    sizes = st.none() | st.integers(1, 10)
    forms = st.sampled_from([as_records, as_records, as_ids, as_columns])
    spellings: st.SearchStrategy[Callable[[str], str | int]]
    spellings = st.sampled_from([str, str, as_number])

    @st.composite
    def body(draw: st.DrawFn) -> dict[str, Any]:
        names = draw(chosen)
        number = draw(spellings)
        candidates: list[dict[str, Any]] = [{"id": number(item)} for item in names]
        for candidate, more in zip(candidates, draw(shapes), strict=False):
            candidate.update(more)
        nulls = dict.fromkeys(draw(st.sets(st.sampled_from(OPTIONAL), max_size=3)))
        request = {"candidates": draw(forms)(candidates), **nulls, **draw(options)}
        if draw(st.booleans()):
            size = draw(sizes)
            request["slate_size"] = size and min(size, len(names))
        if draw(st.booleans()):
            at = [names[index % len(names)] for index in range(12)]
            request["constraints"] = {
                "pinned": {at[index]: position for index, position in draw(pinned).items()},
                "blocked": [
                    number(at[one]) if isinstance(one, int) else one for one in draw(blocked)
                ],
                "max_per_group": draw(limits),
            }
        return request

    return body()


def as_number(item: str) -> str | int:
    """Return an id as an integer, if it is the text of one."""
    return int(item) if re.fullmatch("0|[1-9][0-9]{0,18}", item) else item


def _candidate_ids(ids: Sequence[str]) -> st.SearchStrategy[list[str]]:
    """Return few ids, some of them of no item, or a run of the bundle's items."""
    some = st.lists(st.sampled_from(ids) | NAMES, min_size=1, max_size=12, unique=True)
    return some | _runs(ids)


def _runs(ids: Sequence[str]) -> st.SearchStrategy[list[str]]:
    return st.builds(
        lambda start, size: list(ids[start : start + size]),
        st.integers(0, len(ids) - 1),
        st.integers(1, 40) | st.sampled_from([100, 500, 501]),
    )


def _candidate_fields(
    categories: dict[str, list[str]],
) -> st.SearchStrategy[list[dict[str, Any]]]:
    """Return groups and inline features for the first candidates."""
    groups = st.dictionaries(st.sampled_from(["author", *categories]), st.sampled_from("abc"))
    inline = st.fixed_dictionaries(
        {},
        optional={name: st.sampled_from([*words, "?"]) for name, words in categories.items()},
    )
    fields = st.fixed_dictionaries({}, optional={"groups": groups, "features": inline})
    return st.lists(fields, max_size=12)


def _options(ids: Sequence[str]) -> st.SearchStrategy[dict[str, Any]]:
    """Return every optional field but the size of the slate and the constraints."""
    item = st.sampled_from(ids) | st.sampled_from(ids).map(as_number)
    entry = item | st.fixed_dictionaries(
        {"id": item | NAMES}, optional={"label": st.none() | st.floats(0, 1)}
    )
    history = st.lists(entry, max_size=8) | _runs(ids)
    temperature = st.none() | st.floats(0.01, 100) | st.sampled_from([0.01, 0.7, 100])
    reasoning = {
        "budget": st.none() | st.integers(0, 3),
        "entropy_threshold": st.none() | st.floats(-1, 4) | st.floats(-1e9, 1e9),
    }
    sampling = {
        "slates": st.integers(1, 4) | st.sampled_from([1, 64]),
        "seed": st.integers(0, 2**63 - 1),
    }
    return st.fixed_dictionaries(
        {},
        optional={
            "request_id": st.text(min_size=1, max_size=128),
            "user": st.fixed_dictionaries({}, optional={"id": NAMES, "history": history}),
            "reasoning": st.fixed_dictionaries({}, optional=reasoning),
            "temperatures": st.fixed_dictionaries(
                {}, optional={"reason": temperature, "recommend": temperature}
            ),
            "sampling": st.fixed_dictionaries(sampling),
            "priority": st.sampled_from(["interactive", "background"]),
            "explain": st.booleans(),
            "timeout_ms": st.sampled_from([5e-324, 0.01, 1, 5, 20, 100, 1e4, 1e300]),
        },
    )


def as_records(candidates: list[dict[str, Any]]) -> Any:
    """Return the candidates as records."""
    return candidates


def as_ids(candidates: list[dict[str, Any]]) -> Any:
    """Return the ids alone."""
    return [candidate["id"] for candidate in candidates]


def as_columns(candidates: list[dict[str, Any]]) -> Any:
    """Return a list for each field."""
    columns: dict[str, Any] = {"id": as_ids(candidates)}
    for field in ("features", "groups"):
        names = sorted({name for one in candidates for name in one.get(field, {})})
        columns[field] = {n: [one.get(field, {}).get(n) for one in candidates] for n in names}
    return columns


def paths(value: Any, prefix: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the keys to every value of a body; of a list only to the first three entries."""
    keys = [prefix]
    steps: Iterable[tuple[Any, Any]] = value.items() if isinstance(value, dict) else ()
    if isinstance(value, list):
        steps = enumerate(value[:3])
    for key, inner in steps:
        keys += paths(inner, (*prefix, key))
    return keys


MUTATIONS = ("value", "value", "value", "key", "twice", "cut", "bytes", "code")


@st.composite
def mutated(draw: st.DrawFn, body: st.SearchStrategy[Any]) -> bytes:
    """Return a valid body with one mistake, or bytes that hardly are a body at all."""
    payload = draw(body)
    mutation = draw(st.sampled_from(MUTATIONS))
    if mutation == "twice":
        first = payload["requests"][0] if "requests" in payload else payload
        once = first["candidates"]
        first["candidates"] = {"id": once["id"] * 2} if isinstance(once, dict) else once * 2
    if mutation in ("value", "key"):
        keys = draw(st.sampled_from(paths(payload)))
        holder: Any = {"": payload}
        last: Any = ""
        for key in keys:
            holder, last = holder[last], key
        if mutation == "value" or not isinstance(holder[last], dict):
            holder[last] = MARK
        else:
            holder[last][draw(NAMES)] = MARK
        payload = payload if keys else MARK
    text = json.dumps(payload).replace(f'"{MARK}"', draw(RAW))
    codes = st.sampled_from(["utf-16", "utf-8-sig", "utf-32"])
    content = text.encode(draw(codes) if mutation == "code" else "utf-8", "surrogatepass")
    if mutation == "cut":
        return content[: draw(st.integers(0, len(content)))]
    if mutation == "bytes":
        at = draw(st.integers(0, len(content)))
        return draw(st.sampled_from([content[:at], b""])) + draw(st.binary()) + content[at:]
    return content


HEADERS = {
    "Content-Type": st.sampled_from(
        ["application/json", "text/plain", "application/xml", "multipart/form-data", "é", ";", ""]
    ),
    "X-Request-ID": st.sampled_from(["abc", "", "x" * 129, "é", "a\tb", '"<script>"'])
    | st.text(st.characters(min_codepoint=33, max_codepoint=255, exclude_characters="\x7f")),
    "X-Request-Timeout-Ms": st.sampled_from(
        ["soon", "nan", "inf", "-1", "0", "1e-300", "5", "1e300", "1_0", "٣".encode().decode("l1")]
    ),
    "traceparent": st.sampled_from(
        ["00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "é", "x" * 5_000]
    ),
    "Host": st.sampled_from(["", "[", "a b", "é", "[::1", "x:y", "/", "a" * 300, "h:99999999"]),
    "Accept": st.sampled_from(["*/*", "text/html", "image/png;q=2"]),
    "Accept-Encoding": st.sampled_from(["gzip", "br;q=x", "*"]),
    "Content-Encoding": st.sampled_from(["gzip", "deflate"]),
    "Connection": st.sampled_from(["keep-alive", "close", "Upgrade", "x"]),
    "Upgrade": st.sampled_from(["websocket", "h2c"]),
    "Expect": st.sampled_from(["100-continue", "200"]),
    "Cookie": st.sampled_from(["a=b", ";;=", "x" * 5_000]),
    "X-Forwarded-For": st.sampled_from(["1.2.3.4", "?"]),
    "X-Forwarded-Proto": st.sampled_from(["https", "ws", "\x80"]),
    "X-Broken": st.sampled_from(["a\x00b", "a\x01b", "a\rb"]),
    "Bad name": st.just("x"),
}
METHODS = ("GET", "HEAD", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "BREW", "post")
TARGETS = (
    *("/", "/livez", "/readyz", "/info", "/metrics", "/openapi.json", "/docs", "/redoc"),
    *("/rerank/", "/rerank?x=1&x=%ff", "/RERANK", "/rerank/batch/", "/nowhere", "//", "//["),
    *("/%00", "/%ff%fe", "/../rerank", "/rerank/../info", "/rerank%2fbatch", "/é", "/a b", "*"),
    *("rerank", "/" + "a" * 5_000, "/rerank#x", "/{x}", "/rerank;a", "?", "http://[/rerank"),
    *("http://h/rerank", "h:443"),
)  # fmt: skip


def from_bundle(ids: Sequence[str], categories: dict[str, list[str]]) -> st.SearchStrategy[Message]:
    """Return requests with a valid body, a mutated one, or an odd header, method or path."""
    single = bodies(ids, categories)
    batch = st.fixed_dictionaries({"requests": st.lists(single, min_size=1, max_size=4)})
    broken = {PATHS[:2]: mutated(single), PATHS[2:]: mutated(batch)}
    valid = {PATHS[:2]: single.map(_written), PATHS[2:]: batch.map(_written)}
    kinds = st.sampled_from(["valid"] * 4 + ["mutated"] * 4 + ["headers", "route", "packed"])
    names = st.lists(st.sampled_from(list(HEADERS)), min_size=1, max_size=3, unique=True)
    padding = st.sampled_from([0] * 19 + [1 << 20])  # white space that breaks the limit

    @st.composite
    def message(draw: st.DrawFn) -> Message:
        group = draw(st.sampled_from([PATHS[:2], PATHS[:2], PATHS[:2], PATHS[2:]]))
        target = draw(st.sampled_from(group))
        kind = draw(kinds)
        content = draw((broken if kind == "mutated" else valid)[group])
        if kind == "headers":
            headers = tuple((name, draw(HEADERS[name])) for name in draw(names))
            content += b" " * draw(padding)
            return Message("POST", target, headers, content, draw(st.booleans()))
        if kind == "packed":
            content = ormsgpack.packb(draw(single if group == PATHS[:2] else batch))
            return Message("POST", target, (("Content-Type", MSGPACK),), content)
        if kind == "route":
            target = draw(st.sampled_from([*TARGETS, target]))
            return Message(draw(st.sampled_from([*METHODS, "POST"])), target, (), content)
        return Message("POST", target, (), content)

    return message()


def _written(body: Any) -> bytes:
    return json.dumps(body).encode()
