"""A process that writes to a store until it is killed: `python -m ... DIRECTORY`.

It keeps a growing answer, and says on stdout how long the answer was when it was surely kept.
"""

import sys
from dataclasses import replace
from pathlib import Path

from localllm.chat.history.conversation_files import ConversationFiles
from localllm.library.encryption.key_store import KeyStore
from tests.chat.history.conversations import answer, conversation
from tests.library.encryption.fake_keyring import FileKeyring


def main(directory: Path) -> None:
    keys = KeyStore(directory / "keys", keyring=FileKeyring(directory / "keyring"))
    if keys.exists():
        keys.unlock()
    else:
        keys.create()
    files = ConversationFiles(directory=directory / "chats", keys=keys)
    files.tidy()
    made = conversation("Tell me of SECRETWORD.")
    growing = replace(answer(""), id="a")
    made = made.with_message(growing, after=made.leaf)
    for length in range(10_000):
        growing = replace(growing, text=growing.text + f" SECRETWORD{length}" * 20)
        made = made.with_changed(growing)
        files.write(made)
        print(f"{made.id} {len(growing.text)}", flush=True)  # noqa: T201  # what is read by the test


if __name__ == "__main__":
    main(Path(sys.argv[1]))
