"""Images in prompts: an image encoder (mmproj) in llama.cpp's mtmd library.

A prompt is cut into chunks of text and of images without their pixels, from the images' headers
alone. The file of an image is decoded, scaled and encoded when the scheduler comes to it, one at a
time; its embeddings then go through the model like a chunk of a prompt.
"""

import ctypes
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from localllm.core.image import check_packed, read_header
from localllm.core.sizing.load import Allocation, BufferKind, Mmproj
from localllm.engine.worker.binding import llama, mtmd
from localllm.engine.worker.llama.allocations import allocations
from localllm.engine.worker.llama.model import Model, default_threads, raise_for_status
from localllm.engine.worker.llama.native_log import NativeLog
from localllm.engine.worker.llama.params import device
from localllm.engine.worker.prompt.control_words import LiteralText
from localllm.engine.worker.prompt.prompt import (
    ImageChunk,
    Prompt,
    PromptImages,
    PromptPart,
    image_tokens,
)
from localllm.errors import BadRequest, GenerationFailed, LoadFailed

_NO_CALLBACK = mtmd.mtmd_helper_post_decode_callback()

_NO_PROGRAMS = os.devnull.encode()
"""The path of ffmpeg that mtmd gets. What stb_image cannot read it hands to that program
(mtmd_helper_bitmap_init_from_buf, b11434), and nobody's upload starts a program here."""


class VisionEncoder:
    """An mmproj file that is loaded beside the model it was made for. Not thread-safe."""

    def __init__(self, mmproj: Mmproj, model: Model, *, log: NativeLog) -> None:
        """Load it. Raises LoadFailed with llama.cpp's own reason."""
        path, on = mmproj.path, mmproj.device
        self._salt = _salt(path)
        log.take()
        log.listen_to(mtmd.mtmd_helper_log_set)
        self._model = model
        params = mtmd.mtmd_context_params_default()
        params.use_gpu = on is not None
        params.device = device(on) if on is not None else None
        params.print_timings = False
        params.n_threads = model.settings.threads or default_threads()
        weights = llama.llama_get_model(model.handle)
        with model.heartbeat.long_call():
            self._context = mtmd.mtmd_init_from_file(os.fsencode(path), weights, params)
        if not self._context:
            raise LoadFailed(log.refusal(f"the image encoder {path}"))
        if not mtmd.mtmd_support_vision(self._context):
            mtmd.mtmd_free(self._context)
            raise LoadFailed(f"{path} is an encoder that does not see images.")
        self.allocations: tuple[Allocation, ...] = tuple(
            Allocation(device=each.device, kind=BufferKind.ENCODER, size_bytes=each.size_bytes)
            for each in allocations(log.take())
            if each.kind is BufferKind.COMPUTE
        )

    def tokenize(self, parts: Sequence[PromptPart]) -> Prompt:
        """Place text and images in their order. Raises BadRequest for an image that this encoder
        cannot take."""
        with self._chunks(parts) as chunks:
            return self._place(tuple(parts), chunks)

    def compute(self, parts: Sequence[PromptPart], chunk: ImageChunk, slot: int) -> None:
        """Decode, encode and compute a chunk of these parts, at its place in `slot`.

        Raises BadRequest for a file that is no image, GenerationFailed when it cannot be encoded,
        and what `Model.decode` raises.
        """
        with ExitStack() as stack:
            with self._model.heartbeat.long_call():  # neither scaling nor encoding reports progress
                chunks = stack.enter_context(self._chunks(parts, with_pixels=chunk.part))
                handle = mtmd.mtmd_input_chunks_get(chunks, chunk.index)
                status = mtmd.mtmd_encode_chunk(self._context, handle)
            if status != 0:
                raise GenerationFailed("The encoder could not look at this image.")
            after = llama.llama_pos(0)
            status = mtmd.mtmd_helper_decode_image_chunk(
                self._context,
                self._model.handle,
                handle,
                mtmd.mtmd_get_output_embd(self._context),
                chunk.start,
                slot,
                self._model.max_batch_tokens,
                ctypes.byref(after),
                _NO_CALLBACK,
                None,
            )
        raise_for_status(status)
        self._model.heartbeat.beat()
        if after.value != chunk.end:
            raise RuntimeError(f"the image ends at {after.value}, not at {chunk.end}")

    def close(self) -> None:
        mtmd.mtmd_free(self._context)

    def _place(self, parts: tuple[PromptPart, ...], chunks: int) -> Prompt:
        """Give every chunk its positions."""
        tokens: list[int] = []
        images: list[ImageChunk] = []
        pieces: dict[int, int] = {}
        for i in range(mtmd.mtmd_input_chunks_size(chunks)):
            handle = mtmd.mtmd_input_chunks_get(chunks, i)
            if mtmd.mtmd_input_chunk_get_type(handle) == mtmd.MTMD_INPUT_CHUNK_TYPE_TEXT:
                tokens += self._text_tokens(handle)
                continue
            part = int(mtmd.mtmd_input_chunk_get_id(handle))
            chunk = ImageChunk(
                start=len(tokens),
                positions=int(mtmd.mtmd_input_chunk_get_n_pos(handle)),
                cells=int(mtmd.mtmd_input_chunk_get_n_tokens(handle)),
                index=i,
                part=part,
            )
            self._check_size(chunk, handle)
            images.append(chunk)
            image, piece = parts[part], pieces.get(part, 0)
            assert isinstance(image, bytes)
            tokens += image_tokens(image, self._salt, piece=piece, count=chunk.positions)
            pieces[part] = piece + 1
        if images and images[-1].end == len(tokens):
            raise BadRequest("The prompt ends with an image: text has to follow it.")
        return Prompt(
            tokens=tokens, images=PromptImages(parts=parts, chunks=tuple(images), encoder=self)
        )

    def _text_tokens(self, handle: int) -> list[int]:
        count = ctypes.c_size_t()
        found = mtmd.mtmd_input_chunk_get_tokens_text(handle, ctypes.byref(count))
        tokens = list(found[: count.value]) if found else []
        if any(not 0 <= token < self._model.vocab.size for token in tokens):
            raise BadRequest(
                "This encoder marks images with tokens that the model does not have: it was made "
                "for another model. Fetch the one that is published beside the model."
            )
        return tokens

    def _check_size(self, chunk: ImageChunk, handle: int) -> None:
        """Raise BadRequest for a chunk with non-causal attention that does not fit one physical
        batch: there llama.cpp ends the process (llama_context::decode, b11434)."""
        whole = mtmd.mtmd_decode_use_non_causal(self._context, handle)
        if whole and chunk.cells > self._model.max_batch_tokens:
            raise BadRequest(
                f"This image is {chunk.cells} tokens, which this model has to see at once, and "
                f"a batch has {self._model.max_batch_tokens}. Scale the image down, or load the "
                "model with a larger batch."
            )

    @contextmanager
    def _chunks(
        self, parts: Sequence[PromptPart], *, with_pixels: int | None = None
    ) -> Iterator[int]:
        """Cut a prompt into chunks as mtmd does. Only the image that is part `with_pixels` is
        decoded; the id of each chunk of an image is the image's place among the parts."""
        chunks = mtmd.mtmd_input_chunks_init()
        bitmaps: list[int] = []
        try:
            for i, part in enumerate(parts):
                if isinstance(part, bytes):
                    bitmap = self._bitmap(part, pixels=i == with_pixels)
                    bitmaps.append(bitmap)
                    mtmd.mtmd_bitmap_set_id(bitmap, str(i).encode())
            self._cut(chunks, parts, iter(bitmaps))
            yield chunks
        finally:
            for bitmap in bitmaps:
                mtmd.mtmd_bitmap_free(bitmap)
            mtmd.mtmd_input_chunks_free(chunks)

    def _cut(self, chunks: int, parts: Sequence[PromptPart], bitmaps: Iterator[int]) -> None:
        """Fill `chunks` with those of the parts, whose images are `bitmaps`."""
        inputs = [
            _text_part(part) if isinstance(part, str) else _image_part(next(bitmaps))
            for part in parts
        ]
        count = len(inputs)
        pointers = (ctypes.POINTER(mtmd.mtmd_input_part) * count)(*map(ctypes.pointer, inputs))
        if mtmd.mtmd_tokenize_from_parts(self._context, chunks, pointers, count, True) != 0:
            raise BadRequest(
                "The encoder cannot prepare these images. Try others, or PNG files of usual sizes."
            )

    def _bitmap(self, image: bytes, *, pixels: bool) -> int:
        """Make an image for mtmd: decoded, or empty and of the right size."""
        header = read_header(image)
        if not pixels:
            return int(mtmd.mtmd_bitmap_init(header.width, header.height, None))
        check_packed(image)
        options = mtmd.mtmd_helper_init_opt_default()
        options.video_params.ffmpeg_bin_dir = _NO_PROGRAMS
        found = mtmd.mtmd_helper_bitmap_init_from_buf(
            self._context, _bytes(image), len(image), False, options
        )
        size = header.width, header.height
        if (
            not found.bitmap
            or found.video_ctx
            or size
            != (
                mtmd.mtmd_bitmap_get_nx(found.bitmap),
                mtmd.mtmd_bitmap_get_ny(found.bitmap),
            )
        ):
            if found.bitmap:
                mtmd.mtmd_bitmap_free(found.bitmap)
            raise BadRequest(
                f"The {header.kind} image is broken: its header says {size[0]} x {size[1]} pixels, "
                "and they cannot be read. Save it again, as PNG or JPEG."
            )
        return int(found.bitmap)


def _salt(path: str) -> bytes:
    """Return what tells this encoder's cells from those of others. Raises LoadFailed."""
    try:
        status = Path(path).stat()
    except OSError as error:
        raise LoadFailed(f"The image encoder {path} cannot be read: {error.strerror}.") from error
    return f"{status.st_size}:{status.st_mtime_ns}:".encode()


def _bytes(data: bytes) -> "ctypes.Array[ctypes.c_uint8]":
    return (ctypes.c_uint8 * len(data)).from_buffer_copy(data)


def _text_part(text: str) -> "mtmd.mtmd_input_part":
    raw = text.encode("utf-8", "replace")
    found = mtmd.mtmd_input_text(
        text=raw,
        text_len=len(raw),
        add_special=False,
        parse_special=not isinstance(text, LiteralText),
    )
    return mtmd.mtmd_input_part(text=ctypes.pointer(found), bitmap=None)


def _image_part(bitmap: int) -> "mtmd.mtmd_input_part":
    return mtmd.mtmd_input_part(text=None, bitmap=bitmap)
