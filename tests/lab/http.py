"""``serve-http`` on the gateway of the lab, as its unit runs it: a user that may do nothing else."""

from __future__ import annotations

from tests.lab import Lab, wait_for

PORT = 8008
ASK = """
import http.client, sys
for path in sys.argv[2:]:
    connection = http.client.HTTPConnection("127.0.0.1", 8008, timeout=30)
    try:
        connection.request(sys.argv[1], path)
        answer = connection.getresponse()
        print(answer.status, answer.read().decode(), flush=True)
    except OSError as error:
        print(0, error, flush=True)
"""


def start(lab: Lab) -> None:
    words = ("/usr/local/bin/repmgr-hooks", "serve-http", "--listen", f"127.0.0.1:{PORT}")
    said = lab.gateway.log_from_now("http")
    lab.daemons["http"] = lab.gateway.start(*words, user="daemon", log="http")
    wait_for(lambda: "listening" in said(), "serve-http to listen")


def asked(lab: Lab, *paths: str, method: str = "GET") -> list[tuple[int, str]]:
    """The status and the body of each answer, one after the other; status 0: none came."""
    lines = lab.gateway.run("python3", "-c", ASK, method, *paths, user="daemon", limit=300).split("\n")
    if len(paths) == 1:
        return [_parts("\n".join(lines).rstrip("\n"))]
    return [_parts(line) for line in lines if line]


def _parts(text: str) -> tuple[int, str]:
    status, _, body = text.partition(" ")
    return int(status), body


def statuses(lab: Lab, *paths: str, method: str = "GET") -> list[int]:
    """The status of each answer."""
    return [status for status, _ in asked(lab, *paths, method=method)]


def primaries(lab: Lab) -> list[int]:
    """The nodes for which ``/primary`` is answered by 200; the first is asked once more at the end, and counts if both
    were: the others were asked meanwhile."""
    paths = [f"/main/nodes/{node}/primary" for node in lab.numbers]
    first, *others, again = statuses(lab, *paths, paths[0], method="OPTIONS")
    numbers = [first == again == 200, *(status == 200 for status in others)]
    return [node for node, yes in zip(lab.numbers, numbers, strict=True) if yes]
