"""Moondream, whose files say nothing of pictures and conversations: prompts and pixels are those of
its authors' code, from safetensors and from GGUF, and answers those of the oracle."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from msgspec.structs import replace as changed
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import PreTrainedTokenizerFast, SiglipVisionConfig, SiglipVisionModel

import rbee_worker
from rbee_worker.checkpoint import open_checkpoint
from rbee_worker.checkpoint.formats import Packed, TensorInfo
from rbee_worker.config import Settings
from rbee_worker.errors import InvalidRequest, ModelError, UnsupportedModel
from rbee_worker.models import build_model, plan_model
from rbee_worker.ops.plan import PlanOps
from rbee_worker.ops.reference.model import ReferenceModel
from rbee_worker.ops.reference.ops import ReferenceOps
from rbee_worker.session.prepare import prepare, rules_of
from rbee_worker.session.prepared import Prepared
from rbee_worker.session.text import TextSide, open_text
from rbee_worker.types import Detail, PictureFile, Request
from rbee_worker.verify.compare import relative_error
from tests import seeing
from tests.moondream import COLOURS, PROJECTION, TEXT, VISUAL, Moondream
from tests.pictures.making import INFO, drawn, saved, tiles_of, tokenizer_json

END = "<|endoftext|>"
SIDE, ROWS = 20, 16
ASKED = "What is  it?\n"


def written(folder: Path) -> Moondream:
    """A whole small Moondream on disk, with a tokenizer's files as the authors publish them: no
    template, no token for pictures. The vocabulary has fewer tokens than the model has rows."""
    made = tokenizer_json(())
    assert END in {token["content"] for token in made["added_tokens"]}
    size = 1 + max(*made["model"]["vocab"].values(), *(t["id"] for t in made["added_tokens"]))
    text = {k: v for k, v in seeing.TEXT.items() if not k.endswith(("_token_id", "_value_heads"))}
    text |= {"vocab_size": size + 8, "partial_rotary_factor": 0.5}
    torch.manual_seed(5)
    vision = seeing.VISION | {"image_size": SIDE, "patch_size": 5}
    model = Moondream(text, vision, place=size, inside="text_config")
    model.train(False)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim > 1 and "embed" not in name:
                weight.mul_(3.0)
    model.save_pretrained(folder)
    (folder / "tokenizer.json").write_text(json.dumps(made))
    said = {"tokenizer_class": "CodeGenTokenizer", "bos_token": END, "eos_token": END}
    (folder / "tokenizer_config.json").write_text(json.dumps(said))
    return model


class Opened:
    """The model of `written`, its files and its text side."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.model = written(folder)
        self.ckpt = open_checkpoint(str(folder))
        self.text = open_text(self.ckpt)
        self.hf: Any = PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"))  # type: ignore[no-untyped-call]
        self.end = int(self.hf.convert_tokens_to_ids(END))

    def ids(self, text: str) -> list[int]:
        found: list[int] = self.hf.encode(text, add_special_tokens=False)
        return found

    def shown(self, text: str) -> list[int]:
        """The ids of a prompt with a picture, as the authors' code puts them together."""
        return [self.end, *[self.model.place] * ROWS, *self.ids(text)]


@pytest.fixture(scope="module")
def opened(tmp_path_factory: Any) -> Iterator[Opened]:
    made = Opened(tmp_path_factory.mktemp("moondream"))
    yield made
    made.text.close()


def asked(text: TextSide, given: Request) -> Prepared:
    return prepare(given, text, rules_of(text, INFO, Settings()))


def conversation(*files: bytes, turns: tuple[str, ...] = (ASKED,)) -> Request:
    """turns: of a person and the model; the pictures are beside the first."""
    first = [{"type": "text", "text": turns[0]}, *[{"type": "image"}] * len(files)]
    roles = ("user", "assistant")
    messages: tuple[dict[str, Any], ...] = (
        {"role": "user", "content": first},
        *({"role": roles[n % 2], "content": said} for n, said in enumerate(turns) if n),
    )
    pictures = tuple(PictureFile(data=f, field=f"images[{n}]") for n, f in enumerate(files))
    return Request(id="1", messages=messages, pictures=pictures, surface="chat")


def test_the_tower_of_the_oracle_is_transformers_siglip() -> None:
    for name in ("moondream", "moondream-1"):
        model: Moondream = seeing.oracle(name)
        hf: Any = SiglipVisionModel(
            SiglipVisionConfig(**model.vision, layer_norm_eps=1e-5, vision_use_head=False)
        )
        hf.double().load_state_dict(_siglip(model, {*hf.state_dict()}))
        pixels = torch.randn(COLOURS, *[seeing.BY_ID[name].side] * 2, dtype=torch.float64)
        with torch.inference_mode():
            rows = hf.eval()(pixel_values=pixels[None]).last_hidden_state[0]
            bent = torch.nn.functional.gelu(model.fc1.double()(rows), approximate="tanh")
            want = model.fc2.double()(bent)
            got = model.features(pixels)
        model.fc1.float()
        model.fc2.float()
        assert relative_error(got.numpy(), want.numpy()) < 1e-12


def _siglip(model: Moondream, names: set[str]) -> dict[str, torch.Tensor]:
    """The tower's tensors under transformers' names."""
    prefix = "vision_model." if any(n.startswith("vision_model.") for n in names) else ""
    renamed = {
        "norm1": "layer_norm1",
        "norm2": "layer_norm2",
        "attn.proj": "self_attn.out_proj",
        "mlp.fc1": "mlp.fc1",
        "mlp.fc2": "mlp.fc2",
    }
    size, out = model.vision["patch_size"], {}
    for name, tensor in model.published().items():
        if not name.startswith(f"{VISUAL}."):
            continue
        rest = name.removeprefix(f"{VISUAL}.")
        stem, _, kind = rest.rpartition(".")
        if rest == "pos_embed":
            out["embeddings.position_embedding.weight"] = tensor[0]
        elif stem == "patch_embed.linear":
            shaped = tensor.reshape(-1, COLOURS, size, size) if kind == "weight" else tensor
            out[f"embeddings.patch_embedding.{kind}"] = shaped
        elif stem == "norm":
            out[f"post_layernorm.{kind}"] = tensor
        else:
            _, number, *inner = stem.split(".")
            at = f"encoder.layers.{number}"
            if inner == ["attn", "qkv"]:
                for part, rows in zip("qkv", tensor.chunk(3), strict=True):
                    out[f"{at}.self_attn.{part}_proj.{kind}"] = rows
            else:
                out[f"{at}.{renamed['.'.join(inner)]}.{kind}"] = tensor
    return {prefix + name: tensor.double() for name, tensor in out.items()}


@pytest.mark.parametrize("name", ["moondream", "moondream-1"])
def test_the_features_are_those_of_the_oracle(name: str, tmp_path: Path) -> None:
    path = seeing.write(name, tmp_path)
    model = ReferenceModel(build_model(open_checkpoint(str(path)), ReferenceOps()))
    tile = seeing.pixels(name, 1, 3)[0]
    pixels = (torch.from_numpy(tile).permute(2, 0, 1).double() / 255 - 0.5) / 0.5
    with torch.inference_mode():
        want = seeing.oracle(name).features(pixels)
    assert relative_error(model.see(tile).numpy(), want.numpy()) < 2e-6


def test_a_question_with_a_picture(opened: Opened) -> None:
    image = drawn(70, 40)
    got = asked(opened.text, conversation(saved(image)))
    assert list(got.prompt_ids) == opened.shown(f"\n\nQuestion: {ASKED}\n\nAnswer:")
    (picture,) = got.pictures
    want = np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BICUBIC))
    np.testing.assert_array_equal(tiles_of(picture.pixels, picture.shape)[0], want)
    assert picture.places == ((1, ROWS),)
    assert got.resolved.params.stop == ("<END>",)
    assert got.resolved.origins["stop"] == "chat_format"
    assert opened.end in {token.id for token in opened.text.eos}


def test_detail_changes_nothing(opened: Opened) -> None:
    request = conversation(saved(drawn(400, 40)))
    details: tuple[Detail, ...] = ("auto", "low", "high")
    made = []
    for detail in details:
        pictures = tuple(changed(one, detail=detail) for one in request.pictures)
        made.append(asked(opened.text, changed(request, pictures=pictures)).pictures)
    assert made[0] == made[1] == made[2]


def test_a_conversation_goes_on_as_the_authors_write_it(opened: Opened) -> None:
    turns = ("What is it?", "A dog.", "Which colour?")
    history = "Question: What is it?\n\nAnswer: A dog.\n\n"
    asks = f"\n\n{history}Question: Which colour?\n\nAnswer:"
    got = asked(opened.text, conversation(saved(drawn(9, 9)), turns=turns))
    assert list(got.prompt_ids) == opened.shown(asks)
    alone = asked(opened.text, conversation(turns=turns))
    assert list(alone.prompt_ids) == [opened.end, *opened.ids(asks)]


def test_a_prompt_of_its_own_begins_with_the_first_token(opened: Opened) -> None:
    files = (PictureFile(data=saved(drawn(9, 9)), field="images[0]"),)
    for start in ("", END):
        got = asked(opened.text, Request(id="1", prompt=f"{start}<image>a dog", pictures=files))
        assert list(got.prompt_ids) == opened.shown("a dog")


def test_what_its_format_has_not_is_refused(opened: Opened) -> None:
    two = [saved(drawn(9, 9, seed)) for seed in (0, 1)]
    with pytest.raises(InvalidRequest) as caught:
        asked(opened.text, conversation(*two))
    (error,) = caught.value.errors
    assert error.field == "images[1]"
    assert error.message == "is picture 2 of 2; this model reads 1 in a prompt"
    system = ({"role": "system", "content": "x"}, {"role": "user", "content": "y"})
    with pytest.raises(InvalidRequest, match="Moondream's chat format has no system messages"):
        asked(opened.text, Request(id="1", messages=system, surface="chat"))


def test_a_template_of_the_files_counts(opened: Opened) -> None:
    (note,) = opened.ckpt.notes
    assert note.startswith("the files have no chat template: conversations are written as Moon")
    said = opened.folder / "tokenizer_config.json"
    before = json.loads(said.read_text())
    said.write_text(json.dumps(before | {"chat_template": "mine"}))
    try:
        other = open_checkpoint(str(opened.folder))
    finally:
        said.write_text(json.dumps(before))
    assert (other.tokenizer_config["chat_template"], other.notes) == ("mine", ())


def test_gguf_files_have_the_same_prompts(opened: Opened, tmp_path: Path) -> None:
    """As the authors' script writes them: a name for every row that no token has."""
    made = json.loads((opened.folder / "tokenizer.json").read_text())
    size = opened.model.text["vocab_size"]
    tokens = [f"[PAD{n}]" for n in range(size)]
    kinds = [int(gguf.TokenType.USER_DEFINED)] * size
    for piece, n in made["model"]["vocab"].items():
        tokens[n], kinds[n] = piece, int(gguf.TokenType.NORMAL)
    for token in made["added_tokens"]:
        tokens[token["id"]], kinds[token["id"]] = token["content"], int(gguf.TokenType.CONTROL)
    merges = [m if isinstance(m, str) else " ".join(m) for m in made["model"]["merges"]]
    opened.model.write_tower(tmp_path / "mmproj.gguf", {})
    for template in ({}, {"tokenizer.chat_template": "vicuna"}):
        opened.model.write_text(
            tmp_path / "model.gguf",
            **{
                "tokenizer.ggml.model": "gpt2",
                "tokenizer.ggml.pre": "llama-bpe",
                "tokenizer.ggml.tokens": tokens,
                "tokenizer.ggml.token_type": kinds,
                "tokenizer.ggml.merges": merges,
            },
            **template,
            ids={"bos": opened.end, "eos": opened.end},
        )
        ckpt = open_checkpoint(str(tmp_path / "model.gguf"))
        assert ckpt.arch == "moondream1"
        text = open_text(ckpt)
        try:
            assert text.pictures is not None, text.no_pictures
            for request in (conversation(saved(drawn(9, 9))), conversation(turns=("a", "b", "c"))):
                got, want = asked(text, request), asked(opened.text, request)
                assert got.prompt_ids == want.prompt_ids
                assert got.pictures == want.pictures
        finally:
            text.close()


@pytest.mark.slow
def test_answers_are_those_of_the_oracle(opened: Opened) -> None:
    """From the file of a picture to the last token, in the worker's own engine."""
    image, count = drawn(40, 33), 10
    like = {"temperature": 0, "max_tokens": count, "ignore_eos": True}
    with rbee_worker.load(str(opened.folder), backend="reference", dtype="f32") as model:
        assert model.info.purpose.pictures
        found = model.chat(ASKED, images=[saved(image)], **like)
    small = image.resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    pixels = (torch.from_numpy(np.asarray(small).copy()).permute(2, 0, 1).float() / 255 - 0.5) / 0.5
    ids = opened.shown(f"\n\nQuestion: {ASKED}\n\nAnswer:")
    with torch.inference_mode():
        for _ in range(count):
            logits = opened.model(torch.tensor([ids]), pixels[None, None]).logits[0, -1]
            ids.append(int(logits.argmax()))
    assert list(found.token_ids) == ids[-count:]


class Shapes:
    """Tensors of which only the shapes are known."""

    def __init__(self, shapes: dict[str, tuple[int, ...]]) -> None:
        self.shapes = shapes

    def names(self) -> list[str]:
        return list(self.shapes)

    def info(self, name: str) -> TensorInfo:
        shape = self.shapes[name]
        return TensorInfo("F16", shape, 2 * int(np.prod(shape)))

    def read(self, name: str) -> Packed:
        info = self.info(name)
        assert len(info.shape) == 1, "only small tensors are read for a plan"
        return Packed(np.zeros((1, info.nbytes), np.uint8), info.format, info.shape)

    def release(self) -> None:
        pass


def published() -> dict[str, tuple[int, ...]]:
    """The shapes of vikhyatk/moondream2's tensors, under today's names."""
    dim, inner, tower, bent = 2048, 8192, 1152, 4304
    out: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (51200, dim),
        "lm_head.weight": (51200, dim),
        "lm_head.bias": (51200,),
        "vision_tower.embeddings.position_embedding.weight": (1, 729, tower),
    }

    def linear(name: str, rows: int, cols: int) -> None:
        out[f"{name}.weight"], out[f"{name}.bias"] = (rows, cols), (rows,)

    def norm(name: str, width: int) -> None:
        out[f"{name}.weight"] = out[f"{name}.bias"] = (width,)

    norm("model.final_layernorm", dim)
    for n in range(24):
        at = f"model.layers.{n}"
        norm(f"{at}.input_layernorm", dim)
        linear(f"{at}.self_attn.qkv_proj", 3 * dim, dim)
        linear(f"{at}.self_attn.dense", dim, dim)
        linear(f"{at}.mlp.fc1", inner, dim)
        linear(f"{at}.mlp.fc2", dim, inner)
    linear("vision_tower.embeddings.patch_embedding", tower, 588)
    norm("vision_tower.post_layernorm", tower)
    for n in range(27):
        at = f"vision_tower.encoder.layers.{n}"
        norm(f"{at}.layer_norm1", tower)
        linear(f"{at}.self_attn.qkv_proj", 3 * tower, tower)
        linear(f"{at}.self_attn.out_proj", tower, tower)
        norm(f"{at}.layer_norm2", tower)
        linear(f"{at}.mlp.fc1", bent, tower)
        linear(f"{at}.mlp.fc2", tower, bent)
    linear("projection.mlp.fc1", inner, tower)
    linear("projection.mlp.fc2", dim, inner)
    return out


def test_the_published_sizes_need_no_config(opened: Opened) -> None:
    """Its config.json says nothing but the kind; its page counts 1.86 billion parameters."""
    config = {"model_type": "moondream1"}
    whole = replace(opened.ckpt, config=config, source=Shapes(published()))
    plan = plan_model(whole, PlanOps("f16"))
    assert plan.tower is not None
    assert (plan.tower.side, plan.tower.spec.rows, plan.context) == (378, 729, 2048)
    assert round(plan.n_parameters / 1e9, 2) == 1.86
    assert plan.n_parameters == sum(int(np.prod(s)) for s in published().values())
    assert not plan.notes


def test_later_models_of_the_same_type_are_named(opened: Opened, tmp_path: Path) -> None:
    shapes = published() | {"projection.mlp.fc1.weight": (8192, 2304)}
    config = {"model_type": "moondream1"}
    two = replace(opened.ckpt, config=config, source=Shapes(shapes))
    with pytest.raises(UnsupportedModel, match="joins two views of each picture"):
        plan_model(two, PlanOps("f16"))
    last = {"model.text.wte": (51200, 2048), "model.vision.pos_emb": (1, 729, 1152)}
    with pytest.raises(UnsupportedModel, match="a Moondream of 2025, another model"):
        plan_model(replace(two, source=Shapes(last)), PlanOps("f16"))


def test_a_block_too_many_is_refused(opened: Opened, tmp_path: Path) -> None:
    """llama.cpp's files have one that counts for nothing, others do not."""
    for file in opened.folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    tensors = load_file(tmp_path / "model.safetensors")
    tensors[f"{VISUAL}.blocks.2.norm1.weight"] = torch.ones(48)
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match="1 tensors do not belong to this architecture"):
        build_model(open_checkpoint(str(tmp_path)), ReferenceOps())


def test_the_names_are_the_published_ones() -> None:
    names = {*seeing.oracle("moondream").published()}
    assert {f"{TEXT}.h.0.mixer.Wqkv.weight", f"{PROJECTION}.fc1.bias"} <= names
