"""A function as the platform calls it: it knows a connection, and neither Flask nor a URL."""


def main(ws, clients):
    print(f"{len(clients)} connected", flush=True)
    count = 0
    while not ws.closed:
        ws.send(ws.receive())
        count += 1
        if count == 5:
            ws.close()
