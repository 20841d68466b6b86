/**
 * What the chat page knows of conversations: messages, unread counts, names. It is kept in the
 * browser, since a gateway forgets what was confirmed.
 *
 * A conversation is named by `u` and a user's number, or `g` and a group's.
 */

/** So many messages of a conversation are kept. */
const KEPT = 300;

export class Conversations {
  #storage;
  #prefix;
  /** In memory where the browser keeps nothing more. */
  #unkept = new Map();

  constructor(storage, uid) {
    this.#storage = storage;
    this.#prefix = `im-gateway:${uid}:`;
    this.uid = uid;
  }

  /** The names of all conversations there have been. */
  all() {
    const kept = Array.from({ length: this.#storage.length }, (_, at) => this.#storage.key(at));
    const own = kept.filter((key) => key.startsWith(this.#prefix));
    const names = own.map((key) => key.slice(this.#prefix.length));
    const all = new Set([...names, ...this.#unkept.keys()]);
    return [...all].filter((name) => /^[ug]\d+$/.test(name));
  }

  /** A conversation: its `messages`, oldest first, and how many are `unread`. */
  get(name) {
    return this.#read(name) ?? { messages: [], unread: 0 };
  }

  /** The conversation that a message of the gateway belongs to. */
  nameOf({ from, to, group }) {
    if (group !== undefined) return `g${group}`;
    return `u${to ?? from}`;
  }

  /** Takes in a message of the gateway, once. */
  receive(message, isSeen) {
    const name = this.nameOf(message);
    const conversation = this.get(name);
    if (conversation.messages.some(({ id }) => id === message.id)) return name;
    const { id, from, ts, text } = message;
    conversation.messages.push({ id, from, ts, text, state: "stored" });
    if (!isSeen && from !== this.uid) conversation.unread += 1;
    this.#write(name, conversation);
    return name;
  }

  /** Takes in a message that is to be sent, under a name of its own. */
  send(name, tag, text, ts) {
    const conversation = this.get(name);
    conversation.messages.push({ tag, from: this.uid, ts, text, state: "sending" });
    this.#write(name, conversation);
  }

  /** What became of one that was to be sent: `stored`, with its id, or `failed`, and why. */
  settle(name, tag, state, detail) {
    const conversation = this.get(name);
    const message = conversation.messages.find((one) => one.tag === tag);
    if (!message) return;
    message.state = state;
    if (state === "stored") message.id = detail;
    else message.problem = detail;
    this.#write(name, conversation);
  }

  /** All that was still to be sent when the page was left, as `[name, message]`, in its order. */
  unsent() {
    const messages = this.all().flatMap((name) =>
      this.get(name).messages.map((message) => [name, message]),
    );
    const unsent = messages.filter(([, { state }]) => state === "sending");
    return unsent.sort(([, one], [, other]) => one.ts - other.ts);
  }

  markRead(name) {
    const conversation = this.get(name);
    if (conversation.unread === 0) return;
    conversation.unread = 0;
    this.#write(name, conversation);
  }

  unreadCount() {
    return this.all().reduce((sum, name) => sum + this.get(name).unread, 0);
  }

  /** What a user or a group is called, as far as it was heard. */
  calledAs(name) {
    return this.#read("names")?.[name];
  }

  call(name, word) {
    this.#write("names", { ...this.#read("names"), [name]: word });
  }

  /** Forgets everything. */
  clear() {
    const names = [...this.all(), "names"];
    this.#unkept.clear();
    names.forEach((name) => this.#storage.removeItem(this.#prefix + name));
  }

  #read(name) {
    if (this.#unkept.has(name)) return this.#unkept.get(name);
    const text = this.#storage.getItem(this.#prefix + name);
    try {
      return text === null ? undefined : JSON.parse(text);
    } catch {
      return undefined;
    }
  }

  #write(name, value) {
    if (value.messages) value.messages = value.messages.slice(-KEPT);
    try {
      this.#storage.setItem(this.#prefix + name, JSON.stringify(value));
      this.#unkept.delete(name);
    } catch {
      // The browser's space is full.
      this.#unkept.set(name, value);
    }
  }
}
