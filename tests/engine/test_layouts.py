"""Which layout a struct has: known ones, ones that nobody knows, and those of the real build."""

import ctypes
import re
import shutil
import subprocess
import sysconfig
from collections.abc import Iterable
from ctypes import c_bool, c_float, c_int32, c_size_t, c_uint32, c_void_p
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from localllm.engine.worker.binding import ggml, llama, mtmd, structs
from localllm.engine.worker.binding.layouts import (
    CONTEXT_PARAMS,
    MODEL_PARAMS,
    MTMD_CONTEXT_PARAMS,
    NOT_NULL,
    DefaultParams,
    Field,
    Fields,
    Layout,
    fitting,
    mismatch,
    struct_class,
    with_field,
)

KNOWN = (MODEL_PARAMS, CONTEXT_PARAMS, MTMD_CONTEXT_PARAMS)
EVERY = [layout for known in KNOWN for layout in known]

INSERTED: list[Field] = [
    ("new", c_uint32, 0),
    ("new", c_int32, -1),
    ("new", c_int32, 1),
    ("new", c_float, -1.0),
    ("new", c_bool, False),
    ("new", c_bool, True),
    ("new", c_size_t, 4096),
]


def returned(fields: Fields, *, rest: int = 0xA5, extent: bool = True) -> DefaultParams:
    """What a build with this layout returns; what it does not write has the value `rest`."""
    struct = struct_class(fields)
    data, written = bytearray([rest] * 1024), set[int]()
    for name, kind, default in fields:
        place = getattr(struct, name)
        value = 1 if default is NOT_NULL else default
        raw = bytes(place.size) if value is None else bytes(kind(value))
        data[place.offset : place.offset + place.size] = raw
        written.update(range(place.offset, place.offset + place.size))
    return DefaultParams(data=bytes(data), written=written if extent else None)


def without(fields: Fields, at: int) -> Fields:
    return fields[:at] + fields[at + 1 :]


def same_bytes(one: Fields, other: Fields) -> bool:
    """Two layouts whose default values are the same bytes at the same places."""
    found, expected = returned(one), returned(other)
    return (found.written, found.data) == (expected.written, expected.data)


@pytest.mark.parametrize("known", KNOWN, ids=lambda known: known[0].struct)
@pytest.mark.parametrize("extent", [True, False])
@pytest.mark.parametrize("rest", [0x00, 0xA5, 0xFF])
def test_each_known_layout_is_found_and_no_other(
    known: tuple[Layout, ...], extent: bool, rest: int
) -> None:
    for layout in known:
        found = returned(layout.fields, rest=rest, extent=extent)
        assert fitting(known, found, strict=True) is layout
        assert fitting(known, found, strict=False) is layout


@given(st.sampled_from(KNOWN), st.data())
def test_a_struct_with_one_more_field_fits_nothing(
    known: tuple[Layout, ...], data: st.DataObject
) -> None:
    layout = data.draw(st.sampled_from(known))
    after = data.draw(st.sampled_from(layout.fields))[0]
    changed = with_field(layout.fields, after, data.draw(st.sampled_from(INSERTED)))
    found = fitting(known, returned(changed), strict=True)
    assert found is None or same_bytes(changed, found.fields)


@given(st.sampled_from(KNOWN), st.data())
def test_at_a_known_commit_what_is_written_between_the_fields_says_nothing(
    known: tuple[Layout, ...], data: st.DataObject
) -> None:
    layout = data.draw(st.sampled_from(known))
    found = returned(layout.fields, rest=0)
    whole = range(ctypes.sizeof(struct_class(layout.fields)))
    cleared = DefaultParams(data=found.data, written=whole)
    assert fitting(known, cleared, strict=False) is layout
    if set(found.written or ()) != set(whole):
        assert fitting(known, cleared, strict=True) is None


@given(st.sampled_from(EVERY), st.data())
def test_a_struct_that_lacks_a_field_fits_nothing(layout: Layout, data: st.DataObject) -> None:
    known = next(each for each in KNOWN if layout in each)
    changed = without(layout.fields, data.draw(st.integers(0, len(layout.fields) - 1)))
    found = fitting(known, returned(changed), strict=True)
    assert found is None or same_bytes(changed, found.fields)


@given(st.sampled_from(KNOWN), st.binary(min_size=1024, max_size=1024))
def test_arbitrary_bytes_fit_nothing(known: tuple[Layout, ...], raw: bytes) -> None:
    assert fitting(known, DefaultParams(data=raw), strict=False) is None


def test_the_field_that_the_prebuilt_engine_has_more_is_seen() -> None:
    old, new = CONTEXT_PARAMS
    assert "offload_kqv" in str(mismatch(old.fields, returned(new.fields), strict=False))
    assert "abort_callback_data" in str(mismatch(new.fields, returned(old.fields), strict=False))


def test_a_field_behind_the_struct_is_seen_where_its_length_is_known() -> None:
    layout = CONTEXT_PARAMS[0]
    longer = with_field(layout.fields, layout.fields[-1][0], ("new", c_void_p, None))
    assert "bytes" in str(mismatch(layout.fields, returned(longer), strict=False))


def test_a_field_that_nobody_has_written_is_seen() -> None:
    layout = MODEL_PARAMS[0]
    shorter = returned(layout.fields[:-1], rest=0x00)
    assert (
        mismatch(layout.fields, shorter, strict=False) == f"{layout.fields[-1][0]} was not written"
    )


def test_a_struct_that_fits_two_layouts_fits_none() -> None:
    layout = MODEL_PARAMS[0]
    assert fitting((layout, layout), returned(layout.fields), strict=False) is None


def test_a_flag_that_is_neither_0_nor_1_is_no_flag() -> None:
    layout = MODEL_PARAMS[0]
    found = returned(layout.fields)
    at = getattr(struct_class(layout.fields), "use_extra_bufts").offset  # noqa: B009
    data = found.data[:at] + b"\x02" + found.data[at + 1 :]
    assert mismatch(layout.fields, DefaultParams(data=data), strict=False) is not None


@pytest.mark.parametrize(
    ("known", "role", "function"),
    [
        (MODEL_PARAMS, "llama", "llama_model_default_params"),
        (CONTEXT_PARAMS, "llama", "llama_context_default_params"),
        (MTMD_CONTEXT_PARAMS, "mtmd", "mtmd_context_params_default"),
    ],
)
def test_the_engines_own_structs_fit_one_layout_with_and_without_their_length(
    known: tuple[Layout, ...], role: str, function: str
) -> None:
    found = structs.default_params(role, function)
    layout = fitting(known, found, strict=False)
    assert layout is not None
    assert fitting(known, DefaultParams(data=found.data), strict=False) is layout
    if found.written is not None:  # x86-64
        assert max(found.written) < ctypes.sizeof(struct_class(layout.fields))


@pytest.mark.parametrize("moe_cache_size", [False, True])
def test_the_layouts_are_those_that_a_compiler_makes_of_the_headers(
    moe_cache_size: bool, tmp_path: Path
) -> None:
    """With the headers that llama-cpp-python installs, where they and a compiler are here; 86a2835
    differs from them in one field."""
    include, compiler = Path(sysconfig.get_paths()["purelib"]) / "include", shutil.which("cc")
    if compiler is None or not (include / "llama.h").exists():
        pytest.skip("no compiler, or no llama.h")
    header = (include / "llama.h").read_text()
    if moe_cache_size:
        header = re.sub(r"(enum ggml_type type_v;.*)", r"\1\n size_t moe_cache_size;", header)
    (tmp_path / "llama.h").write_text(header)
    layouts = (MODEL_PARAMS[0], CONTEXT_PARAMS[moe_cache_size], MTMD_CONTEXT_PARAMS[0])
    classes = {layout.struct: struct_class(layout.fields) for layout in layouts}
    classes |= {each.__name__: each for each in FIXED}
    ours = {name: ctypes.sizeof(each) for name, each in classes.items()}
    ours |= {
        f"{name}.{field[0]}": getattr(each, field[0]).offset
        for name, each in classes.items()
        for field in each._fields_
    }
    assert compiled_sizes(ours, compiler, include, tmp_path) == ours


FIXED = (
    structs.llama_batch,
    structs.llama_token_data,
    structs.llama_token_data_array,
    structs.llama_logit_bias,
    structs.llama_sampler_chain_params,
    ggml.llama_model_tensor_buft_override,
    mtmd.mtmd_input_text,
    mtmd.mtmd_input_part,
    mtmd.mtmd_helper_bitmap_wrapper,
    mtmd.mtmd_helper_video_init_params,
    mtmd.mtmd_helper_init_opt,
    mtmd.mtmd_helper_embd_batch,
)


def compiled_sizes(
    names: Iterable[str], compiler: str, include: Path, directory: Path
) -> dict[str, int]:
    """Return the size of each struct and the place of each field ("struct.field") in C."""
    lines = []
    for name in names:
        struct, _, field = name.partition(".")
        kind = f"struct {struct}"
        value = f"offsetof({kind}, {field})" if field else f"sizeof({kind})"
        lines.append(f'printf("{name} %zu\\n", {value});')
    (directory / "probe.c").write_text(
        "#include <stddef.h>\n#include <stdio.h>\n#include <llama.h>\n#include <mtmd.h>\n"
        f"#include <mtmd-helper.h>\nint main(void) {{ {' '.join(lines)} return 0; }}\n"
    )
    paths = (f"-I{directory}", f"-I{include}", directory / "probe.c", "-o", directory / "probe")
    subprocess.run([compiler, *paths], check=True)
    printed = subprocess.run([directory / "probe"], capture_output=True, text=True, check=True)
    return {name: int(size) for name, size in map(str.split, printed.stdout.splitlines())}


def test_both_ways_to_a_struct_lead_to_the_same_values(monkeypatch: pytest.MonkeyPatch) -> None:
    exact = structs.default_params("llama", "llama_context_default_params")
    monkeypatch.setattr(structs, "_takes_result_address", lambda: False)
    by_value = structs.default_params("llama", "llama_context_default_params")
    assert by_value.written is None
    layout = fitting(CONTEXT_PARAMS, exact, strict=False)
    assert layout is not None
    assert fitting(CONTEXT_PARAMS, by_value, strict=False) is layout


def test_the_bound_classes_read_llama_cpps_defaults() -> None:
    context = llama.llama_context_default_params()
    assert (context.n_ctx, context.n_batch, context.n_ubatch) == (512, 2048, 512)
    assert (context.offload_kqv, context.swa_full, context.kv_unified) == (True, True, False)
    model = llama.llama_model_default_params()
    assert (model.n_gpu_layers, model.use_extra_bufts, model.no_alloc) == (-1, True, False)
    assert mtmd.mtmd_context_params_default().batch_max_tokens == 1024
    assert mtmd.mtmd_helper_init_opt_default().video_params.timestamp_interval_ms == 5000
