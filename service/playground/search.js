// The search for a request whose slate reasoning changes.

import { changedPositions } from "./measures.js";
import { recordsOf, unexplored, withValue } from "./requests.js";
import { rankBatch } from "./service.js";

const MAX_REQUESTS = 96;
const REQUESTS_PER_CALL = 4;
const CANDIDATES = 24; // of a request that is drawn

/**
 * Return a request like this one whose slate changes with reasoning, null if none does; with it
 * the numbers of requests tried and of those that were degraded, and so do not count.
 *
 * Args:
 *   request: keeps its user and settings; its rules go, because they name other candidates.
 *   ids: the catalogue to draw candidates from; empty to draw from those of the request.
 *   info: `GET /info`.
 *   random: a function such as Math.random.
 */
export async function findChanged(request, ids, info, random = Math.random) {
  const records = recordsOf(request.candidates);
  const pool = ids.length ? ids.map((id) => ({ id })) : records;
  const size = Math.min(CANDIDATES, ids.length ? ids.length : Math.ceil(records.length * 0.7));
  const ruled = withValue(request, ["reasoning", "budget"], undefined);
  const free = withValue(ruled, ["constraints"], undefined);
  let degraded = 0;
  for (let tried = 0; tried < MAX_REQUESTS; tried += REQUESTS_PER_CALL) {
    const requests = Array.from({ length: REQUESTS_PER_CALL }, () => ({
      ...free,
      candidates: drawn(pool, size, random),
    }));
    const both = requests.flatMap((each) => [
      unexplored(withValue(each, ["reasoning", "budget"], 0), info),
      unexplored(each, info),
    ]);
    const responses = await rankBatch(both, info.max_lists_per_call);
    for (let row = 0; row < requests.length; row++) {
      const pair = responses.slice(2 * row, 2 * row + 2);
      if (pair.some((each) => each.degraded !== null)) degraded++;
      else if (changedPositions(...pair).length > 0) {
        return { changed: requests[row], tried: tried + row + 1, degraded };
      }
    }
  }
  return { changed: null, tried: MAX_REQUESTS, degraded };
}

function drawn(pool, size, random) {
  const rest = [...pool];
  return Array.from(
    { length: size },
    () => rest.splice(Math.floor(random() * rest.length), 1)[0],
  );
}
