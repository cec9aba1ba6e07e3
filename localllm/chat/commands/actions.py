"""What the slash commands do: a front end writes the methods of what it can do, and whatever only
changes the settings of the conversation is done here, for all of them.

A command is supported when there is a method of its name (`Command.method`): help and completion
list no other, and running another says so. So a front end cannot claim what it has not written.
"""

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from dataclasses import replace

from localllm.chat.commands.setting_values import (
    describe_setting,
    parse_thinking,
    setting_name,
    settings_table,
    split_setting,
    thinking_text,
    with_setting,
)
from localllm.chat.commands.table import (
    COMMANDS,
    Command,
    CommandLine,
    find_command,
    path_argument,
)
from localllm.chat.schemas import read_schema
from localllm.chat.settings import ChatSettings
from localllm.errors import UsageError
from localllm.translation import _

OFF = "off"


class ChatActions(ABC):
    """The commands on one conversation.

    A front end writes the three abstract methods, and `async def NAME(self, argument: str) -> None`
    for each further command of the table that it supports. Such a method gets what was typed
    behind the command, and raises LocalLLMError, with a message for the person, when it cannot be
    done.
    """

    @property
    @abstractmethod
    def settings(self) -> ChatSettings:
        """Return the settings of the conversation that is shown."""

    @abstractmethod
    async def change_settings(self, settings: ChatSettings) -> None:
        """Use these settings from the next question on; `context` and `kv_type` need a reload,
        which the front end does, or offers."""

    @abstractmethod
    async def show(self, text: str) -> None:
        """Show a text of one or more lines, which is not part of the conversation."""

    async def run(self, line: CommandLine) -> None:
        """Run a command. Raises UsageError for one that this front end does not support."""
        if line.command not in self.supported():
            raise UsageError(
                _("/{name} cannot be used here. /help lists what can.").format(
                    name=line.command.name
                )
            )
        method: Callable[[str], Awaitable[None]] = getattr(self, line.command.method)
        await method(line.argument)

    def supported(self) -> tuple[Command, ...]:
        """Return the commands that can be used, in the order of the table."""
        return tuple(each for each in COMMANDS if hasattr(type(self), each.method))

    # --- commands that are the same everywhere ---

    async def help(self, argument: str) -> None:
        if argument:
            command = find_command(argument.split(maxsplit=1)[0])
            aliases = ", ".join(f"/{each}" for each in command.aliases)
            lines = [command.usage, f"  {_(command.help)}"]
            if aliases:
                lines.append("  " + _("also: {aliases}").format(aliases=aliases))
            await self.show("\n".join(lines))
            return
        commands = self.supported()
        width = max(len(each.name) for each in commands) + 3
        await self.show("\n".join(f"/{each.name:<{width}}{_(each.help)}" for each in commands))

    async def system(self, argument: str) -> None:
        if not argument:
            await self.show(self.settings.system or _("There is no system prompt."))
            return
        system = "" if argument.lower() == OFF else argument
        await self.change_settings(replace(self.settings, system=system))
        await self.show(
            _("System prompt set.") if system else _("There is no system prompt any more.")
        )

    async def set(self, argument: str) -> None:
        """Show or change settings; Ollama's `/set parameter`, `/set system` and so on work too."""
        name, value = split_setting(argument)
        match name.lower():
            case "":
                await self.show(settings_table(self.settings))
            case "parameter":
                await self.set(value)
            case "system":
                await self.system(value)
            case "think":
                await self.think(value or "on")
            case "nothink":
                await self.think(OFF)
            case "format" | "noformat":
                await self.schema(value or OFF)
            case _:
                name = setting_name(name)
                if value:
                    await self.change_settings(with_setting(self.settings, name, value))
                await self.show(describe_setting(self.settings, name))

    async def context(self, argument: str) -> None:
        """Show or change the context; a front end that knows what is used of it overrides this."""
        await self.set(f"context {argument}")

    async def think(self, argument: str) -> None:
        if argument:
            thinking = parse_thinking(argument)
            await self.change_settings(replace(self.settings, thinking=thinking))
        await self.show(_("Thinking: {value}").format(value=thinking_text(self.settings.thinking)))

    async def schema(self, argument: str) -> None:
        if not argument:
            await self.show(self.settings.json_schema or _("Answers follow no JSON Schema."))
            return
        if argument.lower() in (OFF, "none"):
            await self.change_settings(replace(self.settings, json_schema=""))
            await self.show(_("Answers follow no JSON Schema any more."))
            return
        # A schema's own backslashes are no path's.
        read = read_schema(argument if argument.startswith("{") else path_argument(argument))
        await self.change_settings(replace(self.settings, json_schema=read.text))
        text = _("Answers follow this JSON Schema from the next question on.")
        if read.unenforced:
            text += " " + _("Checked only when an answer is finished: {keywords}.").format(
                keywords=", ".join(read.unenforced[:5])
            )
        await self.show(text)
