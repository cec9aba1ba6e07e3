"""The decisions of a policy: every door that loads, fetches, serves or keeps asks one of these.

A decision is None, or a `Refusal` that names the key. Enforced rules refuse; recommended ones only
advise, because a person's own word comes before them. All layers (files) hold together: another
file can take more away, and never gives anything back. Nothing here reads a file.
"""

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

from localllm.core.policy.document import Rules
from localllm.core.policy.keys import HISTORY_MODES, KEYS, PolicyValue, restricts
from localllm.core.text import single_line
from localllm.core.units import format_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """A decision against something: the key, where it is set, and a sentence for a person."""

    key: str
    place: str
    reason: str

    @property
    def message(self) -> str:
        """The whole message: what is not done, why, and whom to ask."""
        return (
            f"{self.reason} The policy of this machine says so ({self.key} in {self.place});"
            " only its administrator can change that."
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFacts:
    """What a policy looks at of a model.

    `source` is `ORGANIZATION/REPOSITORY` of the Hub, or `local:import` and the like for a file that
    did not come from there. `sha256s` are those of its files, None where one is not known;
    `signed`: a signature of it was verified.
    """

    name: str
    source: str
    size_bytes: int
    license: str | None = None
    sha256s: tuple[str | None, ...] = ()
    signed: bool = False

    @property
    def organization(self) -> str:
        """The part of the source before the slash, or all of a local one."""
        return self.source.partition("/")[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditRule:
    """What a policy says of the audit log. `directory` None: where the program puts it."""

    required: bool
    directory: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """The rules of all policy files of this machine, each file a layer; none for no policy."""

    enforced: tuple[Rules, ...] = ()
    recommended: tuple[Rules, ...] = ()

    # --- decisions ---

    def allows_load(self, model: ModelFacts) -> Refusal | None:
        """Decide on loading a model."""
        return self._first(lambda rules: _model_refusals(rules, model, "loaded"))

    def allows_fetch(self, model: ModelFacts) -> Refusal | None:
        """Decide on downloading or importing a model."""
        return self._first(lambda rules: _model_refusals(rules, model, "fetched"))

    def advice_on_load(self, model: ModelFacts) -> tuple[str, ...]:
        """Say what recommended rules have against loading a model: it is loaded all the same."""
        found = (each for rules in self.recommended for each in _model_refusals(rules, model, ""))
        return tuple(
            f"{single_line(model.name)} is not what the administrator recommends"
            f" ({each.key} in {each.place})."
            for each in found
        )

    def allows_network(self) -> Refusal | None:
        """Decide on using the network at all."""
        return self._switch("offline", "The network is not used.")

    def allows_endpoint(self, endpoint: str) -> Refusal | None:
        """Decide on asking an endpoint, an address without a last slash."""

        def refusals(rules: Rules) -> Iterator[Refusal]:
            allowed = rules.texts("hub.endpoints")
            if allowed is not None and endpoint.rstrip("/") not in {e.rstrip("/") for e in allowed}:
                reason = f"{single_line(endpoint)} is not used: allowed is {_list(allowed)}."
                yield _refusal(rules, "hub.endpoints", reason)

        return self._first(refusals)

    def allows_template(self, sha256: str, name: str) -> Refusal | None:
        """Decide on a chat template by the SHA-256 of its UTF-8 text."""

        def refusals(rules: Rules) -> Iterator[Refusal]:
            allowed = rules.texts("templates.sha256_allowed")
            if allowed is not None and sha256.lower() not in {each.lower() for each in allowed}:
                reason = f"The chat template of {single_line(name)} is not used: its SHA-256 is"
                yield _refusal(rules, "templates.sha256_allowed", f"{reason} {sha256}.")

        return self._first(refusals)

    def allows_engine(self, name: str, directory: str) -> Refusal | None:
        """Decide on starting a build of llama.cpp, by the name of its package or its directory."""

        def refusals(rules: Rules) -> Iterator[Refusal]:
            allowed = rules.texts("engines.allowed")
            if allowed is not None and not {name, directory} & {*allowed}:
                reason = f"The engine {single_line(name)} is not started: allowed is"
                yield _refusal(rules, "engines.allowed", f"{reason} {_list(allowed)}.")

        return self._first(refusals)

    def allows_listening(self, ip: str | None, *, tls: bool, has_key: bool) -> Refusal | None:
        """Decide on listening on an IP address; None: on a Unix socket."""
        return self._first(lambda rules: _listen_refusals(rules, ip, tls=tls, has_key=has_key))

    def allows_keeping(self, mode: str) -> Refusal | None:
        """Decide on keeping what people write: in `memory` or on the `disk` (off: not at all)."""

        def refusals(rules: Rules) -> Iterator[Refusal]:
            most = rules.text("history")
            if most is not None and HISTORY_MODES.index(mode) > HISTORY_MODES.index(most):
                where = "on the disk" if mode == "disk" else "in memory"
                yield _refusal(rules, "history", f"Nothing of conversations is kept {where}.")

        return self._first(refusals)

    def allows_adapter(self) -> Refusal | None:
        """Decide on loading an adapter (LoRA)."""
        return self._switch("adapters.allowed", "No adapter is loaded.")

    def allows_images(self) -> Refusal | None:
        """Decide on loading an image encoder."""
        return self._switch("images.allowed", "No picture is read.")

    def allows_launch(self, target: str) -> Refusal | None:
        """Decide on starting an agent or another program against the local server."""

        def refusals(rules: Rules) -> Iterator[Refusal]:
            allowed = rules.texts("launch.allowed")
            if allowed is not None and target not in allowed:
                reason = f"{single_line(target)[:80]} is not started: allowed is {_list(allowed)}."
                yield _refusal(rules, "launch.allowed", reason)

        return self._first(refusals)

    def allows_prompts_in_logs(self) -> Refusal | None:
        """Decide on writing prompts or answers to a log."""
        return self._switch("logs.prompts_never", "Prompts are not written to a log.")

    # --- values ---

    def pins_model_hashes(self) -> bool:
        """Tell whether the content of model files decides, so that they have to be hashed."""
        keys = ("models.sha256_allowed", "models.sha256_denied")
        return any(rules.texts(key) is not None for rules in self.enforced for key in keys)

    @property
    def audit(self) -> AuditRule:
        """What is said of the audit log; the first layer that names a directory does."""
        layers = (*self.enforced, *self.recommended)
        return AuditRule(
            required=any(rules.is_on("audit.required") for rules in self.enforced),
            directory=next((t for r in layers if (t := r.text("audit.directory"))), None),
        )

    @property
    def catalogue_file(self) -> str | None:
        """The catalogue in the place of localllm's own, None for none."""
        layers = (*self.enforced, *self.recommended)
        return next((t for rules in layers if (t := rules.text("catalogue.file"))), None)

    def bounded(self, key: str, value: PolicyValue | None) -> PolicyValue | None:
        """Return the value that holds of a setting, which a person has set (None: has not): the
        tighter of that and what is enforced. An endpoint that is not allowed stays, and is refused
        when it is used."""
        for rules in self.enforced:
            bound = rules.values.get(key)
            match key, bound:
                case (_, None):
                    continue
                case "offline", bool():
                    value = bool(value) or bound
                case "history", str() if bound != HISTORY_MODES[-1]:
                    modes = HISTORY_MODES.index
                    value = min((str(value or bound), bound), key=modes)
                case "history_days", int():
                    value = min(int(value), bound) if isinstance(value, int) and value else bound
                case "hub.endpoints", tuple() if not value:
                    value = bound
        return value

    def settled(
        self, values: Mapping[str, PolicyValue | None], chosen: Collection[str]
    ) -> dict[str, PolicyValue | None]:
        """Return the values of settings that hold: those that a person has `chosen` (keys) before
        those that are recommended, and each as tight as what is enforced."""
        settled = {}
        for key, value in values.items():
            recommended = None if key in chosen else self.recommendation(key)
            settled[key] = self.bounded(key, value if recommended is None else recommended[0])
        return settled

    def recommendation(self, key: str) -> tuple[PolicyValue, str] | None:
        """Return a recommended value and its place; None for none."""
        found = (each for each in self.recommended if key in each.values)
        return next(((each.values[key], each.where(key)) for each in found), None)

    def enforcement(self, key: str) -> tuple[PolicyValue, str] | None:
        """Return an enforced value that restricts something, and its place; None for none."""
        for rules in self.enforced:
            if key in rules.values and restricts(key, rules.values[key]):
                return rules.values[key], rules.where(key)
        return None

    @property
    def enforced_keys(self) -> tuple[str, ...]:
        """The keys that restrict something and cannot be overridden, in the order of the table."""
        return tuple(key for key in KEYS if self.enforcement(key) is not None)

    # --- inside ---

    def _first(self, refusals: Callable[[Rules], Iterator[Refusal]]) -> Refusal | None:
        return next((each for rules in self.enforced for each in refusals(rules)), None)

    def _switch(self, key: str, reason: str) -> Refusal | None:
        def refusals(rules: Rules) -> Iterator[Refusal]:
            if key in rules.values and restricts(key, rules.values[key]):
                yield _refusal(rules, key, reason)

        return self._first(refusals)


NO_POLICY = Policy()
"""That of a machine without one."""


def _refusal(rules: Rules, key: str, reason: str) -> Refusal:
    return Refusal(key=key, place=rules.where(key), reason=reason)


def _model_refusals(rules: Rules, model: ModelFacts, done: str) -> Iterator[Refusal]:
    """Yield what one layer has against a model."""
    start = f"{single_line(model.name)} is not {done}:"
    terms = (model.license or "unknown").casefold()
    named = (
        ("organizations", model.organization.casefold(), f"it comes from {model.organization}"),
        ("repositories", model.source.casefold(), f"it comes from {model.source}"),
        ("licenses", terms, f"its license is {terms}"),
    )
    for what, value, reason in named:
        for denied in (True, False):
            key = f"models.{what}_{'denied' if denied else 'allowed'}"
            listed = rules.texts(key)
            if listed is not None and _matches(value, listed) is denied:
                yield _refusal(rules, key, f"{start} {single_line(reason)}.")
    allowed, refused = (rules.texts(f"models.sha256_{e}") for e in ("allowed", "denied"))
    sums = tuple(None if each is None else each.lower() for each in model.sha256s) or (None,)
    if refused is not None:
        listed_sums = {each.lower() for each in refused}
        # What is not known may be what is denied.
        if bad := [each for each in sums if each is None or each in listed_sums]:
            yield _refusal(rules, "models.sha256_denied", f"{start} {_sum(bad[0])}.")
    if allowed is not None:
        listed_sums = {each.lower() for each in allowed}
        if bad := [each for each in sums if each not in listed_sums]:
            yield _refusal(rules, "models.sha256_allowed", f"{start} {_sum(bad[0])}.")
    most = rules.number("models.max_bytes")
    if most is not None and model.size_bytes > most:
        sizes = f"it has {format_bytes(model.size_bytes)}, and {format_bytes(most)} are allowed"
        yield _refusal(rules, "models.max_bytes", f"{start} {sizes}.")
    if rules.is_on("models.signature_required") and not model.signed:
        reason = "no signature of it was verified"
        yield _refusal(rules, "models.signature_required", f"{start} {reason}.")


def _listen_refusals(
    rules: Rules, ip: str | None, *, tls: bool, has_key: bool
) -> Iterator[Refusal]:
    allowed = rules.texts("serve.bind_allowed")
    where = "a Unix socket" if ip is None else single_line(ip)
    if allowed is not None and not any(_covers(each, ip) for each in allowed):
        reason = f"The local API does not listen on {where}: allowed is {_list(allowed)}."
        yield _refusal(rules, "serve.bind_allowed", reason)
    if rules.is_on("serve.tls_required") and not tls and ip is not None:
        reason = f"The local API does not listen on {where} without TLS."
        yield _refusal(rules, "serve.tls_required", reason)
    if rules.is_on("serve.key_required") and not has_key:
        reason = f"The local API does not listen on {where} without an API key."
        yield _refusal(rules, "serve.key_required", reason)


def _covers(allowed: str, ip: str | None) -> bool:
    """Tell whether an entry of `serve.bind_allowed` covers an address (None: a Unix socket)."""
    import ipaddress  # few policies name one

    if ip is None or allowed == "unix":
        return ip is None and allowed == "unix"
    try:
        address = ipaddress.ip_address(ip.partition("%")[0])
    except ValueError:
        return False
    if allowed == "loopback":
        return address.is_loopback
    network = ipaddress.ip_network(allowed, strict=False)
    # 0.0.0.0 is every address: only a network that is everything covers it.
    everything = network.prefixlen == 0 and network.version == address.version
    return everything if address.is_unspecified else address in network


def _matches(value: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(value, pattern.casefold()) for pattern in patterns)


def _sum(sha256: str | None) -> str:
    return "its SHA-256 is not known" if sha256 is None else f"its SHA-256 is {sha256}"


def _list(values: tuple[str, ...]) -> str:
    return ", ".join(single_line(each) for each in values) or "nothing"
