"""socketify, which is uWebSockets (C++) called from Python: ``python socketify_uws.py PORT``."""

import sys

from socketify import App
from socketify import AppListenOptions
from socketify import CompressOptions

OPTIONS = {
    "compression": CompressOptions.DEDICATED_COMPRESSOR,
    "max_payload_length": 1 << 20,
    # The default of 64 KiB drops messages of the workload with 64 KiB.
    "max_backpressure": 1 << 24,
    "idle_timeout": 120,
}


def echo(ws, message, opcode):
    ws.send(message, opcode, True)


def subscribe(ws):
    ws.subscribe("all")


def broadcast(ws, message, opcode):
    ws.publish("all", message, opcode)


app = App()
app.ws("/echo", {**OPTIONS, "message": echo})
app.ws("/broadcast", {**OPTIONS, "open": subscribe, "message": broadcast})
app.listen(AppListenOptions(host="127.0.0.1", port=int(sys.argv[1])), lambda config: None)
app.run()
