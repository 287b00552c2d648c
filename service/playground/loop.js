// Feedback on a slate, the next ranking, and the user in the entity store.

import { byId, element } from "./dom.js";
import { moves } from "./measures.js";
import { forgotten, reach, reason } from "./reasons.js";
import { idText, printed, sameRequest } from "./requests.js";
import { forgetUser, readUser, sendEvent } from "./service.js";

const MAX_MOVES = 8; // that are told in words

/** The buttons of the loop; `rankAgain` ranks the request and returns its response. */
export class Loop {
  #info;
  #types;
  #titles;
  #requestOf;
  #rankAgain;
  #onrefusal;
  #baseline = null; // the last request ranked, with its response
  #events = 0; // sent since the baseline
  #forgot = false; // the user was deleted since the baseline
  #deleted = new Set(); // users deleted by this page that it sent no event of since
  #replies = new Map(); // words beside the buttons of an item, by its id
  #saidOf = null; // the request that the words of the loop are about

  constructor(info, titles, requestOf, rankAgain, onrefusal) {
    this.#info = info;
    this.#types = typesOf(info);
    this.#titles = titles;
    this.#requestOf = requestOf;
    this.#rankAgain = rankAgain;
    this.#onrefusal = onrefusal;
    byId("again").addEventListener("click", () => this.#attempt(() => this.#again()));
    byId("look").addEventListener("click", () => this.#attempt(() => this.#look()));
    byId("forget").addEventListener("click", () => this.#attempt(() => this.#forget()));
  }

  /** Say what the loop needs, for the request as it is now, and drop words on another request. */
  show() {
    const user = this.#user();
    const ready = this.#types !== null && user !== null;
    for (const name of ["look", "forget"]) byId(name).disabled = !ready;
    byId("loop-note").textContent = this.#note(user);
    if (this.#saidOf === null || sameRequest(this.#saidOf, this.#requestOf())) return;
    this.#say("");
    this.#showRecord(null);
  }

  #note(user) {
    if (this.#types === null)
      return "This service has no entity store (RERANK_STATE): feedback has nowhere to go.";
    if (user === null) return "Give the user an id in the request: events belong to a user.";
    const { like, hide } = this.#types;
    const words = `Like sends the event ${like} and Hide sends ${hide}, both of user ${user}.`;
    return `${words} ${reach(this.#requestOf(), this.#info)}`;
  }

  /** Return the buttons beside an entry of a response, and the words on what they sent. */
  reactions(entry, response) {
    const id = idText(entry.id);
    const name = this.#titles.name(id);
    const disabled = this.#types === null || this.#user() === null;
    const reply = element("span", { class: "sent" }, this.#replies.get(id) ?? "");
    const button = (text, type) =>
      element(
        "button",
        {
          type: "button",
          disabled,
          "aria-label": `${text} ${name}`,
          "data-focus": `${text} ${id}`,
          onclick: () => this.#attempt(() => this.#react(entry, response, type)),
        },
        text,
      );
    return [reply, button("Like", this.#types?.like), button("Hide", this.#types?.hide)];
  }

  /** Keep a request and its response, to compare the next ranking with. */
  keep(request, response) {
    this.#baseline = { request, response };
    this.#events = 0;
    this.#forgot = false;
    this.#replies.clear();
  }

  async #react({ id, position }, response, type) {
    const [user, text] = [this.#user(), idText(id)];
    this.#reply(text, "sending …");
    try {
      await sendEvent(user, text, type, response.request_id, position);
    } catch (error) {
      this.#reply(text, "not sent");
      throw error;
    }
    this.#events++;
    this.#deleted.delete(user);
    this.#reply(text, `${type} sent`);
    const words = `Sent ${type} of ${this.#titles.name(id)} for user ${user}.`;
    this.#say(`${words} Rank again to see what it moves.`);
  }

  // Beside the buttons of an item, as long as the slate is the one that it was sent for.
  #reply(id, words) {
    this.#replies.set(id, words);
    const items = [...byId("ranked").children];
    const item = items.find((each) => each.dataset.id === id);
    const place = item?.querySelector(".sent");
    if (place) place.textContent = words;
  }

  async #again() {
    const before = this.#baseline;
    const [request, events, forgot] = [this.#requestOf(), this.#events, this.#forgot];
    const after = await this.#rankAgain();
    if (before === null || after === null || request !== this.#requestOf()) return;
    const edited = !sameRequest(before.request, request);
    const moved = moves(before.response, after);
    const why = reason({ request, after, moved: moved.length > 0, events, forgot, edited });
    if (moved.length === 0) {
      this.#say(`Nothing moved. ${why}`);
      return;
    }
    const place = (position) => (position === null ? "outside" : String(position + 1));
    const words = moved
      .slice(0, MAX_MOVES)
      .map(({ id, from, to }) => `${this.#titles.name(id)} from ${place(from)} to ${place(to)}`);
    const more = moved.length > MAX_MOVES ? `, and ${moved.length - MAX_MOVES} more` : "";
    this.#say(`Moved: ${words.join(", ")}${more}. ${why}`);
  }

  // A browser logs the refusal of an unknown user, so a user deleted here is not asked for.
  async #look() {
    const user = this.#user();
    const deleted = this.#deleted.has(user);
    const record = deleted ? null : await readUser(user);
    this.#showRecord(record);
    if (record !== null) this.#say(`This is all that the store has of user ${user}.`);
    else if (deleted) {
      const since = "since you deleted it here, unless another client sent events";
      this.#say(`The store knows nothing of user ${user} ${since}.`);
    } else this.#say(`The store knows nothing of user ${user}.`);
  }

  #showRecord(record) {
    const text = byId("stored-user");
    text.hidden = record === null;
    text.textContent = record === null ? "" : printed(record);
  }

  async #forget() {
    const user = this.#user();
    await forgetUser(user);
    this.#forgot = true;
    this.#deleted.add(user);
    this.#showRecord(null);
    this.#say(forgotten(user, this.#requestOf()));
  }

  async #attempt(work) {
    try {
      await work();
    } catch (error) {
      this.#say(error.message);
      this.#onrefusal(error);
    }
  }

  #say(words) {
    this.#saidOf = words === "" ? null : this.#requestOf();
    byId("loop-words").textContent = words;
  }

  #user() {
    const id = this.#requestOf().user?.id;
    return id === undefined || id === null ? null : idText(id);
  }
}

// The types of the bundle with the highest and the lowest label.
function typesOf(info) {
  const types = Object.entries(info.state?.events?.types ?? {});
  if (types.length === 0) return null;
  types.sort(([, one], [, other]) => other.label - one.label);
  return { like: types[0][0], hide: types.at(-1)[0] };
}
