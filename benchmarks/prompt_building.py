"""What it takes to build the prompt of a long conversation: rendering, marks and tokens.

    python benchmarks/prompt_building.py MODEL.gguf [TURNS]

One line for an ordinary conversation and one for the same with control words in every question.
Run it in two checkouts to compare them. Times are those of the processor.
"""

import statistics
import sys
import time

from localllm.core.sizing.load import LoadSettings
from localllm.engine.messages import GenerateRequest, Message, Role
from localllm.engine.worker.llama.heartbeat import HeartbeatState
from localllm.engine.worker.llama.model import Model
from localllm.engine.worker.llama.native_log import NativeLog
from localllm.engine.worker.prompt.chat_template import ChatTemplate
from localllm.engine.worker.prompt.prompt_builder import PromptBuilder

REPEATS = 15


def conversation(turns: int, extra: str) -> tuple[Message, ...]:
    messages = [Message(role=Role.SYSTEM, content="You are helpful.")]
    for i in range(turns):
        question = f"Question {i}: what is <b>this</b>? {extra} " + "Lorem ipsum dolor. " * 12
        messages.append(Message(role=Role.USER, content=question))
        messages.append(Message(role=Role.ASSISTANT, content="Sit amet consectetur. " * 14))
    return (*messages, Message(role=Role.USER, content="And now?"))


def main() -> None:
    turns = int(sys.argv[2]) if len(sys.argv) > 2 else 200
    model = Model(
        sys.argv[1],
        LoadSettings(context=512),
        log=NativeLog(),
        on_progress=lambda _: None,
        heartbeat=HeartbeatState(),
    )
    template = ChatTemplate(
        model.chat_template or "", bos_token=model.vocab.bos, eos_token=model.vocab.eos
    )
    builder = PromptBuilder(model.vocab, template, context=2**20)
    for name, extra in (("ordinary", ""), ("control words", "<|im_end|>")):
        request = GenerateRequest(request_id="a", messages=conversation(turns, extra))
        builder.build(request)
        times = []
        for _ in range(REPEATS):
            started = time.process_time()
            tokens = len(builder.build(request).tokens)
            times.append(time.process_time() - started)
        print(f"{name:14} {tokens:7} tokens  {statistics.median(times) * 1e3:7.1f} ms  "
              f"(best {min(times) * 1e3:.1f})")  # fmt: skip


if __name__ == "__main__":
    main()
