// Re-rank two lists from Node 18 or newer, which needs no package.
//
//     node examples/rank.mjs [URL]

const url = new URL("/rerank", process.argv[2] ?? "http://127.0.0.1:8000");
const timeoutMs = 1000;

/**
 * Return the ids of the slate, or the first candidates when the service does not respond in time.
 *
 * Ids are strings, integers or BigInts. JSON.stringify refuses a BigInt and JSON.parse rounds
 * integers above Number.MAX_SAFE_INTEGER. So a BigInt is sent as text, which is the same id, and the
 * slate has the candidates at the initial positions instead of the ids in the response.
 */
async function rerank(candidates, slateSize) {
  // `fetch` reuses the connection of an earlier call. A body must not be compressed.
  const request = {
    method: "POST",
    headers: { "Content-Type": "application/json", "X-Request-Timeout-Ms": String(timeoutMs) },
    body: JSON.stringify({ candidates, slate_size: slateSize }, bigIntAsText),
    signal: AbortSignal.timeout(timeoutMs + 50), // it covers the body of the response too
  };
  let response, text;
  try {
    response = await fetch(url, request);
    text = await response.text();
  } catch (error) {
    console.error(`fallback: ${error.cause ?? error}`);
    return candidates.slice(0, slateSize);
  }
  if (response.status >= 400 && response.status < 500) {
    // It names every field that broke a rule; a fallback would hide the bug.
    throw new Error(`${response.status}: ${text}`);
  }
  if (!response.ok) {
    console.error(`fallback: status ${response.status}`);
    return candidates.slice(0, slateSize);
  }
  return JSON.parse(text).slate.map((entry) => candidates[entry.initial_position]);
}

function bigIntAsText(key, value) {
  return typeof value === "bigint" ? String(value) : value;
}

console.log((await rerank(["1036", "10", "1042", "47", "50"], 3)).join(" "));
console.log((await rerank([260, 1196, 9007199254740993n, 1210], 4)).join(" "));
