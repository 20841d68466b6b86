// Two clients talk, to each other and in a group, through a proxy that cuts their connections.
// Says `done` once each has handled every message of the other once, in its order.

import assert from "node:assert/strict";
import { createRequire } from "node:module";

import { Client, GatewayError } from "../../clients/javascript/im-gateway.js";

const { WebSocket } = createRequire(import.meta.url)("ws");
const [url] = process.argv.slice(2);
const MESSAGES = 40;

/** A client, what it has handled, and how many connections it has had. */
function talker(name) {
  const handled = [];
  let connections = 0;
  const client = new Client(url, {
    WebSocket,
    firstWaitMs: 5,
    longestWaitMs: 20,
    onMessage: async (message) => {
      // One at a time: what is handled slowly is not overtaken.
      if (handled.length % 7 === 0) await new Promise((resolve) => setTimeout(resolve, 3));
      handled.push(message);
    },
    onState: (state) => (connections += state === "online" ? 1 : 0),
  });
  return { name, client, handled, connections: () => connections };
}

/** Asks again while it is unknown whether it was done. */
async function insist(client, type, data) {
  for (;;) {
    try {
      return await client.ask(type, data);
    } catch (error) {
      assert.equal(error.code, "LOST", error.message);
    }
  }
}

const alice = talker("alice");
const bob = talker("bob");
const talkers = [alice, bob];
await Promise.all(talkers.map(({ name, client }) => client.register(name, `password-${name}`)));
const { group_id: group } = await insist(alice.client, "create_group", { name: "tea" });
await bob.client.ask("join_group", { gid: group });

const ids = { alice: [], bob: [], "alice-group": [], "bob-group": [] };
const text = (name, number) => `${name} ${number} "quoted"\n\\n ${"é🎉".repeat(number % 9)}`;
await Promise.all(
  talkers.map(async ({ name, client }) => {
    const peer = name === "alice" ? bob.client.uid : alice.client.uid;
    const sent = [];
    for (let number = 0; number < MESSAGES; number += 1) {
      const note = (of) => (reply) => ids[of].push(reply.msg_id);
      sent.push(client.chat(peer, text(name, number)).then(note(name)));
      sent.push(client.groupChat(group, text(name, number)).then(note(`${name}-group`)));
      if (number % 20 === 0) await sent.at(-1);
    }
    await Promise.all(sent);
  }),
);
const fromOthers = ({ client, handled }) => handled.filter(({ from }) => from !== client.uid);
for (const one of talkers) {
  while (fromOthers(one).length < 2 * MESSAGES) await new Promise((go) => setTimeout(go, 10));
}
// What would come twice comes with the next login at the latest.
for (const { client } of talkers) await client.ask("ping", { text: "the last one" });

for (const one of talkers) {
  const other = one === alice ? bob : alice;
  for (const [of, sent] of [
    [undefined, ids[other.name]],
    [group, ids[`${other.name}-group`]],
  ]) {
    const got = fromOthers(one).filter((message) => message.group === of);
    assert.deepEqual(got.map(({ id }) => id), sent, `${one.name} of ${of}`);
    got.forEach((message, number) => assert.equal(message.text, text(other.name, number)));
    const seqs = got.map(({ seq }) => seq);
    assert.deepEqual(seqs, [...seqs].sort((one, two) => one - two));
  }
}
console.error(`connections: ${talkers.map((one) => one.connections())}`);

await alice.client.logout();
assert.equal(alice.client.state, "closed");
await assert.rejects(alice.client.chat(1, "too late"), GatewayError);
bob.client.close();
console.log("done");
