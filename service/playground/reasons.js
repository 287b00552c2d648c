// Sentences of the loop on what a ranking reads of the entity store. Nothing here needs a page.

/** True if a request states the history of its user, so that the stored one is not read. */
export function statesHistory(request) {
  const history = request.user?.history;
  return history !== undefined && history !== null;
}

/** Return the statistics that live counters of items gave to some candidate of a list. */
export const countersRead = (response) => response.state?.items?.counters ?? [];

/** Return sentences on what events can move, for a request and `GET /info`. */
export function reach(request, info) {
  const counted = info.features.some(({ kind, of }) => kind === "statistic" && of !== "user");
  const counters = "the counters of their items, which every request may read";
  if (!statesHistory(request)) {
    const history = "Events move the stored history of the user";
    return counted ? `${history}, and ${counters}.` : `${history}.`;
  }
  const moved = counted
    ? `events still move ${counters}, so slates may move`
    : "events do not move its slates";
  return (
    `This request states a history, so the stored one is not read; ${moved}. ` +
    'Tick "leave the history to the entity store" to have the stored one read.'
  );
}

/** Return sentences on a user who was deleted from the store. */
export function forgotten(user, request) {
  const words =
    `The store has forgotten user ${user}. The counters of items keep the events of this user: a ` +
    "deletion does not undo them.";
  return statesHistory(request)
    ? `${words} The request states a history, so the deletion does not move its slate.`
    : `${words} Rank again to see the slate without the stored history.`;
}

/**
 * Return sentences on why the second ranking of a request moved or did not.
 *
 * Args:
 *   request: as it was ranked the second time.
 *   after: the second response, with `state`.
 *   moved: true if the slates differ.
 *   events: number of events that this page sent in between.
 *   forgot: true if this page deleted the user in between.
 *   edited: true if the request was changed in between.
 */
export function reason({ request, after, moved, events, forgot, edited }) {
  if (edited) return "The request was edited in between, so a move may come from that.";
  if (events === 0 && !forgot) {
    return moved
      ? "This page sent nothing in between: others may have sent events, counters of items lose " +
          "weight over time, and a service may explore."
      : "This page sent no event in between.";
  }
  const [stated, counters] = [statesHistory(request), countersRead(after)];
  const history = stated
    ? "The request states a history, so the stored one was not read."
    : `The stored history was read: ${entries(after.state?.history ?? 0)}.`;
  return `${history} ${counterWords(counters, events, moved, stated)}`;
}

function counterWords(counters, events, moved, stated) {
  const names = counters.join(", ");
  if (events === 0) {
    const kept = "A deletion leaves the counters of items as they are";
    if (!moved) return `${kept}.`;
    return stated ? `${kept}, so the move comes from elsewhere, such as exploration.` : `${kept}.`;
  }
  if (counters.length === 0) {
    const none = "No counters of items were read";
    return moved && stated ? `${none}, so the move comes from elsewhere.` : `${none}.`;
  }
  if (!moved) return `Counters of items (${names}) were read too, but changed no place.`;
  return stated
    ? `Unless the service explores, the move comes from counters of items (${names}), which the ` +
        "events moved."
    : `Counters of items (${names}), which the events moved, were read too.`;
}

const entries = (count) => `${count} ${count === 1 ? "entry" : "entries"}`;
