"""A first client: it asks for numbers and sends them to the server.

Start it with ``python examples/first/client.py`` and stop it with Ctrl-D.
"""

import os
import sys
from contextlib import closing

import websocket

url = f"ws://127.0.0.1:{os.environ.get('PORT', '5000')}/"
try:
    with closing(websocket.create_connection(url)) as client:
        while True:
            client.send(input("Number: "))
            print(client.recv())
except (EOFError, KeyboardInterrupt):
    print()
except (OSError, websocket.WebSocketException) as error:
    sys.exit(f"The server is gone: {error}")
