"""Two hosts on one machine: network namespaces with an address each, joined by a cable."""

import contextlib
import shutil
import subprocess
import uuid
from collections.abc import Iterator

FIRST, SECOND = "10.77.0.1", "10.77.0.2"


def ip(*arguments: str) -> None:
    """Call iproute2's `ip`."""
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True, timeout=30)


class Cable:
    """The way between two hosts.

    Attributes:
        hosts: Names of the two namespaces.
    """

    def __init__(self) -> None:
        tag = uuid.uuid4().hex[:6]
        self.hosts = (f"voc-{tag}-a", f"voc-{tag}-b")
        self._plugs = (f"v{tag}a", f"v{tag}b")

    def lay(self) -> None:
        """Make the hosts and join them."""
        for host in self.hosts:
            ip("netns", "add", host)
        first, second = self._plugs
        ip("link", "add", first, "netns", self.hosts[0], "type", "veth", "peer", "name", second)
        ip("link", "set", second, "netns", self.hosts[1])
        for host, plug, address in zip(self.hosts, self._plugs, (FIRST, SECOND), strict=True):
            ip("-n", host, "address", "add", f"{address}/24", "dev", plug)
            ip("-n", host, "link", "set", "lo", "up")
            ip("-n", host, "link", "set", plug, "up")

    def cut(self) -> None:
        """From now on no packet gets through, and nobody is told."""
        ip("-n", self.hosts[1], "link", "set", self._plugs[1], "down")

    def remove(self) -> None:
        for host in self.hosts:
            with contextlib.suppress(subprocess.CalledProcessError):
                ip("netns", "delete", host)


def why_not() -> str | None:
    """Why there can be no such hosts here; None where there can."""
    if shutil.which("ip") is None:
        return "needs the command `ip` (iproute2)"
    cable = Cable()
    try:
        cable.lay()
    except subprocess.CalledProcessError as error:
        return f"network namespaces cannot be made here: {error.stderr.strip()}"
    finally:
        cable.remove()
    return None


@contextlib.contextmanager
def two_hosts() -> Iterator[Cable]:
    """Two hosts, for a while."""
    cable = Cable()
    try:
        cable.lay()
        yield cable
    finally:
        cable.remove()
