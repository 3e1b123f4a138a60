from flask import Flask

from flask_websockets import WebSockets


def test_echo(app: Flask, serve):
    sockets = WebSockets(app)

    @sockets.on_message(r"ECHO (?P<text>.*)")
    def echo(message, text):
        return text

    client = serve(app).connect()
    client.send("ECHO hello")
    assert client.recv() == "hello"
