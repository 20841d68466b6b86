// How a client ends, what comes again, and what a backlog looks like. Says `done` at the end.

import assert from "node:assert/strict";
import { createRequire } from "node:module";
import { createServer } from "node:net";

import { Client } from "../../clients/javascript/im-gateway.js";

const { WebSocket } = createRequire(import.meta.url)("ws");
const [url] = process.argv.slice(2);
const BACKLOG = 250;

/** A client, with what it has handled and where it has been. */
function client(options = {}) {
  const seen = { messages: [], states: [] };
  const made = new Client(options.url ?? url, {
    WebSocket,
    firstWaitMs: 5,
    longestWaitMs: 20,
    perSecond: 1000,
    burst: 1000,
    onMessage: (message) => seen.messages.push(message),
    onState: (state, reason) => seen.states.push(reason ? `${state} ${reason}` : state),
    onToken: (token) => (seen.token = token),
    ...options,
  });
  return Object.assign(made, { seen });
}

async function until(what, condition) {
  const started = Date.now();
  while (!condition()) {
    assert.ok(Date.now() - started < 20_000, `never: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}

const code = (wanted) => (error) => error.code === wanted;

const alice = client({ device: "desk" });
const bob = client();
await alice.register("alice", "password-of-alice");
await bob.register("bob", "password-of-bob");

// What a gateway refuses is not tried again.
const wrong = client();
await assert.rejects(wrong.login("alice", "wrong-password"), code("AUTH_FAILED"));
assert.deepEqual(wrong.seen.states, ["connecting", "closed AUTH_FAILED"]);
await assert.rejects(client().register("alice", "another-password"), code("USER_EXISTS"));
await assert.rejects(client().auth("no.token.atall"), code("AUTH_FAILED"));

// An error of a command, and a message that is too long, end the command alone.
await assert.rejects(bob.chat(99999, "nobody"), code("NOT_FOUND"));
await assert.rejects(bob.chat(alice.uid, "a".repeat(9000)), code("LINE_TOO_LONG"));
const first = await bob.chat(alice.uid, "once", "tag-1");
assert.equal((await bob.chat(alice.uid, "once", "tag-1")).msg_id, first.msg_id);
await until("it arrives", () => alice.seen.messages.length === 1);

// Another installation of the same name is there now: the older one does not come back.
const newer = client({ device: "desk" });
assert.equal((await newer.auth(alice.seen.token)).uid, alice.uid);
await until("it is closed", () => alice.state === "closed");
assert.equal(alice.reason, "replaced");
assert.deepEqual(alice.seen.states.slice(-1), ["closed replaced"]);
await assert.rejects(alice.ask("ping"), code("CLOSED"));
newer.close();

// What came while nobody was there comes in its order, and before what is sent meanwhile.
const text = (number) => `number ${number}`;
for (let number = 0; number < BACKLOG; number += 1) await bob.chat(alice.uid, text(number));
const late = client({
  onMessage: async (message) => {
    // Its confirmation may not have been sent when the client was replaced.
    if (message.text === "once") return;
    if (late.seen.messages.length < 3) await bob.chat(alice.uid, `live ${message.text}`);
    late.seen.messages.push(message);
  },
});
await late.auth(alice.seen.token);
await until("all are there", () => late.seen.messages.length === BACKLOG + 3);
const wanted = Array.from({ length: BACKLOG }, (_, number) => text(number));
const texts = late.seen.messages.map((message) => message.text);
assert.deepEqual(texts, [...wanted, ...wanted.slice(0, 3).map((one) => `live ${one}`)]);

// A program that fails is not told that all is well, and its message is not lost.
late.close();
const failing = client({
  onMessage: () => {
    throw new Error("out of paper");
  },
});
await failing.auth(alice.seen.token);
await bob.chat(alice.uid, "print this");
await until("it is closed", () => failing.state === "closed");
const next = client();
await next.auth(alice.seen.token);
// What was handled before a client was closed is confirmed: that alone comes again.
await until("it comes again", () => next.seen.messages.length > 0);
assert.deepEqual(next.seen.messages.map((message) => message.text), ["print this"]);

// A session that is ended elsewhere is over.
const other = client();
await other.auth(next.seen.token);
await other.logout();
await until("it is closed", () => next.state === "closed");
assert.equal(next.reason, "revoked");
await assert.rejects(client().auth(next.seen.token), code("AUTH_FAILED"));

// Who says nothing is given up, and asked again, until the program has enough.
let connections = 0;
const silent = createServer((socket) => {
  connections += 1;
  socket.on("error", () => {});
});
await new Promise((resolve) => silent.listen(0, "127.0.0.1", resolve));
const { port } = silent.address();
const patient = client({ url: `ws://127.0.0.1:${port}/ws`, patienceMs: 20, heartbeatMs: 20 });
const login = patient.login("alice", "password-of-alice");
login.catch(() => {});
await until("it has tried three times", () => connections >= 3);
patient.close();
await assert.rejects(login, code("CLOSED"));

bob.close();
console.log("done");
process.exit(0);
