"""The options of `localllm serve` that say where it listens and who comes in."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import click

from localllm.server.local.listening import ListenChoice

Result = TypeVar("Result")

_OPTIONS = (
    click.option(
        "--host",
        help="Address to listen on (default: that of the settings, else localhost: 127.0.0.1 and "
        "::1).",
    ),
    click.option(
        "--port",
        type=click.IntRange(0, 65535),
        help="Port; 0 takes any free one (default: that of the settings, else 11711).",
    ),
    click.option(
        "--api-key-file",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="Read the key from FILE (default: LOCALLLM_API_KEY, else a random key that is made at "
        "the first start).",
    ),
    click.option("--no-auth", is_flag=True, help="Ask for no key; loopback addresses only."),
    click.option(
        "--tls-cert",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="Serve over TLS with the certificate (and chain) in FILE, PEM; renewed files are "
        "loaded.",
    ),
    click.option(
        "--tls-key",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="The certificate's key, PEM.",
    ),
    click.option(
        "--socket",
        "socket_path",
        type=click.Path(path_type=Path),
        metavar="PATH",
        help="Listen on a Unix socket for this user's processes, which need no key; and on no "
        "port, unless --host or --port is given too.",
    ),
    click.option(
        "--insecure-lan",
        is_flag=True,
        help="Let other machines in without TLS (and without a key, with --no-auth).",
    ),
)


def listen_options(command: Callable[..., Result]) -> Callable[..., Result]:
    """Give a verb the options that say where it listens and who comes in, as one argument
    `where`."""

    @functools.wraps(command)
    def with_where(
        *,
        host: str | None,
        port: int | None,
        socket_path: Path | None,
        tls_cert: Path | None,
        tls_key: Path | None,
        api_key_file: Path | None,
        no_auth: bool,
        insecure_lan: bool,
        **values: object,
    ) -> Result:
        where = ListenChoice(
            host=host,
            port=port,
            socket=socket_path,
            tls_cert=tls_cert,
            tls_key=tls_key,
            api_key_file=api_key_file,
            no_auth=no_auth,
            insecure_lan=insecure_lan,
        )
        return command(where=where, **values)

    for option in reversed(_OPTIONS):
        with_where = option(with_where)
    return with_where
