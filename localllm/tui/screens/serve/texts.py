"""What the serve place writes: pure functions from what the server does to lines of text."""

from collections.abc import Iterator, Sequence
from datetime import datetime

from textual.content import Content

from localllm.core.text import single_line
from localllm.core.units import format_bytes, format_duration
from localllm.runtime.model_pool.listing import ModelListing, ModelState
from localllm.server.local.app_server import ServerAddress
from localllm.server.monitoring.activity import (
    Activity,
    RunningAnswer,
    ServedRequest,
    slots_of,
)
from localllm.translation import N_, _, ngettext
from localllm.tui import literal
from localllm.tui.figures import bar, columns

WIDE = 100
_BAR = 12
_KINDS = {
    "/chat/completions": N_("chat"),
    "/messages": N_("chat"),
    "/anthropic/messages": N_("chat"),
    "/responses": N_("chat"),
    "/api/chat": N_("chat"),
    "/completions": N_("text"),
    "/completion": N_("text"),
    "/api/generate": N_("text"),
    "/infill": N_("code to fill in"),
    "/embeddings": N_("embeddings"),
    "/embedding": N_("embeddings"),
    "/api/embed": N_("embeddings"),
    "/api/embeddings": N_("embeddings"),
    "/rerank": N_("ranking"),
    "/models": N_("list of models"),
    "/api/tags": N_("list of models"),
    "/": N_("chat page"),
    "/tokenize": N_("tokens"),
    "/messages/*": N_("tokens"),
}
_REFUSALS = {
    "invalid_api_key": N_("no key, or a wrong one"),
    "expired_api_key": N_("its key has expired"),
    "insufficient_scope": N_("its key does not allow this"),
    "model_not_allowed": N_("its key does not allow this model"),
    "host_not_allowed": N_("it asked for another machine (Host header)"),
    "origin_not_allowed": N_("a page of another site asked"),
    "rate_limit_exceeded": N_("its key has had its share"),
}


def kind_of(route: str) -> str:
    """Name what a request asks for."""
    return _(_KINDS[route]) if route in _KINDS else route


def request_lines(request: ServedRequest, width: int) -> tuple[Content, ...]:
    """Write a request as one row of a table."""
    at = datetime.fromtimestamp(request.at).strftime("%H:%M:%S")  # as clocks here
    client = single_line(f"{request.client} ({request.key})" if request.key else request.client)
    start = f"{at}  {client[:16]:16} "
    if request.is_refused:
        why = _(_REFUSALS.get(request.code or "", "")) or (request.code or str(request.status))
        refused = _("refused: {why}").format(why=single_line(why))
        return (Content(start) + Content.styled(refused, "$text-warning"),)
    what = kind_of(request.route)
    if request.tools:
        tools = ngettext("{count} tool", "{count} tools", request.tools)
        what = f"{what} · {tools.format(count=request.tools)}"
    tokens_in = _count(request.prompt_tokens)
    tokens_out = _count(request.completion_tokens)
    first = "-" if request.first_token_s is None else f"{request.first_token_s:.1f} s"
    rate = "-" if request.decode_tps is None else f"{request.decode_tps:.1f}"
    space = max(width - len(start) - 44, 8)
    numbers = f"{tokens_in:>7} {tokens_out:>7} {first:>7} {rate:>7}  "
    line = Content(f"{start}{what[:space]:{space}} {numbers}")
    return (line + Content.styled(_ended(request), "$primary" if request.is_running else ""),)


def request_head(width: int) -> Content:
    """Write the head of that table."""
    start = f" {_('time'):8}  {_('client'):16} "
    space = max(width - 1 - len(start) + 1 - 44, 8)
    numbers = f"{_('in'):>7} {_('out'):>7} {_('first'):>7} {_('tok/s'):>7}  "
    return Content.styled(f"{start}{_('what'):{space}} {numbers}{_('ended')}", "$text-muted")


def _ended(request: ServedRequest) -> str:
    if request.is_running:
        return _("running")
    if request.is_error:
        return single_line(request.code or str(request.status))
    return single_line(request.reason or _("ok"))


def _count(tokens: int) -> str:
    return f"{tokens:,}" if tokens else "-"


def address_lines(
    address: ServerAddress, *, models: Sequence[ModelListing], shows_key: bool
) -> Iterator[Content]:
    """Say to whom what is served, where, and with which key."""
    loaded = [each for each in models if each.resident is not None]
    names = ", ".join(single_line(each.name) for each in loaded) or _("every installed model")
    reach = _("to this machine only") if address.loopback else _("to other machines too")
    start = Content.styled("● ", "$success") + Content(
        _("serving {names} {reach}").format(names=names, reach=reach)
    )
    yield start
    if loaded:
        size = sum(each.estimated_bytes or 0 for each in loaded)
        yield Content.styled(
            _("  shares what is loaded with the chat, {size}: +0 B").format(
                size=format_bytes(size)
            ),
            "$text-muted",
        )
    yield Content(f"  {address.url}/v1")
    key = address.key if shows_key else f"…{address.key[-4:]}"
    hint = _("y copies it, k hides it") if shows_key else _("k shows it, y copies it")
    yield Content(f"  {_('key')} {key}   ") + Content.styled(hint, "$text-muted")
    yield Content.styled(_("  c copies both as two lines for a shell"), "$text-muted")


def shell_lines(address: ServerAddress) -> str:
    """Write the lines with which programs of a shell find the server."""
    return f"export OPENAI_BASE_URL={address.url}/v1\nexport OPENAI_API_KEY={address.key}\n"


def model_lines(
    listing: ModelListing, running: Sequence[ServedRequest], width: int
) -> Iterator[Content]:
    """Draw a model in memory: what each of its slots does."""
    resident = listing.resident
    if resident is None or listing.slots is None:
        if listing.state is ModelState.LOADING:
            part = f"{listing.progress or 0.0:.0%}"
            yield Content(
                _("{name}: loading, {part}").format(name=single_line(listing.name), part=part)
            )
        return
    facts = [format_bytes(listing.estimated_bytes or 0)]
    context = resident.loaded.context
    facts.append(_("context {tokens} each").format(tokens=f"{context:,}"))
    if listing.pinned:
        facts.append(_("pinned"))
    own = [each for each in running if each.model == listing.name]
    waiting = len(own) - listing.slots
    if waiting > 0:
        facts.append(ngettext("{count} waits", "{count} wait", waiting).format(count=waiting))
    yield Content.styled(single_line(listing.name), "bold") + Content.styled(
        f"   {' · '.join(facts)}", "$text-muted"
    )
    slots = list(slots_of(running, listing.name, listing.slots))
    chats = max(listing.requests - len(own), 0)
    for number, request in enumerate(slots, start=1):
        if request is not None:
            yield slot_line(number, request, context, width)
        elif chats:
            chats -= 1
            yield Content(_(" {number} this app's own chat").format(number=number))
        else:
            free = _(" {number} {sign} free").format(number=number, sign="░")
            yield Content.styled(free, "$text-muted")


def slot_line(number: int, request: ServedRequest, context: int, width: int) -> Content:
    """Draw one busy slot: how full its context is, and what it does."""
    read = request.prompt_read or (request.prompt_tokens if request.completion_tokens else 0)
    fraction = (read + request.completion_tokens) / max(context, 1)
    if request.completion_tokens or request.first_token_s is not None:
        rate = "" if request.decode_tps is None else f"{request.decode_tps:.1f} tok/s"
        state = f"{_('writing')}  {rate}"
    elif request.prompt_read:
        total = f"{request.prompt_tokens:,}"
        state = _("reading  {read} of {total}").format(read=f"{read:,}", total=total)
    else:
        state = _("waiting")
    drawn = bar(fraction, _BAR if width < WIDE // 2 else _BAR + 6)
    text = f" {number} {drawn} {fraction:4.0%}  {state:24} {request.client}"
    return Content(text)


def rate_lines(activity: Activity, width: int) -> Iterator[Content]:
    """Draw the last minute, or with room the last five, and how long first words took."""
    minutes = 5 if width >= 70 else 1
    label = _("tok/s together") + "  "
    space = max(width - len(label) - 12, 10)
    seconds = 60 * minutes
    step = max(-(-seconds // space), 1)
    rates = activity.rates(seconds, step)
    top = max(rates, default=0.0)
    head = ngettext("last minute", "last {count} minutes", minutes).format(count=minutes)
    totals = activity.totals
    recent = [each for each in activity.requests if each.at >= activity.now() - seconds]
    asked = ngettext("{count} request", "{count} requests", len(recent))
    facts = [asked.format(count=len(recent))]
    if (first := activity.first_tokens(seconds)) is not None:
        text = _("first word {median}, worst {worst}")
        facts.append(text.format(median=f"{first[0]:.1f} s", worst=f"{first[1]:.1f} s"))
    yield Content(f"{head}   {' · '.join(facts)}")
    most = _("most {rate}").format(rate=f"{top:.0f}")
    yield Content(label) + Content.styled(columns(rates, space), "$primary") + f" {most}"
    since = _("since the start: {requests} · {tokens} tokens · {errors} · {refused} refused")
    asked = ngettext("{count} request", "{count} requests", totals.requests)
    failed = ngettext("{count} error", "{count} errors", totals.errors)
    yield Content.styled(
        since.format(
            requests=asked.format(count=totals.requests),
            tokens=f"{totals.tokens:,}",
            errors=failed.format(count=totals.errors),
            refused=totals.refused,
        ),
        "$text-muted",
    )


def answer_lines(answer: RunningAnswer) -> Iterator[Content]:
    """Write what a running request asks, and its answer so far."""
    request = answer.request
    sampling = request.sampling
    limit = "" if request.max_tokens is None else f" · {_('at most')} {request.max_tokens:,}"
    seed = "" if sampling.seed is None else f" · {_('seed')} {sampling.seed}"
    facts = f"{_('temperature')} {sampling.temperature:g}{seed}{limit}"
    yield Content.styled(facts, "$text-muted")
    if request.tools:
        names = ", ".join(each.name for each in request.tools)
        yield Content.styled(single_line(f"{_('tools')}: {names}"), "$text-muted")
    for message in request.messages or ():
        yield Content.styled(f"{message.role.value}:", "$primary")
        yield literal.lines(message.content)
    if request.prompt is not None:
        yield literal.lines(request.prompt)
    yield Content.styled(_("answer so far:"), "$primary")
    yield literal.lines(answer.answer)


def listing_lines(listing: ModelListing, width: int) -> tuple[Content, ...]:
    """Write a model of the pool as a row: where it is, and how long it stays."""
    state = {
        ModelState.UNLOADED: _("on the disk"),
        ModelState.LOADING: _("is loaded now"),
        ModelState.READY: _("in memory"),
        ModelState.CRASHED: _("crashed, starts again when it is asked"),
    }[listing.state]
    facts = [state]
    if listing.estimated_bytes is not None:
        facts.append(format_bytes(listing.estimated_bytes))
    if listing.pinned:
        facts.append(_("pinned"))
    if listing.last_used_s is not None and listing.resident is not None:
        facts.append(_("last asked {ago} ago").format(ago=format_duration(listing.last_used_s)))
    name = single_line(listing.name)[: max(width // 2, 12)]
    return (Content(f"{name:{max(width // 2, 12)}} {' · '.join(facts)}"),)
