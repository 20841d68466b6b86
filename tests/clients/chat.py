"""Two clients talk, to each other and in a group, through a proxy that cuts their connections.

Says ``done`` once each has handled every message of the other once, in its order.
"""

import asyncio
import sys

from im_gateway import Client, GatewayError

URL = sys.argv[1]
MESSAGES = 40


class Talker:
    def __init__(self, name):
        self.name = name
        self.handled = []
        self.connections = 0
        self.client = Client(
            URL,
            first_wait=0.005,
            longest_wait=0.02,
            on_message=self.handle,
            on_state=self.note,
        )

    async def handle(self, message):
        # One at a time: what is handled slowly is not overtaken.
        if len(self.handled) % 7 == 0:
            await asyncio.sleep(0.003)
        self.handled.append(message)

    def note(self, state, _reason):
        self.connections += state == "online"

    def from_others(self):
        return [message for message in self.handled if message.sender != self.client.uid]


async def insist(client, kind, **data):
    """Asks again while it is unknown whether it was done."""
    while True:
        try:
            return await client.ask(kind, **data)
        except GatewayError as error:
            assert error.code == "LOST", error


def text(name, number):
    return f'{name} {number} "quoted"\n\\n ' + "é🎉" * (number % 9)


async def talk(client, name, peer, group):
    """Sends all messages; returns the ids of both kinds."""
    direct, grouped = [], []
    for number in range(MESSAGES):
        direct.append(asyncio.create_task(client.chat(peer, text(name, number))))
        grouped.append(asyncio.create_task(client.group_chat(group, text(name, number))))
        if number % 20 == 0:
            await grouped[-1]
    ids = [reply["msg_id"] for reply in await asyncio.gather(*direct, *grouped)]
    return ids[:MESSAGES], ids[MESSAGES:]


def check(one, other, sent, group):
    for of, ids in zip((None, group), sent):
        got = [message for message in one.from_others() if message.group == of]
        assert [message.id for message in got] == ids, f"{one.name} of {of}: {got}"
        assert [message.text for message in got] == [text(other, n) for n in range(MESSAGES)]
        seqs = [message.seq for message in got]
        assert seqs == sorted(seqs)


async def main():
    alice, bob = Talker("alice"), Talker("bob")
    await asyncio.gather(
        *(talker.client.register(talker.name, f"password-{talker.name}") for talker in (alice, bob))
    )
    group = (await insist(alice.client, "create_group", name="tea"))["group_id"]
    await bob.client.ask("join_group", gid=group)
    by_alice, by_bob = await asyncio.gather(
        talk(alice.client, "alice", bob.client.uid, group),
        talk(bob.client, "bob", alice.client.uid, group),
    )
    for talker in (alice, bob):
        while len(talker.from_others()) < 2 * MESSAGES:
            await asyncio.sleep(0.01)
        # What would come twice comes with the next login at the latest.
        await talker.client.ask("ping", text="the last one")
    check(alice, "bob", by_bob, group)
    check(bob, "alice", by_alice, group)
    print(f"connections: {alice.connections},{bob.connections}", file=sys.stderr)

    await alice.client.logout()
    assert alice.client.state == "closed"
    try:
        await alice.client.chat(1, "too late")
        raise AssertionError("it was sent")
    except GatewayError as error:
        assert error.code == "CLOSED", error
    await bob.client.close()
    assert await bob.client.wait_closed() == "closed"


asyncio.run(main())
print("done")
