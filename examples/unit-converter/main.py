"""Serves the unit converter until it is told to stop, and then until the requests under way are answered."""

import json
import os
import signal
import threading

from service import Server


def main() -> None:
    server = Server(("", int(os.environ.get("PORT") or 5000)))
    for number in (signal.SIGINT, signal.SIGTERM):
        # shutdown waits for the loop that this thread is in: it needs another one.
        signal.signal(number, lambda *_: threading.Thread(target=server.shutdown).start())
    print(json.dumps({"msg": "serving", "port": server.server_port}))
    server.serve_forever()
    server.server_close()


if __name__ == "__main__":
    main()
