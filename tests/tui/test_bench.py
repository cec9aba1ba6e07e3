"""The bench place: it measures what is installed, keeps it, and makes a card to show to others."""

import asyncio
import getpass
import json
import platform
from pathlib import Path
from xml.etree import ElementTree

from hypothesis import given
from hypothesis import strategies as st

from localllm.core.speed import Estimate
from localllm.core.speed.measured import MeasuredMachine, MeasuredModel, Measurement
from localllm.library.files import measurements, paths
from localllm.library.store.installed import InstalledModel
from localllm.tui.screens.ask_text import AskText
from localllm.tui.screens.bench.bench import PLAN, BenchScreen
from localllm.tui.screens.bench.card import CardMachine, card_svg
from localllm.tui.screens.bench.rows import (
    BenchRow,
    as_json,
    bench_rows,
    fastest,
    head_line,
    reading_line,
    row_lines,
)
from tests.tui.actions import screen_text, wait_for_screen, wait_for_text, wait_until
from tests.tui.fixtures import AppFixture

HERE = MeasuredMachine(cpu="Made-up 9000", threads=8)
CARD_MACHINE = CardMachine(
    processor="Made-up 9000", cores=8, memory_bytes=2**34, devices=(), engine="llama.cpp 0.3.36"
)


def measured(name: str, tps: float, *, at: str = "2026-11-30T10:00:00+00:00") -> Measurement:
    return Measurement(
        machine=HERE,
        model=MeasuredModel(name=name, quant="Q4_K_M", architecture="llama", size_bytes=2**30),
        n_prompt=0, n_gen=128, parallel=1, gpu_layers=0, repetitions=3,
        tps_mean=tps, tps_stdev=0.1, measured_at=at,
    )  # fmt: skip


def installed(name: str) -> InstalledModel:
    return InstalledModel(name=name, quant="Q4_K_M", path=Path("/x"), size_bytes=2**30)


def test_the_newest_measurement_of_this_machine_stands_beside_the_prediction() -> None:
    elsewhere = Measurement(
        machine=MeasuredMachine(cpu="Other", threads=8), model=measured("a", 1).model,
        n_prompt=0, n_gen=128, parallel=1, gpu_layers=0, repetitions=3,
        tps_mean=500.0, tps_stdev=None, measured_at="2026-11-30T12:00:00+00:00",
    )  # fmt: skip
    old, new = measured("a", 5.0, at="2026-11-01T10:00:00+00:00"), measured("a", 8.0)
    gone = measured("gone", 20.0)
    predicted = {"a": Estimate(low=5.0, likely=10.0, high=13.0)}
    rows = bench_rows(
        (installed("a"), installed("b")), (new, old, elsewhere, gone), HERE, predicted
    )
    assert [row.name for row in rows] == ["gone", "a", "b"]
    assert rows[1].decode == new
    assert rows[1].off == -0.19999999999999996
    assert rows[0].installed is None
    assert rows[2].off is None
    document = json.loads(as_json(rows, HERE))
    assert [each["decode_tps"] for each in document["models"]] == [20.0, 8.0]


names = st.text(max_size=40)


@given(names, st.floats(0.01, 1e5), st.integers(1, 200))
def test_a_row_is_one_line_and_a_card_is_xml_whatever_a_model_is_called(
    name: str, tps: float, width: int
) -> None:
    row = BenchRow(
        name=name, quant="Q4", size_bytes=1, decode=measured("m", tps),
        predicted=Estimate(low=tps / 2, likely=tps, high=2 * tps),
    )  # fmt: skip
    (line,) = row_lines(row, width, top=fastest((row,)))
    assert "\n" not in line.plain
    assert "\n" not in head_line(width).plain
    assert "\n" not in reading_line(width, tps).plain
    svg = card_svg((row,), CARD_MACHINE, date="2026-11-30")
    ElementTree.fromstring(svg)  # ours


def test_a_card_holds_what_it_promises_and_nothing_personal() -> None:
    row = BenchRow(name="a<b>&", quant="Q4", size_bytes=2**30, decode=measured("m", 7.9))
    svg = card_svg((row,), CARD_MACHINE, date="2026-11-30")
    for promised in ("a&lt;b&gt;&amp;", "7.9 tok/s", "Made-up 9000", "16.0 GiB", "2026-11-30"):
        assert promised in svg
    for personal in (getpass.getuser(), platform.node(), str(Path.home()), "http://", "<script"):
        without_namespace = svg.replace('xmlns="http://www.w3.org/2000/svg"', "")
        assert personal not in without_namespace or personal == ""


async def test_a_model_is_measured_kept_saved_and_forgotten(
    app_fixture: AppFixture, tmp_path: Path
) -> None:
    app_fixture.script.tokens = ("x",) * (PLAN.gen_tokens + 1)
    app = app_fixture.app()
    async with app.run_test(size=(120, 30)) as pilot:
        await pilot.press("f8")
        await wait_for_screen(pilot, BenchScreen)
        await wait_for_text(pilot, "not measured")
        await pilot.press("s")
        await wait_for_text(pilot, "Nothing was measured yet")
        await pilot.press("enter")
        await wait_for_text(pilot, "starter: measured")
        await wait_until(pilot, lambda: "not measured" not in screen_text(app))
        assert "40.0" in screen_text(app)
        assert not app.services.runtime.resident()
        (stored, _) = measurements.load(paths.measurements_file(paths.data_dir()))
        assert stored.model.name == "starter"
        await pilot.press("j")
        assert json.loads(app.clipboard)["models"][0]["decode_tps"] == 40.0
        await pilot.press("s")
        await wait_for_screen(pilot, AskText)
        file = tmp_path / "card.svg"
        app.screen.query_one("Input").value = str(file)  # type: ignore[attr-defined]
        await pilot.press("enter")
        await wait_until(pilot, file.exists)
        assert "40.0 tok/s" in file.read_text()
        await pilot.press("delete")
        await wait_for_text(pilot, "not measured")
        assert measurements.load(paths.measurements_file(paths.data_dir())) == ()

        gate = app_fixture.script.gate = asyncio.Semaphore(0)
        await pilot.press("enter")
        await wait_for_text(pilot, "0 of 4")
        await pilot.press("escape")
        await wait_for_text(pilot, "Stopped")
        gate.release()
        await wait_until(pilot, lambda: not app.services.runtime.resident())
