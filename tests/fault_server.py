"""A real HTTP server of a folder, with ranges and listings, that can be told to misbehave."""

import time
from collections import defaultdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import quote, unquote


class FaultServer(ThreadingHTTPServer):
    """Serves `root`; used as a context, it runs in a thread.

    `faults[name]` holds what to do at the next requests for a file, one word each:
    a status as `503`; `drop` (close in mid-body); `slow` (a pause in mid-body); `cut` (as if
    the file were half as long); `whole` (ignore the range). A last `*` repeats the word before it.
    `requests` lists (method, file name, first byte asked for) as they came.
    """

    daemon_threads = True

    def __init__(self, root: Path, pause_s: float = 0.05) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.root = root
        self.pause_s = pause_s
        self.faults: dict[str, list[str]] = defaultdict(list)
        self.requests: list[tuple[str, str, int]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def times(self, name: str) -> int:
        return sum(got == name for method, got, _ in self.requests if method == "GET")

    def next_fault(self, name: str) -> str:
        faults = self.faults[name] or self.faults["*"]
        if not faults:
            return ""
        return faults[0] if faults[1:2] == ["*"] else faults.pop(0)

    def __enter__(self) -> "FaultServer":
        Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()

    def handle_error(self, *_: object) -> None:
        """A client that was killed is no news."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FaultServer

    def do_HEAD(self) -> None:
        self._answer(head=True)

    def do_GET(self) -> None:
        self._answer(head=False)

    def log_message(self, *_: object) -> None:
        pass

    def _answer(self, *, head: bool) -> None:
        path = self.server.root / unquote(self.path).lstrip("/")
        start, end = self._range()
        self.server.requests.append((self.command, path.name, start))
        fault = "" if head else self.server.next_fault(path.name)
        if fault.isdecimal():
            self._send(int(fault), b"no")
        elif path.is_dir():
            self._send(200, self._listing(path), kind="text/html", head=head)
        elif not path.is_file():
            self._send(404, b"no")
        else:
            content = path.read_bytes()
            if fault == "cut":
                content = content[: len(content) // 2]
            ranged = "Range" in self.headers and fault != "whole"
            if ranged and start >= len(content):
                self._send(416, b"")
                return
            part = content[start : end + 1 if end is not None else None] if ranged else content
            about = f"bytes {start}-{start + len(part) - 1}/{len(content)}"
            extra = {"Content-Range": about} if ranged else {}
            self._send(206 if ranged else 200, part, extra, fault=fault, head=head)

    def _range(self) -> tuple[int, int | None]:
        first, _, last = self.headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")
        return int(first), int(last) if last else None

    def _listing(self, path: Path) -> bytes:
        names = [f"{p.name}/" if p.is_dir() else p.name for p in sorted(path.iterdir())]
        return "".join(f'<a href="{quote(name)}">{name}</a>\n' for name in names).encode()

    def _send(self, status, body, extra=(), *, kind="application/x-tar", fault="", head=False):
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Accept-Ranges", "bytes")
        for name, value in dict(extra).items():
            self.send_header(name, value)
        self.end_headers()
        if head:
            return
        half = len(body) // 2
        self.wfile.write(body[:half])
        if fault == "drop":
            self.close_connection = True
            return
        if fault == "slow":
            time.sleep(self.server.pause_s)
        self.wfile.write(body[half:])
