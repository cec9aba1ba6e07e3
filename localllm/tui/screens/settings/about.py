"""What this program is, and where everything of it lies. Pure but for the paths."""

import platform
import sys
from collections.abc import Iterator

from textual.content import Content

from localllm import __version__
from localllm.library.files import paths
from localllm.translation import _
from localllm.tui.screens.settings.privacy import label
from localllm.tui.screens.settings.stored import shortened


def about_lines() -> Iterator[Content]:
    """Write version, licence, promises and directories."""
    yield Content.styled("◆ localllm", "bold $primary")
    yield Content(_("Puts a language model on the machine you already have."))
    yield Content()
    yield label(_("version")) + Content(__version__)
    yield label(_("Python")) + Content(f"{platform.python_version()}, {sys.platform}")
    yield label(_("licence")) + Content("MIT")
    yield label(_("promises")) + Content(
        _("no account, no telemetry, no update check; nothing leaves without your key press")
    )
    yield Content()
    for name, place in (
        (_("models and chats"), paths.data_dir()),
        (_("settings"), paths.config_dir()),
        (_("cache"), paths.cache_dir()),
    ):
        yield label(name) + Content(shortened(place))
