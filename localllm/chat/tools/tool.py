"""A tool that a model may call, which runs here and needs no network."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from localllm.engine.messages import Tool
from localllm.errors import UsageError

Arguments = Mapping[str, object]
"""What the model wrote as the arguments of a call, read as JSON: any values, under any names."""

Run = Callable[[Arguments], Awaitable[str]]
"""Run a call. Raises UsageError, whose message the model gets, for arguments that mean nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalTool:
    """A tool. `description` and `parameters`, the text of a JSON Schema, are for the model;
    `summary` is for people. `asks`: it reads files, so the person is asked before each call."""

    name: str
    summary: str
    description: str
    parameters: str
    run: Run
    asks: bool = False

    @property
    def definition(self) -> Tool:
        """Return it as the engine describes it to the model."""
        return Tool(name=self.name, description=self.description, parameters=self.parameters)


def text_argument(arguments: Arguments, name: str, default: str | None = None) -> str:
    """Return a text among the arguments; numbers are written out. Raises UsageError."""
    value = arguments.get(name, default)
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise UsageError(f"The argument {name} is missing, or is no text.")
    return str(value)


def whole_argument(arguments: Arguments, name: str, default: int) -> int:
    """Return a whole number among the arguments. Raises UsageError."""
    value = arguments.get(name, default)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise UsageError(f"The argument {name} is no whole number.")
    return value
