"""Starlette on uvicorn, with uvloop and httptools: ``python starlette_uvicorn.py PORT``."""

import sys

import uvicorn
from starlette.applications import Starlette
from starlette.routing import WebSocketRoute

receivers = set()


async def echo(ws):
    await ws.accept()
    while (event := await ws.receive())["type"] == "websocket.receive":
        if event.get("text") is not None:
            await ws.send_text(event["text"])
        else:
            await ws.send_bytes(event["bytes"])


async def broadcast(ws):
    await ws.accept()
    receivers.add(ws)
    try:
        while (event := await ws.receive())["type"] == "websocket.receive":
            for receiver in list(receivers):
                await receiver.send_text(event["text"])
    finally:
        receivers.discard(ws)


uvicorn.run(
    Starlette(routes=[WebSocketRoute("/echo", echo), WebSocketRoute("/broadcast", broadcast)]),
    port=int(sys.argv[1]),
    loop="uvloop",
    http="httptools",
    ws="websockets-sansio",
    lifespan="off",
    log_level="critical",
    access_log=False,
)
