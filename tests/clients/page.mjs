// People chat through the chat page, in two windows and with a line client, while the gateway
// behind it is killed and started again. Says `done` at the end.
//
// The argument is the page's URL. `kill` and `start` on the standard output ask for that to be
// done; a line on the standard input says that it was, and where lines are spoken.

import assert from "node:assert/strict";
import { connect } from "node:net";
import { createInterface } from "node:readline";

import { Browser } from "./browser.mjs";

const [url] = process.argv.slice(2);
const lines = createInterface({ input: process.stdin })[Symbol.asyncIterator]();
const screenshots = process.env.SCREENSHOTS;

const HOSTILE = [
  `<img src=x onerror="window.harmed=1">`,
  `"><script>window.harmed=1</script>`,
  "javascript:window.harmed=1",
  "${window.harmed=1}{{harmed}}",
  "\u202egnp.exe\u2066 \u0627\u0644",
  "a".repeat(3000),
];

/** A name that is markup, as far as names may be. */
const CAROL = "<img/src=x/onerror=window.harmed=1>";

/** A person with a line client. */
class LineClient {
  #socket;
  #lines;

  constructor(address) {
    const [host, port] = address.split(":");
    this.#socket = connect(Number(port), host);
    this.#lines = createInterface({ input: this.#socket })[Symbol.asyncIterator]();
  }

  async line() {
    return (await this.#lines.next()).value;
  }

  /** The reply; pushes before it are skipped. */
  async ask(command) {
    this.#socket.write(`${command}\n`);
    for (;;) {
      const line = await this.line();
      if (/^(\+OK (?!welcome)|-ERR)/.test(line)) return line;
    }
  }

  async message() {
    for (;;) {
      const line = await this.line();
      if (line.startsWith("MSG ")) return line.slice(line.indexOf(" text=") + 6);
    }
  }

  end() {
    this.#socket.destroy();
  }
}

const quoted = JSON.stringify;
const entry = (name) => `[...document.querySelectorAll(".entry")].find((one) =>
  one.querySelector(".name").textContent === ${quoted(name)})`;
const texts = `[...document.querySelectorAll("#log .text")].map((one) => one.textContent)`;
/** What stands below the last message. */
const about = `document.querySelector("#log li:last-child .about").textContent`;
const has = (text) => `${texts}.includes(${quoted(text)})`;

async function register(window, name) {
  await window.until(`!document.querySelector("#entrance").hidden`);
  await window.type("#user", name);
  await window.type("#password", `password-of-${name}`);
  await window.click("#register");
  await window.until(`document.querySelector("#me").textContent === ${quoted(name)}`);
}

async function choose(window, name) {
  await window.until(`!!${entry(name)}`);
  await window.value(`${entry(name)}.click()`);
}

/** Writes with the keyboard alone. */
async function write(window, text) {
  await window.type("#text", text);
  await window.press("Enter");
}

async function friendsSeeEachOther(alice, bob) {
  await alice.type("#friend-name", "bob");
  await alice.press("Enter");
  await alice.until(`${entry("bob")}?.querySelector(".presence")?.textContent === "online"`);
  await choose(alice, "bob");
  await write(alice, "hello bob");
  await alice.until(`${about}.endsWith("✓ sent")`);
  // The other has not looked yet.
  await bob.until(`${entry("alice")}?.querySelector(".unread")?.textContent === "1"`);
  await bob.until(`document.title === "(1) im-gateway"`);
  await choose(bob, "alice");
  await bob.until(`${has("hello bob")} && document.title === "im-gateway"`);
  assert.equal(await bob.value(`!!${entry("alice")}.querySelector(".unread")`), false);
  await bob.type("#text", "first line");
  await bob.press("Enter", 8);
  await write(bob, "second line");
  await alice.until(has("first line\nsecond line"));
}

async function createGroup(window, name) {
  await window.type("#group-name", name);
  await window.press("Enter");
  await window.until(`document.querySelector("#title").textContent === ${quoted(name)}`);
}

async function groupsTalk(alice, bob) {
  await createGroup(alice, "tea party");
  const number = (await alice.value(`document.querySelector("#presence").textContent`)).slice(6);
  await bob.type("#group-number", number);
  await bob.press("Enter");
  await bob.until(`document.querySelector("#title").textContent === "Group ${number}"`);
  await write(bob, "tea at five");
  await alice.until(`${has("tea at five")} && ${about}.startsWith("bob")`);
  await write(alice, "I bring cake");
  await bob.until(has("I bring cake"));
}

async function hostileTextsDoNothing(alice, aliceUid, carol) {
  await createGroup(alice, "<img src=x onerror=window.harmed=1>");
  await carol.ask(`register:${CAROL}:password-of-carol`);
  const replies = [];
  for (const text of HOSTILE) replies.push(await carol.ask(`chat:${aliceUid}:${text}`));
  replies.forEach((reply) => assert.match(reply, /^\+OK msg_id=/));
  await choose(alice, CAROL);
  await alice.until(`${texts}.length === ${HOSTILE.length}`);
  assert.deepEqual(await alice.value(texts), HOSTILE);
  assert.equal(await alice.value(`document.querySelectorAll("img, iframe, b").length`), 0);
  assert.equal(await alice.value(`document.querySelectorAll("script").length`), 1);
  assert.equal(await alice.value("typeof window.harmed"), "undefined");
  await write(alice, "nice try");
  assert.equal(await carol.message(), "nice try");
}

/** The gateway is killed: what is written meanwhile is not lost, and nothing comes twice. */
async function restartIsSurvived(alice, bob) {
  await choose(alice, "bob");
  await choose(bob, "alice");
  console.log("kill");
  await lines.next();
  await alice.until(`document.querySelector("#state").textContent !== "online"`);
  await write(alice, "are you still there?");
  await alice.until(`${about}.endsWith("◌ sending")`);
  await write(bob, "I have stayed");
  await bob.until(`${about}.endsWith("◌ sending")`);
  // What is still to be sent outlives the page.
  await alice.ask("Page.navigate", { url: "about:blank" });
  await alice.until(`location.href === "about:blank"`);
  console.log("start");
  const address = (await lines.next()).value;
  await alice.ask("Page.navigate", { url });
  // Who has waited for long would wait for longer: a browser that finds its network says so.
  await bob.value(`dispatchEvent(new Event("online"))`);
  await bob.until(`${has("are you still there?")} && !document.querySelector(".sending")`);
  await alice.until(`document.querySelector("#me")?.textContent === "alice"`);
  await choose(alice, "bob");
  await alice.until(`${has("I have stayed")} && !document.querySelector(".sending")`);
  return address;
}

/** A page that is loaded again has everything, and what came meanwhile. */
async function reloadIsSurvived(alice, bob) {
  const before = await bob.value(texts);
  await bob.ask("Page.navigate", { url: "about:blank" });
  await bob.until(`location.href === "about:blank"`);
  await write(alice, "while you were away");
  await alice.until(`${about}.endsWith("✓ sent")`);
  await bob.ask("Page.navigate", { url });
  await bob.until(`document.querySelector("#me")?.textContent === "bob"`);
  await choose(bob, "alice");
  await bob.until(has("while you were away"));
  assert.deepEqual(await bob.value(texts), [...before, "while you were away"]);
}

/** All is reachable on a phone, and said to those who do not see it. */
async function everybodyCanUseIt(window) {
  assert.deepEqual(await window.nameless(), []);
  const shows = `document.querySelector("#chat").dataset.shows`;
  await window.size(360, 640);
  assert.equal(await window.value(shows), "conversation");
  assert.equal(await window.value(`document.querySelector("#list").checkVisibility()`), false);
  assert.ok((await window.value("document.documentElement.scrollWidth")) <= 360);
  await picture(window, "phone");
  await window.press("Escape");
  assert.equal(await window.value(shows), "list");
  assert.ok((await window.value("document.documentElement.scrollWidth")) <= 360);
  assert.deepEqual(await window.nameless(), []);
  // The focus is where one left off, and Enter goes there again.
  assert.ok(await window.value(`document.activeElement === ${entry("bob")}`));
  await window.press("Enter");
  await window.until(`${shows} === "conversation" && document.activeElement.id === "text"`);
  await window.size(1000, 640);
}

async function bothColours(window) {
  const colour = `getComputedStyle(document.body).backgroundColor`;
  await window.dark(false);
  const light = await window.value(colour);
  await picture(window, "light");
  await window.dark(true);
  assert.notEqual(await window.value(colour), light);
  await picture(window, "dark");
  await window.dark(false);
}

async function picture(window, name) {
  if (screenshots) await window.screenshot(`${screenshots}/chat-page-${name}.png`);
}

/** Logging out forgets everything, and a wrong password is said to be one. */
async function endsAreFinal(alice, aliceUid) {
  await alice.click("#log-out");
  await alice.until(`!document.querySelector("#entrance").hidden`);
  const kept = await alice.value("Object.keys(localStorage)");
  assert.deepEqual(kept.filter((key) => key.startsWith(`im-gateway:${aliceUid}:`)), []);
  await alice.type("#user", "alice");
  await alice.type("#password", "wrong-password");
  await alice.press("Enter");
  await alice.until(`document.querySelector("#login-problem").textContent.includes("wrong")`);
}

const browser = new Browser(process.env.CHROMIUM ?? "chromium-headless-shell");
let carol;
try {
  const [alice, bob] = [await browser.open("alice", url), await browser.open("bob", url)];
  for (const window of [alice, bob]) await window.size(1000, 640);
  await register(alice, "alice");
  await register(bob, "bob");
  const aliceUid = await alice.value(`JSON.parse(sessionStorage.getItem("im-gateway")).uid`);
  await friendsSeeEachOther(alice, bob);
  await groupsTalk(alice, bob);
  const lineAddress = await restartIsSurvived(alice, bob);
  await reloadIsSurvived(alice, bob);
  await bothColours(alice);
  await everybodyCanUseIt(alice);
  carol = new LineClient(lineAddress);
  await hostileTextsDoNothing(alice, aliceUid, carol);
  await endsAreFinal(alice, aliceUid);
  for (const window of [alice, bob]) {
    assert.deepEqual(window.errors, []);
    assert.deepEqual([...window.hosts].filter((host) => host), [new URL(url).host]);
  }
} finally {
  carol?.end();
  await browser.close();
}
console.log("done");
process.exit(0);
