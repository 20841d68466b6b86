"""How a client ends, what comes again, and what a backlog looks like. Says ``done`` at the end."""

import asyncio
import sys

from im_gateway import Client, GatewayError

URL = sys.argv[1]
BACKLOG = 250


class Seen(Client):
    """A client, with what it has handled and where it has been."""

    def __init__(self, url=URL, on_message=None, **options):
        self.messages, self.states, self.token = [], [], None
        super().__init__(
            url,
            first_wait=0.005,
            longest_wait=0.02,
            per_second=1000,
            burst=1000,
            on_message=on_message or self.messages.append,
            on_state=lambda state, reason: self.states.append((state, reason)),
            on_token=lambda token: setattr(self, "token", token),
            **options,
        )


async def until(what, condition):
    for _ in range(4000):
        if condition():
            return
        await asyncio.sleep(0.005)
    raise AssertionError(f"never: {what}")


async def fails(code, call):
    try:
        await call
    except GatewayError as error:
        assert error.code == code, error
    else:
        raise AssertionError(f"no {code}")


async def refusals(alice, bob):
    """What a gateway refuses is not tried again; an error of a command ends that alone."""
    wrong = Seen()
    await fails("AUTH_FAILED", wrong.login("alice", "wrong-password"))
    assert wrong.states == [("connecting", None), ("closed", "AUTH_FAILED")], wrong.states
    await fails("USER_EXISTS", Seen().register("alice", "another-password"))
    await fails("AUTH_FAILED", Seen().auth("no.token.atall"))
    await fails("NOT_FOUND", bob.chat(99999, "nobody"))
    await fails("LINE_TOO_LONG", bob.chat(alice.uid, "a" * 9000))
    first = await bob.chat(alice.uid, "once", "tag-1")
    assert (await bob.chat(alice.uid, "once", "tag-1"))["msg_id"] == first["msg_id"]
    await until("it arrives", lambda: len(alice.messages) == 1)


async def replaced(alice):
    """Another installation of the same name is there now: the older one does not come back."""
    newer = Seen(device="desk")
    assert (await newer.auth(alice.token))["uid"] == alice.uid
    assert await alice.wait_closed() == "replaced"
    await fails("CLOSED", alice.ask("ping"))
    await newer.close()


async def backlog(alice, bob):
    """What came while nobody was there comes in its order, before what is sent meanwhile."""
    texts = [f"number {number}" for number in range(BACKLOG)]
    for text in texts:
        await bob.chat(alice.uid, text)
    handled = []

    async def handle(message):
        # Its confirmation may not have been sent when the client was replaced.
        if message.text == "once":
            return
        if len(handled) < 3:
            await bob.chat(alice.uid, f"live {message.text}")
        handled.append(message.text)

    async with Seen(on_message=handle) as late:
        await late.auth(alice.token)
        await until("all are there", lambda: len(handled) == BACKLOG + 3)
    assert handled == texts + [f"live {text}" for text in texts[:3]]


async def failure(alice, bob):
    """A program that fails is not told that all is well, and its message is not lost."""

    def fail(_message):
        raise RuntimeError("out of paper")

    failing = Seen(on_message=fail)
    await failing.auth(alice.token)
    await bob.chat(alice.uid, "print this")
    try:
        await failing.wait_closed()
        raise AssertionError("it went on")
    except RuntimeError as error:
        assert str(error) == "out of paper"
    following = Seen()
    await following.auth(alice.token)
    # What was handled before a client was closed is confirmed: that alone comes again.
    await until("it comes again", lambda: following.messages)
    assert [message.text for message in following.messages] == ["print this"]
    return following


async def revoked(following):
    """A session that is ended elsewhere is over."""
    other = Seen()
    await other.auth(following.token)
    await other.logout()
    assert await following.wait_closed() == "revoked"
    await fails("AUTH_FAILED", Seen().auth(following.token))


async def silence():
    """Who says nothing is given up, and asked again, until the program has enough."""
    connections = []
    server = await asyncio.start_server(lambda *both: connections.append(both), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    patient = Seen(url=f"ws://127.0.0.1:{port}/ws", patience=0.02, heartbeat=0.02)
    login = asyncio.create_task(patient.login("alice", "password-of-alice"))
    await until("it has tried three times", lambda: len(connections) >= 3)
    await patient.close()
    await fails("CLOSED", login)
    for _, writer in connections:
        writer.close()
    server.close()


async def main():
    alice, bob = Seen(device="desk"), Seen()
    await alice.register("alice", "password-of-alice")
    await bob.register("bob", "password-of-bob")
    await refusals(alice, bob)
    await replaced(alice)
    await backlog(alice, bob)
    following = await failure(alice, bob)
    await revoked(following)
    await silence()
    await bob.close()


asyncio.run(main())
print("done")
