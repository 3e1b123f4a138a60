"""RFC 6455 and RFC 7692 as pure functions of bytes.

Nothing in this package knows a socket, a clock, Flask or gevent: bytes of the
peer go in, events come out; messages go in, bytes for the peer come out.
"""

from .close import Close as Close
from .close import CloseCode as CloseCode
from .connection import Event as Event
from .connection import Failure as Failure
from .connection import Ping as Ping
from .connection import Pong as Pong
from .connection import Protocol as Protocol
