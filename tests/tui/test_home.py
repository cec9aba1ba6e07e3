"""The home screen: what this machine has and what fits it."""

from pathlib import Path

from localllm.core.sizing.load import LoadSettings, Speculate
from localllm.core.units import format_bytes
from localllm.library.store.installed import InstalledModel
from localllm.tui.screens.chat import ChatScreen
from localllm.tui.screens.home import HomeScreen
from tests.tui.acts import reaches, sees, shown, weighs
from tests.tui.made_up import MIB, Stage


async def test_it_says_what_the_machine_has(stage: Stage) -> None:
    stage.warnings = ("A GPU is here that the engine cannot use.",)
    app = stage.app()
    async with app.run_test(size=(120, 40)) as pilot:
        await sees(pilot, "Made-up 9000")
        text = shown(app)
    assert "8 cores, 16 usable" in text
    assert "10.0 GiB free of 16.0 GiB" in text
    assert "none found" in text
    assert "llama.cpp 0.3.36 · CPU" in text
    assert "A GPU is here" in text


async def test_a_model_says_its_quant_its_size_and_that_it_fits(stage: Stage) -> None:
    assert stage.starter is not None
    app = stage.app()
    async with app.run_test() as pilot:
        await weighs(pilot)
        text = shown(app)
    assert "starter  Q4_1" in text
    assert f"{format_bytes(stage.starter.size_bytes)} file · needs" in text
    assert "of 10.0 GiB free" in text


async def test_a_model_that_does_not_fit_says_what_would_help(stage: Stage) -> None:
    stage.available_bytes = 170 * MIB
    app = stage.app()
    async with app.run_test(size=(120, 40)) as pilot:
        await sees(pilot, "● does not fit")
        fit = await app.runtime.fit(
            app.runtime.installed()[0], LoadSettings(speculate=Speculate.AUTO)
        )
        assert fit.advice is not None
        assert "of 170 MiB free" in shown(app)
        assert fit.advice in shown(app)


async def test_a_model_whose_file_is_gone_says_so(stage: Stage, tmp_path: Path) -> None:
    stage.starter = made_up_model(tmp_path / "gone.gguf")
    app = stage.app()
    async with app.run_test(size=(120, 40)) as pilot:
        await sees(pilot, "○ file missing")
        assert "gone.gguf" in shown(app).replace("\n", "")


async def test_a_file_that_is_no_model_says_so_and_the_others_stay(
    stage: Stage, tmp_path: Path
) -> None:
    (tmp_path / "junk.gguf").write_bytes(b"GGUF and then nothing of use")
    stage.starter = made_up_model(tmp_path / "junk.gguf")
    app = stage.app()
    async with app.run_test() as pilot:
        await sees(pilot, "○ cannot be read")
        await pilot.press("enter")
        await sees(pilot, "cannot be loaded")
        await pilot.press("enter")
        await reaches(pilot, HomeScreen)


async def test_an_empty_library_says_what_to_do(stage: Stage) -> None:
    stage.starter = None
    app = stage.app()
    async with app.run_test() as pilot:
        await sees(pilot, "No model is installed yet")
        assert "pip install 'localllm[starter]'" in shown(app)
        assert "localllm import FILE" in shown(app)
        await pilot.press("enter", "down", "r")  # nothing to choose: nothing happens
        assert isinstance(app.screen, HomeScreen)


async def test_refresh_finds_a_model_that_was_added_meanwhile(stage: Stage) -> None:
    starter, stage.starter = stage.starter, None
    app = stage.app()
    async with app.run_test() as pilot:
        await sees(pilot, "No model is installed yet")
        stage.starter = starter
        await pilot.press("r")
        await weighs(pilot)


async def test_every_key_of_the_screen_is_a_command_of_the_palette(stage: Stage) -> None:
    app = stage.app()
    async with app.run_test() as pilot:
        await weighs(pilot)
        titles = [command.title for command in app.get_system_commands(app.screen)]
    assert {"Open", "Refresh", "Quit"} <= set(titles)
    assert len(titles) == len(set(titles))


async def test_the_palette_runs_the_command(stage: Stage) -> None:
    app = stage.app()
    async with app.run_test() as pilot:
        await weighs(pilot)
        command = next(c for c in app.get_system_commands(app.screen) if c.title == "Open")
        await command.callback()
        await reaches(pilot, ChatScreen)


def made_up_model(path: Path) -> InstalledModel:
    return InstalledModel(name="odd", quant=None, path=path, size_bytes=28)
