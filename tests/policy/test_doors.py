"""Every door that loads, fetches, serves or keeps asks the policy: all of them, found in the code,
and each one walked."""

import ast
import hashlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import localllm
from localllm.chat.history.history import History, HistoryChoice
from localllm.chat.settings import ChatSettings
from localllm.cli.chat.session import open_session
from localllm.cli.commands.setup import checks
from localllm.core.policy.document import Rules
from localllm.core.policy.keys import KEYS, PolicyValue
from localllm.core.policy.policy import Policy
from localllm.core.recommend import Preferences
from localllm.core.sizing.load import Lora
from localllm.engine.builds.candidates import Candidate, RequestedEngine, chosen_candidate
from localllm.engine.client.client import engine_build
from localllm.engine.client.examination import verdict_on
from localllm.errors import ExitCode, Offline, OfflineByPolicy, PolicyRefused
from localllm.library.files import edit_settings
from localllm.library.files.catalogue_file import read_catalogue
from localllm.library.files.checksum import sha256_of
from localllm.library.files.settings import Settings, load, offline_switch
from localllm.library.http.client import Access, open_client
from localllm.library.http.export import open_exporter
from localllm.library.store.store import Store
from localllm.policy.active import policy_in_use
from localllm.runtime.effective_settings import Origin, effective_settings
from localllm.runtime.load_plan import plan_load
from localllm.runtime.load_policy import LoadChoice
from localllm.runtime.pull import PullPlan, plan_from, pull
from localllm.server.batch.store import BatchStore
from localllm.server.errors import api_error
from localllm.server.local.listening import ListenChoice, listening
from tests.cli.test_library_verbs import localllm as run
from tests.runtime.fake_machine import FakeMachine
from tests.runtime.test_pull import hub_models
from tests.runtime.test_pull import machine as pulling_machine

PACKAGE = Path(localllm.__file__).parent

DOORS: dict[str, dict[str, str]] = {
    # what opens a model in native code, and the function before it that asks
    "engine.load": {"runtime/runtime.py:_load": "require_load"},
    "engine.probe": {
        "runtime/runtime.py:probe": "require_load",
        # a header without data, of what somebody only wants to know the size of
        "cli/commands/size.py:_probe": "",
    },
    "self.engine.load": {
        "engine/client/supervisor.py:_restart_engine": ""
    },  # what _load has loaded
    "inspected_lora": {"runtime/load_plan.py:read_companions": "allows_adapter"},
    # what starts a process with a build of llama.cpp
    "proved_engine": {
        "engine/client/client.py:_started_child": "",
        "runtime/engines.py:find_engine": "",
    },
    "examine": {"engine/client/examination.py:verdict_on": "policy_refusal"},
    # what opens a connection to another machine
    "httpx2.Client": {"library/http/client.py:open_client": "allows_endpoint"},
    "httpx2.HTTPTransport": {
        "library/http/client.py:_transport_for": "",  # of a request that handle_request has judged
        "library/http/export.py:open_exporter": "require_network",
        "library/http/proxies.py:open_proxy_transport": "",  # the entry below
    },
    "open_proxy_transport": {
        "library/http/client.py:_transport_for": "",
        "library/http/export.py:open_exporter": "require_network",
    },
    # what fetches a model
    "download": {"runtime/pull.py:pull": "allows_fetch"},
    # what listens
    "open_sockets": {"server/local/listening.py:listening": "allows_listening"},
    "unix_socket": {"server/local/listening.py:listening": "allows_listening"},
    # what keeps
    "DiskStore": {"chat/history/history.py:_open_disk": "allows_keeping"},
    "SessionCache.default": {"cli/chat/session.py:open_session": "allows_keeping"},
    "read_session": {"cli/chat/session.py:open_session": "allows_keeping"},
    # what starts another program
    "run_launch": {"cli/commands/server/launch.py:command": "allows_launch"},
}
"""Call -> the functions that make it, each with the question that it asks before; "": asked by who
calls it, as the comment says."""


def calls() -> Iterator[tuple[str, str, frozenset[str]]]:
    """Yield each call as it is written, where it is made, and all names in that function."""
    for path in sorted(PACKAGE.rglob("*.py")):
        if "engine/worker" in path.as_posix():
            continue  # the child of a process that has asked
        for function in ast.walk(ast.parse(path.read_text("utf-8"))):
            if not isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            names = frozenset(
                each.attr if isinstance(each, ast.Attribute) else each.id
                for each in ast.walk(function)
                if isinstance(each, ast.Attribute | ast.Name)
            )
            where = f"{path.relative_to(PACKAGE).as_posix()}:{function.name}"
            for each in ast.walk(function):
                if isinstance(each, ast.Call):
                    yield ast.unparse(each.func), where, names


def test_every_door_in_the_code_asks() -> None:
    found: dict[str, dict[str, frozenset[str]]] = {name: {} for name in DOORS}
    for name, where, names in calls():
        if name in found:
            found[name][where] = names
    assert {name: {*places} for name, places in found.items()} == {
        name: {*places} for name, places in DOORS.items()
    }
    for name, places in DOORS.items():
        for where, question in places.items():
            assert not question or question in found[name][where], (name, where)


def enforcing(**values: PolicyValue) -> Policy:
    named = {key.replace("__", "."): value for key, value in values.items()}
    assert named.keys() <= KEYS.keys()
    return Policy(enforced=(Rules(values=named, place="/etc/localllm/policy.toml"),))


async def test_a_model_is_neither_planned_nor_loaded_nor_probed(
    tmp_path: Path, smollm2: Path
) -> None:
    fake = FakeMachine(tmp_path / "library")
    runtime = fake.runtime()
    model = runtime.resolve(str(smollm2))
    plan = await runtime.plan(model, LoadChoice(context=512))
    fit = await runtime.fit(plan)
    started = len(fake.engines)
    sums = (sha256_of(smollm2),)
    template = hashlib.sha256((plan.spec.chat_template or "").encode()).hexdigest()
    for policy, key in (
        (enforcing(models__max_bytes=1), "models.max_bytes"),
        (enforcing(models__sha256_denied=sums), "models.sha256_denied"),
        (enforcing(models__organizations_allowed=("ggml-org",)), "models.organizations_allowed"),
    ):
        with policy_in_use(policy):
            with pytest.raises(PolicyRefused, match=key) as refused:
                await runtime.plan(model, LoadChoice())
            assert refused.value.key == key
            with pytest.raises(PolicyRefused, match=key):
                [event async for event in runtime.load(plan, force=True)]
            with pytest.raises(PolicyRefused, match=key):
                await runtime.probe(model, fit)
    with (
        policy_in_use(enforcing(templates__sha256_allowed=("0" * 64,))),
        pytest.raises(PolicyRefused, match=r"templates\.sha256_allowed"),
    ):
        [event async for event in runtime.load(plan)]
    assert len(fake.engines) == started
    allowed = enforcing(
        models__sha256_allowed=sums,
        models__repositories_allowed=("local:starter",),
        templates__sha256_allowed=(template,),
    )
    with policy_in_use(allowed):
        assert [event async for event in runtime.load(plan)]
    recommended = Policy(recommended=(Rules(values={"models.max_bytes": 1}),))
    with policy_in_use(recommended):
        warned = await runtime.plan(model, LoadChoice())
        assert any("models.max_bytes" in each for each in warned.warnings)
    await runtime.close()


def test_companions_are_refused_or_left_out(tmp_path: Path, smollm2: Path) -> None:
    store = Store(tmp_path / "library")
    model = store.resolve(str(smollm2))
    lora = LoadChoice(loras=(Lora(path=str(tmp_path / "none.gguf")),))
    with (
        policy_in_use(enforcing(adapters__allowed=False)),
        pytest.raises(PolicyRefused, match=r"adapters\.allowed"),
    ):
        plan_load(model, lora, settings=Settings(), resolve=store.resolve)
    draft = LoadChoice(draft=str(smollm2))
    with (
        policy_in_use(enforcing(models__licenses_denied=("unknown", "apache-2.0"))),
        pytest.raises(PolicyRefused, match=r"models\.licenses_denied"),
    ):
        plan_load(model, draft, settings=Settings(), resolve=store.resolve)


async def test_an_engine_that_is_not_allowed_is_not_started() -> None:
    candidate = chosen_candidate()
    with policy_in_use(enforcing(engines__allowed=())):
        refused = await verdict_on(candidate, None)
        assert "engines.allowed" in refused.message
        for requested in (None, RequestedEngine(engine=candidate.name, origin="--engine")):
            with pytest.raises(PolicyRefused, match=r"engines\.allowed"):
                await engine_build(requested=requested)
    other = Candidate(name="/opt/other", directory=Path("/opt/other"))
    with policy_in_use(enforcing(engines__allowed=(candidate.name,))):
        assert "engines.allowed" in (await verdict_on(other, None)).message


def test_nothing_is_fetched_and_nothing_is_sent(tmp_path: Path) -> None:
    repository = hub_models("Q4_K_M")
    plan: PullPlan = plan_from(repository, "Q4_K_M", pulling_machine(16), Preferences())
    access = Access(endpoints=("https://hub.example",))
    for policy, key in (
        (enforcing(models__licenses_denied=("apache-2.0",)), "licenses_denied"),
        (enforcing(models__organizations_denied=("acme",)), "organizations_denied"),
        (enforcing(models__sha256_allowed=("1" * 64,)), "sha256_allowed"),
        (enforcing(models__signature_required=True), "signature_required"),
    ):
        with policy_in_use(policy), pytest.raises(PolicyRefused, match=key):
            pull(plan, access=access, store=Store(tmp_path))
    with (
        policy_in_use(enforcing(hub__endpoints=("https://other.example",))),
        pytest.raises(PolicyRefused, match=r"hub\.endpoints"),
    ):
        open_client(access)
    with policy_in_use(enforcing(offline=True)):
        with pytest.raises(OfflineByPolicy, match="offline"):
            open_client(access)
        with pytest.raises(Offline), open_exporter("http://10.0.0.1:4318", Settings()):
            pass
    assert {each.name for each in tmp_path.iterdir()} == {"home"}


@pytest.mark.parametrize(
    ("policy", "choice", "key"),
    [
        (enforcing(serve__bind_allowed=("10.0.0.0/8",)), ListenChoice(port=0), "bind_allowed"),
        (enforcing(serve__tls_required=True), ListenChoice(port=0), "tls_required"),
        (enforcing(serve__key_required=True), ListenChoice(port=0, no_auth=True), "key_required"),
        (
            enforcing(serve__bind_allowed=("loopback",)),
            ListenChoice(host="0.0.0.0", port=0, insecure_lan=True),
            "bind_allowed",
        ),
    ],
)
def test_the_server_does_not_listen(policy: Policy, choice: ListenChoice, key: str) -> None:
    with (
        policy_in_use(policy),
        pytest.raises(PolicyRefused, match=key) as refused,
        listening(choice, Settings(), inform=print, warn=print),
    ):
        pass
    error = api_error(refused.value)
    assert (error.status, error.code) == (403, "policy_refused")
    assert refused.value.exit_code is ExitCode.POLICY


def test_a_unix_socket_is_an_address_too(tmp_path: Path) -> None:
    choice = ListenChoice(socket=tmp_path / "s")
    with (
        policy_in_use(enforcing(serve__bind_allowed=("loopback",))),
        pytest.raises(PolicyRefused, match="bind_allowed"),
        listening(choice, Settings(), inform=print, warn=print),
    ):
        pass
    allowed = enforcing(serve__bind_allowed=("unix",), serve__key_required=True)
    if sys.platform != "win32":
        with (
            policy_in_use(allowed),
            listening(choice, Settings(), inform=print, warn=print) as open_,
        ):
            assert open_.address is None


def test_nothing_is_kept_beyond_the_policy(tmp_path: Path) -> None:
    with policy_in_use(enforcing(history="memory")):
        history = History.of_this_user(Settings(history="disk"))
        assert history.choice is HistoryChoice.MEMORY
        with pytest.raises(PolicyRefused, match="history"):
            history.choose(HistoryChoice.DISK)
        history.choose(HistoryChoice.OFF)
        with (
            pytest.raises(PolicyRefused, match="history"),
            open_session(tmp_path / "s.json", settings_given=ChatSettings(), cached=False),
        ):
            pass
        with (
            pytest.raises(PolicyRefused, match="history"),
            BatchStore(directory=tmp_path / "batches").new_file(owner="me"),
        ):
            pass
    with policy_in_use(enforcing(history="off")):
        assert History.in_memory().choice is HistoryChoice.OFF
    assert {each.name for each in tmp_path.iterdir()} == {"home"}


def test_settings_say_who_has_decided(home: Path, tmp_path: Path) -> None:
    del home
    edit_settings.change("history", "disk")
    edit_settings.change("offline", value=False)
    catalogue = tmp_path / "models.toml"
    policy = Policy(
        enforced=(Rules(values={"history": "memory", "catalogue.file": str(catalogue)}),),
        recommended=(Rules(values={"offline": True, "history_days": 9}, place="P"),),
    )
    with policy_in_use(policy):
        held = {each.setting.key: each for each in effective_settings(environment={})}
        history = held["history"]
        assert (history.value, history.origin, history.locked) == ("memory", Origin.POLICY, True)
        assert held["offline"].origin is Origin.FILE  # a person's word, before what is recommended
        assert (held["history_days"].value, held["history_days"].origin) == (9, Origin.RECOMMENDED)
        settings = load(environment={})
        assert (settings.history, settings.history_days, settings.offline) == ("memory", 9, False)
        with pytest.raises(Exception, match=r"catalogue\.file"):
            read_catalogue()
    with policy_in_use(enforcing(offline=True)):
        settings = load(environment={"LOCALLLM_OFFLINE": "0"})
        assert offline_switch(settings, {"LOCALLLM_OFFLINE": "0"}) == "offline in the policy"
        checked = checks.network(settings, {})
        assert (checked.ok, "offline" in checked.detail) == (True, True)


def test_a_policy_that_cannot_be_used_stops_everything_but_its_own_verb(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    del home
    file = tmp_path / "policy.toml"
    file.write_text("schema = 1\n[enforced]\nofline = true\n", "utf-8")
    file.chmod(0o644)
    monkeypatch.setenv("LOCALLLM_POLICY_FILE", str(file))
    for words in (("ls",), ("config", "--json"), ("completions", "bash"), ()):
        done = run(*words)
        assert done.returncode == ExitCode.POLICY, words
        assert str(file) in done.stderr
        assert "Traceback" not in done.stderr
    checked = run("policy", "check", file, "--json")
    assert checked.returncode == ExitCode.USAGE
    assert '"line": 3' in checked.stdout
