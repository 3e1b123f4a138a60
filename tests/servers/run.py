"""Run the contract's app under one server: ``python run.py KIND PORT [CERTIFICATE KEY]``."""

from __future__ import annotations

import os
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))


def main(kind: str, port: int, *certificate: str) -> None:
    from app import app

    if kind == "werkzeug":
        app.run(port=port, ssl_context=certificate or None)
        return
    from gevent import pywsgi

    options = {"certfile": certificate[0], "keyfile": certificate[1]} if certificate else {}
    if kind == "geventwebsocket":
        from geventwebsocket.handler import WebSocketHandler

        options["handler_class"] = WebSocketHandler
    elif kind == "geventwebsocket-hidden":
        # An application that is not known to be ours: the handler says 101 first.
        from geventwebsocket.handler import WebSocketHandler

        options["handler_class"] = WebSocketHandler
        server = pywsgi.WSGIServer(("127.0.0.1", port), lambda *args: app(*args), **options)
        server.serve_forever()
        return
    server = pywsgi.WSGIServer(("127.0.0.1", port), app, **options)
    server.serve_forever()


if __name__ == "__main__":
    try:
        main(sys.argv[1], int(sys.argv[2]), *sys.argv[3:])
    except KeyboardInterrupt:
        pass
