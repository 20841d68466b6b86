"""The client's end of a WebSocket (RFC 6455), as far as a gateway needs it."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import os
import ssl as tls
from urllib.parse import urlsplit

_KEY_SUFFIX = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_HEAD_MAX = 16 * 1024
# A gateway's frames have 64 KiB and one message more at most.
_MESSAGE_MAX = 1 << 20
_CONTINUATION, _TEXT, _CLOSE, _PING, _PONG = 0x0, 0x1, 0x8, 0x9, 0xA


class WebSocketClosed(Exception):
    """The connection is over; ``code`` is that of the peer's close frame, if there was one."""

    def __init__(self, code: int | None = None):
        super().__init__(f"closed with {code}")
        self.code = code


class WebSocket:
    """One connection, its handshake done."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter):
        self._reader = reader
        self._writer = writer

    @classmethod
    async def connect(
        cls, url: str, protocol: str, ssl: tls.SSLContext | None = None
    ) -> WebSocket:
        """Connects to a ``ws:`` or ``wss:`` URL.

        What fails is ``OSError`` or ``WebSocketClosed``.
        """
        parts = urlsplit(url)
        is_secure = parts.scheme == "wss"
        if not is_secure and parts.scheme != "ws":
            raise ValueError(f"{url!r} is no ws: or wss: URL")
        host, port = parts.hostname or "", parts.port or (443 if is_secure else 80)
        context = (ssl or tls.create_default_context()) if is_secure else None
        reader, writer = await asyncio.open_connection(host, port, ssl=context)
        socket = cls(reader, writer)
        try:
            target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
            await socket._shake_hands(parts.netloc.rpartition("@")[2], target, protocol)
        except BaseException:
            socket.abort()
            raise
        return socket

    async def _shake_hands(self, host: str, target: str, protocol: str) -> None:
        key = base64.b64encode(os.urandom(16)).decode()
        head = (
            f"GET {target} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\n"
            f"Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n"
            f"Sec-WebSocket-Protocol: {protocol}\r\n\r\n"
        )
        self._writer.write(head.encode())
        try:
            answer = await self._reader.readuntil(b"\r\n\r\n")
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            raise WebSocketClosed() from None
        status, *lines = answer.decode("latin-1").split("\r\n")
        fields = {name.strip().lower(): value.strip() for name, _, value in
                  (line.partition(":") for line in lines)}
        accepted = base64.b64encode(hashlib.sha1((key + _KEY_SUFFIX).encode()).digest()).decode()
        if " 101 " not in status or fields.get("sec-websocket-accept") != accepted:
            raise WebSocketClosed()

    def send(self, text: str) -> None:
        """Sends a message. Where the connection is over, nothing happens."""
        self._write(_TEXT, text.encode())

    async def receive(self) -> str:
        """The next message; pings are answered meanwhile."""
        message = bytearray()
        try:
            while True:
                is_last, opcode, payload = await self._frame()
                if opcode == _PING:
                    self._write(_PONG, payload)
                elif opcode == _CLOSE:
                    self._write(_CLOSE, payload[:2])
                    code = int.from_bytes(payload[:2], "big") if len(payload) >= 2 else None
                    raise WebSocketClosed(code)
                elif opcode in (_TEXT, _CONTINUATION):
                    message += payload
                    if len(message) > _MESSAGE_MAX:
                        raise WebSocketClosed()
                    if is_last:
                        return message.decode()
                elif opcode != _PONG:
                    raise WebSocketClosed()
        except (asyncio.IncompleteReadError, OSError, UnicodeDecodeError):
            raise WebSocketClosed() from None

    async def _frame(self) -> tuple[bool, int, bytes]:
        first, second = await self._reader.readexactly(2)
        length = second & 0x7F
        if length >= 126:
            size = 2 if length == 126 else 8
            length = int.from_bytes(await self._reader.readexactly(size), "big")
        if first & 0x70 or second & 0x80 or length > _MESSAGE_MAX:
            raise WebSocketClosed()
        return bool(first & 0x80), first & 0x0F, await self._reader.readexactly(length)

    def _write(self, opcode: int, payload: bytes) -> None:
        length = len(payload)
        if length < 126:
            head = bytes([0x80 | opcode, 0x80 | length])
        elif length < 1 << 16:
            head = bytes([0x80 | opcode, 0x80 | 126]) + length.to_bytes(2, "big")
        else:
            head = bytes([0x80 | opcode, 0x80 | 127]) + length.to_bytes(8, "big")
        mask = os.urandom(4)
        key = int.from_bytes((mask * (length // 4 + 1))[:length], "big")
        masked = (int.from_bytes(payload, "big") ^ key).to_bytes(length, "big")
        self._writer.write(head + mask + masked)

    def say_goodbye(self) -> None:
        """Says that nothing more will be sent."""
        self._write(_CLOSE, (1000).to_bytes(2, "big"))

    def abort(self) -> None:
        """Ends the connection; what was written before still leaves."""
        self._writer.close()
