"""What came in: each message once, and each stream in the order of its numbers."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any, Awaitable, Callable, Optional

# The ids of messages that are remembered; more than an inbox holds.
_REMEMBERED = 20_000


@dataclass(frozen=True)
class Message:
    """A message, or a copy of one that the user sent from another device."""

    id: str
    sender: int
    # When it was taken in, in milliseconds since 1970.
    ts: int
    text: str
    # The group it was sent to.
    group: Optional[int] = None
    # Of a copy: the user it was sent to.
    to: Optional[int] = None
    # Numbers the messages of the inbox, and of each group.
    seq: Optional[int] = None
    # The gateway may have sent it before; the client has not handled it.
    dup: bool = False

    @classmethod
    def read(cls, data: dict[str, Any]) -> Message:
        """The message of a frame."""
        names = ("id", "ts", "text", "group", "to", "seq", "dup")
        return cls(sender=data["from"], **{name: data[name] for name in names if name in data})


class Inbox:
    """Gives each message to ``handle``, one at a time, then its id to ``confirm``."""

    def __init__(
        self, handle: Callable[[Message], Awaitable[None]], confirm: Callable[[str], None]
    ):
        self._handle = handle
        self._confirm_id = confirm
        # Whether it was handled, by the message's id; oldest first.
        self._known: dict[str, bool] = {}
        # Pushes, by their id, that wait until what is older was pulled; None: none have to.
        self._held: dict[str, Message] | None = None
        # The last number that was taken of each stream.
        self._last: dict[int | None, int] = {}
        self._queue: asyncio.Queue[Message] = asyncio.Queue()

    def begin(self) -> None:
        """A connection begins: what came while there was none has to be pulled first."""
        if self._held is None:
            self._held = {}

    def push(self, message: Message) -> None:
        """Takes what was pushed."""
        last = self._last.get(message.group)
        is_next = message.seq is None or (last is not None and message.seq == last + 1)
        if self._held is None or is_next:
            self._take(message)
        else:
            self._held[message.id] = message

    def pull(self, messages: list[Message]) -> None:
        """Takes what was pulled, oldest first."""
        for message in messages:
            stream, seq = message.group, message.seq or 0
            self._release(lambda held: held.group == stream and (held.seq or 0) < seq)
            self._take(message)

    def caught_up(self) -> None:
        """All that is older has been pulled."""
        self._release(lambda _: True)
        self._held = None

    async def idle(self) -> None:
        """Waits until all that was taken is handled."""
        await self._queue.join()

    async def work(self) -> None:
        """Handles what comes, for ever. If that raises, the message stays unconfirmed."""
        while True:
            message = await self._queue.get()
            await self._handle(message)
            self._known[message.id] = True
            self._confirm(message)
            self._forget()
            self._queue.task_done()

    def _release(self, is_ready: Callable[[Message], bool]) -> None:
        held = self._held or {}
        ready = [message for message in held.values() if is_ready(message)]
        for message in sorted(ready, key=lambda message: message.seq or 0):
            del held[message.id]
            self._take(message)

    def _take(self, message: Message) -> None:
        is_handled = self._known.get(message.id)
        if is_handled:
            self._confirm(message)
        elif is_handled is None:
            self._known[message.id] = False
            if message.seq is not None:
                self._last[message.group] = message.seq
            self._queue.put_nowait(message)

    def _confirm(self, message: Message) -> None:
        if message.to is None:
            self._confirm_id(message.id)

    def _forget(self) -> None:
        """Forgets the oldest that was handled, past what an inbox can bring again."""
        if len(self._known) > _REMEMBERED:
            oldest = next(id for id, is_handled in self._known.items() if is_handled)
            del self._known[oldest]
