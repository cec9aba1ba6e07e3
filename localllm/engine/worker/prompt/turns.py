"""Which order of turns a chat template takes, and the conversation in an order that it does. Pure.

Templates refuse what they were not written for, or leave a message out without a word: Gemma 2 has
no system role, Mistral's turns must alternate, Qwen 3.5 takes a system message at the beginning
only, gpt-oss writes the first of two. What a template takes is probed by rendering, one rule at a
time, when a conversation needs it. The text of every message stays, in its order: system messages
are joined or put before the next question, as the makers of Gemma and Mistral do it in their own
templates (`gemma-3`, `Mistral-Nemo`), and turns of one role in a row become one.
"""

import functools
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from localllm.engine.messages import Message, Role, ToolCall

Accepts = Callable[[Sequence[Message]], bool]
"""Tell whether the template renders these messages, with every text of theirs."""

_SEPARATOR = "\n\n"
_ACKNOWLEDGEMENT = "Understood."


def _system(text: str) -> Message:
    return Message(role=Role.SYSTEM, content=text)


def _user(text: str) -> Message:
    return Message(role=Role.USER, content=text)


def _assistant(text: str) -> Message:
    return Message(role=Role.ASSISTANT, content=text)


_RULE, _OTHER_RULE = _system("probed rule"), _system("probed law")
_QUESTION, _OTHER_QUESTION = _user("probed question"), _user("probed demand")
_ANSWER, _OTHER_ANSWER = _assistant("probed answer"), _assistant("probed reply")
_CALLS = tuple(
    ToolCall(id=f"probe123{i}", name="probed_tool", arguments='{"probed_key": "probed value"}')
    for i in range(2)
)
_RESULTS = tuple(
    Message(role=Role.TOOL, content=f"probed result {call.id}", tool_call_id=call.id)
    for call in _CALLS
)


class TurnRules:
    """The rules of one template: each is True when the template needs no help there."""

    def __init__(self, accepts: Accepts) -> None:
        self._accepts = accepts

    @functools.cached_property
    def system(self) -> bool:
        """It takes a system message at the beginning."""
        return self._takes(_RULE, _QUESTION)

    @functools.cached_property
    def system_of_continued(self) -> bool:
        """It takes one of a conversation that ends with an assistant's turn."""
        return self._takes(_RULE, _QUESTION, _ANSWER)

    @functools.cached_property
    def several_systems(self) -> bool:
        """It takes more than one there."""
        return self._takes(_RULE, _OTHER_RULE, _QUESTION)

    @functools.cached_property
    def later_system(self) -> bool:
        """It takes a system message between turns, and as the last one, beside the first."""
        return self._takes(_RULE, _QUESTION, _ANSWER, _OTHER_RULE, _OTHER_QUESTION) and self._takes(
            _QUESTION, _ANSWER, _RULE
        )

    @functools.cached_property
    def users_in_a_row(self) -> bool:
        return self._takes(_QUESTION, _OTHER_QUESTION)

    @functools.cached_property
    def assistants_in_a_row(self) -> bool:
        return self._takes(_QUESTION, _ANSWER, _OTHER_ANSWER, _OTHER_QUESTION)

    @functools.cached_property
    def assistant_first(self) -> bool:
        return self._takes(_ANSWER, _QUESTION)

    @functools.cached_property
    def no_user(self) -> bool:
        """It takes a conversation in which no user speaks."""
        alone = _RULE if self.system else _ANSWER
        return self._takes(alone)

    @functools.cached_property
    def empty_assistant(self) -> bool:
        """It takes an assistant's turn without a text."""
        return self._takes(_QUESTION, _assistant(""), _OTHER_QUESTION)

    @functools.cached_property
    def calls_in_one_turn(self) -> bool:
        """It takes an assistant's turn with more than one tool call."""
        calling = replace(_assistant(""), tool_calls=_CALLS)
        return self._takes(_QUESTION, calling, *_RESULTS)

    @functools.cached_property
    def user_after_result(self) -> bool:
        """It takes a user's turn right after the result of a call."""
        calling = replace(_assistant(""), tool_calls=_CALLS[:1])
        return self._takes(_QUESTION, calling, _RESULTS[0], _OTHER_QUESTION)

    @functools.cached_property
    def _renders(self) -> bool:
        """It renders a single question; of one that does not nothing can be learnt."""
        return self._accepts((_QUESTION,))

    def _takes(self, *messages: Message) -> bool:
        return not self._renders or self._accepts(messages)


class StrictestRules(TurnRules):
    """The rules of a template that takes nothing but a system message and turns that alternate."""

    def __init__(self) -> None:
        super().__init__(lambda messages: messages == (_QUESTION,))


@dataclass(frozen=True, slots=True, kw_only=True)
class FittedTurns:
    """A conversation that the template takes. `warnings`: sentences about what was done to it."""

    messages: tuple[Message, ...]
    warnings: tuple[str, ...] = ()


def fit_turns(messages: Sequence[Message], rules: TurnRules) -> FittedTurns:
    """Put a conversation into an order that the rules allow; unchanged when it is in one."""
    warnings: list[str] = []
    turns = _fit_results(list(messages), warnings)
    turns = _fit_empty(turns, rules, warnings)
    turns = _fit_leading_systems(turns, rules, warnings)
    turns = _fit_later_systems(turns, rules, warnings)
    turns = _fit_runs(turns, rules, warnings)
    turns = _fit_beginning(turns, rules, warnings)
    turns = _fit_calls(turns, rules, warnings)
    return FittedTurns(messages=tuple(turns), warnings=tuple(warnings))


def _fit_results(turns: list[Message], warnings: list[str]) -> list[Message]:
    """Put results right behind their calls, as OpenAI's API demands it and Gemma 4 needs it."""
    fitted: list[Message] = []
    between: list[Message] = []
    moved = 0
    waiting: set[str | None] = set()
    for turn in turns:
        if turn.role is Role.TOOL and turn.tool_call_id in waiting:
            waiting.discard(turn.tool_call_id)
            moved += len(between)
            fitted.append(turn)
            if waiting:
                continue
            fitted += between
            between = []
        elif turn.role is Role.ASSISTANT:
            fitted += [*between, turn]
            between, waiting = [], {call.id for call in turn.tool_calls}
        elif waiting:
            between.append(turn)
        else:
            fitted.append(turn)
    if moved:
        warnings.append("Messages between a tool call and its result were put behind the result.")
    return [*fitted, *between]


def _fit_empty(turns: list[Message], rules: TurnRules, warnings: list[str]) -> list[Message]:
    kept = [t for t in turns if t.role is not Role.ASSISTANT or t.content or t.tool_calls]
    if len(kept) == len(turns) or rules.empty_assistant:
        return turns
    warnings.append(
        "The model's chat template takes no assistant message without a text: "
        f"{len(turns) - len(kept)} empty ones were left out."
    )
    return kept


def _fit_leading_systems(
    turns: list[Message], rules: TurnRules, warnings: list[str]
) -> list[Message]:
    head = _leading_systems(turns)
    if not head:
        return turns
    continued = turns[-1].role is Role.ASSISTANT
    if not rules.system or (continued and not rules.system_of_continued):
        where = "" if not rules.system else " in a conversation that ends with an answer"
        warnings.append(
            f"The model's chat template has no system role{where}: the system message was put "
            "before the first user message."
        )
        text = _SEPARATOR.join(each.content for each in turns[:head])
        return _before_next_question([text], turns[head:])
    if head > 1 and not rules.several_systems:
        warnings.append(f"The model's chat template takes one system message: {head} were joined.")
        return [_joined(turns[:head]), *turns[head:]]
    return turns


def _fit_later_systems(
    turns: list[Message], rules: TurnRules, warnings: list[str]
) -> list[Message]:
    """Put every system message after the first turn before the next question; before an answer,
    and at the end, it is a question of its own or goes on the one before it."""
    head = _leading_systems(turns)
    later = sum(turn.role is Role.SYSTEM for turn in turns[head:])
    if not later or rules.later_system:
        return turns
    warnings.append(
        "The model's chat template takes a system message at the beginning only: "
        f"{later} later {'one was' if later == 1 else 'ones were'} put into user messages."
    )
    fitted, texts = turns[:head], list[str]()
    for turn in turns[head:]:
        if turn.role is Role.SYSTEM:
            texts.append(turn.content)
        elif turn.role is Role.TOOL or not texts:
            fitted.append(turn)  # behind a call, where its result belongs
        elif turn.role is Role.USER:
            fitted += _before_next_question(texts, [turn])
            texts = []
        else:
            fitted = [*_as_question(fitted, texts), turn]
            texts = []
    return _as_question(fitted, texts)


def _before_next_question(texts: list[str], turns: list[Message]) -> list[Message]:
    question = _user(_SEPARATOR.join(texts))
    if turns and turns[0].role is Role.USER:
        return [_joined([question, turns[0]]), *turns[1:]]
    return [question, *turns]


def _as_question(turns: list[Message], texts: list[str]) -> list[Message]:
    if not texts:
        return turns
    question = _user(_SEPARATOR.join(texts))
    if turns and turns[-1].role is Role.USER:
        return [*turns[:-1], _joined([turns[-1], question])]
    return [*turns, question]


def _fit_runs(turns: list[Message], rules: TurnRules, warnings: list[str]) -> list[Message]:
    """Join turns of one role in a row."""
    fitted: list[Message] = []
    joined = dict.fromkeys((Role.USER, Role.ASSISTANT), 0)
    for turn in turns:
        in_a_row = bool(fitted) and fitted[-1].role is turn.role
        if in_a_row and (
            (turn.role is Role.USER and not rules.users_in_a_row)
            or (turn.role is Role.ASSISTANT and not rules.assistants_in_a_row)
        ):
            fitted[-1] = _joined([fitted[-1], turn])
            joined[turn.role] += 1
        else:
            fitted.append(turn)
    for role, count in joined.items():
        if count:
            warnings.append(
                f"The model's chat template wants turns that alternate: {count + 1} {role.value} "
                "messages in a row were joined."
                if count == 1
                else f"The model's chat template wants turns that alternate: {role.value} messages "
                "in a row were joined."
            )
    return fitted


def _fit_beginning(turns: list[Message], rules: TurnRules, warnings: list[str]) -> list[Message]:
    """Begin with a user's turn, an empty one, where the template wants one."""
    head = _leading_systems(turns)
    first = turns[head].role if head < len(turns) else None
    if first is Role.USER:
        return turns
    speaks = any(turn.role is Role.USER for turn in turns)
    if (first is None or rules.assistant_first) and (speaks or rules.no_user):
        return turns
    warnings.append(
        "The model's chat template begins with a user's turn: an empty user message was put before "
        + ("the first assistant message." if first is not None else "the answer.")
    )
    return [*turns[:head], _user(""), *turns[head:]]


def _fit_calls(turns: list[Message], rules: TurnRules, warnings: list[str]) -> list[Message]:
    """Part calls that were made together, and put an answer between a result and a question."""
    fitted: list[Message] = []
    split = answered = False
    rest = deque(turns)
    while rest:
        turn = rest.popleft()
        if len(turn.tool_calls) > 1 and not rules.calls_in_one_turn:
            results: list[Message] = []
            while rest and rest[0].role is Role.TOOL:
                results.append(rest.popleft())
            fitted += _one_call_each(turn, results)
            split = True
            continue
        after_result = bool(fitted) and fitted[-1].role is Role.TOOL and turn.role is Role.USER
        if after_result and not rules.user_after_result:
            fitted.append(_assistant(_ACKNOWLEDGEMENT))
            answered = True
        fitted.append(turn)
    if split:
        warnings.append(
            "The model's chat template takes one tool call a turn: calls that were made together "
            "were put one after another."
        )
    if answered:
        warnings.append(
            "The model's chat template wants an answer after a tool's result: "
            f'"{_ACKNOWLEDGEMENT}" was put before the user message.'
        )
    return fitted


def _one_call_each(turn: Message, results: list[Message]) -> list[Message]:
    """Part a turn with several calls into one for each, with its result behind it."""
    parted: list[Message] = []
    for i, call in enumerate(turn.tool_calls):
        parted.append(replace(turn if i == 0 else _assistant(""), tool_calls=(call,)))
        own = next((each for each in results if each.tool_call_id == call.id), None)
        if own is not None:
            parted.append(own)
            results.remove(own)
    return [*parted, *results]


def _leading_systems(turns: Sequence[Message]) -> int:
    return next((i for i, t in enumerate(turns) if t.role is not Role.SYSTEM), len(turns))


def _joined(turns: Sequence[Message]) -> Message:
    """Join turns of one role; the images stay where they are in the text."""
    first = turns[0]
    for turn in turns[1:]:
        separator = _SEPARATOR if first.content and turn.content else ""
        shift = len(first.content) + len(separator)
        reasoning = [text for text in (first.reasoning, turn.reasoning) if text]
        moved = tuple(replace(image, offset=image.offset + shift) for image in turn.images)
        first = replace(
            first,
            content=first.content + separator + turn.content,
            reasoning=_SEPARATOR.join(reasoning) or None,
            tool_calls=first.tool_calls + turn.tool_calls,
            images=first.images + moved,
        )
    return first
