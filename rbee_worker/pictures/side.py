"""`PictureSide`: what the text side knows of a model's pictures. From files and a prompt with
placeholders to the prompt's ids and the pictures in their places."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rbee_worker.checkpoint import Checkpoint
from rbee_worker.errors import FieldError, InvalidRequest, ModelError
from rbee_worker.pictures.limits import Limits
from rbee_worker.pictures.picture import Picture
from rbee_worker.pictures.prompt import PROMPTS, Find, PicturePrompt
from rbee_worker.pictures.reader import PictureReader, Tiles
from rbee_worker.pictures.recipe import processor_of, read_recipe
from rbee_worker.types import PictureFile


@dataclass(frozen=True)
class PictureSide:
    """reader: from files to tiles. prompt: how pictures are written."""

    reader: PictureReader
    prompt: PicturePrompt

    @property
    def placeholder(self) -> str:
        """What stands for a picture in a prompt."""
        return self.prompt.placeholder

    def read(self, files: Sequence[PictureFile]) -> tuple[Tiles, ...]:
        """The pictures of one prompt, resized and cut. Raises InvalidRequest, which names every
        file at fault."""
        most = self.prompt.most
        if most is not None and len(files) > most:
            message = f"is picture {most + 1} of {len(files)}; this model reads {most} in a prompt"
            limit = f"<= {most} picture{'s' if most > 1 else ''}"
            raise InvalidRequest([FieldError(files[most].field, limit, message)])
        return self.reader.read(files)

    def written(self, text: str, tiles: Sequence[Tiles], field: str) -> str:
        """`text` with each placeholder replaced by the text of its picture. field: that the text
        comes from. Raises InvalidRequest unless there is one placeholder for each picture."""
        parts = text.split(self.placeholder)
        if len(parts) - 1 != len(tiles):
            raise InvalidRequest([self._miscounted(len(parts) - 1, len(tiles), field)])
        written = [self.prompt.write(one.grid) for one in tiles]
        return "".join(a + b for a, b in zip(parts, [*written, ""], strict=True))

    def placed(self, ids: Sequence[int], tiles: Sequence[Tiles], field: str) -> tuple[Picture, ...]:
        """The pictures with the positions of their tokens in `ids`, in order. Raises InvalidRequest
        if there are more or fewer such tokens than the pictures have rows."""
        token, rows = self.prompt.token_id, self.prompt.rows
        at = [n for n, i in enumerate(ids) if i == token]
        wanted = [one.shape[0] * rows for one in tiles]
        if sum(wanted) != len(at):
            message = (
                f"has {len(at)} tokens {self.prompt.token} where its {len(tiles)} pictures take "
                f"{sum(wanted)}: only pictures may bring them"
            )
            raise InvalidRequest([FieldError(field, "a picture for each placeholder", message)])
        pictures, start = [], 0
        for one, count in zip(tiles, wanted, strict=True):
            places = runs(at[start : start + count])
            start += count
            pictures.append(
                Picture(pixels=one.pixels, shape=one.shape, places=places, digest=one.digest)
            )
        return tuple(pictures)

    def _miscounted(self, found: int, pictures: int, field: str) -> FieldError:
        what = f"{self.placeholder} stands for a picture"
        message = f"has {found} of them for {pictures} pictures ({what})"
        return FieldError(field, "a placeholder for each picture", message)

    def close(self) -> None:
        """End the process that decodes."""
        self.reader.close()


def runs(positions: Sequence[int]) -> tuple[tuple[int, int], ...]:
    """Ascending positions as (first, count) of their neighbours."""
    found: list[list[int]] = []
    for at in positions:
        if found and at == sum(found[-1]):
            found[-1][1] += 1
        else:
            found.append([at, 1])
    return tuple((first, count) for first, count in found)


def open_pictures(ckpt: Checkpoint, find: Find, limits: Limits) -> PictureSide | str:
    """The side of pictures of a checkpoint; or why it has none, "" if its files say nothing of
    pictures: the model reads text in any case. find: the id of a token's text."""
    image, config = ckpt.processor.image, ckpt.processor.config
    try:
        processor = processor_of(image)
        if processor is None:
            return ""
        prompt = PROMPTS[processor.prompt](config, ckpt.tokenizer_config, find)
        return PictureSide(PictureReader(read_recipe(image, processor), limits), prompt)
    except ModelError as error:
        return error.message.rstrip(".")
