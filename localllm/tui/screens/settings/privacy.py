"""The text of the privacy page: what can connect, what did, who sees prompts. Pure."""

import time
from collections.abc import Iterator, Sequence

from textual.content import Content

from localllm.core.hardware import NetworkAccess
from localllm.core.policy.keys import POLICY_SWITCH
from localllm.core.text import single_line
from localllm.core.units import format_bytes
from localllm.library.http.connection_file import Connection, Purpose
from localllm.library.http.ledger import NetworkActivity
from localllm.translation import N_, _, ngettext

MAX_CONNECTIONS = 8
_LABEL = 18
_PURPOSES = {
    Purpose.SEARCH: N_("search"),
    Purpose.METADATA: N_("facts"),
    Purpose.DOWNLOAD: N_("download"),
    Purpose.TRACES: N_("traces"),
}


def label(text: str) -> Content:
    """Write the label of a line."""
    return Content.styled(f"  {text[: _LABEL - 1]:{_LABEL}}", "$text-muted")


def hanging(line: Content, width: int) -> Iterator[Content]:
    """Break a line where it is wider than `width`, and begin what follows under its text."""
    while width > 2 * _LABEL and len(line) > width:
        cut = line.plain.rfind(" ", _LABEL + 3, width + 1)
        cut = width if cut < 0 else cut
        yield line[:cut]
        rest = len(line.plain) - len(line.plain[cut:].lstrip(" "))
        line = Content(" " * (_LABEL + 2)) + line[rest:]
    yield line


def network_lines(
    activity: NetworkActivity,
    history: Sequence[Connection],
    *,
    offline: str | None,
    endpoints: Sequence[str],
    problem: str | None,
) -> Iterator[Content]:
    """Say whether the network is on, what was sent, and what can ever be."""
    yield Content.styled(_("Network"), "bold")
    if offline is None:
        yield label(_("state")) + Content(_("‹on, asks first›   off        o switches it off now"))
    elif offline == POLICY_SWITCH:
        yield label(_("state")) + Content(
            "⊘ " + _("managed by your organization: {keys}").format(keys="offline")
        )
    else:
        state = _("on   ‹off› ({reason})        o switches it on").format(
            reason=single_line(offline)
        )
        yield label(_("state")) + Content(state)
    yield label(_("since the start")) + Content(since_start(activity))
    first = _("last connections")
    for each in history[:MAX_CONNECTIONS]:
        yield label(first) + connection_line(each)
        first = ""
    if not history:
        yield label(first) + Content(_("none is known"))
    more = len(history) - MAX_CONNECTIONS
    if more > 0:
        text = ngettext("and {count} more", "and {count} more", more).format(count=more)
        yield label("") + Content.styled(text, "$text-muted")
    hosts = ", ".join(single_line(each) for each in endpoints)
    yield label(_("all it could be")) + Content(
        _("{hosts} and its file servers, for a search, a download, or a model's facts;").format(
            hosts=hosts
        )
    )
    yield label("") + Content(_("and the server of this app, when it serves, waits for others."))
    if problem is not None:
        yield label("") + Content.styled(
            _("! the list of connections could not be written: {reason}").format(reason=problem),
            "$text-warning",
        )


def since_start(activity: NetworkActivity) -> str:
    """Say what this process has sent to other machines."""
    if not activity.sent_bytes and not activity.received_bytes:
        return _("nothing was sent to another machine")
    return _("{sent} went out, {received} came").format(
        sent=format_bytes(activity.sent_bytes), received=format_bytes(activity.received_bytes)
    )


def connection_line(each: Connection) -> Content:
    """Write one connection: when, who, what for, what came, and which name went out."""
    at = time.strftime("%Y-%m-%d %H:%M", time.localtime(max(each.ended_at, 0.0)))
    purpose = _(_PURPOSES[each.purpose])
    if each.failures and not each.bytes_in:
        came = _("could not be reached")
    else:
        came = _("{size} came").format(size=format_bytes(each.bytes_in))
    name = "" if each.name is None else f'   "{single_line(each.name)}" {_("went out")}'
    proxy = "" if each.proxy is None else f" ({_('through')} {single_line(each.proxy)})"
    return Content(f"{at}  {single_line(each.host)}{proxy}  {purpose}, {came}{name}")


def engine_lines(network: NetworkAccess | None) -> Iterator[Content]:
    """Say what the process that reads prompts could send."""
    yield Content.styled(_("The process that sees prompts"), "bold")
    if network is None:
        text = _("it was not started yet: nothing is known")
    elif network.blocked:
        text = _("✓ cannot use the network: {detail}")
    else:
        text = _("! could use the network, and has no code for it: {detail}")
    detail = "" if network is None else single_line(network.detail)
    yield label(_("engine")) + Content(text.format(detail=detail))
    yield label(_("clipboard")) + Content(
        _("what is copied goes to the terminal (OSC 52); nothing is read from it")
    )


def history_line(choice: str | None, *, is_locked: bool, count: int) -> Content:
    """Say how conversations are kept. `choice` is that of the settings, None: nobody was asked."""
    kept = {
        "disk": _("‹encrypted on this disk›   in memory only   not kept"),
        "memory": _("encrypted on this disk   ‹in memory only›   not kept"),
        "off": _("encrypted on this disk   in memory only   ‹not kept›"),
    }.get(choice or "", _("not asked yet: in memory until you choose"))
    counted = ngettext("{count} chat", "{count} chats", count).format(count=count)
    locked = f" · {_('locked: its passphrase opens it')}" if is_locked else ""
    return label(_("your chats")) + Content(f"{kept}   {counted}{locked}")


def policy_line(locked: Sequence[str]) -> Content:
    """Name the settings that a policy decides."""
    if not locked:
        return label(_("policy")) + Content(_("no policy decides anything on this machine"))
    keys = ", ".join(map(single_line, locked))
    return label(_("policy")) + Content(_("managed by your organization: {keys}").format(keys=keys))
