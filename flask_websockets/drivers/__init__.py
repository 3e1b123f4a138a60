"""How bytes move and who waits. No driver knows the protocol, Flask or a handler."""

from .base import Transport as Transport
from .servers import adopt_servers as adopt_servers
from .servers import Lease as Lease
from .servers import lease_socket as lease_socket
