"""The search of the Hub: what was found, what was read of it, and the line that says what would be
sent before it is."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

from localllm.core.text import single_line
from localllm.errors import LocalLLMError
from localllm.translation import _, ngettext
from localllm.tui.downloads.problems import describe_problem
from localllm.tui.downloads.source import DownloadSource, HubAccess
from localllm.tui.downloads.thread_call import in_daemon_thread
from localllm.tui.screens.models.groups import ModelGroup, hit_group, repository_group

_MAX_SHOWN = 40


def hub_line(
    access: HubAccess | None, words: str, *, repository: str | None, busy: bool, found: str
) -> str:
    """Say what h or enter would send and to whom; or why nothing can be sent."""
    if access is None:
        return ""
    if access.refusal is not None:
        return _("offline ({switch}): the Hub cannot be asked; i imports a file").format(
            switch=access.refusal
        )
    if busy:
        return _("asking {host}…").format(host=access.host)
    if repository is not None:
        return _(
            "enter asks {host} for the list of files of {repository} and the header of one"
        ).format(host=access.host, repository=repository)
    if words := single_line(words):
        text = _(
            'h  asks {host} for "{words}": sends these words, the version, and your token if there'
            " is one"
        ).format(host=access.host, words=words[:_MAX_SHOWN])
        return f"{found} · {text}" if found else text
    return _("h  asks {host} for the words of the search above; nothing is sent before").format(
        host=access.host
    )


class HubSearch:
    """What the Hub answered since the place was opened."""

    def __init__(self) -> None:
        self.groups: tuple[ModelGroup, ...] = ()
        self.busy = False
        self.found = ""

    @contextmanager
    def asking(self, changed: Callable[[], None]) -> Iterator[None]:
        """Say that the Hub is asked, as long as this lasts."""
        self.busy = True
        changed()
        try:
            yield
        finally:
            self.busy = False
            changed()

    async def search(self, source: DownloadSource, words: str) -> str | None:
        """Replace what was found; what was read of a repository is kept. Returns what went wrong,
        in one line."""
        try:
            hits = await in_daemon_thread(partial(source.search, words))
        except LocalLLMError as error:
            return describe_problem(error, words).line
        read = {group.key: group for group in self.groups if group.rows}
        found = [replace(hit_group(hit), found_by=words) for hit in hits]
        self.groups = tuple(read.get(group.key, group) for group in found)
        self.found = ngettext("{count} found", "{count} found", len(found)).format(count=len(found))
        return None if found else _("The Hub has nothing that matches; try fewer words.")

    async def read(self, source: DownloadSource, group: ModelGroup) -> str | None:
        """Read the files of a repository that was found. Returns what went wrong, in one line."""
        try:
            models = await in_daemon_thread(partial(source.read_repository, group.name))
        except LocalLLMError as error:
            problem = describe_problem(error, group.name)
            return problem.detail or problem.line
        candidates = models.contents.candidates
        if not candidates:
            return _("{repository} holds no model that can be used.").format(repository=group.name)
        read = repository_group(group, models.repo, models.header, candidates)
        self.groups = tuple(read if each.key == group.key else each for each in self.groups)
        return None
