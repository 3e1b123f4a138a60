"""websockets on uvloop: ``python websockets_uvloop.py PORT``."""

import sys

import uvloop
from websockets.asyncio.server import broadcast
from websockets.asyncio.server import serve
from websockets.exceptions import ConnectionClosed

receivers = set()


async def echo(ws):
    async for message in ws:
        await ws.send(message)


async def publish(ws):
    receivers.add(ws)
    try:
        async for message in ws:
            broadcast(receivers, message)
    finally:
        receivers.discard(ws)


async def handler(ws):
    try:
        await (echo if ws.request.path == "/echo" else publish)(ws)
    except ConnectionClosed:
        pass


async def main():
    async with serve(handler, "127.0.0.1", int(sys.argv[1]), backlog=2048) as server:
        await server.serve_forever()


uvloop.run(main())
