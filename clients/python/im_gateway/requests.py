"""Requests and what they are answered; which of them may be sent again."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

# Commands that may be done twice: they are sent again on the next connection, as is a message.
_REPEATABLE = frozenset(
    "ack add_friend friends group_members groups help join_group logout ping profile "
    "remove_friend search who whoami".split()
)


class GatewayError(Exception):
    """What a command was answered, or why it was not.

    ``code`` is the protocol's word; or ``LOST``: the connection ended, and it is unknown whether it
    was done; or ``CLOSED``: the client was closed.
    """

    def __init__(self, code: str, message: str, retry_after: float | None = None):
        super().__init__(f"{code}: {message}")
        self.code = code
        # How long to wait before trying again, in seconds.
        self.retry_after = retry_after


class Request:
    """A request that waits for its answer."""

    def __init__(self, number: int, kind: str, data: dict[str, Any]):
        self.id = number
        self.kind = kind
        frame = {"id": number, "type": kind, "data": data}
        self.text = json.dumps(frame, ensure_ascii=False, separators=(",", ":"))
        self.is_repeatable = kind in _REPEATABLE or "client_msg_id" in data
        self.answer: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        # An error that nobody waits for any more is no fault.
        self.answer.add_done_callback(lambda answer: answer.cancelled() or answer.exception())
        self._messages: list[dict[str, Any]] = []

    def fail(self, error: GatewayError) -> None:
        """It was not done, or nobody knows."""
        if not self.answer.done():
            self.answer.set_exception(error)

    def answered(self, frame: dict[str, Any]) -> bool:
        """Takes a frame of the answer; whether it was the last."""
        if frame["type"] == "error":
            retry_ms = frame.get("retry_ms")
            retry_after = None if retry_ms is None else retry_ms / 1000
            self.fail(GatewayError(frame["code"], frame.get("message", ""), retry_after))
            return True
        data = frame["data"]
        if "messages" in data:
            self._messages += data["messages"]
            data["messages"] = self._messages
        if data.get("part"):
            return False
        if not self.answer.done():
            self.answer.set_result(data)
        return True


class Pace:
    """Commands go no faster than a gateway takes them: it ends a connection that presses on."""

    def __init__(self, per_second: float, burst: float):
        self._per_second = per_second
        self._burst = burst
        self._saved = burst
        self._at = time.monotonic()

    async def take(self) -> None:
        """Waits until the next command may go."""
        while True:
            now = time.monotonic()
            self._saved = min(self._burst, self._saved + (now - self._at) * self._per_second)
            self._at = now
            if self._saved >= 1:
                self._saved -= 1
                return
            await asyncio.sleep((1 - self._saved) / self._per_second)
