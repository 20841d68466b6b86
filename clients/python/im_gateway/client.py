"""One user's connection to a gateway, and what comes in its place when it is lost."""

from __future__ import annotations

import asyncio
import inspect
import json
import random
import ssl as tls
import string
import time
from collections import deque
from typing import Any, Callable
from urllib.parse import urlencode, urlsplit

from .inbox import Inbox, Message
from .requests import GatewayError, Pace, Request
from .websocket import WebSocket, WebSocketClosed

# Ends after which nobody comes back by itself.
_FINAL_REASONS = frozenset("replaced revoked admin protocol rate_limited auth_timeout".split())

# Reasons by the close code, where no kick told it.
_CLOSE_REASONS = {
    **dict.fromkeys((1002, 1003, 1007, 1008, 1009), "protocol"),
    **dict(enumerate("replaced idle slow_consumer admin auth_timeout rate_limited revoked".split(),
                     start=4001)),
}

# Answers to a login that trying again does not change.
_FINAL_LOGIN_CODES = frozenset(
    "AUTH_FAILED BAD_ARGUMENT BAD_REQUEST FORBIDDEN LINE_TOO_LONG NOT_FOUND TOKEN_EXPIRED "
    "UNKNOWN_COMMAND UNSUPPORTED USER_EXISTS".split()
)

# Answers after which a message, having a tag, is sent again.
_REPEAT_CODES = frozenset("BACKEND_UNAVAILABLE RATE_LIMITED SHUTTING_DOWN TIMEOUT".split())

# As many messages are pulled, and ids confirmed, at once.
_PAGE = 100
# As many are pulled first: also a connection that breaks soon gets on.
_FIRST_PAGE = 10
# So long the client gathers what it confirms at once.
_ACK_DELAY = 0.05
_REFRESH_INTERVAL = 3600


def _random_letters(length: int) -> str:
    return "".join(random.choices(string.ascii_lowercase + string.digits, k=length))


# A command that logs in, its data, and what is in doubt after a registration that was left open.
_Way = tuple[str, dict[str, Any], str]


def _other_way(way: _Way, code: str) -> _Way | None:
    """How to go on where a registration was left open.

    A login finds the account, or there is none, or the first attempt was still under way and made
    it in between, or the name is another's.
    """
    kind, data, doubt = way
    if kind == "login" and doubt == "made" and code == "AUTH_FAILED":
        return "register", data, doubt
    if kind == "register" and doubt and code == "USER_EXISTS":
        return "login", data, "taken"
    return None


class Client:
    """A user's client. It logs in once, by ``register``, ``login`` or ``auth``.

    ``on_message(message)`` is called with one message at a time and may be a coroutine function;
    once it is done, the message is confirmed. If it raises, the message stays unconfirmed, the
    client closes, and ``wait_closed`` raises the same. ``on_notice(data)``, ``on_state(state,
    reason)`` and ``on_token(token)`` are plain functions. A state is ``connecting``, ``online``,
    ``waiting`` or, for good, ``closed``; its reason a word of ``KICK``, ``lost``, ``logout``,
    ``closed`` by the program, or an error's code.
    """

    def __init__(
        self,
        url: str,
        *,
        on_message: Callable[[Message], Any] | None = None,
        on_notice: Callable[[dict[str, Any]], Any] | None = None,
        on_state: Callable[[str, str | None], Any] | None = None,
        on_token: Callable[[str], Any] | None = None,
        device: str | None = None,
        ssl: tls.SSLContext | None = None,
        first_wait: float = 0.5,
        longest_wait: float = 30,
        heartbeat: float = 25,
        patience: float = 20,
        per_second: float = 40,
        burst: float = 50,
        max_bytes: int = 8192,
    ):
        """``url`` is such as ``ws://127.0.0.1:8000/ws``, ``device`` a name that no other
        installation has; times are in seconds. ``per_second``, ``burst`` and ``max_bytes`` are for
        gateways whose limits are not the default ones.
        """
        query = urlencode({"device": device or f"py-{_random_letters(8)}", "ack": "manual"})
        self._url = url + ("&" if urlsplit(url).query else "?") + query
        self._on_message, self._on_notice = on_message, on_notice
        self._on_state, self._on_token = on_state, on_token
        self._ssl = ssl
        self._waits = (first_wait, longest_wait)
        self._heartbeat, self._patience = heartbeat, patience
        self._limits = (per_second, burst)
        self._max_bytes = max_bytes
        # The user's number, once logged in.
        self.uid: int | None = None
        self.state = "connecting"
        self.reason: str | None = None
        self._token: str | None = None
        # What to log in with while there is no token.
        self._credentials: _Way | None = None
        self._first_login: asyncio.Future[dict[str, Any]] | None = None
        self._running: asyncio.Task[None] | None = None
        self._next_id = 1
        # Requests that were not sent on this connection; and those that were, by their id.
        self._queue: deque[Request] = deque()
        self._asked: dict[int, Request] = {}
        self._has_queue = asyncio.Event()
        # Set: who waits to come back does so now.
        self._wake = asyncio.Event()
        self._inbox = Inbox(self._handle, self._confirm)
        self._failure: BaseException | None = None
        self._closed_with = GatewayError("CLOSED", "the client was cancelled")
        # What was handled, until the gateway knows.
        self._unconfirmed: dict[str, None] = {}
        self._confirming: asyncio.Task[None] | None = None
        self._sending = asyncio.Lock()
        self._tag_prefix, self._tags = _random_letters(12), 0
        self._last_frame_at = self._refreshed_at = 0.0
        self._socket: WebSocket | None = None
        # Of the connection there is: why it ended, and how long to wait at least.
        self._end: asyncio.Future[tuple[str, float]] | None = None
        self._online_since = float("inf")

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def register(self, user: str, password: str) -> dict[str, Any]:
        """Makes an account, and logs in."""
        return await self._start("register", {"user": user, "password": password})

    async def login(self, user: str, password: str) -> dict[str, Any]:
        """Logs in; goes on trying while there is no gateway."""
        return await self._start("login", {"user": user, "password": password})

    async def auth(self, token: str) -> dict[str, Any]:
        """Logs in with a token."""
        self._token = token
        return await self._start("auth", {})

    async def chat(self, to: int, text: str, client_msg_id: str | None = None) -> dict[str, Any]:
        """Sends a message; returns ``msg_id`` once it is stored.

        Messages go one after the other: they arrive in the order of the calls, through every fault.
        Sent again under the same ``client_msg_id`` within a day, a message is stored once.
        """
        return await self._send("chat", client_msg_id, {"to": to, "text": text})

    async def group_chat(
        self, gid: int, text: str, client_msg_id: str | None = None
    ) -> dict[str, Any]:
        """The same to a group."""
        return await self._send("group_chat", client_msg_id, {"gid": gid, "text": text})

    async def ask(self, kind: str, **data: Any) -> dict[str, Any]:
        """Any other command, with its data as the protocol has them.

        It waits for a connection. Where that is lost before the answer, what may be done twice is
        sent again; of all else it is unknown whether it was done: ``LOST``.
        """
        request = self._request(kind, data)
        self._queue.append(request)
        self._has_queue.set()
        return await request.answer

    async def logout(self) -> None:
        """Ends the session and its tokens, and closes."""
        try:
            await self.ask("logout")
        except GatewayError as error:
            # Refused at the next login: the session was ended, and only the answer was lost.
            if error.code != "AUTH_FAILED":
                raise
        self._close("logout", "logged out")
        await self.close()

    async def close(self) -> None:
        """Ends the connection; the session and its token stay."""
        handled = list(self._unconfirmed)
        while self._socket and self.state == "online" and handled:
            # Nobody waits for the answer.
            self._transmit(self._socket, self._request("ack", {"ids": handled[:_PAGE]}))
            del handled[:_PAGE]
        self._close("closed", "the client was closed")
        if self._running and self._running is not asyncio.current_task():
            await asyncio.wait([self._running])

    async def wait_closed(self) -> str:
        """Waits until the client is closed, and says why."""
        if self._running:
            await asyncio.wait([self._running])
        if self._failure:
            raise self._failure
        return self.reason or "closed"

    def reconnect(self) -> None:
        """Comes back now, where the client waits."""
        self._wake.set()

    # Connections.

    async def _start(self, kind: str, data: dict[str, Any]) -> dict[str, Any]:
        if self._running:
            raise RuntimeError("a client logs in once")
        self._credentials = (kind, data, "")
        self._first_login = asyncio.get_running_loop().create_future()
        self._running = asyncio.create_task(self._run())
        return await self._first_login

    async def _run(self) -> None:
        handling = asyncio.create_task(self._work())
        failures = 0
        try:
            while self.state != "closed":
                self._enter("connecting")
                reason, retry_after = await self._connection()
                if self.state == "closed":
                    return
                if reason in _FINAL_REASONS:
                    self._close(reason, f"the gateway ended it: {reason}")
                    return
                first, longest = self._waits
                if time.monotonic() - self._online_since > longest:
                    failures = 0
                self._enter("waiting", reason)
                wait = min(first * 2 ** min(failures, 30), longest) * random.uniform(0.5, 1)
                failures += 1
                await self._wait(max(wait, retry_after))
        finally:
            handling.cancel()
            if self._confirming:
                self._confirming.cancel()
            await asyncio.wait([handling])
            for request in self._queue:
                request.fail(self._closed_with)
            self._queue.clear()

    async def _wait(self, seconds: float) -> None:
        self._wake.clear()
        try:
            await asyncio.wait_for(self._wake.wait(), seconds)
        except asyncio.TimeoutError:
            pass

    async def _connection(self) -> tuple[str, float]:
        """Has one connection, from its beginning to its end."""
        # Before the first frame: pushes come right behind the reply to the login.
        self._inbox.begin()
        self._online_since = float("inf")
        self._last_frame_at = time.monotonic()
        self._end = asyncio.get_running_loop().create_future()
        connecting = WebSocket.connect(self._url, "im.json", self._ssl)
        try:
            socket = await asyncio.wait_for(connecting, self._patience)
        except (OSError, WebSocketClosed, asyncio.TimeoutError):
            return "lost", 0
        self._socket = socket
        works = (self._read(socket), self._watch(), self._live(socket))
        tasks = [asyncio.create_task(work) for work in works]
        try:
            return await self._end
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            self._socket = None
            socket.say_goodbye()
            socket.abort()
            self._lose()

    def _over(self, reason: str, retry_after: float = 0) -> None:
        if self._end and not self._end.done():
            self._end.set_result((reason, retry_after))

    async def _read(self, socket: WebSocket) -> None:
        kick: str | None = None
        try:
            while True:
                frame = json.loads(await socket.receive())
                self._last_frame_at = time.monotonic()
                request = self._asked.get(frame.get("id"))
                if request:
                    if request.answered(frame):
                        del self._asked[request.id]
                elif frame["type"] == "message":
                    self._inbox.push(Message.read(frame["data"]))
                elif frame["type"] == "notice" and self._on_notice:
                    self._on_notice(frame["data"])
                elif frame["type"] == "kick":
                    kick = frame["data"]["reason"]
        except WebSocketClosed as closed:
            self._over(kick or _CLOSE_REASONS.get(closed.code or 0, "lost"))
        except Exception as error:
            self._fail(error)

    async def _watch(self) -> None:
        """Asks a silent gateway for a sign of life, and gives up one that gives none."""
        while True:
            await asyncio.sleep(min(5, self._heartbeat / 2))
            silence = time.monotonic() - self._last_frame_at
            is_online = self.state == "online"
            if silence > self._patience + (self._heartbeat if is_online else 0):
                self._over("lost")
            elif is_online and silence > self._heartbeat:
                if not any(request.kind == "ping" for request in self._asked.values()):
                    self._queue.append(self._request("ping", {}))
                    self._has_queue.set()

    async def _live(self, socket: WebSocket) -> None:
        """Logs in, and does what a connection that is logged in has to do."""
        tasks: list[asyncio.Task[None]] = []
        try:
            if await self._log_in(socket):
                works = (self._catch_up(), self._pump(socket), self._refresh())
                tasks += [asyncio.create_task(work) for work in works]
                await asyncio.gather(*tasks)
        except Exception as error:
            self._fail(error)
        finally:
            for task in tasks:
                task.cancel()

    async def _log_in(self, socket: WebSocket) -> bool:
        token = self._token
        way = ("auth", {"token": token}, "") if token else self._credentials
        assert way, "who has no token has a password"
        request = self._request(*way[:2])
        if way[0] == "register":
            # Until it is answered, whether there is an account is unknown.
            self._credentials = ("login", way[1], "made")
        self._transmit(socket, request)
        try:
            self._logged_in(await request.answer)
            return True
        except GatewayError as error:
            next_way = _other_way(way, error.code)
            if next_way:
                self._credentials = next_way
                return await self._log_in(socket)
            is_refused = error.code == "RATE_LIMITED" and not token
            if error.code in _FINAL_LOGIN_CODES or is_refused:
                self._close(error.code, str(error), error.retry_after)
            else:
                if way[0] == "register" and error.code == "OVERLOADED":
                    # Nothing was done.
                    self._credentials = way
                self._over(error.code, error.retry_after or 0)
            return False

    def _logged_in(self, reply: dict[str, Any]) -> None:
        self.uid = reply["uid"]
        self._credentials = None
        if "token" in reply:
            self._keep_token(reply["token"])
        self._online_since = time.monotonic()
        self._enter("online")
        if self._first_login and not self._first_login.done():
            self._first_login.set_result(reply)

    def _keep_token(self, token: str) -> None:
        self._token = token
        self._refreshed_at = time.monotonic()
        if self._on_token:
            self._on_token(token)

    async def _refresh(self) -> None:
        """Gets a fresh token before the one at hand is old."""
        while True:
            is_kept = self._refreshed_at > 0
            due = self._refreshed_at + _REFRESH_INTERVAL if is_kept else 0
            await asyncio.sleep(max(0, due - time.monotonic()))
            self._refreshed_at = time.monotonic()
            try:
                self._keep_token((await self.ask("refresh"))["token"])
            except GatewayError:
                pass

    def _enter(self, state: str, reason: str | None = None) -> None:
        self.state, self.reason = state, reason
        if self._on_state:
            self._on_state(state, reason)

    def _lose(self) -> None:
        """The connection is gone: what may be done twice waits for the next one."""
        asked, waiting = list(self._asked.values()), list(self._queue)
        self._asked.clear()
        # What is caught up with is the connection's own; what was not sent was not done.
        over = [request for request in asked if not request.is_repeatable]
        over += [request for request in waiting if request.kind == "pull"]
        self._queue = deque(request for request in asked + waiting if request not in over)
        for request in over:
            words = f"the connection was lost before {request.kind} was answered"
            request.fail(GatewayError("LOST", words))

    def _close(self, reason: str, words: str, retry_after: float | None = None) -> None:
        if self.state == "closed":
            return
        self._enter("closed", reason)
        self._over(reason)
        error = GatewayError(reason if reason.isupper() else "CLOSED", words, retry_after)
        self._closed_with = error
        if self._first_login and not self._first_login.done():
            self._first_login.set_exception(error)
        self._wake.set()

    def _fail(self, error: BaseException) -> None:
        """What the program was called with raised: nobody goes on as if nothing was."""
        self._failure = error
        self._close("CLOSED", f"a callback raised {error!r}")

    # Requests.

    def _request(self, kind: str, data: dict[str, Any]) -> Request:
        if self.state == "closed":
            raise GatewayError("CLOSED", "the client is closed")
        request = Request(self._next_id, kind, data)
        self._next_id += 1
        if len(request.text.encode()) >= self._max_bytes:
            raise GatewayError("LINE_TOO_LONG", f"more than {self._max_bytes} bytes")
        return request

    async def _pump(self, socket: WebSocket) -> None:
        """Sends what waits, as fast as it may go."""
        pace = Pace(*self._limits)
        while True:
            while self._queue:
                await pace.take()
                # Nothing waits any more where its answer is no longer waited for.
                if self._queue and not self._queue[0].answer.done():
                    self._transmit(socket, self._queue[0])
                if self._queue:
                    self._queue.popleft()
            self._has_queue.clear()
            await self._has_queue.wait()

    def _transmit(self, socket: WebSocket, request: Request) -> None:
        self._asked[request.id] = request
        socket.send(request.text)

    # Messages.

    async def _send(
        self, kind: str, client_msg_id: str | None, data: dict[str, Any]
    ) -> dict[str, Any]:
        self._tags += 1
        data["client_msg_id"] = client_msg_id or f"{self._tag_prefix}-{self._tags}"
        async with self._sending:
            return await self._insist(kind, data)

    async def _insist(self, kind: str, data: dict[str, Any]) -> dict[str, Any]:
        """Asks until the answer is one that stays."""
        failures = 0
        while True:
            try:
                return await self.ask(kind, **data)
            except GatewayError as error:
                if error.code not in _REPEAT_CODES:
                    raise
                await asyncio.sleep(error.retry_after or min(0.2 * 2**failures, 5))
                failures += 1

    async def _catch_up(self) -> None:
        """Pulls what came while there was no connection; each page is confirmed before the next."""
        limit = _FIRST_PAGE
        while True:
            try:
                page = await self.ask("pull", limit=limit)
            except GatewayError:
                await asyncio.sleep(1)
                continue
            limit = min(2 * limit, _PAGE)
            self._inbox.pull([Message.read(data) for data in page["messages"]])
            await self._inbox.idle()
            if self._confirming:
                await asyncio.wait([self._confirming])
            if not page["more"]:
                self._inbox.caught_up()
                return

    async def _work(self) -> None:
        try:
            await self._inbox.work()
        except Exception as error:
            self._fail(error)

    async def _handle(self, message: Message) -> None:
        if self._on_message:
            result = self._on_message(message)
            if inspect.isawaitable(result):
                await result

    def _confirm(self, id: str) -> None:
        self._unconfirmed[id] = None
        if self._confirming is None or self._confirming.done():
            self._confirming = asyncio.create_task(self._acknowledge())

    async def _acknowledge(self) -> None:
        await asyncio.sleep(_ACK_DELAY)
        while self._unconfirmed and self.state != "closed":
            ids = list(self._unconfirmed)[:_PAGE]
            try:
                await self._insist("ack", {"ids": ids})
            except GatewayError:
                # What cannot be confirmed comes again, and is tried again then.
                pass
            for id in ids:
                self._unconfirmed.pop(id, None)
