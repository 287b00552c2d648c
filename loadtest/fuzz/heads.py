"""Strategies for everything of a request but its body: methods, targets, headers and framing."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import strategies as st

from loadtest.fuzz.messages import PATHS, Message

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
    "Transfer-Encoding": st.sampled_from(["gzip", "gzip, chunked", "identity", "Chunked", ""]),
    "Connection": st.sampled_from(["keep-alive", "close", "Upgrade", "x"]),
    "Upgrade": st.sampled_from(["websocket", "h2c"]),
    "Expect": st.sampled_from(["100-continue", "200"]),
    "Cookie": st.sampled_from(["a=b", ";;=", "x" * 5_000]),
    "X-Forwarded-For": st.sampled_from(["1.2.3.4", "?"]),
    "X-Forwarded-Proto": st.sampled_from(["https", "ws", "\x80"]),
    "X-Broken": st.sampled_from(["a\x00b", "a\x01b", "a\rb"]),
    "Bad name": st.just("x"),
}
METHODS = (
    *("GET", "HEAD", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "BREW", "PROPFIND"),
    *("post", "Post", "get", "head", "POST", "M" * 300),
)
ENTITIES = ("/users", "/v1/items", "/users/z", "/v1/items/z%2Fz", "/feedback")
ROUTES = ("/livez", "/readyz", "/info", "/metrics", "/openapi.json", "/docs", *ENTITIES, *PATHS)
TARGETS = (
    *("/", "/redoc", "/rerank?x=1&x=%ff", "/RERANK", "/nowhere", "//", "//[", "///rerank"),
    *("/%00", "/%ff%fe", "/../rerank", "/rerank/../info", "/rerank%2fbatch", "/é", "/a b", "*"),
    *("rerank", "/" + "a" * 5_000, "/rerank#x", "/{x}", "/rerank;a", "?", "http://[/rerank"),
    *("http://h/rerank", "h:443", "/v1//rerank", "/./rerank", "/rerank/batch//", "/rerank/?x=1"),
    *("/users/", "/users//", "/users/%ff", "/items/%2F", "/items/..", "/users/z?x=1", "/users/%20"),
)  # fmt: skip
SLASHES = ("{}/", "/{}", "{}//", "/{}/")  # a route with a slash too many
PADDING = (
    *(0, 0, 100, 2_000, 7_000, 9_000, 15_000, 17_000, 40_000, 70_000, 200_000),
    1_000_000,
)  # bytes
COUNTS = (1, 20, 60, 120, 1_000, 20_000)  # of headers, trailers or chunks
PARTS = ("target", "name", "value", "headers", "trailer", "trailers", "extension", "extensions")

MEDIA_TYPES = (
    *("application/json", "application/msgpack", "application/x-msgpack"),
    *("application/vnd.msgpack", "Application/MsgPack", "application/*", "*/*", "text/html"),
)
WEIGHTS = (
    *("", "", "", ";q=0", ";q=0.0", "; q=0.000", ";q=1", ";q=1.000", ";q=0.5", " ; Q=0.3"),
    *(";q=0.001", ";q=", ";q=x", ";q=2", ";q=-1"),
)

accepts = st.lists(
    st.builds("{}{}".format, st.sampled_from(MEDIA_TYPES), st.sampled_from(WEIGHTS)),
    max_size=4,
).map(", ".join)


def targets() -> st.SearchStrategy[str]:
    """Return routes, routes with a slash too many, and other targets."""
    routes = st.sampled_from(ROUTES)
    slashes = st.builds(str.format, st.sampled_from(SLASHES), routes)
    return routes | slashes | st.sampled_from(TARGETS)


@st.composite
def padded(draw: st.DrawFn, message: Message) -> Message:
    """Return the message with some parts of its head, trailers or chunk extensions enlarged."""
    for part in draw(st.lists(st.sampled_from(PARTS), min_size=1, max_size=2, unique=True)):
        message = enlarged(message, part, draw(st.sampled_from(PADDING)), draw(_counts))
    return message


_counts = st.sampled_from(COUNTS)


def enlarged(message: Message, part: str, size: int, count: int) -> Message:
    """Return the message with one part of `size` bytes, or of `count` pieces with `size` in all."""
    text, piece = "a" * size, "a" * (size // count)
    many = tuple((f"X-{number}", piece) for number in range(count))
    match part:
        case "target":
            return replace(message, target=f"{message.target}?{text}")
        case "name":
            return replace(message, headers=(*message.headers, (f"X-{text}", "1")))
        case "value":
            return replace(message, headers=(*message.headers, ("X-Padding", text)))
        case "headers":
            return replace(message, headers=(*message.headers, *many))
        case "trailer":
            return replace(message, chunked=True, trailers=(("X-Padding", text),))
        case "trailers":
            return replace(message, chunked=True, trailers=many)
        case "extension":
            return replace(message, chunked=True, extension=f";x={text}")
    chunk = max(1, len(message.body) // count)
    chunks = -(-len(message.body) // chunk) + 1
    return replace(message, chunked=True, chunk=chunk, extension=f";x={'a' * (size // chunks)}")
