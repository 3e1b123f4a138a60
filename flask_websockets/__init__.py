"""Raw WebSockets in Flask's own style."""

# First, as it decides what the others are.
from ._build import compiled as compiled
from .connection import WebSocket as WebSocket
from .context import copy_current_socket_context as copy_current_socket_context
from .context import has_socket_context as has_socket_context
from .context import SocketContext as SocketContext
from .context import ws as ws
from .exceptions import ConnectionClosed as ConnectionClosed
from .exceptions import HandshakeError as HandshakeError
from .exceptions import InvalidMessage as InvalidMessage
from .exceptions import WebSocketError as WebSocketError
from .extension import WebSockets as WebSockets
from .middleware import WebSocketMiddleware as WebSocketMiddleware
from .protocol import CloseCode as CloseCode
from .rooms import Clients as Clients

__all__ = [
    "Clients",
    "CloseCode",
    "ConnectionClosed",
    "HandshakeError",
    "InvalidMessage",
    "SocketContext",
    "WebSocket",
    "WebSocketError",
    "WebSocketMiddleware",
    "WebSockets",
    "copy_current_socket_context",
    "has_socket_context",
    "ws",
]

__version__ = "0.1.0"
