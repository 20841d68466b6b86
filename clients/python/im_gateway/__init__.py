"""A client of im-gateway over asyncio, without dependencies.

It comes back after a lost connection, confirms by hand what was handled, and sends again what may
not have been stored. So each message is handled once, in order, as long as the program runs.
"""

from .client import Client
from .inbox import Message
from .requests import GatewayError

__all__ = ["Client", "GatewayError", "Message"]
