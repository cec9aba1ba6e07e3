"""Check a finished answer against the schemas that its grammar did not follow whole."""

import json
from collections.abc import Mapping, Sequence

from localllm.core.json_schema import check
from localllm.engine.messages import Event, Token, Tool, ToolCallArguments, ToolCallBegan
from localllm.engine.worker.sampling.inline_schema import FORM

MAX_NAMED = 8
"""Parts of a schema in one warning."""


class AnswerCheck:
    """Collects one answer and says, when it is finished, what of its schemas was not enforced and
    whether the answer has it all the same."""

    def __init__(self, tools: Sequence[Tool], form: str | None, *, loose: bool = False) -> None:
        """`form`: the JSON Schema of the answer's text; None for none. `loose`: the grammar of this
        model's calls follows less of a schema than could be followed."""
        self._loose = loose
        self._schemas = {tool.name: tool.parameters for tool in tools}
        if form is not None:
            self._schemas[FORM] = form
        self._text: list[str] = []
        self._calls: list[tuple[str, list[str]]] = []

    def push(self, event: Event) -> None:
        """Add the next event of the answer."""
        match event:
            case ToolCallBegan():
                self._calls.append((event.name, []))
            case ToolCallArguments():
                self._calls[-1][1].append(event.text)
            case Token() if FORM in self._schemas and not event.of_prompt:
                self._text.append(event.text)

    def warnings(
        self, unenforced: Mapping[str, tuple[str, ...]], *, bound: bool, whole: bool
    ) -> tuple[str, ...]:
        """Return sentences about what was not enforced, by the name of its schema.

        `bound`: each call followed its grammar. `whole`: the answer was not cut.
        """
        found: list[str] = []
        for name, pieces in self._calls:
            if unenforced.get(name) or self._loose or not bound:
                found += self._verdict(name, "".join(pieces), unenforced.get(name, ()))
        text = "".join(self._text).strip()
        if unenforced.get(FORM) and not (self._calls and not text):
            found += self._verdict(FORM, text if whole else "", unenforced[FORM])
        return tuple(dict.fromkeys(found))

    def _verdict(self, name: str, text: str, unenforced: Sequence[str]) -> list[str]:
        subject = f"arguments of {name}" if name != FORM else "answer"
        outcome = self._outcome(name, text)
        if unenforced:
            named = ", ".join(unenforced[:MAX_NAMED])
            named += " and more" if len(unenforced) > MAX_NAMED else ""
            found = outcome or "it was checked, and holds"
            return [
                f"The grammar could not enforce {named} of the schema of the {subject}: {found}."
            ]
        if outcome is not None and name != FORM:
            return [f"The call of {name} was not bound to its schema: {outcome}."]
        return []

    def _outcome(self, name: str, text: str) -> str | None:
        """Check a text; return what is wrong with it, or None."""
        # Imports llguidance, which an answer that needs no check may not have loaded.
        from localllm.engine.worker.sampling.schemas import check_string

        try:
            value: object = json.loads(text)
        except (ValueError, RecursionError):
            return "it was cut, and could not be checked"
        verdict = check(json.loads(self._schemas[name]), value, check_string)
        if verdict.violation is not None:
            return verdict.violation
        if verdict.unchecked:
            return f"not checked: {', '.join(verdict.unchecked)}"
        return None
