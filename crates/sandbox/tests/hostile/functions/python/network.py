"""Tries the host, the metadata address and private ranges: straight, and through the proxy. Says what answered."""

import http.client
import os
import socket


def handler(event, context):
    reached = []

    def straight(host, port):
        try:
            socket.create_connection((host, port), timeout=0.2).close()
        except (OSError, UnicodeError):
            return
        reached.append(f"{host} {port}")

    def through(host, port, tunnel):
        if "HTTP_PROXY" not in os.environ:
            return
        proxy = http.client.HTTPConnection(os.environ["HTTP_PROXY"].removeprefix("http://"), timeout=5)
        shown = f"[{host}]" if ":" in host else host
        try:
            if tunnel:
                proxy.set_tunnel(shown, port)
                proxy.connect()
                reached.append(f"{host} {port} by a tunnel")
            else:
                proxy.request("GET", f"http://{shown}:{port}/")
                if proxy.getresponse().status not in (400, 403, 502, 504):
                    reached.append(f"{host} {port} by the proxy")
        except (OSError, http.client.HTTPException, ValueError):
            pass
        finally:
            proxy.close()

    for host, port in event["targets"]:
        straight(host, port)
        for tunnel in (True, False):
            through(host, port, tunnel)
    return reached
