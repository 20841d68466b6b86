"""Two users of the package `websockets`, which knows nothing of the gateway. Says `done` at the end."""

import asyncio
import json
import sys

from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus


async def ask(socket, kind, **data):
    """The data of the reply to a request; pushes before it are skipped."""
    await socket.send(json.dumps({"id": kind, "type": kind, "data": data}))
    while True:
        reply = json.loads(await socket.recv())
        if reply.get("id") == kind:
            assert reply["type"] == "ok", reply
            return reply["data"]


async def pushed(socket):
    push = json.loads(await socket.recv())
    assert push["type"] == "message", push
    return push["data"]


async def closed_with(socket):
    """The code that the gateway closes with."""
    try:
        while True:
            await socket.recv()
    except ConnectionClosed as closed:
        assert closed.rcvd is not None, "no close frame"
        return closed.rcvd.code


async def main(url):
    async with connect(url, subprotocols=["im.json"]) as alice, connect(url) as bob:
        assert alice.subprotocol == "im.json"
        assert bob.subprotocol is None and not bob.response.headers.get("Sec-WebSocket-Extensions")
        here = await ask(alice, "register", user="alice", password="password-of-alice")
        there = await ask(bob, "register", user="bob", password="password-of-bob")
        sent = await ask(alice, "chat", to=there["uid"], text="grüße 🎉\nand a second line")
        push = await pushed(bob)
        assert (push["id"], push["from"]) == (sent["msg_id"], here["uid"]), push
        assert push["text"] == "grüße 🎉\nand a second line"

        # An iterable is sent in fragments.
        text = "x" * 7000
        request = json.dumps({"type": "chat", "data": {"to": here["uid"], "text": text}})
        await bob.send([request[at : at + 500] for at in range(0, len(request), 500)])
        assert (await pushed(alice))["text"] == text
        await (await alice.ping(b"are you there?"))

        # The same device again: the older one goes.
        headers = {"Authorization": "Bearer " + here["token"]}
        async with connect(url + "?device=tab", additional_headers=headers) as older:
            await ask(older, "ping")
            async with connect(url + "?device=tab", additional_headers=headers) as newer:
                assert await closed_with(older) == 4001
                assert (await ask(newer, "whoami"))["device"] == "tab"
        # Bytes are the third form, and answered in it, also where they are nonsense.
        await bob.send(b"bytes")
        assert json.loads(await bob.recv())["type"] == "ok"
        assert b"BAD_REQUEST" in await bob.recv()
        await alice.close()
        assert alice.close_code == 1000

    for origin, token, status in [("https://evil.example", None, 403), (None, "a.b.c", 401)]:
        target = url + ("?token=" + token if token else "")
        try:
            await connect(target, origin=origin)
            raise AssertionError("it was let in")
        except InvalidStatus as refused:
            assert refused.response.status_code == status, refused


asyncio.run(asyncio.wait_for(main(sys.argv[1]), 60))
print("done")
