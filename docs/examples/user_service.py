#!/usr/bin/env python3
"""A complete User Service for im-gateway: accounts, passwords and contacts, over one SQLite file.

It is an example of a backend that is not written in Rust. docs/backends.md has the contract that
it keeps; read the two side by side. It needs Python 3.10 or newer and one package:

    python3 -m venv venv && venv/bin/pip install 'protobuf>=4.22'
    venv/bin/python docs/examples/user_service.py --listen 127.0.0.1:5001 --data users.db

Gateways are told of it in their configuration:

    [gateway_service]
    first_worker = 0

    [service_discovery]
    static_instances = ["user mprpc-id 127.0.0.1:5001"]

From top to bottom: the messages, the frames, the accounts, the methods, the server.
"""

import argparse
import asyncio
import hashlib
import hmac
import ipaddress
import logging
import os
import signal
import sqlite3
import struct
import sys
import time
import unicodedata
from concurrent.futures import ThreadPoolExecutor

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError

log = logging.getLogger("user_service")

# --- The messages ---------------------------------------------------------------------------------
#
# With `protoc` or `grpcio-tools` this whole section would be
# `from im.v1 import rpc_pb2, user_pb2, health_pb2`. Here the few messages needed are written out,
# so that the file stands alone: MESSAGE  FIELD TYPE NUMBER, FIELD TYPE NUMBER … They are those of
# proto/im/v1/*.proto; an enum travels like an int32.

SCHEMA = """
RpcHeader             service_name bytes 1, method_name bytes 2, args_size uint32 3, call_id uint64 4, timeout_ms uint32 5
ReplyHeader           call_id uint64 1, status int32 2, body_size uint32 3
Result                code int32 1, msg string 2
LoginRequest          username bytes 1, password bytes 2
LoginResponse         result Result 1, user_id int64 2, token string 3
RegisterRequest       username bytes 1, password bytes 2
RegisterResponse      result Result 1, user_id int64 2
LogoutRequest         user_id int64 1, token string 2
LogoutResponse        result Result 1
AddFriendRequest      user_id int64 1, friend_id int64 2, message string 3
AddFriendResponse     result Result 1
RemoveFriendRequest   user_id int64 1, friend_id int64 2
RemoveFriendResponse  result Result 1
GetFriendsRequest     user_id int64 1
GetFriendsResponse    result Result 1, friend_ids int64* 2
GetProfileRequest     user_id int64 1
GetProfileResponse    result Result 1, name string 2
SearchRequest         prefix string 1, limit uint32 2
UserSummary           user_id int64 1, name string 2
SearchResponse        result Result 1, users UserSummary* 2
PingRequest           payload string 1
PingResponse          echo string 1, ts_server_ms int64 2
"""


def compile_messages(schema):
    """The message classes of `schema`, by name."""
    field_type = descriptor_pb2.FieldDescriptorProto
    scalars = {
        "bytes": field_type.TYPE_BYTES,
        "string": field_type.TYPE_STRING,
        "int32": field_type.TYPE_INT32,
        "int64": field_type.TYPE_INT64,
        "uint32": field_type.TYPE_UINT32,
        "uint64": field_type.TYPE_UINT64,
    }
    file = descriptor_pb2.FileDescriptorProto(name="user_service.proto", package="im.v1", syntax="proto3")
    for line in schema.strip().splitlines():
        name, fields = line.split(None, 1)
        message = file.message_type.add(name=name)
        for text in fields.split(","):
            field_name, kind, number = text.split()
            field = message.field.add(name=field_name, number=int(number))
            field.label = field_type.LABEL_REPEATED if kind.endswith("*") else field_type.LABEL_OPTIONAL
            kind = kind.rstrip("*")
            if kind in scalars:
                field.type = scalars[kind]
            else:
                field.type, field.type_name = field_type.TYPE_MESSAGE, f".im.v1.{kind}"
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(file.SerializeToString())
    return {
        message.name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"im.v1.{message.name}"))
        for message in file.message_type
    }


MESSAGES = compile_messages(SCHEMA)
RpcHeader, ReplyHeader = MESSAGES["RpcHeader"], MESSAGES["ReplyHeader"]

# Codes of a Result: how the call ended, as the service sees it.
OK, INVALID, NOT_FOUND, INTERNAL, UNAUTHENTICATED, FORBIDDEN, ALREADY_EXISTS, UNAVAILABLE = range(8)

# Statuses of a ReplyHeader: whether there was a call at all.
REPLY_OK, REPLY_UNKNOWN_METHOD, REPLY_BAD_REQUEST, REPLY_OVERLOADED, REPLY_INTERNAL = range(5)

# --- The frames -----------------------------------------------------------------------------------

HEADER_MAX_BYTES = 1024
ARGS_MAX_BYTES = 64 * 1024  # No call to this service is nearly as long.


class BadFrame(Exception):
    """After such bytes nothing that follows can be understood: the connection is closed."""


async def read_call(reader):
    """The next call: its header, and its arguments as bytes. Waits until all of it has come."""
    (header_len,) = struct.unpack("<I", await reader.readexactly(4))
    if header_len > HEADER_MAX_BYTES:
        raise BadFrame(f"a header of {header_len} bytes")
    try:
        header = RpcHeader.FromString(await reader.readexactly(header_len))
    except DecodeError:
        raise BadFrame("a header that does not parse") from None
    if header.args_size > ARGS_MAX_BYTES:
        raise BadFrame(f"arguments of {header.args_size} bytes")
    return header, await reader.readexactly(header.args_size)


def reply_with_id(call_id, status, body=b""):
    header = ReplyHeader(call_id=call_id, status=status, body_size=len(body)).SerializeToString()
    return struct.pack("<I", len(header)) + header + body


def classic_reply(body):
    return struct.pack("<I", len(body)) + body


# --- The accounts ---------------------------------------------------------------------------------

PASSWORD_THREADS = 2
# Logins and registrations under way or waiting; more are refused. At some 0.2 s each they are done
# before the gateway gives up (`rpc_timeout`, 3 s), so no password is hashed for nobody.
PASSWORDS_WAITING = 24
SCRYPT_N, SCRYPT_R, SCRYPT_P = 2**14, 8, 5  # 16 MiB
NAME_BYTES = range(1, 65)
PASSWORD_BYTES = range(6, 129)
FRIENDS_MAX = 1000
SEARCH_MAX = 20


class Refused(Exception):
    """The service says no, with a code for the gateway and words for its log."""

    def __init__(self, code, words):
        super().__init__(words)
        self.code = code


def scrypt(password, salt, n, r, p):
    return hashlib.scrypt(password, salt=salt, n=n, r=r, p=p, maxmem=256 * n * r, dklen=32)


def hash_password(password):
    salt = os.urandom(16)
    key = scrypt(password, salt, SCRYPT_N, SCRYPT_R, SCRYPT_P)
    return f"{SCRYPT_N}:{SCRYPT_R}:{SCRYPT_P}:{salt.hex()}:{key.hex()}"


def password_matches(password, stored):
    n, r, p, salt, key = stored.split(":")
    computed = scrypt(password, bytes.fromhex(salt), int(n), int(r), int(p))
    return hmac.compare_digest(computed, bytes.fromhex(key))  # In constant time.


# What an unknown user's password is checked against, so that it takes the time of a known one's.
NOBODY = hash_password(os.urandom(16))


class Users:
    """The methods of UserService.

    Each takes its request and fills in its response, or raises `Refused`. All of them run on the
    event loop, one after another; only the hashing of passwords, which takes long, happens on
    threads. SQLite's short waits for the disk are the price of a small example.
    """

    def __init__(self, path):
        # isolation_level=None: each statement is a transaction of its own, on disk before the
        # method answers.
        self.db = sqlite3.connect(path, isolation_level=None)
        self.db.execute("PRAGMA journal_mode = WAL")
        self.db.execute("PRAGMA synchronous = FULL")
        self.db.executescript(
            """
            CREATE TABLE IF NOT EXISTS users (
                user_id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL UNIQUE, password TEXT NOT NULL);
            CREATE TABLE IF NOT EXISTS friends (
                user_id INTEGER, friend_id INTEGER, PRIMARY KEY (user_id, friend_id)) WITHOUT ROWID;
            """
        )
        self.threads = ThreadPoolExecutor(PASSWORD_THREADS, "password")
        self.passwords_waiting = 0

    def one(self, query, *values):
        return self.db.execute(query, values).fetchone()

    async def on_thread(self, function, *values):
        """Runs what takes long, unless too much of it waits already."""
        if self.passwords_waiting >= PASSWORDS_WAITING:
            raise Refused(UNAVAILABLE, "too many passwords to check")
        self.passwords_waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self.threads, function, *values)
        finally:
            self.passwords_waiting -= 1

    async def Register(self, request, response):
        name = valid_name(request.username)
        if name is None:
            raise Refused(INVALID, "a user name is 1 to 64 bytes without spaces, control characters, ':' or ','")
        if len(request.password) not in PASSWORD_BYTES:
            raise Refused(INVALID, "a password is 6 to 128 bytes")
        if self.one("SELECT 1 FROM users WHERE name = ?", name):
            raise Refused(ALREADY_EXISTS, "the name is taken")
        password = await self.on_thread(hash_password, request.password)
        try:
            inserted = self.db.execute("INSERT INTO users (name, password) VALUES (?, ?)", (name, password))
        except sqlite3.IntegrityError:  # Somebody was faster.
            raise Refused(ALREADY_EXISTS, "the name is taken") from None
        response.user_id = inserted.lastrowid

    async def Login(self, request, response):
        name = valid_name(request.username)
        user_id, stored = self.one("SELECT user_id, password FROM users WHERE name = ?", name) or (None, NOBODY)
        # An absurdly long password is as wrong as any other, and takes as long.
        password = request.password[: PASSWORD_BYTES.stop]
        matches = await self.on_thread(password_matches, password, stored)
        if user_id is None or not matches:
            raise Refused(UNAUTHENTICATED, "wrong user name or password")
        response.user_id = user_id  # No token: the gateway signs its own.

    async def Logout(self, request, response):
        """Nothing to do: this service does not keep who is logged in."""

    async def AddFriend(self, request, response):
        user, friend = request.user_id, request.friend_id
        if user == friend:
            raise Refused(INVALID, "nobody is a friend of their own")
        if not self.exists(user) or not self.exists(friend):
            raise Refused(NOT_FOUND, "no such user")
        # Doing it twice is no error: the gateway may repeat a call whose answer was lost.
        self.db.execute(
            "INSERT OR IGNORE INTO friends SELECT ?1, ?2 WHERE (SELECT count(*) FROM friends WHERE user_id = ?1) < ?3",
            (user, friend, FRIENDS_MAX),
        )
        if not self.one("SELECT 1 FROM friends WHERE user_id = ? AND friend_id = ?", user, friend):
            raise Refused(INVALID, "the friend list is full")

    async def RemoveFriend(self, request, response):
        self.db.execute(
            "DELETE FROM friends WHERE user_id = ? AND friend_id = ?", (request.user_id, request.friend_id)
        )

    async def GetFriends(self, request, response):
        rows = self.db.execute(
            "SELECT friend_id FROM friends WHERE user_id = ? ORDER BY friend_id", (request.user_id,)
        )
        response.friend_ids.extend(friend_id for (friend_id,) in rows)

    async def GetProfile(self, request, response):
        row = self.one("SELECT name FROM users WHERE user_id = ?", request.user_id)
        if row is None:
            raise Refused(NOT_FOUND, "no such user")
        (response.name,) = row

    async def Search(self, request, response):
        prefix = request.prefix
        if len(prefix.encode()) not in NAME_BYTES:
            raise Refused(INVALID, "a search starts with 1 to 64 bytes of a name")
        rows = self.db.execute(
            "SELECT user_id, name FROM users WHERE name >= ? AND name < ? ORDER BY name LIMIT ?",
            # No name sorts behind its prefix followed by the last character there is.
            (prefix, prefix + "\U0010ffff", min(request.limit or SEARCH_MAX, SEARCH_MAX)),
        )
        for user_id, name in rows:
            response.users.add(user_id=user_id, name=name)

    def exists(self, user_id):
        return self.one("SELECT 1 FROM users WHERE user_id = ?", user_id) is not None


def valid_name(name):
    """The name as text, or None where nobody can be called that."""
    try:
        text = name.decode()
    except UnicodeDecodeError:
        return None
    refused = any(
        character in ":," or character.isspace() or unicodedata.category(character) == "Cc" for character in text
    )
    return text if len(name) in NAME_BYTES and not refused else None


async def ping(request, response):
    """HealthService.Ping, by which gateways see that this process answers."""
    response.echo = request.payload
    response.ts_server_ms = time.time_ns() // 1_000_000


# --- The server -----------------------------------------------------------------------------------

CALLS_PER_CONNECTION = 64  # Under way at one time; while there are so many, no further call is read.
CONNECTIONS_MAX = 1024
STOP_SECONDS = 5

USER_METHODS = "Register Login Logout AddFriend RemoveFriend GetFriends GetProfile Search".split()


class Server:
    def __init__(self, users):
        self.methods = {
            (b"UserService", name.encode()): (
                MESSAGES[f"{name}Request"], MESSAGES[f"{name}Response"], getattr(users, name))
            for name in USER_METHODS
        }
        self.methods[b"HealthService", b"Ping"] = (MESSAGES["PingRequest"], MESSAGES["PingResponse"], ping)
        self.connections = {}
        self.calls = set()

    async def answer(self, header, args):
        """Carries out one call: the status of its reply, and the message of it."""
        method = self.methods.get((header.service_name, header.method_name))
        if method is None:
            return REPLY_UNKNOWN_METHOD, b""
        request_class, response_class, function = method
        try:
            request = request_class.FromString(args)
        except DecodeError:  # Not UTF-8 in a string field, too.
            return REPLY_BAD_REQUEST, b""
        response = response_class()
        try:
            await function(request, response)
            # A result that says nothing but OK would not be written, and an answer without a result
            # is no answer.
            code, words = OK, "ok"
        except Refused as refused:
            response = response_class()
            code, words = refused.code, str(refused)
        except sqlite3.OperationalError as error:  # The disk is full, or the file is locked: later it may work.
            log.error("%s failed: %s", header.method_name.decode(), error)
            response = response_class()
            code, words = UNAVAILABLE, "cannot read or write now"
        except Exception:
            log.exception("%s failed", header.method_name.decode())
            response = response_class()
            code, words = INTERNAL, "the service failed"
        if "result" in response_class.DESCRIPTOR.fields_by_name:
            response.result.code, response.result.msg = code, words
        elif code != OK:
            return REPLY_INTERNAL, b""
        return REPLY_OK, response.SerializeToString()

    async def answer_with_id(self, header, args, writer, room):
        status, body = await self.answer(header, args)
        try:
            # Written in one piece: the replies to several calls must not mix.
            writer.write(reply_with_id(header.call_id, status, body))
            await writer.drain()
        except ConnectionError:
            pass  # Whoever asked is gone.
        finally:
            room.release()

    async def answer_classic(self, header, args, writer):
        """True, unless there was nothing to answer with."""
        status, body = await self.answer(header, args)
        if status != REPLY_OK:
            return False
        writer.write(classic_reply(body))
        await writer.drain()
        return True

    def start(self, coroutine):
        """Begins a call. It is waited for when the server stops."""
        call = asyncio.create_task(coroutine)
        self.calls.add(call)
        call.add_done_callback(self.calls.discard)
        return call

    async def serve(self, reader, writer):
        """One connection, to its end."""
        if len(self.connections) >= CONNECTIONS_MAX:
            writer.close()
            return
        self.connections[writer] = asyncio.current_task()
        calls = set()
        room = asyncio.Semaphore(CALLS_PER_CONNECTION)
        try:
            while True:
                header, args = await read_call(reader)
                if header.call_id == 0:
                    # Replies without ids go out in the order of the calls, so the next one waits
                    # for this one. None of them can say that there is no such method: closing tells
                    # it, silence would cost a deadline.
                    if not await self.start(self.answer_classic(header, args, writer)):
                        break
                else:
                    # The next call need not wait for this one, and its reply may overtake this
                    # one's.
                    await room.acquire()
                    call = self.start(self.answer_with_id(header, args, writer, room))
                    calls.add(call)
                    call.add_done_callback(calls.discard)
        except BadFrame as problem:
            log.warning("closed a connection: %s", problem)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # The other side has ended.
        except asyncio.CancelledError:
            pass  # This side ends.
        finally:
            if calls:
                await asyncio.wait(calls)
            del self.connections[writer]
            writer.close()

    async def stop(self):
        """Ends what is under way, as far as that is soon, and closes all connections."""
        if self.calls:
            await asyncio.wait(self.calls, timeout=STOP_SECONDS)
        tasks = [*self.calls, *self.connections.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def address(text):
    """HOST and PORT of "127.0.0.1:5001" or "[::1]:5001"."""
    host, separator, port = text.rpartition(":")
    try:
        host = str(ipaddress.ip_address(host.removeprefix("[").removesuffix("]")))
        if not separator or not 0 <= int(port) <= 65535:
            raise ValueError
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not an IP address with a port") from None
    return host, int(port)


async def main():
    parser = argparse.ArgumentParser(description="A User Service for im-gateway.")
    parser.add_argument("--listen", metavar="IP:PORT", type=address, default=("127.0.0.1", 5001),
                        help="where to listen; port 0 means any free one (default: 127.0.0.1:5001)")
    parser.add_argument("--data", metavar="FILE", default=":memory:",
                        help="the SQLite file to keep users in (default: none, they are gone when this ends)")
    options = parser.parse_args()
    os.umask(0o077)  # The hashes of passwords are for nobody else to read.

    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)

    server = Server(Users(options.data))
    host, port = options.listen
    listener = await asyncio.start_server(server.serve, host, port)
    host, port = listener.sockets[0].getsockname()[:2]
    print(f"UserService listens on {f'[{host}]' if ':' in host else host}:{port}", flush=True)

    await stop.wait()
    # A registered service deletes its nodes in ZooKeeper here, before it stops to listen.
    listener.close()
    await server.stop()


if __name__ == "__main__":
    logging.basicConfig(format="%(levelname)s %(message)s")
    try:
        asyncio.run(main())
    except (OSError, sqlite3.Error) as error:
        sys.exit(f"user_service.py: {error}")
