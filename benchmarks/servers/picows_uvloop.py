"""picows on uvloop: ``python picows_uvloop.py PORT``.

Text becomes ``str`` here as in the other servers; picows leaves that to its user.
"""

import sys

import uvloop
from picows import ws_create_server
from picows import WSListener
from picows import WSMsgType

receivers = set()


class Echo(WSListener):
    def on_ws_frame(self, transport, frame):
        if frame.msg_type == WSMsgType.TEXT:
            transport.send(WSMsgType.TEXT, frame.get_payload_as_utf8_text().encode())
        elif frame.msg_type == WSMsgType.BINARY:
            transport.send(WSMsgType.BINARY, frame.get_payload_as_bytes())
        elif frame.msg_type == WSMsgType.CLOSE:
            transport.send_close(frame.get_close_code(), frame.get_close_message())
            transport.disconnect()


class Broadcast(WSListener):
    def on_ws_connected(self, transport):
        receivers.add(transport)

    def on_ws_disconnected(self, transport):
        receivers.discard(transport)

    def on_ws_frame(self, transport, frame):
        if frame.msg_type == WSMsgType.TEXT:
            payload = frame.get_payload_as_utf8_text().encode()
            for receiver in receivers:
                receiver.send(WSMsgType.TEXT, payload)
        elif frame.msg_type == WSMsgType.CLOSE:
            transport.disconnect()


def listener(request):
    return Echo() if request.path == b"/echo" else Broadcast()


async def main():
    server = await ws_create_server(listener, "127.0.0.1", int(sys.argv[1]), backlog=2048)
    await server.serve_forever()


uvloop.run(main())
