"""The commands that use what the person has saved: presets, the prompt library, and the tools."""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import replace

from localllm.chat.commands.actions import OFF, ChatActions
from localllm.chat.presets import PresetStore, is_changed
from localllm.chat.prompts import PromptLibrary, fill, variables
from localllm.chat.tools.tool import LocalTool
from localllm.chat.tools.toolbox import local_tools
from localllm.errors import UsageError
from localllm.translation import _


class LibraryActions(ChatActions):
    """`ChatActions` with /preset, /prompt and /tools. A front end writes three more methods."""

    def __init__(
        self,
        *,
        presets: PresetStore | None = None,
        library: PromptLibrary | None = None,
        tools: Sequence[LocalTool] | None = None,
    ) -> None:
        self.preset_store = presets or PresetStore()
        self.prompt_library = library or PromptLibrary()
        self.local_tools = tuple(local_tools() if tools is None else tools)

    @property
    @abstractmethod
    def model_name(self) -> str:
        """Return the name of the model that answers, "" for none."""

    @abstractmethod
    async def ask(self, label: str, default: str) -> str | None:
        """Ask the person for a value, of one or more lines; None: they gave up."""

    @abstractmethod
    async def compose(self, text: str) -> None:
        """Put a text into the prompt, where the person can change and send it."""

    # --- presets ---

    async def preset(self, argument: str) -> None:
        verb, _blank, name = argument.partition(" ")
        name, model = name.strip(), self.model_name
        if not argument:
            await self.show(self._presets_text())
        elif verb == "save" and name:
            preset = self.preset_store.save(name, self.settings)
            await self.change_settings(preset.settings)
            await self.show(_("Saved as the preset {name}.").format(name=preset.name))
        elif verb == "save-for-model" and name:
            preset = self.preset_store.save(name, self.settings, model)
            await self.change_settings(preset.settings)
            await self.show(
                _("Saved as the preset {name} of {model}.").format(name=preset.name, model=model)
            )
        elif verb == "default" and name:
            preset = self.preset_store.set_default(name, model)
            await self.show(
                _("New conversations with {model} begin with {name}.").format(
                    model=model, name=preset.name
                )
            )
        elif verb == "delete" and name:
            preset = self.preset_store.delete(name, model)
            await self.show(_("The preset {name} is deleted.").format(name=preset.name))
        else:
            preset = self.preset_store.find(argument, model)
            await self.change_settings(preset.settings)
            await self.show(_("Preset {name}, from the next question on.").format(name=preset.name))

    def _presets_text(self) -> str:
        model = self.model_name
        default = self.preset_store.default(model).name
        lines = []
        for each in self.preset_store.presets(model):
            remarks = []
            if each.name == self.settings.preset:
                remarks.append(
                    _("used, but changed") if is_changed(self.settings, each) else _("used")
                )
            if each.name == default:
                remarks.append(_("new conversations begin with it"))
            if each.model:
                remarks.append(_("of this model"))
            lines.append(f"{each.name:<20} {', '.join(remarks)}".rstrip())
        return "\n".join(lines)

    # --- prompts ---

    async def prompt(self, argument: str) -> None:
        """List the prompts, or use one: "/prompt NAME [TEXT]", where TEXT is what its last
        variable gets."""
        if not argument:
            prompts = self.prompt_library.prompts()
            width = max(len(each.name) for each in prompts) + 2
            await self.show("\n".join(f"{each.name:<{width}}{each.summary}" for each in prompts))
            return
        name, _blank, given = argument.partition(" ")
        prompt = self.prompt_library.find(name)
        wanted = variables(prompt.text)
        values: dict[str, str] = {}
        if wanted and given.strip():
            values[wanted[-1].name] = given.strip()
        for variable in wanted:
            if variable.name not in values:
                value = await self.ask(variable.name, variable.default)
                if value is None:
                    return
                values[variable.name] = value
        await self.compose(fill(prompt.text, values))

    # --- tools ---

    async def tools(self, argument: str) -> None:
        names = [each.name for each in self.local_tools]
        words = argument.replace(",", " ").split()
        if words:
            match words[0].lower():
                case "on":
                    words = names
                case "off" | "none":
                    words = []
            if unknown := [each for each in words if each not in names]:
                raise UsageError(
                    _("There is no tool {name}. There are: {names}.").format(
                        name=unknown[0][:40], names=", ".join(names)
                    )
                )
            chosen = tuple(each for each in names if each in words)
            await self.change_settings(replace(self.settings, tools=chosen))
        await self.show(
            "\n".join(
                f"{_('on') if each.name in self.settings.tools else _(OFF):<4} "
                f"{each.name:<18}{_(each.summary)}"
                for each in self.local_tools
            )
        )
