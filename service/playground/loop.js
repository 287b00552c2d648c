// Feedback on a slate, the next ranking, and the user in the entity store.

import { byId, element } from "./dom.js";
import { moves } from "./measures.js";
import { idText, printed } from "./requests.js";
import { forgetUser, readUser, sendEvent } from "./service.js";

const MAX_MOVES = 8; // that are told in words

/** The buttons of the loop; `rankAgain` ranks the request and returns its response. */
export class Loop {
  #types;
  #titles;
  #requestOf;
  #rankAgain;
  #onrefusal;
  #baseline = null; // the response before the first event since the last comparison

  constructor(info, titles, requestOf, rankAgain, onrefusal) {
    this.#types = typesOf(info);
    this.#titles = titles;
    this.#requestOf = requestOf;
    this.#rankAgain = rankAgain;
    this.#onrefusal = onrefusal;
    byId("again").addEventListener("click", () => this.#attempt(() => this.#again()));
    byId("look").addEventListener("click", () => this.#attempt(() => this.#look()));
    byId("forget").addEventListener("click", () => this.#attempt(() => this.#forget()));
  }

  /** Say what the loop needs, for the request as it is now. */
  show() {
    const user = this.#user();
    const ready = this.#types !== null && user !== null;
    for (const name of ["look", "forget"]) byId(name).disabled = !ready;
    byId("loop-note").textContent = this.#note(user);
  }

  #note(user) {
    if (this.#types === null)
      return "This service has no entity store (RERANK_STATE): feedback has nowhere to go.";
    if (user === null) return "Give the user an id in the request: events belong to a user.";
    const { like, hide } = this.#types;
    const words = `Like sends the event ${like} and Hide sends ${hide}, both of user ${user}.`;
    if (this.#statesHistory()) {
      return (
        `${words} This request states a history, so the stored one is not read: tick ` +
        `"leave the history to the entity store" to see what events move.`
      );
    }
    return words;
  }

  /** Return the buttons beside an entry of a response. */
  reactions(entry, response) {
    const { id } = entry;
    const name = this.#titles.name(id);
    const disabled = this.#types === null || this.#user() === null;
    const button = (text, type) =>
      element(
        "button",
        {
          type: "button",
          disabled,
          "aria-label": `${text} ${name}`,
          "data-focus": `${text} ${idText(id)}`,
          onclick: () => this.#attempt(() => this.#react(entry, response, type)),
        },
        text,
      );
    return [button("Like", this.#types?.like), button("Hide", this.#types?.hide)];
  }

  /** Keep a response to compare the next ranking with. */
  keep(response) {
    this.#baseline = response;
  }

  async #react({ id, position }, response, type) {
    await sendEvent(this.#user(), idText(id), type, response.request_id, position);
    const stated = this.#statesHistory()
      ? ` ${this.#note(this.#user())}`
      : " Rank again to see what it moved.";
    say(`Sent ${type} of ${this.#titles.name(id)} for user ${this.#user()}.${stated}`);
  }

  async #again() {
    const before = this.#baseline;
    const after = await this.#rankAgain();
    if (before === null || after === null) return;
    const moved = moves(before, after);
    if (moved.length === 0) {
      say(
        this.#statesHistory()
          ? "Nothing moved: the request states a history, and the stored one is not read."
          : "Nothing moved.",
      );
      return;
    }
    const place = (position) => (position === null ? "outside" : String(position + 1));
    const words = moved
      .slice(0, MAX_MOVES)
      .map(({ id, from, to }) => `${this.#titles.name(id)} from ${place(from)} to ${place(to)}`);
    const more = moved.length > MAX_MOVES ? `, and ${moved.length - MAX_MOVES} more` : "";
    say(`Moved: ${words.join(", ")}${more}.`);
  }

  async #look() {
    const record = await readUser(this.#user());
    const text = byId("stored-user");
    text.hidden = record === null;
    text.textContent = record === null ? "" : printed(record);
    say(
      record === null
        ? `The store knows nothing of user ${this.#user()}.`
        : `This is all that the store has of user ${this.#user()}.`,
    );
  }

  async #forget() {
    const user = this.#user();
    await forgetUser(user);
    byId("stored-user").hidden = true;
    byId("stored-user").textContent = "";
    say(`The store has forgotten user ${user}. Rank again to see what that moves.`);
  }

  async #attempt(work) {
    try {
      await work();
    } catch (error) {
      say(error.message);
      this.#onrefusal(error);
    }
  }

  #user() {
    const id = this.#requestOf().user?.id;
    return id === undefined || id === null ? null : idText(id);
  }

  #statesHistory() {
    const history = this.#requestOf().user?.history;
    return history !== undefined && history !== null;
  }
}

// The types of the bundle with the highest and the lowest label.
function typesOf(info) {
  const types = Object.entries(info.state?.events?.types ?? {});
  if (types.length === 0) return null;
  types.sort(([, one], [, other]) => other.label - one.label);
  return { like: types[0][0], hide: types.at(-1)[0] };
}

function say(words) {
  byId("loop-words").textContent = words;
}
