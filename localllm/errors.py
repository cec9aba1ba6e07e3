"""Every error localllm raises on purpose, and the exit codes they become.

::

    LocalLLMError                     1
    ├── UsageError (ValueError)       2   an option, a setting or a request field is not usable
    ├── NotFound (LookupError)        5   a name, a file or a model is not there
    ├── DoesNotFit (MemoryError)      3   the model needs more memory than is free
    ├── StoreError (OSError)          1   the library on disk cannot be read or written
    ├── EncryptionError (OSError)     1   something cannot be encrypted, or not read again
    │   ├── KeyUnavailable            1   the key is not at hand: no keyring, or still locked
    │   ├── WrongPassphrase           1   the passphrase is another one
    │   └── DamagedData               1   encrypted bytes are not as they were written
    ├── GgufError (ValueError)        1   a file is not a GGUF that native code may open
    ├── ServeError (OSError)          1   the local API cannot listen
    ├── PolicyRefused (PermissionError) 6 the administrator's policy refuses; `key` names the rule
    ├── PolicyUnusable                6   the policy cannot be read: nothing runs without it
    ├── HubError (OSError)            1   the Hub cannot be reached, or answers what it should not
    │   ├── Offline                   1   the network is switched off here; nothing was tried
    │   │   └── OfflineByPolicy       6   because the policy says so (a PolicyRefused too)
    │   ├── AccessDenied              1   the repository wants a token, or another one
    │   └── DownloadFailed            1   a transfer ended early; what came is kept
    │       ├── DownloadStopped     130   because somebody stopped it
    │       └── DiskFull              1   because the disk has no room for the rest
    └── EngineError (RuntimeError)    1
        ├── EngineUnavailable         1   llama.cpp is not installed or does not import
        ├── LoadFailed                1   llama.cpp refused the model; its process lives
        ├── StateFailed               1   a conversation's cells cannot be kept or brought back
        ├── GenerationFailed          1   one request failed; the engine lives
        │   ├── BadRequest            2   the request itself cannot be served
        │   ├── ContextOverflow       1   prompt and answer do not fit the context
        │   ├── QueueFull             1   too many requests wait
        │   └── DeadlineExceeded      1   the request's own deadline has passed (TimeoutError)
        └── EngineCrashed             4   the process is gone: signal, last log lines

A message says what failed with its numbers, why, and what to try.
"""

from enum import IntEnum


class ExitCode(IntEnum):
    """The exit statuses of a verb."""

    OK = 0
    FAILED = 1
    USAGE = 2
    DOES_NOT_FIT = 3
    ENGINE_CRASHED = 4
    NOT_FOUND = 5
    POLICY = 6
    INTERRUPTED = 130


class LocalLLMError(Exception):
    """Base of the tree: one sentence for a person, one code for programs, one exit status."""

    exit_code: ExitCode = ExitCode.FAILED
    code: str = "failed"


class UsageError(LocalLLMError, ValueError):
    exit_code = ExitCode.USAGE
    code = "usage"


class NotFound(LocalLLMError, LookupError):
    exit_code = ExitCode.NOT_FOUND
    code = "not_found"


class DoesNotFit(LocalLLMError, MemoryError):
    exit_code = ExitCode.DOES_NOT_FIT
    code = "does_not_fit"


class StoreError(LocalLLMError, OSError):
    code = "store"


class EncryptionError(LocalLLMError, OSError):
    code = "encryption"


class KeyUnavailable(EncryptionError):
    code = "key_unavailable"


class WrongPassphrase(EncryptionError):
    code = "wrong_passphrase"


class DamagedData(EncryptionError):
    code = "damaged_data"


class GgufError(LocalLLMError, ValueError):
    code = "bad_gguf"


class ServeError(LocalLLMError, OSError):
    code = "cannot_serve"


class PolicyUnusable(LocalLLMError):
    """The policy cannot be read or is not valid; what it forbids is not known."""

    exit_code = ExitCode.POLICY
    code = "policy_unusable"


class PolicyRefused(LocalLLMError, PermissionError):
    """The policy refuses something: `key` is that of the rule."""

    exit_code = ExitCode.POLICY
    code = "policy_refused"

    def __init__(self, message: str, *, key: str) -> None:
        super().__init__(message)
        self.key = key


class HubError(LocalLLMError, OSError):
    code = "hub"


class Offline(HubError):
    code = "offline"


class OfflineByPolicy(PolicyRefused, Offline):
    """The policy switches the network off: an Offline to all that goes on without it."""

    exit_code = ExitCode.POLICY
    code = "policy_refused"


class AccessDenied(HubError):
    code = "access_denied"


class DownloadFailed(HubError):
    code = "download_failed"


class DownloadStopped(DownloadFailed):
    exit_code = ExitCode.INTERRUPTED
    code = "stopped"


class DiskFull(DownloadFailed):
    """The disk has no room for a download: `needed_bytes` more are needed in `directory`."""

    code = "disk_full"

    def __init__(self, message: str, *, needed_bytes: int, directory: str) -> None:
        super().__init__(message)
        self.needed_bytes = needed_bytes
        self.directory = directory


class EngineError(LocalLLMError, RuntimeError):
    code = "engine"


class EngineUnavailable(EngineError):
    code = "engine_unavailable"


class LoadFailed(EngineError):
    code = "load_failed"


class StateFailed(EngineError):
    code = "state"


class GenerationFailed(EngineError):
    code = "generation_failed"


class BadRequest(GenerationFailed):
    exit_code = ExitCode.USAGE
    code = "bad_request"


class ContextOverflow(GenerationFailed):
    code = "context_overflow"


class QueueFull(GenerationFailed):
    code = "queue_full"


class DeadlineExceeded(GenerationFailed, TimeoutError):
    code = "deadline"


class EngineCrashed(EngineError):
    """The engine's process ended by itself.

    `reason` is a signal's name ("SIGSEGV") or "exit status N"; `log_tail` the last lines that
    llama.cpp wrote; `retry_after_s` how long it is not started again, None: it is with the next
    request.
    """

    exit_code = ExitCode.ENGINE_CRASHED
    code = "engine_crashed"

    def __init__(
        self,
        message: str,
        *,
        reason: str,
        log_tail: tuple[str, ...] = (),
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.log_tail = log_tail
        self.retry_after_s = retry_after_s
