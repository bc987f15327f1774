"""Where other machines reach this one, and whether this one reaches them."""

from __future__ import annotations

import contextlib
import ipaddress
import socket
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor


def own_addresses() -> tuple[str, ...]:
    """Return the addresses of this machine beyond loopback, those that its name leads to first."""
    import psutil

    def usable(text: str) -> bool:
        with contextlib.suppress(ValueError):
            address = ipaddress.ip_address(text)
            return not (address.is_loopback or address.is_link_local or address.is_multicast or address.is_unspecified)
        return False

    up = {name for name, state in psutil.net_if_stats().items() if state.isup}
    found = [
        entry.address
        for name, entries in psutil.net_if_addrs().items()
        if name in up
        for entry in entries
        if entry.family in (socket.AF_INET, socket.AF_INET6)
    ]
    named: list[str] = []
    with contextlib.suppress(OSError):
        named = [str(entry[4][0]) for entry in socket.getaddrinfo(socket.gethostname(), None)]
    ordered = sorted(dict.fromkeys(found), key=lambda address: (address not in named, ":" in address))
    return tuple(filter(usable, ordered))


def endpoint(address: str, port: int) -> str:
    """Return address and port as one text."""
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def reachable(endpoints: Iterable[str], timeout_s: float) -> tuple[str, ...]:
    """Return those of the endpoints, in their order, that take a connection from here within a time."""
    all_of_them = tuple(endpoints)
    with ThreadPoolExecutor(max(len(all_of_them), 1)) as pool:
        answers: Sequence[bool] = list(pool.map(lambda one: takes_connection(one, timeout_s), all_of_them))
    return tuple(one for one, answered in zip(all_of_them, answers, strict=True) if answered)


def takes_connection(where: str, timeout_s: float) -> bool:
    """Whether something listens at an endpoint, ``host:port``, and can be reached from here."""
    host, _, port = where.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout_s).close()
    except OSError:
        return False
    return True
