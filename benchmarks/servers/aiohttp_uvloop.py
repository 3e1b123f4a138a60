"""aiohttp on uvloop: ``python aiohttp_uvloop.py PORT``."""

import sys

import uvloop
from aiohttp import web
from aiohttp import WSMsgType

receivers = set()


async def echo(request):
    ws = web.WebSocketResponse()
    await ws.prepare(request)
    async for message in ws:
        if message.type is WSMsgType.TEXT:
            await ws.send_str(message.data)
        else:
            await ws.send_bytes(message.data)
    return ws


async def broadcast(request):
    ws = web.WebSocketResponse()
    await ws.prepare(request)
    receivers.add(ws)
    try:
        async for message in ws:
            for receiver in list(receivers):
                await receiver.send_str(message.data)
    finally:
        receivers.discard(ws)
    return ws


app = web.Application()
app.router.add_get("/echo", echo)
app.router.add_get("/broadcast", broadcast)
web.run_app(
    app,
    host="127.0.0.1",
    port=int(sys.argv[1]),
    loop=uvloop.new_event_loop(),
    print=None,
    access_log=None,
    backlog=2048,
)
