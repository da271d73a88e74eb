"""What HAProxy asks whether a node is the primary: 200 if it is, else 503; runs on its own, on the node.

The same answer as the agents that people put beside HAProxy give (Patroni's REST API, GET /primary).
"""

from http.server import BaseHTTPRequestHandler, HTTPServer

import psycopg

PORT = 8008


class Role(BaseHTTPRequestHandler):
    def do_OPTIONS(self) -> None:  # noqa: N802 - http.server's own spelling; it is what HAProxy asks unless told
        self.send_response(200 if is_primary() else 503)
        self.end_headers()

    def log_message(self, format: str, *arguments: object) -> None:
        pass


def is_primary() -> bool:
    try:
        with psycopg.connect("dbname=postgres") as connection:
            return connection.execute("select pg_is_in_recovery()").fetchone() == (False,)
    except psycopg.Error:
        return False


if __name__ == "__main__":
    HTTPServer(("", PORT), Role).serve_forever()
