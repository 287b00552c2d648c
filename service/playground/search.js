// The search for a request whose slate reasoning changes.

import { changedPositions } from "./measures.js";
import { recordsOf, withValue } from "./requests.js";
import { rankBatch } from "./service.js";

const MAX_REQUESTS = 96;
const REQUESTS_PER_CALL = 4;
const CANDIDATES = 24; // of a request that is drawn

/**
 * Return a request like this one whose slate changes with reasoning, and how many were tried.
 *
 * Args:
 *   request: keeps its user and settings; its rules go, because they name other candidates.
 *   ids: the catalogue to draw candidates from; empty to draw from those of the request.
 *   random: a function such as Math.random.
 */
export async function findChanged(request, ids, random = Math.random) {
  const records = recordsOf(request.candidates);
  const pool = ids.length ? ids.map((id) => ({ id })) : records;
  const size = Math.min(CANDIDATES, ids.length ? ids.length : Math.ceil(records.length * 0.7));
  const free = withValue(request, ["constraints"], undefined);
  for (let tried = 0; tried < MAX_REQUESTS; tried += REQUESTS_PER_CALL) {
    const requests = Array.from({ length: REQUESTS_PER_CALL }, () => ({
      ...free,
      candidates: drawn(pool, size, random),
    }));
    const both = requests.flatMap((each) => [
      withValue(each, ["reasoning", "budget"], 0),
      withValue(each, ["reasoning", "budget"], undefined),
    ]);
    const responses = await rankBatch(both);
    const place = requests.findIndex((_, row) => {
      const pair = responses.slice(2 * row, 2 * row + 2);
      return pair.every((each) => each.degraded === null) && changedPositions(...pair).length > 0;
    });
    if (place >= 0) return { changed: both[2 * place + 1], tried: tried + place + 1 };
  }
  return { changed: null, tried: MAX_REQUESTS };
}

function drawn(pool, size, random) {
  const rest = [...pool];
  return Array.from(
    { length: size },
    () => rest.splice(Math.floor(random() * rest.length), 1)[0],
  );
}
