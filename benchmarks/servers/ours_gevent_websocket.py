"""Flask-WebSockets under gevent-websocket's handler: ``python ours_gevent_websocket.py PORT``."""

import sys

from geventwebsocket.handler import WebSocketHandler
from ours import create_app
from ours import serve

serve(create_app(), int(sys.argv[1]), handler_class=WebSocketHandler)
