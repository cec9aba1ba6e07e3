from pathlib import Path

import pytest

from localllm.chat.citations import answer_sources, cited_numbers, source_line
from localllm.chat.conversation import ChatMessage, Citation, Conversation
from localllm.chat.documents.collection import Collection
from localllm.chat.documents.collections import Collections
from localllm.chat.documents.indexing import IndexProgress, folder_changes, update_collection
from localllm.chat.documents.search import search_collections, search_text, stale_files
from localllm.chat.documents.sources import chosen_sources
from localllm.chat.request import engine_messages
from localllm.engine.messages import Role
from localllm.errors import EngineUnavailable, NotFound, StoreError, UsageError
from localllm.library.encryption.key_store import KeyStore
from tests.chat.documents.bag_of_words import BagOfWords
from tests.chat.pdf_files import pdf_bytes
from tests.chat.test_attachments import by_words
from tests.library.encryption.fake_keyring import FakeKeyring

TEXTS = {
    "keys.md": "# Keys\n\nA key is made with the command key add, and revoked with key revoke.",
    "deep/network.md": "# Network\n\nNothing is sent. The ledger lists every connection.",
    "food.txt": "Bread is made of flour, water, salt and yeast.",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "My docs"
    for name, text in TEXTS.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    (root / "manual.pdf").write_bytes(pdf_bytes(["Introduction", "The pump needs oil every year"]))
    (root / "bad.txt").write_bytes(b"\x00\x01\x02")
    return root


@pytest.fixture
def keys(tmp_path: Path) -> KeyStore:
    store = KeyStore(tmp_path / "private" / "keys", keyring=FakeKeyring())
    store.create()
    return store


async def indexed(
    collections: Collections, collection: Collection, model: BagOfWords | None
) -> list[IndexProgress]:
    embedder = model.embedder() if model is not None else None
    return [each async for each in update_collection(collections, collection, embedder)]


async def found(collection: Collection, question: str, model: BagOfWords | None) -> list[str]:
    embedder = model.embedder() if model is not None else None
    result = await search_collections([collection], question, embedder=embedder)
    return [hit.path for hit in result.hits]


def all_bytes(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())


def empty(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            path.unlink()


async def test_a_folder_is_indexed_searched_changed_and_erased(
    folder: Path, keys: KeyStore, tmp_path: Path
) -> None:
    model = BagOfWords()
    place = tmp_path / "private" / "collections"
    collections = Collections(place, lambda: keys, clock=lambda: 5.0)
    info = collections.create(folder)
    assert (info.name, info.indexed_s) == ("My docs", None)
    collection = collections.open("my docs")
    steps = await indexed(collections, collection, model)
    assert (steps[0].files_total, steps[-1].files_done) == (5, 5)
    assert steps[-1].bytes_done == steps[-1].bytes_total > 0
    (info,) = collections.list()
    assert (info.files, info.passages, info.problems) == (4, 5, 1)
    assert (info.model, info.source_bytes > 100, info.stored_bytes > 100) == ("words", True, True)
    assert "bytes that no text has" in collection.entries()["bad.txt"].problem
    assert (await found(collection, "How is a key revoked?", model))[0] == "keys.md"
    hits = (await search_collections([collection], "oil", embedder=None)).hits
    assert [(hit.path, hit.passage.page) for hit in hits] == [("manual.pdf", 2)]

    # Nothing that was read is on the disk as it is.
    kept = all_bytes(tmp_path / "private")
    assert not any(word in kept for word in (b"flour", b"revoked", b"keys.md", b"My docs"))


async def test_only_what_changed_is_read_again_and_erasing_leaves_nothing(
    folder: Path, keys: KeyStore, tmp_path: Path
) -> None:
    place = tmp_path / "private" / "collections"
    collections, model = Collections(place, lambda: keys), BagOfWords()
    collections.create(folder)
    await indexed(collections, collections.open("My docs"), model)
    model.embedded.clear()
    again = Collections(place, lambda: keys)  # another process
    collection = again.open("My docs")
    assert (await indexed(again, collection, model))[-1].files_total == 0
    assert model.embedded == []

    (folder / "food.txt").write_text("Cheese is made of milk.")
    (folder / "keys.md").write_text(TEXTS["keys.md"])  # another time, the same content
    (folder / "deep" / "network.md").unlink()
    changes = folder_changes(collection)
    assert {each.path for each in changes.changed} >= {"food.txt"}
    assert changes.removed == ("deep/network.md",)
    hits = (await search_collections([collection], "key bread", embedder=None)).hits
    assert "food.txt" in stale_files(collection, hits)
    await indexed(again, collection, model)
    assert model.embedded == ["food\nCheese is made of milk."]
    assert await found(collection, "ledger connection", None) == []
    assert (await found(collection, "milk", model))[0] == "food.txt"

    again.erase("My docs")
    assert again.list() == ()
    assert list(place.iterdir()) == []
    assert not any("collection" in name for name in keys.names())
    with pytest.raises(NotFound):
        collections.open("My docs")
    assert (folder / "food.txt").exists()


async def test_stopping_keeps_what_is_done_and_a_crash_too(
    folder: Path, keys: KeyStore, tmp_path: Path
) -> None:
    collections = Collections(tmp_path / "c", lambda: keys)
    info = collections.create(folder, "docs")
    collection = collections.open("docs")
    steps = update_collection(collections, collection, None)
    async for step in steps:
        if step.files_done == 2:
            break
    await steps.aclose()
    assert len(collection.entries()) == 2
    assert collections.list()[0].indexed_s is None

    records = tmp_path / "c" / f"{info.id}.records"
    whole = records.read_bytes()
    records.write_bytes(whole[:-7])  # a crash in the middle of a record
    collections = Collections(tmp_path / "c", lambda: keys)
    collection = collections.open("docs")
    assert len(collection.entries()) == 1
    await indexed(collections, collection, None)
    assert set(Collections(tmp_path / "c", lambda: keys).open("docs").entries()) == {
        *TEXTS, "manual.pdf", "bad.txt"
    }  # fmt: skip
    empty(folder)
    with pytest.raises(UsageError, match="nothing to index"):
        folder_changes(collection)


async def test_two_windows_do_not_index_at_once_and_see_what_the_other_did(
    folder: Path, keys: KeyStore, tmp_path: Path
) -> None:
    first, second = (Collections(tmp_path / "c", lambda: keys) for _window in range(2))
    first.create(folder, "docs")
    ours, theirs = first.open("docs"), second.open("docs")
    running = update_collection(first, ours, None)
    await anext(running)
    with pytest.raises(StoreError, match="another window"):
        await indexed(second, theirs, None)
    await running.aclose()
    await indexed(first, ours, None)
    assert (await indexed(second, theirs, None))[0].files_total == 0
    assert len(theirs.entries()) == 5


async def test_without_keys_collections_are_in_memory_until_there_are_some(
    folder: Path, keys: KeyStore, tmp_path: Path
) -> None:
    available: list[KeyStore] = []
    collections = Collections(tmp_path / "c", lambda: available[0] if available else None)
    collections.create(folder)
    collection = collections.open("My docs")
    await indexed(collections, collection, None)
    assert not (tmp_path / "c").exists()
    available.append(keys)
    assert len(collections.list()) == 1
    assert len(Collections(tmp_path / "c", lambda: keys).open("My docs").entries()) == 5
    (folder / "more.md").write_text("more")
    await indexed(collections, collection, None)
    assert len(Collections(tmp_path / "c", lambda: keys).open("My docs").entries()) == 6
    available.clear()  # locked
    assert collections.list() == ()
    Collections(tmp_path / "c", lambda: keys).erase_all()
    assert (list((tmp_path / "c").iterdir()), keys.names()) == ([], frozenset())


async def test_another_model_embeds_again_without_reading_the_files(
    folder: Path, tmp_path: Path
) -> None:
    collections = Collections(tmp_path / "c")
    collections.create(folder)
    collection = collections.open("My docs")
    await indexed(collections, collection, None)
    (folder / "keys.md").touch()
    model = BagOfWords()
    steps = await indexed(collections, collection, model)
    assert steps[0].files_total == 4
    assert len(model.embedded) == 5
    assert all(each.model == "words" for each in collection.entries().values() if each.passages)


async def test_a_model_that_fails_leaves_the_search_by_words(folder: Path, tmp_path: Path) -> None:
    collections = Collections(tmp_path / "c")
    collections.create(folder)
    collection = collections.open("My docs")
    model = BagOfWords()
    await indexed(collections, collection, model)
    ranked = await search_collections(
        [collection], "water and salt", embedder=model.embedder(), reranker=model.reranker()
    )
    assert ranked.hits[0].path == "food.txt"
    model.error = EngineUnavailable("No engine.")
    result = await search_collections(
        [collection], "flour", embedder=model.embedder(), reranker=model.reranker()
    )
    assert [hit.path for hit in result.hits] == ["food.txt"]
    assert "by words alone, because words cannot be used: No engine." in result.remarks[0]


async def test_sources_fit_their_room_and_answers_refer_to_them(
    folder: Path, tmp_path: Path
) -> None:
    (folder / "long.md").write_text("bread " * 300)
    collections = Collections(tmp_path / "c")
    collections.create(folder, "docs")
    collection = collections.open("docs")
    await indexed(collections, collection, None)
    hits = (await search_collections([collection], "bread", embedder=None)).hits
    sources = await chosen_sources(hits, by_words, room=350)
    assert [(each.number, len(each.text.split())) for each in sources] == [(1, 150), (2, 150)]
    cut = await chosen_sources(hits, by_words, room=100)
    assert [(each.number, len(each.text.split())) for each in cut] == [(1, 76)]
    assert await chosen_sources(hits, by_words, room=10) == ()
    answer = "Bread [2], again [2, 1] and [9]; not [a] nor x[12345]."
    assert cited_numbers(answer) == (
        2,
        1,
        9,
    )
    assert [each.number for each in answer_sources("It is so [2].", sources)] == [2]
    assert [each.number for each in answer_sources("It is so.", sources)] == [1, 2]
    assert source_line(sources[0]) == "[1] long.md:1"


def test_the_model_reads_the_passages_of_the_last_question_alone() -> None:
    source = Citation(number=1, collection="docs", path="a.md", line=3, text="It is blue.")
    conversation = Conversation()
    for role, text in ((Role.USER, "Sky?"), (Role.ASSISTANT, "Blue [1]."), (Role.USER, "Sea?")):
        sources = (source,) if role is Role.USER else ()
        message = ChatMessage(role=role, text=text, citations=sources)
        conversation = conversation.with_message(message, after=conversation.leaf)
    first, _answer, last = engine_messages(conversation)
    assert first.content == "Sky?"
    assert last.content.endswith("[1] a.md, line 3:\nIt is blue.\n\nQuestion: Sea?")
    assert search_text("And the sea?", ["Is the sky blue?"]) == "Is the sky blue?\nAnd the sea?"
