"""Which hosts are this machine. Apart from `urls.py`, so that the ledger loads no HTTP client."""

import ipaddress
import socket


def is_loopback(host: str) -> bool:
    """Tell whether a host is this machine, by its name or address alone: no DNS is asked."""
    plain = host.lower().strip("[]").rstrip(".")
    if plain == "localhost" or plain.endswith(".localhost"):
        return True
    try:
        address = ipaddress.ip_address(plain)
    except ValueError:
        try:
            address = ipaddress.ip_address(socket.inet_aton(plain))  # "127.1", as connect() does
        except OSError:
            return False
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return address.is_loopback or address.is_unspecified
