"""What went wrong in the engine's process, as the errors that its parent raises."""

from localllm.engine.client.child_process import ChildProcess
from localllm.engine.messages import RequestError
from localllm.engine.messages.codec import UNAVAILABLE_STATUS
from localllm.errors import (
    BadRequest,
    ContextOverflow,
    DeadlineExceeded,
    EngineCrashed,
    EngineUnavailable,
    GenerationFailed,
    QueueFull,
)

_REFUSALS: dict[str, type[GenerationFailed]] = {
    kind.code: kind
    for kind in (GenerationFailed, BadRequest, ContextOverflow, QueueFull, DeadlineExceeded)
}


def refusal(event: RequestError) -> GenerationFailed:
    """Why the worker did not serve a request."""
    return _REFUSALS.get(event.code, GenerationFailed)(event.message)


def crash(reason: str, child: ChildProcess) -> EngineCrashed | EngineUnavailable:
    """Why the process is gone; `reason` as ChildProcess.exit_reason says it."""
    tail = child.log_tail()
    if reason == f"exit status {UNAVAILABLE_STATUS}":
        return EngineUnavailable(tail[-1] if tail else "llama-cpp-python does not import.")
    hint = (
        " The system's out-of-memory killer ends processes this way: try a smaller quant or --ctx."
        if reason == "SIGKILL"
        else ""
    )
    return EngineCrashed(
        f"The engine's process ended ({reason}).{hint} {_log(child)}", reason=reason, log_tail=tail
    )


def gave_up(reason: str, child: ChildProcess) -> EngineCrashed:
    """The process hangs and is ended by its parent; `reason` as Watchdog.look says it."""
    return EngineCrashed(
        f"The engine's process {reason} and was ended. {_log(child)}",
        reason=reason,
        log_tail=child.log_tail(),
    )


def closed() -> EngineCrashed:
    """The process was ended by its parent, in order."""
    return EngineCrashed("The engine was closed.", reason="closed")


def _log(child: ChildProcess) -> str:
    return f"Its log: {child.log_path}" if child.log_path else "No log of it could be written."
