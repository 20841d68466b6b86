/**
 * The chat page. What others wrote becomes text nodes, and nothing else.
 */

import { Client } from "/im-gateway.js";
import { Conversations } from "/conversations.js";

const $ = (id) => document.getElementById(id);

/** What is said where a client closes for good. */
const ENDS = {
  replaced: "Another window has taken the place of this one.",
  revoked: "This session was ended elsewhere.",
  AUTH_FAILED: "The name or the password is wrong.",
  TOKEN_EXPIRED: "You were away for long: log in again.",
  USER_EXISTS: "This name is taken.",
  RATE_LIMITED: "Too many attempts: wait a little.",
  logout: "",
  closed: "",
};

/** @type {Client | null} */
let client = null;
/** @type {Conversations | null} */
let conversations = null;
/** The conversation that is shown. */
let shown = "";
const friends = new Set();
const groups = new Set();
const online = new Map();

// --- what lasts as long as this window ---

function saved() {
  try {
    return JSON.parse(sessionStorage.getItem("im-gateway")) ?? {};
  } catch {
    return {};
  }
}

function save(changes) {
  sessionStorage.setItem("im-gateway", JSON.stringify({ ...saved(), ...changes }));
}

function deviceName() {
  const letters = Array.from(crypto.getRandomValues(new Uint8Array(8)), (byte) =>
    (byte % 36).toString(36),
  );
  const device = saved().device ?? `web-${letters.join("")}`;
  save({ device });
  return device;
}

// --- coming and going ---

function connect() {
  const url = new URL("/ws", location.href);
  url.protocol = location.protocol === "https:" ? "wss:" : "ws:";
  client = new Client(url.href, {
    device: deviceName(),
    onMessage: receive,
    onNotice: notice,
    onState: enter,
    onToken: (token) => save({ token }),
  });
  return client;
}

/** Logs in by `how`, a function of the client, and shows what there is. */
async function begin(how) {
  $("login-problem").textContent = "";
  const { uid: known } = saved();
  try {
    const loggingIn = how(connect());
    // Messages may come before the reply is looked at: they need their place.
    if (known) open(known);
    const { uid } = await loggingIn;
    if (uid !== known) {
      open(uid);
      await refresh();
    }
    save({ uid });
    conversations.unsent().forEach(([name, message]) => transmit(name, message));
  } catch (error) {
    $("login-problem").textContent = ENDS[error.code] ?? error.message;
  }
}

function open(uid) {
  conversations = new Conversations(localStorage, uid);
  $("entrance").hidden = true;
  $("chat").hidden = false;
  $("chat").dataset.shows = "list";
  renderList();
}

function enter(state, reason) {
  const words = { connecting: "connecting…", online: "online", waiting: "connection lost" };
  $("state").textContent = words[state] ?? "";
  $("state").dataset.state = state;
  if (state === "online" && conversations) refresh().catch(problem);
  if (state === "closed") leave(reason);
}

/** Back to the entrance. */
function leave(reason) {
  if (reason !== "replaced") save({ token: undefined, uid: undefined });
  for (const known of [friends, groups, online]) known.clear();
  conversations = null;
  shown = "";
  showConversation();
  $("chat").hidden = true;
  $("entrance").hidden = false;
  $("login-problem").textContent = ENDS[reason] ?? `The gateway has ended this: ${reason}.`;
  $("user").focus();
}

/** Asks who and what there is. */
async function refresh() {
  const [me, mine, joined] = await Promise.all([
    client.ask("whoami"),
    client.ask("friends"),
    client.ask("groups"),
  ]);
  $("me").textContent = me.name;
  friends.clear();
  groups.clear();
  mine.friends.forEach((uid) => friends.add(`u${uid}`));
  joined.groups.forEach((gid) => groups.add(`g${gid}`));
  renderList();
  for (const name of people()) learn(name);
}

/** Asks for a user's name and presence. */
async function learn(name) {
  const uid = Number(name.slice(1));
  try {
    const profile = conversations.calledAs(name) ? null : await client.ask("profile", { uid });
    if (profile) conversations?.call(name, profile.name);
    const presence = friends.has(name) ? await client.ask("who", { uid }) : null;
    if (presence) online.set(name, presence.online);
    renderList();
    showHead();
  } catch {
    // It keeps its number for a name.
  }
}

function problem(error) {
  $("problem").textContent = error.message;
}

// --- what comes ---

function receive(message) {
  const isSeen = conversations.nameOf(message) === shown && document.hasFocus();
  const name = conversations.receive(message, isSeen);
  const sender = `u${message.from}`;
  if (!conversations.calledAs(sender)) learn(sender).then(() => name === shown && showMessages());
  renderList();
  if (name === shown) showMessages();
}

function notice(data) {
  if (!conversations || !/^friend_(online|offline)$/.test(data.kind)) return;
  online.set(`u${data.uid}`, data.kind === "friend_online");
  conversations.call(`u${data.uid}`, data.name);
  renderList();
  showHead();
}

// --- what goes ---

function send(text) {
  const tag = `web-${crypto.getRandomValues(new Uint32Array(3)).join("-").slice(0, 28)}`;
  const message = { tag, text };
  conversations.send(shown, tag, text, Date.now());
  transmit(shown, message);
  showMessages();
}

async function transmit(name, { tag, text }) {
  const number = Number(name.slice(1));
  const own = conversations;
  try {
    const sent =
      name[0] === "g" ? client.groupChat(number, text, tag) : client.chat(number, text, tag);
    own.settle(name, tag, "stored", (await sent).msg_id);
  } catch (error) {
    // A closed client has not sent it: the next one will.
    if (error.code === "CLOSED" || client?.state === "closed") return;
    own.settle(name, tag, "failed", error.message);
  }
  if (name === shown && own === conversations) showMessages();
}

// --- what is seen ---

const people = () => {
  const written = conversations.all().filter((name) => name[0] === "u");
  return [...new Set([...friends, ...written])].filter((name) => name !== `u${conversations.uid}`);
};

const titleOf = (name) =>
  conversations.calledAs(name) ?? `${name[0] === "g" ? "Group" : "User"} ${name.slice(1)}`;

const element = (tag, className, text = "") => {
  const made = document.createElement(tag);
  made.className = className;
  made.textContent = text;
  return made;
};

function renderList() {
  if (!conversations) return;
  const byTitle = (one, other) => titleOf(one).localeCompare(titleOf(other));
  fill($("people"), people().sort(byTitle));
  fill($("groups"), [...groups].sort(byTitle));
  const unread = conversations.unreadCount();
  document.title = unread > 0 ? `(${unread}) im-gateway` : "im-gateway";
}

/** Makes the buttons of `list` those of `names`; what is there stays, and keeps the focus. */
function fill(list, names) {
  const had = new Map([...list.children].map((item) => [item.dataset.name, item]));
  const items = names.map((name) => {
    const item = had.get(name) ?? document.createElement("li");
    const isNew = !item.dataset.name;
    if (isNew) {
      item.dataset.name = name;
      item.append(element("button", "entry"));
      item.firstChild.addEventListener("click", () => show(name));
    }
    renderEntry(item.firstChild, name);
    return item;
  });
  const there = [...list.children];
  const isSame = items.length === there.length && items.every((item, at) => there[at] === item);
  if (!isSame) list.replaceChildren(...items);
}

function renderEntry(button, name) {
  const { unread } = conversations.get(name);
  const title = titleOf(name);
  const parts = [element("bdi", "name", title)];
  if (friends.has(name)) {
    const presence = element("span", "presence", online.get(name) ? "online" : "away");
    presence.dataset.online = String(Boolean(online.get(name)));
    parts.push(presence);
  }
  if (unread > 0) {
    const count = element("span", "unread", String(unread));
    count.setAttribute("aria-label", `${unread} unread`);
    parts.push(count);
  }
  button.setAttribute("aria-current", String(name === shown));
  button.replaceChildren(...parts);
}

function show(name) {
  shown = name;
  conversations.markRead(name);
  showConversation();
  renderList();
  $("text").focus();
}

function showConversation() {
  const isShown = shown !== "";
  $("nothing").hidden = isShown;
  $("head").hidden = $("write").hidden = !isShown;
  $("chat").dataset.shows = isShown ? "conversation" : "list";
  showHead();
  showMessages();
}

function showHead() {
  if (shown === "" || !conversations) return;
  const isGroup = shown[0] === "g";
  const isFriend = friends.has(shown);
  $("title").textContent = titleOf(shown);
  const number = isGroup ? `group ${shown.slice(1)}` : "";
  $("presence").textContent = isFriend ? (online.get(shown) ? "online" : "away") : number;
  $("leave").textContent = isGroup ? "Leave group" : "Remove friend";
  $("leave").hidden = !isGroup && !isFriend;
  $("befriend").hidden = isGroup || isFriend;
}

function showMessages() {
  const log = $("log");
  const messages = shown === "" ? [] : conversations.get(shown).messages;
  const isAtEnd = log.scrollHeight - log.scrollTop - log.clientHeight < 40;
  const had = new Map([...log.children].map((item) => [item.dataset.key, item]));
  // What is there stays, so that a screen reader hears new ones alone.
  const items = messages.map((message) => {
    const key = `${shown} ${message.tag ?? message.id}`;
    const item = had.get(key) ?? element("li", "");
    item.dataset.key = key;
    renderMessage(item, message);
    return item;
  });
  [...log.children].filter((item) => !items.includes(item)).forEach((item) => item.remove());
  items.forEach((item, at) => {
    if (log.children[at] !== item) log.insertBefore(item, log.children[at] ?? null);
  });
  if (isAtEnd || messages.at(-1)?.state === "sending") log.scrollTop = log.scrollHeight;
}

function renderMessage(item, { from, ts, text, state, problem: words }) {
  const isOwn = from === conversations.uid;
  const marks = { sending: "◌ sending", stored: "✓ sent", failed: `✗ not sent: ${words}` };
  const time = new Date(ts).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });
  const about = isOwn ? `${time} ${marks[state]}` : `${titleOf(`u${from}`)} ${time}`;
  if (item.lastChild?.textContent === about) return;
  item.className = `${isOwn ? "own" : ""} ${state}`.trim();
  item.replaceChildren(element("p", "text", text), element("p", "about", about));
}

// --- what is done ---

/** Has the form do `work` with what its only field holds, and says what went wrong. */
function onSubmit(id, work) {
  $(id).addEventListener("submit", async (event) => {
    event.preventDefault();
    const field = event.target.querySelector("input");
    $("problem").textContent = "";
    try {
      await work(field.value.trim());
      field.value = "";
    } catch (error) {
      problem(error);
    }
  });
}

async function addFriend(uid) {
  await client.ask("add_friend", { uid });
  friends.add(`u${uid}`);
  await learn(`u${uid}`);
  showHead();
}

function enterGroup(gid, word) {
  const name = `g${gid}`;
  groups.add(name);
  if (word) conversations.call(name, word);
  show(name);
}

onSubmit("add-friend", async (wanted) => {
  const { users } = await client.ask("search", { prefix: wanted });
  const found = users.find(({ name }) => name === wanted) ?? (users.length === 1 ? users[0] : null);
  if (!found) throw new Error(users.length === 0 ? "Nobody has this name." : "Several have it.");
  conversations.call(`u${found.uid}`, found.name);
  await addFriend(found.uid);
});
onSubmit("create-group", async (name) => {
  const { group_id: gid } = await client.ask("create_group", { name });
  enterGroup(gid, name);
});
onSubmit("join-group", async (number) => {
  await client.ask("join_group", { gid: Number(number) });
  enterGroup(Number(number));
});

$("login").addEventListener("submit", (event) => {
  event.preventDefault();
  const isNew = event.submitter === $("register");
  const [user, password] = [$("user").value, $("password").value];
  $("password").value = "";
  begin((client) => (isNew ? client.register(user, password) : client.login(user, password)));
});
$("log-out").addEventListener("click", async () => {
  const own = conversations;
  try {
    await client.logout();
    own.clear();
  } catch (error) {
    problem(error);
  }
});
$("back").addEventListener("click", () => {
  const name = shown;
  shown = "";
  showConversation();
  renderList();
  document.querySelector(`[data-name="${name}"] button`)?.focus();
});
$("befriend").addEventListener("click", () => addFriend(Number(shown.slice(1))).catch(problem));
$("leave").addEventListener("click", async () => {
  const [name, number] = [shown, Number(shown.slice(1))];
  try {
    if (name[0] === "g") await client.ask("leave_group", { gid: number });
    else await client.ask("remove_friend", { uid: number });
    (name[0] === "g" ? groups : friends).delete(name);
    shown = "";
    showConversation();
    renderList();
  } catch (error) {
    problem(error);
  }
});
$("text").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    $("write").requestSubmit();
  }
});
$("write").addEventListener("submit", (event) => {
  event.preventDefault();
  const text = $("text").value;
  if (text.trim() === "" || shown === "") return;
  $("text").value = "";
  send(text);
});
addEventListener("keydown", (event) => {
  if (event.key === "Escape" && shown !== "") $("back").click();
});
addEventListener("focus", () => {
  if (!conversations || shown === "") return;
  conversations.markRead(shown);
  renderList();
});
addEventListener("online", () => client?.reconnect());
// Another window of the same user has written.
addEventListener("storage", () => {
  if (!conversations) return;
  renderList();
  if (shown !== "") showMessages();
});

const { token } = saved();
if (token) {
  begin((client) => client.auth(token));
} else {
  $("entrance").hidden = false;
  $("user").focus();
}
