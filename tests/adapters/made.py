"""Adapters for the tiny models of tests/archs, written as PEFT and llama.cpp write them, and what
they must give: transformers' own model with scale * B A added to its weights."""

from __future__ import annotations

import copy
import json
from collections.abc import Container, Mapping, Sequence
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from safetensors.numpy import save_file

from rbee_worker.adapter_spec import AdapterSpec, written
from rbee_worker.checkpoint import open_checkpoint
from rbee_worker.config import Settings
from rbee_worker.loading.adapters import adapters_of
from rbee_worker.loading.preflight import outline_of, preflight
from rbee_worker.models import build_model, plan_model
from rbee_worker.ops.adapted import Sites
from rbee_worker.ops.plan import PlanOps
from tests.archs import Arch, oracle
from tests.driver import Driver

Pairs = Mapping[str, tuple[np.ndarray, np.ndarray]]  # module -> A [rank, in], B [out, rank]
IDS = list(range(3, 40))


def places(path: Path) -> dict[str, tuple[int, int]]:
    """The maps of a checkpoint that adapters may change: name -> (rows, columns)."""
    plan = PlanOps("f32")
    plan.sites = Sites(1, 64)
    plan_model(open_checkpoint(str(path)), plan)
    return {part.name: (part.rows, site.cols) for site in plan.sites for part in site.parts}


def factors(
    shapes: Mapping[str, tuple[int, int]], rank: int, *, ends: Sequence[str] = ("",), seed: int = 0
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Random factors for the maps whose names have one of these ends, large enough to matter."""
    dice = np.random.default_rng(seed)
    return {
        name: (
            (dice.standard_normal((rank, cols)) / cols**0.5).astype(np.float32),
            (dice.standard_normal((rows, rank)) * 0.3).astype(np.float32),
        )
        for name, (rows, cols) in shapes.items()
        if name.endswith(tuple(ends))
    }


def write_peft(folder: Path, pairs: Pairs, *, kind: Any = np.float32, **config: Any) -> Path:
    """A directory as PEFT saves it; config: in place of the settings of a plain LoRA."""
    folder.mkdir(parents=True, exist_ok=True)
    rank = next(iter(pairs.values()))[0].shape[0] if pairs else 1
    said = {
        "peft_type": "LORA",
        "r": rank,
        "lora_alpha": 2 * rank,
        "target_modules": sorted({name.rpartition(".")[2] for name in pairs}),
        "bias": "none",
        "use_dora": False,
        "use_rslora": False,
        "fan_in_fan_out": False,
        "modules_to_save": None,
        "rank_pattern": {},
        "alpha_pattern": {},
        "init_lora_weights": True,
        "base_model_name_or_path": "tests/base",
        **config,
    }
    (folder / "adapter_config.json").write_text(json.dumps(said))
    tensors = {}
    for name, (a, b) in pairs.items():
        tensors[f"base_model.model.{name}.lora_A.weight"] = a.astype(kind)
        tensors[f"base_model.model.{name}.lora_B.weight"] = b.astype(kind)
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    return folder


def write_gguf_adapter(
    path: Path, arch: Arch, pairs: Pairs, alpha: float, *, drop: str = "", **metadata: Any
) -> Path:
    """A file as convert_lora_to_gguf.py writes it: the base's own names, and B's rows in the order
    that the base's converter gives them. drop: the end of a name that is left out."""
    config = oracle(arch).config
    names = gguf.get_tensor_name_map(arch.gguf_arch, config.num_hidden_layers)
    w = gguf.GGUFWriter(path, gguf.MODEL_ARCH_NAMES[arch.gguf_arch])
    w.add_type(gguf.GGUFType.ADAPTER)
    w.add_string("adapter.type", "lora")
    w.add_float32("adapter.lora.alpha", alpha)
    for key, value in metadata.items():
        w.add_string(key, value)
    rows = arch.convert({f"{name}.weight": b for name, (_, b) in pairs.items()}, config)
    for name, (a, _) in pairs.items():
        stem = names.get_name(name)
        for end, array in (("lora_a", a), ("lora_b", rows[f"{name}.weight"])):
            tensor = f"{stem}.weight.{end}"
            if not (drop and tensor.endswith(drop)):
                w.add_tensor(tensor, np.ascontiguousarray(array, np.float32))
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()
    return path


def merged(arch: Arch, pairs: Pairs, scale: float) -> torch.nn.Module:
    """transformers' model of the row with scale * B A added to the weights of these maps."""
    model = copy.deepcopy(oracle(arch))
    weights = dict(model.named_parameters())
    with torch.no_grad():
        for name, (a, b) in pairs.items():
            product = torch.from_numpy(b.astype(np.float64) @ a.astype(np.float64))
            weights[f"{inside_transformers(name, weights)}.weight"] += (scale * product).float()
    return model


def inside_transformers(name: str, known: Container[str]) -> str:
    """A map's name in transformers' own model, which differs from its files' for a few families.
    known: the names of the model's weights."""
    if f"{name}.weight" in known:
        return name
    return name.replace("block_sparse_moe.gate", "mlp.gate").replace("backbone.", "model.")


def expected(model: torch.nn.Module, ids: Sequence[int] = IDS) -> np.ndarray:
    """Its logits after each of these tokens: float32 [tokens, vocabulary]."""
    with torch.inference_mode():
        logits = model(torch.tensor([list(ids)])).logits[0]
    return np.asarray(logits.float().numpy())


class Adapted:
    """A model with adapters, run row by row without a scheduler."""

    def __init__(self, base: Path, adapters: Mapping[str, Path], backend: str, **more: Any) -> None:
        specs = [AdapterSpec(name=name, ref=str(path)) for name, path in adapters.items()]
        threads = 2 if backend == "cpu" else 1  # torch's would wait for each other here
        values = {"token_budget": 256, "threads": threads, "dtype": "f32", **more}
        settings = Settings(model=str(base), backend=backend, lora=written(specs), **values)
        ckpt = open_checkpoint(settings.model)
        plan = preflight(ckpt, settings)
        self.plan = plan.adapters
        longest = plan.model.context
        prepared = plan.backend.prepare(outline_of(ckpt, longest), settings, "f32", _untold)
        ops = plan.backend.ops(
            settings,
            plan.dtype,
            weight_bytes=plan.weight_bytes,
            progress=_untold,
            prepared=prepared,
        )
        model = build_model(ckpt, ops)
        loaded, self.infos = adapters_of(ckpt, ops, settings)
        self.slots = {"": 0}
        if loaded is not None:
            self.slots |= {info.name: loaded.slot(info.key) or 0 for info in self.infos}
        made = plan.backend.executable(model, settings, kv_dtype="f32", longest=longest)
        self._model: Any = _Model(made, ops)

    def logits(
        self, names: Sequence[str], ids: Sequence[int] = IDS, chunk: int = 0
    ) -> list[np.ndarray]:
        """Logits [tokens, vocabulary] of one sequence for each name, all in one step, or in steps
        of `chunk` tokens a sequence."""
        driver = Driver(self._model)
        seqs = [driver.start(list(ids)) for _ in names]
        found: list[list[np.ndarray]] = [[] for _ in names]
        for start in range(0, len(ids), chunk or len(ids)):
            counts = [(s, min(chunk or len(ids), len(ids) - start)) for s in seqs]
            driver.adapters = [self.slots[name] for name in names]
            for rows, part in zip(found, driver.feed(counts), strict=True):
                rows.append(part.numpy().copy())
        return [np.concatenate(rows) for rows in found]


class _Model:
    """What `Driver` needs of an executable."""

    def __init__(self, model: Any, ops: Any) -> None:
        self.groups, self.ops = model.groups, ops
        self.hidden, self.head = model.hidden, model.head


def _untold(*_: object) -> None:
    """Progress that nobody reads."""
