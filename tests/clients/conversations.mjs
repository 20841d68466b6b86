// What the chat page keeps, without a browser. Says `done` at the end.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";

const path = new URL("../../clients/chat_page/conversations.js", import.meta.url);
const source = readFileSync(path).toString("base64");
const { Conversations } = await import(`data:text/javascript;base64,${source}`);

/** A browser's storage, which may be full. */
class Storage {
  map = new Map();
  isFull = false;
  get length() {
    return this.map.size;
  }
  key(at) {
    return [...this.map.keys()][at] ?? null;
  }
  getItem(key) {
    return this.map.get(key) ?? null;
  }
  setItem(key, text) {
    if (this.isFull) throw new Error("QuotaExceededError");
    this.map.set(key, text);
  }
  removeItem(key) {
    this.map.delete(key);
  }
}

const storage = new Storage();
const own = new Conversations(storage, 1);
const message = (id, changes = {}) => ({ id, from: 2, ts: 1, text: `text ${id}`, ...changes });

// A message is taken in once, in the conversation it belongs to, and counted until it is read.
own.receive(message("10"), false);
own.receive(message("10", { dup: true }), false);
own.receive(message("11", { group: 7 }), false);
own.receive(message("12", { from: 1, to: 2 }), false);
own.receive(message("13", { from: 1, group: 7 }), false);
assert.deepEqual(own.get("u2").messages.map(({ id }) => id), ["10", "12"]);
assert.deepEqual(own.get("g7").messages.map(({ id }) => id), ["11", "13"]);
assert.deepEqual(own.all().sort(), ["g7", "u2"]);
assert.equal(own.unreadCount(), 2);
own.markRead("u2");
assert.equal(own.unreadCount(), 1);

// What was still to be sent is known to the next page, until it is settled.
own.send("u2", "tag-1", "hello", 2);
own.send("g7", "tag-2", "there", 3);
const next = new Conversations(storage, 1);
const unsent = next.unsent().map(([name, { tag }]) => `${name} ${tag}`);
assert.deepEqual(unsent, ["u2 tag-1", "g7 tag-2"]);
next.settle("u2", "tag-1", "stored", "14");
next.settle("g7", "tag-2", "failed", "FORBIDDEN");
assert.deepEqual(next.unsent(), []);
next.receive(message("14", { from: 1, to: 2 }), true);
assert.equal(next.get("u2").messages.filter(({ id }) => id === "14").length, 1);

// Another user of the same browser sees nothing of it.
const other = new Conversations(storage, 11);
assert.deepEqual(other.all(), []);
other.receive(message("20"), false);

// Where the browser's space is full, the window goes on; the newest messages are kept.
storage.isFull = true;
next.receive(message("30", { from: 3 }), false);
assert.equal(next.get("u3").messages.length, 1);
storage.isFull = false;
for (let number = 100; number < 450; number += 1) next.receive(message(`${number}`), true);
assert.equal(next.get("u2").messages.length, 300);
assert.equal(next.get("u2").messages.at(-1).id, "449");

// What is forgotten is gone, and what is another's stays.
next.clear();
assert.deepEqual(new Conversations(storage, 1).all(), []);
assert.deepEqual(other.all(), ["u2"]);

// What somebody else has put there harms nobody.
storage.setItem("im-gateway:1:u5", "{not json");
assert.deepEqual(next.get("u5"), { messages: [], unread: 0 });
console.log("done");
