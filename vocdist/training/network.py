"""Between hosts: by which network the processes of a run reach each other."""

import os
import socket

import psutil


def choose_interface() -> None:
    """Let gloo use the network that leads to the first host, unless the user has named one.

    By itself gloo takes the address that this host's own name stands for, and on many machines
    `/etc/hosts` says 127.0.0.1, where no other host can reach it. (NCCL looks for itself.)
    """
    hosts_differ = os.environ.get("WORLD_SIZE") != os.environ.get("LOCAL_WORLD_SIZE")
    first = os.environ.get("MASTER_ADDR")
    if hosts_differ and first and "GLOO_SOCKET_IFNAME" not in os.environ:
        name = interface_towards(first)
        if name is not None:
            os.environ["GLOO_SOCKET_IFNAME"] = name


def interface_towards(host: str) -> str | None:
    """Name of the interface that a packet to `host` would leave by; None where there is no way."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, 9, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.connect(address)  # of a datagram socket: nothing is sent
            own = probe.getsockname()[0]
    except OSError:
        return None
    for name, addresses in psutil.net_if_addrs().items():
        # IPv6 addresses may carry their zone: fe80::1%eth0.
        if any(each.address.partition("%")[0] == own.partition("%")[0] for each in addresses):
            return name
    return None
