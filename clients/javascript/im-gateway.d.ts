/** A client of im-gateway for browsers and Node, over WebSocket. */

/** A message, or a copy of one that the user sent from another device. */
export interface Message {
  id: string;
  from: number;
  /** When it was taken in, in milliseconds since 1970. */
  ts: number;
  text: string;
  /** The group it was sent to. */
  group?: number;
  /** Of a copy: the user it was sent to. */
  to?: number;
  /** Numbers the messages of the inbox, and of each group. */
  seq?: number;
  /** The gateway may have sent it before; the client has not handled it. */
  dup?: boolean;
}

/** `kind` says what it is about, such as `friend_online` with `uid` and `name`. */
export interface Notice {
  kind: string;
  [key: string]: unknown;
}

/** Where a client is; `closed` is for good. */
export type State = "connecting" | "online" | "waiting" | "closed";

export interface Options {
  /**
   * Called with one message at a time. What it returns is awaited, then the message is confirmed.
   * If it throws, the message stays unconfirmed and the client closes.
   */
  onMessage?: (message: Message) => unknown;
  onNotice?: (notice: Notice) => unknown;
  /** `reason`: a word of `KICK`, `logout`, `closed` by the program, `lost`, or an error's code. */
  onState?: (state: State, reason?: string) => unknown;
  /** A token to come back with. Keep it as a password. */
  onToken?: (token: string) => unknown;
  /** A name no other installation has: 1 to 16 of `A-Z a-z 0-9 _ -`. By default a new one. */
  device?: string;
  /** The class, where there is no global one, as in Node before 22. */
  WebSocket?: unknown;
  /** How long to wait before coming back, then twice as long each time; 500. */
  firstWaitMs?: number;
  /** 30000. */
  longestWaitMs?: number;
  /** After so long without a frame the gateway is asked for one; 25000. */
  heartbeatMs?: number;
  /** How long to wait for that, and for a login; 20000. */
  patienceMs?: number;
  /** Commands a second, less than the gateway's `commands_per_second`; 40. */
  perSecond?: number;
  /** Commands at once, less than the gateway's `commands_burst`; 50. */
  burst?: number;
  /** The longest request, the gateway's `max_line_bytes`; 8192. */
  maxBytes?: number;
}

/** What a command was answered, or why it was not. */
export class GatewayError extends Error {
  /**
   * The protocol's word; or `LOST`: the connection ended, and it is unknown whether it was done; or
   * `CLOSED`: the client was closed.
   */
  code: string;
  /** How long to wait before trying again. */
  retryMs?: number;
}

export interface Login {
  uid: number;
  session: string;
  token?: string;
  replaced?: boolean;
}

export interface Stored {
  msg_id: string;
  /** It had been stored before. */
  dup?: boolean;
}

/** One user's connection to a gateway, and what comes in its place when it is lost. */
export class Client {
  /** @param url such as `ws://127.0.0.1:8000/ws` */
  constructor(url: string, options?: Options);

  /** The user's number, once logged in. */
  readonly uid: number | undefined;
  readonly state: State;
  /** Why the client waits or is closed. */
  readonly reason: string | undefined;

  // A client logs in once, by one of these. They go on trying while there is no gateway; what a
  // gateway refuses rejects them.

  /** Makes an account. */
  register(user: string, password: string): Promise<Login>;
  login(user: string, password: string): Promise<Login>;
  /** Logs in with a token. */
  auth(token: string): Promise<Login>;

  /**
   * Sends a message; resolves once it is stored. Messages go one after the other: they arrive in
   * the order of the calls, through every fault.
   *
   * @param clientMsgId the message's own name, 1 to 32 of `A-Z a-z 0-9 _ -`: sent again under it
   *   within a day, it is stored once
   */
  chat(to: number, text: string, clientMsgId?: string): Promise<Stored>;
  groupChat(gid: number, text: string, clientMsgId?: string): Promise<Stored>;

  /**
   * Any other command, with its data as the protocol has them. It waits for a connection. Where
   * that is lost before the answer, what may be done twice is sent again.
   */
  ask(type: string, data?: object): Promise<any>;

  /** Ends the session and its tokens, and closes. */
  logout(): Promise<void>;
  /** Ends the connection; the session and its token stay. */
  close(): void;
  /** Comes back now, where the client waits. */
  reconnect(): void;
}
