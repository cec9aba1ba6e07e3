"""The command about collections of documents, in plain lines: list, add, use, update, erase."""

import asyncio
import time
from abc import abstractmethod
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from localllm.chat.commands.actions import OFF, ChatActions
from localllm.chat.commands.table import path_argument
from localllm.core.text import single_line
from localllm.core.units import format_duration
from localllm.errors import UsageError
from localllm.translation import _, ngettext

if TYPE_CHECKING:  # imported when somebody uses documents
    from localllm.chat.documents.collection import CollectionInfo
    from localllm.chat.documents.indexing import IndexProgress
    from localllm.chat.documents.service import Documents

_REPORT_S = 5.0
"""A line about indexing comes so often."""


class DocumentActions(ChatActions):
    """`ChatActions` with /docs. A front end writes one more method."""

    @abstractmethod
    async def open_documents(self) -> "Documents":
        """Return the collections, opened when they are first needed."""

    async def docs(self, argument: str) -> None:
        verb, _blank, rest = argument.partition(" ")
        rest = rest.strip()
        documents = await self.open_documents()
        if not argument:
            await self.show(await self._list(documents))
        elif argument.lower() == OFF:
            await self._use_collections(())
        elif verb == "add" and rest:
            path = Path(path_argument(rest))
            info = await asyncio.to_thread(documents.collections.create, path)
            await self.index_collection(documents, info)
            await self._use_collections((*self.settings.collections, info.name))
        elif verb in ("add", "update", "erase") and not rest:
            raise UsageError(_("/docs {verb} needs a name behind it.").format(verb=verb))
        elif verb == "update":
            await self.index_collection(documents, await self._info(documents, rest))
        elif verb == "erase":
            info = await self._info(documents, rest)
            await documents.erase(info.id)
            await self._use_collections(
                tuple(n for n in self.settings.collections if n != info.name)
            )
            await self.show(
                _("Erased. The files of {root} stay as they are.").format(root=info.root)
            )
        else:
            name = (await self._info(documents, argument)).name
            used = self.settings.collections
            await self._use_collections(
                tuple(each for each in used if each != name) if name in used else (*used, name)
            )

    async def _use_collections(self, names: tuple[str, ...]) -> None:
        names = tuple(dict.fromkeys(names))
        await self.change_settings(replace(self.settings, collections=names))
        if names:
            listed = ", ".join(map(single_line, names))
            await self.show(_("Questions are answered from: {names}.").format(names=listed))
        else:
            await self.show(_("Questions are answered without documents."))

    async def _info(self, documents: "Documents", name: str) -> "CollectionInfo":
        collection = await asyncio.to_thread(documents.collections.open, name)
        return collection.current_info()

    async def _list(self, documents: "Documents") -> str:
        infos = await asyncio.to_thread(documents.collections.list)
        lines = [
            f"{'*' if each.name in self.settings.collections else ' '} {single_line(each.name)}"
            f"  {_counts(each)}  {single_line(each.root)}"
            for each in infos
        ] or [_("There is no collection yet.")]
        if not documents.collections.are_kept:
            lines.append(_("Collections are in memory alone, until localllm ends."))
        if (await documents.models()).embedding is None:
            lines.append(_("They are searched by words alone: no embedding model is installed."))
        lines.append(_("/docs add FOLDER makes one, /docs NAME uses one or not."))
        return "\n".join(lines)

    async def index_collection(self, documents: "Documents", info: "CollectionInfo") -> None:
        """Index in front of the person, who can stop it: what is done is kept."""
        reported_s = time.monotonic()
        async with aclosing(documents.index(info.id)) as steps:
            async for progress in steps:
                if time.monotonic() - reported_s >= _REPORT_S:
                    reported_s = time.monotonic()
                    await self.show(_progress_text(progress))
        indexed = await self._info(documents, info.id)
        await self.show(f"{single_line(info.name)}: {_counts(indexed)}")


def _counts(info: "CollectionInfo") -> str:
    files = ngettext("{count} file", "{count} files", info.files)
    passages = ngettext("{count} passage", "{count} passages", info.passages)
    text = f"{files.format(count=info.files)}, {passages.format(count=info.passages)}"
    if info.problems:
        words = ngettext("{count} cannot be read", "{count} cannot be read", info.problems)
        text += f", {words.format(count=info.problems)}"
    return text


def _progress_text(progress: "IndexProgress") -> str:
    text = _("{done} of {total} files are indexed").format(
        done=progress.files_done, total=progress.files_total
    )
    if progress.remaining_s is not None:
        left = format_duration(progress.remaining_s)
        text += ", " + _("{time} left").format(time=left)
    return text + "."
