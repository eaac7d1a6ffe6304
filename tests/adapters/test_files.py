"""What adapter files may say, and what is refused in one line that names it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from rbee_worker.adapter_spec import AdapterSpec, parse_specs, written
from rbee_worker.adapters import open_adapter, place
from rbee_worker.checkpoint import open_checkpoint
from rbee_worker.errors import UsageError, WorkerError
from rbee_worker.ops.adapted import Factors, Sites, matrices
from rbee_worker.ops.plan import PlanOps
from tests.adapters.made import Pairs, factors, places, plan_model, write_gguf_adapter, write_peft
from tests.archs import ARCHS, oracle, write_gguf, write_safetensors

ROWS = {arch.id: arch for arch in ARCHS}
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
Q = "model.layers.0.self_attn.q_proj"


class Base:
    """A model that adapters are checked against."""

    def __init__(self, path: Path, rank: int = 16) -> None:
        self.path, self.ckpt = path, open_checkpoint(str(path))
        plan = PlanOps("f32")
        plan.sites = self.sites = Sites(2, rank)
        plan_model(self.ckpt, plan)

    def take(self, path: Path, scale: float = 1.0) -> dict[str, Factors]:
        """The factors by the names of their maps."""
        placed = place(open_adapter(path, self.ckpt, scale), self.sites, self.ckpt.source)
        return {
            part.name: found
            for site in self.sites
            for part, found in zip(site.parts, placed.get(site.number, ()), strict=False)
            if found is not None
        }

    def refusal(self, path: Path) -> str:
        with pytest.raises(WorkerError) as caught:
            self.take(path)
        assert "\n" not in str(caught.value)
        assert caught.value.line.count("Fix:") == 1
        return str(caught.value)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Base:
    arch = ROWS["llama"]
    return Base(write_safetensors(oracle(arch), tmp_path_factory.mktemp("base") / "llama"))


@pytest.fixture(scope="module")
def pairs(base: Base) -> Pairs:
    return factors(places(base.path), 4, ends=("q_proj", "down_proj"))


def test_scales(base: Base, pairs: Pairs, tmp_path: Path) -> None:
    """PEFT's: alpha / r, with rsLoRA alpha / sqrt(r); for some maps the first pattern that fits."""
    found = base.take(write_peft(tmp_path / "plain", pairs, lora_alpha=6), 0.5)
    assert {f.scale for f in found.values()} == {0.5 * 6 / 4}
    found = base.take(write_peft(tmp_path / "rs", pairs, lora_alpha=6, use_rslora=True))
    assert {f.scale for f in found.values()} == {3.0}
    patterns = {"layers.1.self_attn.q_proj": 10, r"layers\.[12]\..*": 20}
    found = base.take(write_peft(tmp_path / "alpha", pairs, alpha_pattern=patterns))
    assert found[Q].scale == 2.0
    assert found["model.layers.1.self_attn.q_proj"].scale == 2.5
    assert found["model.layers.2.self_attn.q_proj"].scale == 5.0


def test_ranks_by_pattern(base: Base, tmp_path: Path) -> None:
    shapes = places(base.path)
    both = factors(shapes, 4, ends=("q_proj",)) | factors(shapes, 6, ends=("down_proj",))
    path = write_peft(tmp_path / "a", both, r=4, lora_alpha=12, rank_pattern={"down_proj": 6})
    found = base.take(path)
    assert (found[Q].rank, found[Q].scale) == (4, 3.0)
    down = found["model.layers.0.mlp.down_proj"]
    assert (down.rank, down.scale) == (6, 2.0)


@pytest.mark.parametrize(
    "targets", ["all-linear", r".*\.(q|down)_proj", ["q_proj", "mlp.down_proj"], ["all-linear"]]
)
def test_targets_are_what_has_factors(
    targets: Any, base: Base, pairs: Pairs, tmp_path: Path
) -> None:
    found = base.take(write_peft(tmp_path / "a", pairs, target_modules=targets))
    assert found.keys() == pairs.keys()
    a, b = pairs[Q]
    held_a, held_b = matrices(found[Q])
    assert np.array_equal(held_a[:4, :64], a)
    assert np.array_equal(held_b, b)


def test_settings_that_change_nothing(base: Base, pairs: Pairs, tmp_path: Path) -> None:
    plain = base.take(write_peft(tmp_path / "plain", pairs))
    inert = {
        "fan_in_fan_out": True,
        "lora_dropout": 0.1,
        "task_type": "CAUSAL_LM",
        "inference_mode": True,
        "init_lora_weights": "gaussian",
        "layers_to_transform": [0, 1, 2],
        "megatron_core": "megatron.core",
        "peft_version": "0.21.2",
        "use_bdlora": None,
        "a_setting_of_tomorrow": None,
    }
    found = base.take(write_peft(tmp_path / "inert", pairs, **inert))
    assert {n: f.scale for n, f in found.items()} == {n: f.scale for n, f in plain.items()}


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"use_dora": True}, "DoRA"),
        ({"use_qalora": True}, "QA-LoRA"),
        ({"bias": "all"}, "(bias)"),
        ({"bias": "lora_only"}, "(bias)"),
        ({"lora_bias": True}, "(lora_bias)"),
        ({"modules_to_save": ["lm_head"]}, "(modules_to_save)"),
        ({"trainable_token_indices": [1, 2]}, "(trainable_token_indices)"),
        ({"target_parameters": ["mlp.experts.gate_up_proj"]}, "(target_parameters)"),
        ({"layer_replication": [[0, 2], [1, 3]]}, "(layer_replication)"),
        ({"alora_invocation_tokens": [5]}, "(alora_invocation_tokens)"),
        ({"init_lora_weights": "pissa"}, "'pissa', which changes the base"),
        ({"init_lora_weights": "olora"}, "'olora', which changes the base"),
        ({"a_setting_of_tomorrow": 3}, "'a_setting_of_tomorrow'"),
        ({"peft_type": "LOHA"}, "'LOHA'"),
        ({"peft_type": None}, "not LORA"),
        ({"r": 5}, "the rank is 5"),
        ({"r": "many"}, "no number"),
        ({"lora_alpha": None}, "no number"),
        ({"rank_pattern": {"q_proj": 3}}, "the rank is 3"),
        ({"alpha_pattern": {"(": 3}}, "no pattern"),
        ({"rank_pattern": {"(([a-z_.0-9])+)+X": 3}}, "too long to match"),
        ({"alpha_pattern": {".*.*.*.*X": 3}}, "too long to match"),
        ({"target_modules": ["q_proj"]}, "of no module in target_modules"),
    ],
)
def test_settings_that_are_refused(
    config: dict[str, Any], said: str, base: Base, pairs: Pairs, tmp_path: Path
) -> None:
    assert said in base.refusal(write_peft(tmp_path / "a", pairs, **config))


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("base_model.model.lm_head.weight", "a vocabulary of its own"),
        ("base_model.model.model.embed_tokens.weight", "a vocabulary of its own"),
        ("base_model.model.model.embed_tokens.lora_embedding_A", "changes the embedding"),
        (f"base_model.model.{Q}.lora_magnitude_vector", "DoRA's"),
        (f"base_model.model.{Q}.lora_B.bias", "a bias"),
        ("base_model.model.model.norm.weight", "no factor"),
    ],
)
def test_tensors_that_are_refused(
    name: str, said: str, base: Base, pairs: Pairs, tmp_path: Path
) -> None:
    path = write_peft(tmp_path / "a", pairs)
    tensors = load_file(path / WEIGHTS) | {name: np.zeros((211, 64), np.float32)}
    save_file(tensors, path / WEIGHTS)
    told = base.refusal(path)
    assert said in told
    assert name in told


def test_another_base(base: Base, pairs: Pairs, tmp_path: Path) -> None:
    wide = {n: (np.zeros((4, 80), np.float32), b) for n, (_, b) in pairs.items()}
    told = base.refusal(write_peft(tmp_path / "wide", wide))
    assert f"base_model.model.{Q}.lora_A.weight" in told or "down_proj" in told
    assert "factor A is [4, 80], but this model's map takes [4, " in told
    long = {n: (a, np.zeros((72, 4), np.float32)) for n, (a, _) in pairs.items()}
    assert "factor B is [72, 4]" in base.refusal(write_peft(tmp_path / "long", long))
    other = {n.replace("layers.0", "layers.7"): p for n, p in pairs.items()}
    told = base.refusal(write_peft(tmp_path / "deep", other))
    assert "layers.7" in told
    assert "(it was trained on 'tests/base')" in told
    for module in ("lm_head", "model.embed_tokens"):
        rows = {module: (np.zeros((4, 64), np.float32), np.zeros((211, 4), np.float32))}
        told = base.refusal(write_peft(tmp_path / module, rows))
        assert f"tensor 'base_model.model.{module}.lora_A.weight': embeddings, output heads" in told


def test_damage(base: Base, pairs: Pairs, tmp_path: Path) -> None:
    path = write_peft(tmp_path / "a", pairs)
    whole = load_file(path / WEIGHTS)
    gone = f"base_model.model.{Q}.lora_B.weight"
    save_file({n: t for n, t in whole.items() if n != gone}, path / WEIGHTS)
    assert f"{gone!r} is missing" in base.refusal(path)
    save_file(whole | {gone: np.full_like(whole[gone], np.inf)}, path / WEIGHTS)
    assert "not finite" in base.refusal(path)
    save_file({}, path / WEIGHTS)
    assert "has no factors" in base.refusal(path)
    (path / WEIGHTS).write_bytes(b"nothing")
    assert WEIGHTS in base.refusal(path)
    (path / WEIGHTS).unlink()
    assert f"has no {WEIGHTS}" in base.refusal(path)
    (path / CONFIG).write_text("[]")
    assert CONFIG in base.refusal(path)
    (path / CONFIG).unlink()
    assert "not an adapter" in base.refusal(path)
    assert "more than --lora-rank" in Base(base.path, rank=3).refusal(
        write_peft(tmp_path / "b", pairs)
    )


def test_experts_are_refused_by_name(tmp_path: Path) -> None:
    mixtral = Base(write_safetensors(oracle(ROWS["mixtral"]), tmp_path / "base"))
    name = "model.layers.0.block_sparse_moe.experts.0.w1"
    rows = {name: (np.zeros((4, 64), np.float32), np.zeros((96, 4), np.float32))}
    told = mixtral.refusal(write_peft(tmp_path / "a", rows))
    assert name in told
    assert "experts" in told


def test_gguf_files(base: Base, pairs: Pairs, tmp_path: Path) -> None:
    llama, phi = ROWS["llama"], ROWS["phi3-short"]
    good = write_gguf_adapter(tmp_path / "good.gguf", llama, pairs, 6.0)
    found = base.take(good)
    assert {f.scale for f in found.values()} == {1.5}
    assert np.array_equal(matrices(found[Q])[1], pairs[Q][1])  # rows are back in order
    as_is = write_gguf_adapter(tmp_path / "unscaled.gguf", llama, pairs, 0.0)
    assert {f.scale for f in base.take(as_is, 0.5).values()} == {0.5}
    half = write_gguf_adapter(tmp_path / "half.gguf", llama, pairs, 6.0, drop="q.weight.lora_b")
    assert "'blk.0.attn_q.weight.lora_b' is missing" in base.refusal(half)
    model = write_gguf(llama, oracle(llama), tmp_path / "model.gguf")
    assert "a model, not an adapter" in base.refusal(model)
    fused = Base(write_safetensors(oracle(phi), tmp_path / "phi"))
    assert "an adapter of llama, but the base is phi3" in fused.refusal(good)
    qkv = factors(places(fused.path), 4, ends=("qkv_proj",))
    other = write_gguf_adapter(tmp_path / "phi.gguf", phi, qkv, 6.0)
    assert fused.take(other).keys() == qkv.keys()
    assert "an adapter of phi3, but the base is llama" in base.refusal(other)


def test_kinds_of_files_that_differ_in_their_maps(tmp_path: Path) -> None:
    """Falcon's rows are regrouped on conversion: an adapter for one kind is wrong for the other."""
    arch = next(a for a in ARCHS if a.id.startswith("falcon") and a.gguf_arch is not None)
    packed = Base(write_gguf(arch, oracle(arch), tmp_path / "falcon.gguf"))
    files = write_safetensors(oracle(arch), tmp_path / "falcon")
    pairs = factors(places(files), 2, ends=("query_key_value",))
    told = packed.refusal(write_peft(tmp_path / "a", pairs))
    assert "a PEFT adapter, but the base is a GGUF file of falcon" in told
    assert Base(files).take(tmp_path / "a").keys() == pairs.keys()


def test_digests_tell_contents_apart(base: Base, pairs: Pairs, tmp_path: Path) -> None:
    from rbee_worker.adapters import digest

    def of(path: Path, scale: float = 1.0) -> str:
        adapter = open_adapter(path, base.ckpt, scale)
        return digest(place(adapter, base.sites, base.ckpt.source))

    first = write_peft(tmp_path / "a", pairs)
    other = factors(places(base.path), 4, ends=("q_proj", "down_proj"), seed=9)
    keys = [of(first), of(first, 0.5), of(write_peft(tmp_path / "b", other))]
    assert len({*keys}) == 3
    assert of(write_peft(tmp_path / "c", pairs)) == keys[0]


def test_specs() -> None:
    specs = parse_specs("a=x/y;b=hf:o/m@v1,scale=0.5; ")
    assert specs == (
        AdapterSpec(name="a", ref="x/y"),
        AdapterSpec(name="b", ref="hf:o/m@v1", scale=0.5),
    )
    assert parse_specs(written(specs)) == specs
    wrong = ("a", "=x", "a=", "a b=x", "a=x;a=y", "a=x,scale=big", "a=x,scale=inf", "a/../b=x")
    for bad in wrong:
        with pytest.raises(UsageError):
            parse_specs(bad)
