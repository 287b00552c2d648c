// Re-rank one list from Node 18 or newer, which needs no package.
//
//     node examples/rank.mjs [URL]

const url = process.argv[2] ?? "http://127.0.0.1:8000";
const candidates = ["1036", "10", "1042", "47", "50"];
const timeoutMs = 1000;

/** Return the ids of the slate, or the first candidates when the service does not respond. */
async function rerank(slateSize) {
  try {
    const response = await fetch(`${url}/rerank`, {
      method: "POST",
      headers: { "Content-Type": "application/json", "X-Request-Timeout-Ms": String(timeoutMs) },
      body: JSON.stringify({ candidates, slate_size: slateSize }),
      signal: AbortSignal.timeout(timeoutMs + 50),
    });
    const body = await response.json();
    if (response.ok) return body.slate.map((entry) => entry.id);
    // A 4xx names every field that broke a rule; falling back would hide the bug.
    if (response.status < 500) throw new TypeError(`${body.code}: ${JSON.stringify(body.errors)}`);
  } catch (error) {
    if (error instanceof TypeError && error.message !== "fetch failed") throw error;
  }
  return candidates.slice(0, slateSize);
}

console.log((await rerank(3)).join(" "));
