"""The collections of documents for a plain chat, on the runtime that answers."""

import asyncio

from localllm.chat.documents.collections import Collections
from localllm.chat.documents.service import Documents
from localllm.chat.history.history import HistoryChoice
from localllm.errors import EncryptionError
from localllm.library.encryption.key_store import KeyStore, Protection
from localllm.library.files import paths
from localllm.library.files.settings import load as load_settings
from localllm.runtime.model_pool.pool import ModelPool
from localllm.runtime.model_pool.pool_model import PoolModels
from localllm.runtime.runtime import Runtime


async def open_documents(runtime: Runtime) -> Documents:
    """Open the collections as conversations are kept: those on the disk where the system's keyring
    opens them, otherwise in memory."""
    keys = await asyncio.to_thread(_unlocked_keys)
    collections = Collections(paths.collections_dir(), lambda: keys)
    return Documents(collections, ModelPool(runtime, PoolModels(runtime, ())))


def _unlocked_keys() -> KeyStore | None:
    if load_settings().history != HistoryChoice.DISK:
        return None
    keys = KeyStore(paths.encryption_keys_file())
    try:
        if keys.protection() is not Protection.KEYRING:
            return None
        keys.unlock()
    except EncryptionError:
        return None
    return keys
