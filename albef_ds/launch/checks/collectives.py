"""The nodes of a job meet before training: one connection from each node to the head, JSON lines both ways.

    node -> head   {"node": NAME}                     the head answers {"nonce": TEXT}
    node -> head   {"clock": true}, some times        the head answers {"time": SECONDS}
    node -> head   {"report": {...}}                  the head answers when all have reported, or time is up; may be repeated

Only this: what the reports mean and what follows is the caller's.
"""

from __future__ import annotations

import json
import socket
import socketserver
import threading
import time
from collections.abc import Sequence
from typing import Any

from albef_ds.common.errors import MachineError

_CLOCK_ROUNDS = 5
_RETRY = 0.2  # seconds
_LONGEST_LINE = 1 << 20


class Head:
    """The head's side: gathers one report per node and answers all of them at once.

    Args:
        port: TCP port to listen on, on all interfaces; 0 takes a free one.
        nodes: names of the nodes that are expected.
        nonce: given to every node that calls.

    Raises:
        MachineError: the port is taken.
    """

    def __init__(self, port: int, nodes: Sequence[str], nonce: str) -> None:
        self.nodes = list(nodes)
        self._changed = threading.Condition()
        self._rounds: list[dict[str, dict[str, Any]]] = [{}]
        self._answers: list[dict[str, Any]] = []
        head = self

        class Connection(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                head._serve(self)

        class Server(socketserver.ThreadingTCPServer):
            daemon_threads = True
            allow_reuse_address = True

        try:
            self._server = Server(("", port), Connection)
        except OSError as error:
            raise MachineError(
                f"preflight cannot listen on port {port} ({error.strerror}): another job holds it, submit again"
            ) from None
        self.port = int(self._server.server_address[1])
        self._nonce = nonce
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True).start()

    def gather(self, seconds: float) -> dict[str, dict[str, Any]]:
        """Wait until all nodes have handed in a report of this round or `seconds` are over; the reports by node."""
        deadline = time.monotonic() + seconds
        with self._changed:
            while len(self._rounds[-1]) < len(self.nodes) and (left := deadline - time.monotonic()) > 0:
                self._changed.wait(left)
            return dict(self._rounds[-1])

    def answer(self, text: dict[str, Any]) -> None:
        """Answer all reports of this round, also those still to come, and begin the next round."""
        with self._changed:
            self._answers.append(text)
            self._rounds.append({})
            self._changed.notify_all()

    def close(self) -> None:
        """Stop listening; connections end with their nodes."""
        self._server.shutdown()
        self._server.server_close()

    def _serve(self, connection: socketserver.StreamRequestHandler) -> None:
        node, number = "", 0
        while line := connection.rfile.readline(_LONGEST_LINE):
            try:
                message = json.loads(line)
            except ValueError:
                return  # not one of ours, such as a port scanner
            reply: dict[str, Any] = {"time": time.time()}
            if "node" in message:
                node = str(message["node"])
                reply = {"nonce": self._nonce}
            elif "report" in message and node in self.nodes:
                reply = self._take(node, number, message["report"])
                number += 1
            try:
                connection.wfile.write(json.dumps(reply).encode() + b"\n")
            except OSError:
                return

    def _take(self, node: str, number: int, report: dict[str, Any]) -> dict[str, Any]:
        with self._changed:
            if number < len(self._rounds):
                self._rounds[number][node] = report
            self._changed.notify_all()
            while len(self._answers) <= number:
                self._changed.wait()
            return self._answers[number]


class Guest:
    """A node's side of the meeting.

    Raises:
        MachineError: the head cannot be reached within `seconds`, or leaves.
    """

    def __init__(self, address: str, port: int, node: str, seconds: float) -> None:
        self._where = f"{address}:{port}"
        deadline = time.monotonic() + seconds
        while True:
            try:
                self._socket = socket.create_connection((address, port), timeout=max(1.0, deadline - time.monotonic()))
                break
            except OSError as error:
                if time.monotonic() > deadline:
                    raise MachineError(
                        f"{node} cannot reach {self._where} ({error}): check the network between the nodes"
                    ) from None
                time.sleep(_RETRY)
        self._socket.settimeout(None)
        self._file = self._socket.makefile("rwb")
        self.nonce = str(self._ask({"node": node})["nonce"])

    def clock_offset(self) -> float:
        """Seconds that this node's clock is ahead of the head's, from the quickest of a few exchanges."""
        rounds = []
        for _ in range(_CLOCK_ROUNDS):
            sent = time.time()
            remote = float(self._ask({"clock": True})["time"])
            received = time.time()
            rounds.append((received - sent, (sent + received) / 2 - remote))
        return min(rounds)[1]

    def report(self, report: dict[str, Any]) -> dict[str, Any]:
        """Hand in a report; the head's answer, once all nodes have handed in theirs."""
        return self._ask({"report": report})

    def close(self) -> None:
        """Leave."""
        self._file.close()
        self._socket.close()

    def _ask(self, message: dict[str, Any]) -> dict[str, Any]:
        try:
            self._file.write(json.dumps(message).encode() + b"\n")
            self._file.flush()
            line = self._file.readline(_LONGEST_LINE)
        except OSError as error:
            raise MachineError(f"the connection to {self._where} broke ({error}): look for the head's message") from None
        if not line:
            raise MachineError(f"{self._where} ended the preflight: look for its message")
        answer: dict[str, Any] = json.loads(line)
        return answer
