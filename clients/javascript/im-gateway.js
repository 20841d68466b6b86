/**
 * A client of im-gateway for browsers and Node, over WebSocket.
 *
 * It comes back after a lost connection, confirms by hand what was handled, and sends again what
 * may not have been stored. So each message is handled once, in order, as long as the program runs.
 */

/** What a command was answered, or why it was not. `code` is the protocol's, `LOST` or `CLOSED`. */
export class GatewayError extends Error {
  constructor(code, message, retryMs) {
    super(message);
    Object.assign(this, { name: "GatewayError", code, retryMs });
  }
}

const DEFAULTS = {
  firstWaitMs: 500,
  longestWaitMs: 30_000,
  heartbeatMs: 25_000,
  patienceMs: 20_000,
  perSecond: 40,
  burst: 50,
  maxBytes: 8192,
};

/** Ends after which nobody comes back by itself. */
const FINAL_REASONS = new Set(
  ["replaced", "revoked", "admin", "protocol", "rate_limited", "auth_timeout"],
);

/** Reasons by the close code, where no kick told it. */
const CLOSE_REASONS = new Map([
  ...[1002, 1003, 1007, 1008, 1009].map((code) => [code, "protocol"]),
  ...["replaced", "idle", "slow_consumer", "admin", "auth_timeout", "rate_limited", "revoked"].map(
    (reason, index) => [4001 + index, reason],
  ),
]);

/** Answers to a login that trying again does not change. */
const FINAL_LOGIN_CODES = new Set([
  "AUTH_FAILED", "BAD_ARGUMENT", "BAD_REQUEST", "FORBIDDEN", "LINE_TOO_LONG", "NOT_FOUND",
  "TOKEN_EXPIRED", "UNKNOWN_COMMAND", "UNSUPPORTED", "USER_EXISTS",
]);

/** Answers after which a message, having a tag, is sent again. */
const REPEAT_CODES = new Set(["BACKEND_UNAVAILABLE", "RATE_LIMITED", "SHUTTING_DOWN", "TIMEOUT"]);

/** Commands that may be done twice: they are sent again on the next connection, as is a message. */
const REPEATABLE = new Set([
  "ack", "add_friend", "friends", "group_members", "groups", "help", "join_group", "logout", "ping",
  "profile", "remove_friend", "search", "who", "whoami",
]);

/** As many messages are pulled, and ids confirmed, at once. */
const PAGE = 100;
/** As many are pulled first: also a connection that breaks soon gets on. */
const FIRST_PAGE = 10;
/** So long the client gathers what it confirms at once. */
const ACK_DELAY_MS = 50;
/** The ids of messages that are remembered; more than an inbox holds. */
const REMEMBERED = 20_000;
const REFRESH_INTERVAL_MS = 3_600_000;

const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

const randomLetters = (length) =>
  Array.from({ length }, () => Math.floor(Math.random() * 36).toString(36)).join("");

/**
 * How to go on where a registration was left open: a login finds the account, or there is none, or
 * the first attempt was still under way and made it in between, or the name is another's.
 */
function otherWay({ type, data, doubt }, code) {
  if (type === "login" && doubt === "made" && code === "AUTH_FAILED") {
    return { type: "register", data, doubt };
  }
  if (type === "register" && doubt && code === "USER_EXISTS") {
    return { type: "login", data, doubt: "taken" };
  }
}

/** A confirmation whose answer nobody waits for. */
const ackOf = (ids) => JSON.stringify({ type: "ack", data: { ids } });

/** What came in: each message once, and each stream in the order of its numbers. */
class Inbox {
  /** `waiting` or `handled`, by the message's id; oldest first. */
  #known = new Map();
  /** Pushes, by their id, that wait until what is older was pulled; `null`: none have to. */
  #held = null;
  /** The last number that was taken of each stream. */
  #last = new Map();
  #queue = [];
  #isHandling = false;
  #isStopped = false;
  #waiters = [];

  constructor(handle, confirm, fail) {
    Object.assign(this, { handle, confirm, fail });
  }

  /** A connection begins: what came while there was none has to be pulled first. */
  begin() {
    this.#held ??= new Map();
  }

  /** Takes what was pushed. */
  push(message) {
    const isNext = message.seq === undefined || message.seq === this.#last.get(message.group) + 1;
    if (this.#held && !isNext) this.#held.set(message.id, message);
    else this.#take(message);
  }

  /** Takes what was pulled, oldest first. */
  pull(messages) {
    for (const message of messages) {
      this.#release((held) => held.group === message.group && held.seq < message.seq);
      this.#take(message);
    }
  }

  /** All that is older has been pulled. */
  caughtUp() {
    this.#release(() => true);
    this.#held = null;
  }

  /** Nothing is handled any more. */
  stop() {
    this.#isStopped = true;
  }

  /** Until all that was taken is handled. */
  async idle() {
    while (this.#isHandling) await new Promise((resolve) => this.#waiters.push(resolve));
  }

  #release(isReady) {
    const ready = [...(this.#held?.values() ?? [])].filter(isReady);
    for (const message of ready.sort((one, other) => one.seq - other.seq)) {
      this.#held.delete(message.id);
      this.#take(message);
    }
  }

  #take(message) {
    const known = this.#known.get(message.id);
    if (known === "handled") {
      this.#confirm(message);
    } else if (!known) {
      this.#known.set(message.id, "waiting");
      if (message.seq !== undefined) this.#last.set(message.group, message.seq);
      this.#queue.push(message);
      this.#work();
    }
  }

  async #work() {
    if (this.#isHandling) return;
    this.#isHandling = true;
    try {
      while (this.#queue.length > 0 && !this.#isStopped) {
        const message = this.#queue.shift();
        await this.handle(message);
        this.#known.set(message.id, "handled");
        this.#confirm(message);
        this.#forget();
      }
    } catch (error) {
      this.fail(error);
    }
    this.#isHandling = false;
    this.#waiters.splice(0).forEach((wake) => wake());
  }

  #confirm(message) {
    if (message.to === undefined) this.confirm(message.id);
  }

  /** Forgets the oldest that was handled, past what an inbox can bring again. */
  #forget() {
    if (this.#known.size <= REMEMBERED) return;
    for (const [id, known] of this.#known) {
      if (known === "handled") {
        this.#known.delete(id);
        return;
      }
    }
  }
}

/**
 * Commands go no faster than a gateway takes them: it ends a connection that presses on. The
 * function says how long the next has to wait, in milliseconds; 0: it may go, and is counted.
 */
function pace(perSecond, burst) {
  let [saved, at] = [burst, Date.now()];
  return () => {
    const now = Date.now();
    saved = Math.min(burst, saved + (Math.max(0, now - at) * perSecond) / 1000);
    at = now;
    if (saved < 1) return Math.ceil(((1 - saved) * 1000) / perSecond);
    saved -= 1;
    return 0;
  };
}

/** One user's connection to a gateway, and what comes in its place when it is lost. */
export class Client {
  uid;
  state = "connecting";
  reason;

  #options;
  #url;
  #pace;
  #inbox;
  #socket = null;
  /** Counts connections: what belongs to an older one is over. */
  #epoch = 0;
  #end = () => {};
  #token;
  /** What to log in with while there is no token: `type` and `data`. */
  #credentials = null;
  #firstLogin = null;
  #nextId = 1;
  /** Requests that were not sent on this connection. */
  #queue = [];
  /** Requests that were, and are not answered yet, by their `id`. */
  #asked = new Map();
  #pumpTimer;
  #stopWaiting = () => {};
  /** What was handled, until the gateway knows. */
  #unconfirmed = new Set();
  #confirming = null;
  #lastMessage = Promise.resolve();
  #tagPrefix = randomLetters(12);
  #tags = 0;
  #lastFrameAt = 0;
  #onlineSince = Infinity;
  #refreshedAt = 0;

  constructor(url, options = {}) {
    this.#options = { ...DEFAULTS, ...options };
    this.#options.device ??= `js-${randomLetters(8)}`;
    const target = new URL(url);
    target.searchParams.set("device", this.#options.device);
    target.searchParams.set("ack", "manual");
    this.#url = target.href;
    this.#inbox = new Inbox(
      (message) => this.#options.onMessage?.(message),
      (id) => this.#confirm(id),
      (error) => this.#close("CLOSED", `onMessage threw: ${error}`),
    );
  }

  // What these do is said in im-gateway.d.ts.

  register(user, password) {
    return this.#start({ type: "register", data: { user, password } });
  }

  login(user, password) {
    return this.#start({ type: "login", data: { user, password } });
  }

  auth(token) {
    this.#token = token;
    return this.#start(null);
  }

  chat(to, text, clientMsgId) {
    return this.#send("chat", { to, text }, clientMsgId);
  }

  groupChat(gid, text, clientMsgId) {
    return this.#send("group_chat", { gid, text }, clientMsgId);
  }

  ask(type, data = {}) {
    return new Promise((resolve, reject) => {
      const request = this.#request(type, data, resolve, reject);
      if (request) this.#queue.push(request);
      this.#pump();
    });
  }

  async logout() {
    await this.ask("logout").catch((error) => {
      // Refused at the next login: the session was ended, and only the answer was lost.
      if (error.code !== "AUTH_FAILED") throw error;
    });
    this.#close("logout", "logged out");
  }

  close() {
    const handled = [...this.#unconfirmed];
    while (this.state === "online" && handled.length > 0) {
      this.#socket.send(ackOf(handled.splice(0, PAGE)));
    }
    this.#close("closed", "the client was closed");
  }

  reconnect() {
    this.#stopWaiting();
  }

  #start(credentials) {
    if (this.#firstLogin || this.#epoch > 0) throw new Error("a client logs in once");
    this.#credentials = credentials;
    return new Promise((resolve, reject) => {
      this.#firstLogin = { resolve, reject };
      this.#run();
    });
  }

  async #run() {
    for (let failures = 0; this.state !== "closed"; failures += 1) {
      this.#enter("connecting");
      const { reason, onlineMs, retryMs } = await this.#connect();
      if (this.state === "closed") return;
      if (FINAL_REASONS.has(reason)) {
        this.#close(reason, `the gateway ended it: ${reason}`);
        return;
      }
      const { firstWaitMs, longestWaitMs } = this.#options;
      if (onlineMs > longestWaitMs) failures = 0;
      this.#enter("waiting", reason);
      const longestMs = Math.min(firstWaitMs * 2 ** Math.min(failures, 30), longestWaitMs);
      await this.#wait(Math.max(longestMs * (0.5 + Math.random() / 2), retryMs));
    }
  }

  #wait(ms) {
    return new Promise((resolve) => {
      const timer = setTimeout(resolve, ms);
      this.#stopWaiting = () => {
        clearTimeout(timer);
        resolve();
      };
    });
  }

  /** Has one connection, from its beginning to its end. */
  #connect() {
    this.#epoch += 1;
    this.#onlineSince = Infinity;
    this.#lastFrameAt = Date.now();
    this.#pace = pace(this.#options.perSecond, this.#options.burst);
    // Before the first frame: pushes come right behind the reply to the login.
    this.#inbox.begin();
    const WebSocket = this.#options.WebSocket ?? globalThis.WebSocket;
    const socket = new WebSocket(this.#url, ["im.json"]);
    const watch = setInterval(() => this.#watch(), Math.min(5000, this.#options.heartbeatMs / 2));
    this.#socket = socket;
    let kick;
    return new Promise((resolve) => {
      this.#end = (reason, retryMs = 0) => {
        if (this.#socket !== socket) return;
        clearInterval(watch);
        socket.onopen = socket.onmessage = socket.onclose = null;
        socket.close();
        this.#socket = null;
        this.#lose();
        resolve({ reason, retryMs, onlineMs: Date.now() - this.#onlineSince });
      };
      socket.onopen = () => this.#logIn();
      socket.onmessage = (event) => {
        const frame = this.#receive(event.data);
        if (frame.type === "kick") kick = frame.data.reason;
      };
      // What went wrong is told by the close that follows.
      socket.onerror = () => {};
      socket.onclose = (event) => this.#end(kick ?? CLOSE_REASONS.get(event.code) ?? "lost");
    });
  }

  /** Asks a silent gateway for a sign of life, and gives up one that gives none. */
  #watch() {
    const silentMs = Date.now() - this.#lastFrameAt;
    const { heartbeatMs, patienceMs } = this.#options;
    if (silentMs > patienceMs + (this.state === "online" ? heartbeatMs : 0)) {
      this.#end("lost");
    } else if (this.state === "online" && silentMs > heartbeatMs) {
      const isAsking = [...this.#asked.values()].some((request) => request.type === "ping");
      if (!isAsking) this.ask("ping").catch(() => {});
    }
  }

  async #logIn() {
    const end = this.#end;
    const token = this.#token;
    const how = token ? { type: "auth", data: { token } } : this.#credentials;
    try {
      const reply = await new Promise((resolve, reject) => {
        const request = this.#request(how.type, how.data, resolve, reject);
        if (request) this.#transmit(request);
      });
      this.#loggedIn(reply);
    } catch (error) {
      const { code, retryMs } = error;
      const next = otherWay(how, code);
      if (next) {
        this.#credentials = next;
        this.#logIn();
      } else if (FINAL_LOGIN_CODES.has(code) || (code === "RATE_LIMITED" && !token)) {
        this.#close(code, error.message, retryMs);
      } else {
        if (how.type === "register" && code !== "OVERLOADED") {
          // Whether there is an account now is unknown.
          this.#credentials = { type: "login", data: how.data, doubt: "made" };
        }
        end(code, retryMs);
      }
    }
  }

  #loggedIn(reply) {
    this.uid = reply.uid;
    this.#credentials = null;
    if (reply.token) this.#keepToken(reply.token);
    this.#onlineSince = Date.now();
    this.#enter("online");
    this.#catchUp(this.#epoch);
    this.#pump();
    this.#refresh();
    this.#firstLogin?.resolve(reply);
    this.#firstLogin = null;
  }

  #keepToken(token) {
    this.#token = token;
    this.#refreshedAt = Date.now();
    this.#options.onToken?.(token);
  }

  /** Gets a fresh token before the one at hand is old. */
  #refresh() {
    const epoch = this.#epoch;
    const dueMs = this.#refreshedAt + REFRESH_INTERVAL_MS - Date.now();
    const isOver = () => epoch !== this.#epoch || this.state !== "online";
    const timer = setTimeout(async () => {
      if (isOver()) return;
      this.#refreshedAt = Date.now();
      const reply = await this.ask("refresh").catch(() => ({}));
      if (reply.token) this.#keepToken(reply.token);
      if (!isOver()) this.#refresh();
    }, dueMs);
    // Node alone: a timer by itself keeps no program running.
    timer.unref?.();
  }

  #enter(state, reason) {
    this.state = state;
    this.reason = reason;
    this.#options.onState?.(state, reason);
  }

  /** The connection is gone: what may be done twice waits for the next one. */
  #lose() {
    // What is caught up with is the connection's own; what was not sent was not done.
    const isOver = ({ id, type, isRepeatable }) =>
      type === "pull" || (!isRepeatable && this.#asked.has(id));
    const requests = [...this.#asked.values(), ...this.#queue];
    const over = requests.filter(isOver);
    this.#queue = requests.filter((request) => !isOver(request));
    this.#asked.clear();
    for (const { type, reject } of over) {
      reject(new GatewayError("LOST", `the connection was lost before ${type} was answered`));
    }
  }

  #close(reason, words, retryMs) {
    if (this.state === "closed") return;
    this.#enter("closed", reason);
    clearTimeout(this.#pumpTimer);
    this.#inbox.stop();
    this.#end(reason);
    this.#stopWaiting();
    const error = new GatewayError(/^[A-Z_]+$/.test(reason) ? reason : "CLOSED", words, retryMs);
    this.#queue.splice(0).forEach((request) => request.reject(error));
    this.#firstLogin?.reject(error);
    this.#firstLogin = null;
  }

  #request(type, data, resolve, reject) {
    const id = this.#nextId++;
    const text = JSON.stringify({ id, type, data });
    const isRepeatable = REPEATABLE.has(type) || "client_msg_id" in data;
    if (this.state === "closed") {
      reject(new GatewayError("CLOSED", "the client is closed"));
    } else if (new TextEncoder().encode(text).length >= this.#options.maxBytes) {
      reject(new GatewayError("LINE_TOO_LONG", `more than ${this.#options.maxBytes} bytes`));
    } else {
      return { id, type, text, isRepeatable, messages: [], resolve, reject };
    }
  }

  /** Sends what waits, as fast as it may go. */
  #pump() {
    clearTimeout(this.#pumpTimer);
    while (this.state === "online" && this.#queue.length > 0) {
      const waitMs = this.#pace();
      if (waitMs > 0) {
        this.#pumpTimer = setTimeout(() => this.#pump(), waitMs);
        return;
      }
      this.#transmit(this.#queue.shift());
    }
  }

  #transmit(request) {
    this.#asked.set(request.id, request);
    this.#socket.send(request.text);
  }

  #receive(text) {
    this.#lastFrameAt = Date.now();
    const frame = JSON.parse(text);
    const request = this.#asked.get(frame.id);
    if (request) {
      this.#answered(request, frame);
    } else if (frame.type === "message") {
      this.#inbox.push(frame.data);
    } else if (frame.type === "notice") {
      this.#options.onNotice?.(frame.data);
    }
    return frame;
  }

  #answered(request, frame) {
    if (frame.type === "error") {
      this.#asked.delete(request.id);
      request.reject(new GatewayError(frame.code, frame.message, frame.retry_ms));
      return;
    }
    if (Array.isArray(frame.data.messages)) request.messages.push(...frame.data.messages);
    if (frame.data.part) return;
    this.#asked.delete(request.id);
    const messages = frame.data.messages ? { messages: request.messages } : {};
    request.resolve({ ...frame.data, ...messages });
  }

  #send(type, data, clientMsgId) {
    this.#tags += 1;
    const tagged = { ...data, client_msg_id: clientMsgId ?? `${this.#tagPrefix}-${this.#tags}` };
    const stored = this.#lastMessage.then(() => this.#insist(type, tagged));
    this.#lastMessage = stored.catch(() => {});
    return stored;
  }

  /** Asks until the answer is one that stays. */
  async #insist(type, data) {
    for (let failures = 0; ; failures += 1) {
      try {
        return await this.ask(type, data);
      } catch (error) {
        const { code, retryMs } = error;
        if (!REPEAT_CODES.has(code)) throw error;
        await sleep(retryMs ?? Math.min(200 * 2 ** failures, 5000));
      }
    }
  }

  /** Pulls what came while there was no connection; each page is confirmed before the next. */
  async #catchUp(epoch) {
    const isOver = () => epoch !== this.#epoch || this.state !== "online";
    for (let limit = FIRST_PAGE; !isOver(); limit = Math.min(2 * limit, PAGE)) {
      try {
        const page = await this.ask("pull", { limit });
        this.#inbox.pull(page.messages);
        await this.#inbox.idle();
        await this.#confirming;
        if (isOver()) return;
        if (!page.more) {
          this.#inbox.caughtUp();
          return;
        }
      } catch {
        await sleep(1000);
      }
    }
  }

  #confirm(id) {
    this.#unconfirmed.add(id);
    this.#confirming ??= this.#acknowledge();
  }

  async #acknowledge() {
    await sleep(ACK_DELAY_MS);
    while (this.#unconfirmed.size > 0 && this.state !== "closed") {
      const ids = [...this.#unconfirmed].slice(0, PAGE);
      // What cannot be confirmed comes again, and is tried again then.
      await this.#insist("ack", { ids }).catch(() => {});
      ids.forEach((id) => this.#unconfirmed.delete(id));
    }
    this.#confirming = null;
  }
}
