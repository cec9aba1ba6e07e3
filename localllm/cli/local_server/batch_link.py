"""The lines of a batch, sent to this user's own server, which is found again after a restart."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING

from localllm.errors import LocalLLMError, ServeError
from localllm.library.files.server_file import RunningServer, find_server
from localllm.server.local.client import ServerClient, connected

if TYPE_CHECKING:
    from localllm.server.batch.lines import BatchLine
    from localllm.server.batch.runner import HttpAnswer, Send


@contextlib.asynccontextmanager
async def through_server(server: RunningServer, file: Path) -> "AsyncIterator[Send]":
    """Send lines to `server`, and to those that are in its place later: `file` says where."""
    async with contextlib.AsyncExitStack() as stack:
        link = _Link(stack, file)
        await link.connect(server)
        yield link.send


class _Link:
    """A connection that follows the server: its key is of one run."""

    def __init__(self, stack: contextlib.AsyncExitStack, file: Path) -> None:
        self._stack = stack
        self._file = file
        self._client: ServerClient | None = None
        self._connecting = asyncio.Lock()

    async def connect(self, server: RunningServer) -> None:
        self._client = await self._stack.enter_async_context(connected(server))

    async def send(self, line: "BatchLine") -> "HttpAnswer":
        """Send one line. Raises ConnectionError while no server can be reached."""
        from localllm.server.batch.lines import body_bytes
        from localllm.server.batch.runner import HttpAnswer

        client = self._client
        assert client is not None
        try:
            response = await client.send("POST", line.url, body_bytes(line))
        except ServeError as error:
            await self._find_again(client)
            raise ConnectionError(str(error)) from error
        if response.status_code == 401 and await self._find_again(client):
            raise ConnectionError("Another server has taken the place of the one that was there.")
        headers = {name.lower(): value for name, value in response.headers.items()}
        return HttpAnswer(status=response.status_code, headers=headers, body=response.content)

    async def _find_again(self, client: ServerClient) -> bool:
        """Connect to the server that runs now, if it is another one than that of `client`."""
        async with self._connecting:
            if client is not self._client:
                return True  # somebody else has
            try:
                found = await asyncio.to_thread(find_server, self._file)
                if found is None or found == client.server:
                    return False
                await self.connect(found)
            except LocalLLMError:  # it is not there yet
                return False
            return True
