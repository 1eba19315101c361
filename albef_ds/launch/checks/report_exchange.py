"""Gathers the reports of a job's nodes on the head before training: one connection per node, JSON lines in both directions.

    node -> head   {"node": NAME}                     the head answers {"nonce": TEXT}
    node -> head   {"clock": true}, several times     the head answers {"time": SECONDS}
    node -> head   {"report": {...}}                  the head answers when all have reported or time is up; may be repeated

The caller interprets the reports.
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
    """Server on the head: gathers one report per node and answers all of them at once.

    Args:
        port: TCP port to listen on, on all interfaces; 0 takes a free one.
        nodes: names of the expected nodes.
        nonce: sent to every node that connects.

    Raises:
        MachineError: the port is in use.
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
                f"preflight cannot listen on port {port} ({error.strerror}): another job uses it, submit again"
            ) from None
        self.port = int(self._server.server_address[1])
        self._nonce = nonce
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True).start()

    def gather(self, seconds: float) -> dict[str, dict[str, Any]]:
        """Waits at most `seconds` until all nodes have sent a report of this round, and returns the reports by node."""
        deadline = time.monotonic() + seconds
        with self._changed:
            while len(self._rounds[-1]) < len(self.nodes) and (left := deadline - time.monotonic()) > 0:
                self._changed.wait(left)
            return dict(self._rounds[-1])

    def answer(self, text: dict[str, Any]) -> None:
        """Answers all reports of this round, later ones included, and starts the next round."""
        with self._changed:
            self._answers.append(text)
            self._rounds.append({})
            self._changed.notify_all()

    def close(self) -> None:
        """Stops listening; connections close when their nodes do."""
        self._server.shutdown()
        self._server.server_close()

    def _serve(self, connection: socketserver.StreamRequestHandler) -> None:
        node, number = "", 0
        while line := connection.rfile.readline(_LONGEST_LINE):
            try:
                message = json.loads(line)
            except ValueError:
                return  # not a node, perhaps a port scanner
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


class Client:
    """Client on a node, the head's own included.

    Raises:
        MachineError: the head cannot be reached within `seconds`, or closes the connection.
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
        """Returns the seconds by which this node's clock is ahead of the head's, from the fastest of a few exchanges."""
        rounds = []
        for _ in range(_CLOCK_ROUNDS):
            sent = time.time()
            remote = float(self._ask({"clock": True})["time"])
            received = time.time()
            rounds.append((received - sent, (sent + received) / 2 - remote))
        return min(rounds)[1]

    def report(self, report: dict[str, Any]) -> dict[str, Any]:
        """Sends a report and returns the head's answer, which comes when all nodes have sent theirs."""
        return self._ask({"report": report})

    def close(self) -> None:
        """Closes the connection."""
        self._file.close()
        self._socket.close()

    def _ask(self, message: dict[str, Any]) -> dict[str, Any]:
        try:
            self._file.write(json.dumps(message).encode() + b"\n")
            self._file.flush()
            line = self._file.readline(_LONGEST_LINE)
        except OSError as error:
            raise MachineError(f"the connection to {self._where} broke ({error}): see the message of the head") from None
        if not line:
            raise MachineError(f"{self._where} ended the preflight: see its message")
        answer: dict[str, Any] = json.loads(line)
        return answer
