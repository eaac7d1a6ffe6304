"""What is read is what Pillow and transformers' processors read; what is not is refused in one
line that names it, and costs nothing before."""

from __future__ import annotations

import base64
import io
import os
import signal
import struct
import zlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from PIL import Image
from transformers.image_utils import load_image
from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil

from rbee_worker.checkpoint.processor import of_tower
from rbee_worker.errors import InvalidRequest
from rbee_worker.pictures.cutting import cut
from rbee_worker.pictures.header import JPEG, PNG, WEBP, Header, NotRead, look
from rbee_worker.pictures.limits import Limits
from rbee_worker.pictures.reader import PictureReader
from rbee_worker.pictures.recipe import processor_of, read_recipe
from rbee_worker.types import PictureFile
from tests.pictures.making import GEMMA3, IDEFICS3, drawn, saved, tiles_of

LIMITS = Limits(count=3, bytes=1 << 16, pixels=40_000)
SIDE = 32


def recipe_of(config: dict[str, Any]) -> Any:
    processor = processor_of(config)
    assert processor is not None
    return read_recipe(config, processor)


@pytest.fixture(scope="module")
def reader() -> Iterator[PictureReader]:
    """Gemma's recipe: every picture becomes one square."""
    made = PictureReader(recipe_of(GEMMA3), LIMITS)
    yield made
    made.close()


def pixels(reader: PictureReader, file: bytes) -> np.ndarray:
    (found,) = reader.read([PictureFile(data=file)])
    return tiles_of(found.pixels, found.shape)[0]


def squared(image: Image.Image) -> np.ndarray:
    """What Pillow makes of a picture that is upright and in red, green and blue."""
    found: np.ndarray = np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BILINEAR))
    return found


def processed(image: Image.Image) -> np.ndarray:
    """What transformers' processor makes of a picture in any mode."""
    hf: Any = Gemma3ImageProcessorPil(size={"height": SIDE, "width": SIDE})
    out = hf(image, do_rescale=False, do_normalize=False, do_convert_rgb=True, return_tensors="np")
    found: np.ndarray = np.asarray(out["pixel_values"])[0].transpose(1, 2, 0).astype(np.uint8)
    return found


def why(reader: PictureReader, *files: bytes) -> str:
    with pytest.raises(InvalidRequest) as caught:
        reader.read([PictureFile(data=file) for file in files])
    (error,) = caught.value.errors
    assert error.field == "images"
    return error.message


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "LA"])
def test_a_png_of_every_usual_mode(reader: PictureReader, mode: str) -> None:
    image = drawn(50, 41, mode=mode)
    np.testing.assert_array_equal(pixels(reader, saved(image)), processed(image))


def test_palettes_and_single_bits(reader: PictureReader) -> None:
    for image in (drawn(50, 41).quantize(17), drawn(50, 41, mode="L").convert("1")):
        np.testing.assert_array_equal(pixels(reader, saved(image)), processed(image))
    clear = drawn(50, 41).quantize(17)
    file = saved(clear, transparency=3)
    np.testing.assert_array_equal(pixels(reader, file), processed(Image.open(io.BytesIO(file))))


@pytest.mark.parametrize(
    ("kind", "mode", "options"),
    [
        ("JPEG", "RGB", {}),
        ("JPEG", "L", {}),
        ("JPEG", "CMYK", {}),
        ("JPEG", "RGB", {"progressive": True}),
        ("WEBP", "RGB", {"quality": 60}),
        ("WEBP", "RGBA", {"lossless": True}),
    ],
)
def test_other_kinds_of_files(
    reader: PictureReader, kind: str, mode: str, options: dict[str, Any]
) -> None:
    file = saved(drawn(50, 41, mode=mode), kind, **options)
    np.testing.assert_array_equal(pixels(reader, file), processed(Image.open(io.BytesIO(file))))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("turned", [2, 3, 6, 8])
def test_exif_turns_a_picture_as_transformers_load_image_does(
    reader: PictureReader, kind: str, turned: int
) -> None:
    exif = Image.Exif()
    exif[0x0112] = turned
    file = saved(drawn(50, 20), kind, exif=exif)
    upright = load_image(base64.b64encode(file).decode())
    np.testing.assert_array_equal(pixels(reader, file), squared(upright))


def test_sixteen_bits_a_channel(reader: PictureReader) -> None:
    grey = Image.fromarray(np.arange(400, dtype=np.uint16).reshape(20, 20) * 100)
    assert why(reader, saved(grey)) == "has pixels of the kind I;16: send 8 bits a channel"


def test_an_animation_is_refused_with_its_frames(reader: PictureReader) -> None:
    frames = [drawn(20, 20, seed) for seed in range(3)]
    for kind in ("PNG", "WEBP"):
        file = saved(frames[0], kind, save_all=True, append_images=frames[1:])
        assert why(reader, file) == "is animated (3 frames): send one of them"


def test_a_camera_s_second_view_is_not_an_animation(reader: PictureReader) -> None:
    first = drawn(40, 40)
    file = saved(first, "MPO", save_all=True, append_images=[drawn(40, 40, 1)])
    want = squared(Image.open(io.BytesIO(file)).convert("RGB"))
    np.testing.assert_array_equal(pixels(reader, file), want)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_a_file_that_is_cut_is_refused_wherever_it_is_cut(reader: PictureReader, kind: str) -> None:
    file = saved(drawn(60, 60), kind)
    for end in (12, 30, len(file) // 2, len(file) - 30):
        assert why(reader, file[:end]) == "is damaged or incomplete"
    assert pixels(reader, file).shape == (SIDE, SIDE, 3)  # the process is none the worse


def bomb(width: int, height: int) -> bytes:
    """A PNG that claims so many pixels, and would unfold to them."""
    row = zlib.compress(bytes(1 + 3 * width))
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)), (b"IDAT", row)]
    body = b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in [*chunks, (b"IEND", b"")]
    )
    return b"\x89PNG\r\n\x1a\n" + body


def test_a_bomb_is_refused_by_its_header_alone() -> None:
    reader = PictureReader(recipe_of(GEMMA3), LIMITS)
    assert why(reader, bomb(30_000, 30_000)).startswith("has 30000 x 30000 pixels; at most 40000")
    assert reader._child.pid is None  # nothing was decoded


def test_limits_of_count_and_bytes(reader: PictureReader) -> None:
    small = saved(drawn(4, 4))
    assert why(reader, *[small] * 4) == "4 pictures were sent; at most 3 are read"
    large = small + bytes(LIMITS.bytes)
    assert why(reader, large) == "has 65 KiB; at most 64 KiB are read"


@pytest.mark.parametrize(
    ("data", "named"),
    [
        (b"", "is empty"),
        (b"GIF89a" + bytes(30), "is GIF; PNG, JPEG and WebP are read"),
        (b"II*\x00" + bytes(30), "is TIFF; "),
        (bytes(4) + b"ftypavif" + bytes(30), "is AVIF; "),
        (bytes(4) + b"ftypheic" + bytes(30), "is HEIC; "),
        (b"<svg xmlns=''/>", "is SVG; "),
        (b"nothing at all", "is no picture that is known here; "),
    ],
)
def test_other_files_are_refused_by_their_names(
    reader: PictureReader, data: bytes, named: str
) -> None:
    assert why(reader, data).startswith(named)


@settings(max_examples=40, deadline=None)
@given(
    width=st.integers(1, 200), height=st.integers(1, 200), kind=st.sampled_from([PNG, JPEG, WEBP])
)
def test_a_header_says_what_pillow_says(width: int, height: int, kind: str) -> None:
    file = saved(Image.new("RGB", (width, height), (9, 9, 9)), kind.upper())
    assert look(file) == Header(kind, width, height)


@settings(max_examples=300, deadline=None)
@given(start=st.sampled_from([b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"RIFF\0\0\0\0WEBP", b""]),
       rest=st.binary(max_size=80))  # fmt: skip
def test_no_bytes_bring_the_header_down(start: bytes, rest: bytes) -> None:
    with suppress(NotRead):
        assert look(start + rest).width > 0


def test_a_decoder_that_dies_costs_one_picture(reader: PictureReader) -> None:
    pixels(reader, saved(drawn(5, 5, 5)))
    assert reader._child.pid is not None
    os.kill(reader._child.pid, signal.SIGKILL)
    assert pixels(reader, saved(drawn(5, 5, 6))).shape == (SIDE, SIDE, 3)


def test_pictures_that_come_again_are_not_decoded_again(reader: PictureReader) -> None:
    file = PictureFile(data=saved(drawn(30, 30, 77)))
    (first,) = reader.read([file])
    reader.close()
    assert reader.read([file])[0] is first
    assert reader._child.pid is None


@settings(max_examples=60, deadline=None)
@given(
    width=st.integers(1, 400),
    height=st.integers(1, 400),
    tile=st.sampled_from([16, 30]),
    times=st.sampled_from([1, 2, 3]),
    split=st.booleans(),
)
def test_tiles_are_those_of_transformers_for_every_aspect_ratio(
    width: int, height: int, tile: int, times: int, split: bool
) -> None:
    config = {
        **IDEFICS3,
        "size": {"longest_edge": tile * times},
        "max_image_size": {"longest_edge": tile},
        "do_image_splitting": split,
    }
    image = drawn(width, height)
    ours = cut(image, recipe_of(config), pieces=split)
    hf: Any = Idefics3ImageProcessorPil(
        **{k: v for k, v in config.items() if k != "image_processor_type"}
    )
    out = hf(
        image,
        do_rescale=False,
        do_normalize=False,
        return_row_col_info=True,
        return_tensors="np",
    )
    want = np.asarray(out["pixel_values"])[0].transpose(0, 2, 3, 1).astype(np.uint8)
    np.testing.assert_array_equal(np.stack([np.asarray(one) for one in ours.images]), want)
    assert (ours.rows, ours.columns) == (out["rows"][0][0], out["cols"][0][0])


@settings(max_examples=60, deadline=None)
@given(width=st.integers(1, 700), height=st.integers(1, 700), smallest=st.sampled_from([8, 100]))
def test_crops_are_those_of_transformers_for_every_aspect_ratio(
    width: int, height: int, smallest: int
) -> None:
    recipe = replace(recipe_of(GEMMA3), smallest_crop=smallest)
    image = drawn(width, height)
    ours = cut(image, recipe, pieces=True)
    hf: Any = Gemma3ImageProcessorPil(size={"height": SIDE, "width": SIDE})
    out = hf(
        image,
        do_rescale=False,
        do_normalize=False,
        do_convert_rgb=True,
        do_pan_and_scan=True,
        pan_and_scan_min_crop_size=smallest,
        pan_and_scan_max_num_crops=4,
        pan_and_scan_min_ratio_to_activate=1.2,
        return_tensors="np",
    )
    want = np.asarray(out["pixel_values"]).transpose(0, 2, 3, 1).astype(np.uint8)
    np.testing.assert_array_equal(np.stack([np.asarray(one) for one in ours.images]), want)
    assert ours.rows * ours.columns == out["num_crops"][0]


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"do_resize": False}, "do_resize = 'False'"),
        ({"resample": "lanczos"}, "resample = 'lanczos'"),
        ({"max_image_size": {"longest_edge": 0}}, "size = "),
        ({"image_processor_type": "Qwen2VLImageProcessor"}, "'Qwen2VLImageProcessor'"),
    ],
)
def test_a_recipe_that_is_not_known_says_why(
    tmp_path: Path, changed: dict[str, Any], says: str
) -> None:
    from tests.pictures.making import IDEFICS3_PROMPT, side, write

    write(tmp_path, "idefics3", {**IDEFICS3, **changed}, IDEFICS3_PROMPT)
    text = side(tmp_path)
    assert text.pictures is None
    assert says in text.no_pictures


def test_a_tower_in_a_gguf_file_has_the_recipe_of_its_processor() -> None:
    gemma = of_tower("gemma3", 32, 5, None)
    assert recipe_of(dict(gemma.image)) == recipe_of(GEMMA3)
    assert gemma.config == {"image_seq_length": 5}
    whole = of_tower("idefics3", 32, 4, 64)
    assert recipe_of(dict(whole.image)) == recipe_of(IDEFICS3)
    assert whole.config == {"image_seq_len": 4}
    uncut = recipe_of(dict(of_tower("idefics3", 32, 4, None).image))
    assert not uncut.pieces  # the file does not say how large a picture is before it is cut
    assert recipe_of({**IDEFICS3, "do_image_splitting": False}) == replace(uncut, longest=64)
