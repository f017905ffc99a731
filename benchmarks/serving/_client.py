"""The service as a process of its own, and clients that cost little: raw HTTP over asyncio."""

import asyncio
import json
import os
import re
import socket
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

_BOUNDARY = b"frontier"


@dataclass
class Level:
    """What a number of clients saw in some seconds."""

    seconds: float = 0.0
    latencies: list[float] = field(default_factory=list)
    """Of answers with status 200."""
    statuses: Counter[int] = field(default_factory=Counter)
    """0 stands for a connection that broke."""
    cpu_seconds: float = 0.0
    """Of the service, all threads."""

    @property
    def rate(self) -> float:
        """Answers with status 200 per second."""
        return len(self.latencies) / self.seconds

    @property
    def failures(self) -> int:
        """Answers that are neither 200 nor an honest 503."""
        return sum(count for status, count in self.statuses.items() if status not in (200, 503))

    def add(self, other: "Level") -> None:
        """Take in what was seen in further seconds."""
        self.seconds += other.seconds
        self.latencies += other.latencies
        self.statuses += other.statuses
        self.cpu_seconds += other.cpu_seconds

    def quantile(self, share: float) -> float:
        """Seconds."""
        ranked = sorted(self.latencies)
        return ranked[min(len(ranked) - 1, int(share * len(ranked)))] if ranked else float("nan")


class Served:
    """`uvicorn` on a free port until the block ends."""

    def __init__(self, model: Path, **settings: object) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self._environment = os.environ | {"DNCBM_MODEL_DIR": str(model.resolve())}
        self._environment |= {f"DNCBM_{name.upper()}": str(v) for name, v in settings.items()}

    def __enter__(self) -> "Served":
        command = [sys.executable, "-m", "uvicorn", "--factory", "api.asgi:application"]
        options = ["--port", str(self.port), "--log-level", "error"]
        self._process = subprocess.Popen(
            [*command, *options], env=self._environment, stderr=subprocess.DEVNULL
        )
        deadline = time.monotonic() + 180
        while time.monotonic() < deadline and self._process.poll() is None:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/readyz") as answer:
                    self.model = re.findall(rb'"models":\["([^"]+)"', answer.read())[0].decode()
                return self
            except OSError:
                time.sleep(0.1)
        raise SystemExit("The service did not start.")

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait(30)

    @property
    def cpu_seconds(self) -> float:
        """Processor time that the process has used so far."""
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    @property
    def resident_mib(self) -> float:
        """Memory that the process holds now."""
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        return int(re.findall(r"VmRSS:\s+(\d+)", status)[0]) / 1024

    def request(self, photo: bytes) -> bytes:
        """The bytes of a prediction request."""
        body = b"--%b\r\n" % _BOUNDARY
        body += b'Content-Disposition: form-data; name="image"; filename="photo.jpg"\r\n'
        body += b"Content-Type: image/jpeg\r\n\r\n%b\r\n--%b--\r\n" % (photo, _BOUNDARY)
        head = f"POST /v1/models/{self.model}/predict HTTP/1.1\r\nHost: x\r\n".encode()
        head += b"Content-Type: multipart/form-data; boundary=%b\r\n" % _BOUNDARY
        return head + b"Content-Length: %d\r\n\r\n" % len(body) + body

    def load(self, photos: Sequence[bytes], clients: int, seconds: float) -> Level:
        """So many clients, each asking again as soon as it is answered."""
        requests = [self.request(photo) for photo in photos]
        before = self.cpu_seconds
        level = asyncio.run(_all(self.port, requests, clients, seconds))
        level.cpu_seconds = self.cpu_seconds - before
        return level

    def load_and_probe(
        self, photos: Sequence[bytes], clients: int, seconds: float
    ) -> tuple[Level, Level]:
        """The same, and what `/healthz` answered meanwhile, asked every 20 ms."""
        # from a process of its own, which the clients do not keep waiting
        command = [sys.executable, "-m", "benchmarks.serving._client"]
        options = [str(self.port), str(seconds)]
        prober = subprocess.Popen([*command, *options], stdout=subprocess.PIPE, text=True)
        level = self.load(photos, clients, seconds)
        told = json.loads(prober.communicate(timeout=60)[0])
        return level, Level(seconds, told["latencies"], Counter({200: told["answers"]}))


async def _all(port: int, requests: Sequence[bytes], clients: int, seconds: float) -> Level:
    level = Level()
    start = time.perf_counter()
    until = start + seconds
    await asyncio.gather(*(_client(port, requests, n, until, level) for n in range(clients)))
    level.seconds = time.perf_counter() - start
    return level


async def _client(
    port: int, requests: Sequence[bytes], number: int, until: float, level: Level
) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    while (start := time.perf_counter()) < until:
        writer.write(requests[number % len(requests)])
        number += 1
        status = await _answer(reader)
        level.statuses[status] += 1
        if status == 200:
            level.latencies.append(time.perf_counter() - start)
        elif status == 503:
            await asyncio.sleep(0.05)  # far sooner than Retry-After asks for
        else:
            writer.close()
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.close()


async def _probe(port: int, seconds: float) -> Level:
    level = Level(seconds)
    until = time.perf_counter() + seconds
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    while (start := time.perf_counter()) < until:
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        level.statuses[await _answer(reader)] += 1
        level.latencies.append(time.perf_counter() - start)
        await asyncio.sleep(0.02)
    writer.close()
    return level


async def _answer(reader: asyncio.StreamReader) -> int:
    """Reads one answer whole; its status, 0 if the connection broke."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
        await reader.readexactly(int(length[1]) if length else 0)
        return int(head[9:12])
    except (asyncio.IncompleteReadError, ConnectionError):
        return 0


if __name__ == "__main__":
    seen = asyncio.run(_probe(int(sys.argv[1]), float(sys.argv[2])))
    print(json.dumps({"latencies": seen.latencies, "answers": seen.statuses[200]}))
