"""The process that decodes pictures: `python -I picture_child.py DIR.. CPU_S MEMORY`.

A picture comes with a request and is not trusted, and its decoders are large programs in C. Here
they have no files, no new processes, and limits on memory and time: a fault costs this process.

In: {"recipe", "pieces", "most": pixels}, with the file attached. Out: {}, then {"shape", "rows",
"columns"} with the tiles attached, or {"fault": kind, "said": a few words}.
"""

from __future__ import annotations

import io
import sys
from typing import Any

# Pillow's modes that have 8 bits a channel, or 1.
_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "La", "RGBa")


def main(argv: list[str]) -> None:
    """Serve frames until the input ends."""
    *paths, cpu_s, memory = argv
    sys.path[:0] = paths  # before any other copy of the worker
    from rbee_worker.tokenizer.render_child import serve

    decoder = _Decoder()
    decoder.warm_up()
    serve(decoder.answer, float(cpu_s), int(memory))


class _Decoder:
    """Pillow, and what is asked of it."""

    def __init__(self) -> None:
        import msgspec
        from PIL import Image, ImageOps

        from rbee_worker.pictures.cutting import cut
        from rbee_worker.pictures.recipe import Recipe

        Image.MAX_IMAGE_PIXELS = None  # `most` holds instead
        self._image, self._ops, self._cut = Image, ImageOps, cut
        self._convert, self._recipe = msgspec.convert, Recipe

    def warm_up(self) -> None:
        """Import all that is imported late, while files can still be opened."""
        from PIL import (  # noqa: F401
            JpegImagePlugin,
            MpoImagePlugin,
            PngImagePlugin,
            TiffImagePlugin,
            WebPImagePlugin,
        )

        recipe = {"cutting": "crops", "height": 8, "width": 8, "resample": 1}
        for kind in ("PNG", "JPEG", "WEBP"):
            file, exif = io.BytesIO(), self._image.Exif()
            exif[0x0112] = 6  # on its side
            self._image.new("RGB", (4, 2)).save(file, kind, exif=exif)
            asked = {"recipe": recipe, "pieces": False, "most": 64, "attached": file.getvalue()}
            assert "fault" not in self.answer(asked)

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """The frame that answers `request`. Never raises."""
        try:
            return self._answer(request)
        except MemoryError:
            return {"fault": "memory", "said": ""}
        except Exception as error:  # whatever a damaged file makes of the decoders
            return {"fault": "damaged", "said": str(error)}

    def _answer(self, request: dict[str, Any]) -> dict[str, Any]:
        image = self._image.open(io.BytesIO(request["attached"]), formats=("PNG", "JPEG", "WEBP"))
        if image.width * image.height > request["most"]:
            return {"fault": "pixels", "said": f"{image.width} x {image.height}"}
        frames = getattr(image, "n_frames", 1)
        if frames > 1 and image.format != "MPO":  # a camera's JPEG with a second view
            return {"fault": "animated", "said": str(frames)}
        if image.mode not in _MODES:
            return {"fault": "mode", "said": image.mode}
        image.load()
        recipe = self._convert(request["recipe"], self._recipe)
        cut = self._cut(self._upright(image), recipe, pieces=request["pieces"])
        width, height = cut.images[0].size
        return {
            "shape": [len(cut.images), height, width],
            "rows": cut.rows,
            "columns": cut.columns,
            "attached": b"".join(tile.tobytes() for tile in cut.images),
        }

    def _upright(self, image: Any) -> Any:
        """Turned as its EXIF data say, in red, green and blue; what is transparent lies on white,
        as in transformers' `convert_to_rgb`."""
        image = self._ops.exif_transpose(image)
        if "A" in image.getbands() or image.info.get("transparency") is not None:
            image = image.convert("RGBA")
            white = self._image.new("RGBA", image.size, (255, 255, 255, 255))
            image = self._image.alpha_composite(white, image)
        return image.convert("RGB")


if __name__ == "__main__":
    main(sys.argv[1:])
