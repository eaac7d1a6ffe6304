"""The one expert layer against every mixture of Hugging Face's, tiny and in float32; and the ways
a checkpoint may lay experts out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import pytest
import torch
from torch import Tensor, nn
from transformers.models.deepseek_v2 import configuration_deepseek_v2 as v2_config
from transformers.models.deepseek_v2 import modeling_deepseek_v2 as v2
from transformers.models.deepseek_v3 import configuration_deepseek_v3 as v3_config
from transformers.models.deepseek_v3 import modeling_deepseek_v3 as v3
from transformers.models.gpt_oss import configuration_gpt_oss as oss_config
from transformers.models.gpt_oss import modeling_gpt_oss as oss
from transformers.models.granitemoe import configuration_granitemoe as granite_config
from transformers.models.granitemoe import modeling_granitemoe as granite
from transformers.models.llama4 import configuration_llama4 as llama4_config
from transformers.models.llama4 import modeling_llama4 as llama4
from transformers.models.mixtral import configuration_mixtral as mixtral_config
from transformers.models.mixtral import modeling_mixtral as mixtral
from transformers.models.phimoe import configuration_phimoe as phi_config
from transformers.models.phimoe import modeling_phimoe as phi
from transformers.models.qwen2_moe import configuration_qwen2_moe as qwen_config
from transformers.models.qwen2_moe import modeling_qwen2_moe as qwen

from rbee_worker.checkpoint.formats import Packed, TensorInfo
from rbee_worker.layers.linear import Linear
from rbee_worker.layers.mlp import GatedMLP
from rbee_worker.layers.moe import Experts, MoE
from rbee_worker.models.experts import load_biases, load_experts, load_fused
from rbee_worker.models.weights import Weights
from rbee_worker.ops import Routing
from rbee_worker.ops.batch import Batch
from rbee_worker.ops.plan import Outline, PlanOps
from rbee_worker.ops.reference.ops import ReferenceOps
from rbee_worker.verify.whole import whole_numbers
from tests.ops.reference.test_ops import pack

DIM, WIDTH, COUNT = 64, 40, 8


class Source:
    """Tensors by name."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self._packed = {n: pack(t.detach().float().contiguous()) for n, t in tensors.items()}

    def names(self) -> list[str]:
        return list(self._packed)

    def info(self, name: str) -> TensorInfo:
        p = self._packed[name]
        return TensorInfo(p.format, p.shape, p.data.nbytes)

    def read(self, name: str) -> Packed:
        return self._packed[name]


def weights(module: nn.Module) -> Weights:
    return Weights(Source(dict(module.state_dict())), ReferenceOps())


def gated(w: Weights, width: int) -> GatedMLP:
    return GatedMLP(
        w.ops,
        w.linear(("gate_proj", "up_proj"), DIM, (width, width)),
        w.linear("down_proj", width, DIM),
        "silu",
    )


def matrix(w: Weights, name: str, rows: int) -> Linear:
    return Linear(w.ops, w.matrix(name, rows, DIM), None, (rows,))


def fused(w: Weights, *, transposed: bool = False) -> Experts:
    """`experts.gate_up_proj` and `experts.down_proj`, as Hugging Face's modules hold them."""
    e = w.sub("experts")
    return Experts(
        w.ops,
        load_fused(e, "gate_up_proj", COUNT, DIM, 2 * WIDTH, transposed=transposed),
        load_fused(e, "down_proj", COUNT, WIDTH, DIM, transposed=transposed),
        "silu",
    )


def mixtral_of() -> tuple[nn.Module, Callable[[Weights], MoE]]:
    config = mixtral_config.MixtralConfig(
        hidden_size=DIM, intermediate_size=WIDTH, num_local_experts=COUNT, num_experts_per_tok=2
    )

    def build(w: Weights) -> MoE:
        return MoE(w.ops, matrix(w, "gate.weight", COUNT), Routing(2, normalise=True), fused(w))

    return mixtral.MixtralSparseMoeBlock(config), build


def qwen_of() -> tuple[nn.Module, Callable[[Weights], MoE]]:
    config = qwen_config.Qwen2MoeConfig(
        hidden_size=DIM,
        moe_intermediate_size=WIDTH,
        shared_expert_intermediate_size=56,
        num_experts=COUNT,
        num_experts_per_tok=3,
        norm_topk_prob=False,
    )

    def build(w: Weights) -> MoE:
        return MoE(
            w.ops,
            matrix(w, "gate.weight", COUNT),
            Routing(3),
            fused(w),
            shared=gated(w.sub("shared_expert"), 56),
            shared_gate=matrix(w, "shared_expert_gate.weight", 1),
        )

    return qwen.Qwen2MoeSparseMoeBlock(config), build


def deepseek_v2_of(method: str) -> tuple[nn.Module, Callable[[Weights], MoE]]:
    config = v2_config.DeepseekV2Config(
        hidden_size=DIM,
        moe_intermediate_size=WIDTH,
        n_routed_experts=COUNT,
        num_experts_per_tok=3,
        n_shared_experts=2,
        topk_method=method,
        n_group=4,
        topk_group=2,
        routed_scaling_factor=16.0,
    )
    groups = {"groups": 4, "top_groups": 2} if method == "group_limited_greedy" else {}

    def build(w: Weights) -> MoE:
        return MoE(
            w.ops,
            matrix(w, "gate.weight", COUNT),
            Routing(3, scale=16.0, **groups),
            fused(w),
            shared=gated(w.sub("shared_experts"), 2 * WIDTH),
        )

    return v2.DeepseekV2Moe(config), build


def deepseek_v3_of() -> tuple[nn.Module, Callable[[Weights], MoE]]:
    config = v3_config.DeepseekV3Config(
        hidden_size=DIM,
        moe_intermediate_size=WIDTH,
        n_routed_experts=COUNT,
        num_experts_per_tok=3,
        n_shared_experts=1,
        n_group=4,
        topk_group=2,
        norm_topk_prob=True,
        routed_scaling_factor=2.5,
    )
    module = v3.DeepseekV3MoE(config)
    module.gate.e_score_correction_bias.normal_()

    def build(w: Weights) -> MoE:
        routing = Routing(3, "sigmoid", True, 2.5, groups=4, top_groups=2, group_score="best two")
        return MoE(
            w.ops,
            matrix(w, "gate.weight", COUNT),
            routing,
            fused(w),
            choice_bias=w.ops.vector([w.packed("gate.e_score_correction_bias", (COUNT,))]),
            shared=gated(w.sub("shared_experts"), WIDTH),
        )

    return module, build


def granite_of() -> tuple[nn.Module, Callable[[Weights], MoE]]:
    config = granite_config.GraniteMoeConfig(
        hidden_size=DIM, intermediate_size=WIDTH, num_local_experts=COUNT, num_experts_per_tok=2
    )

    def build(w: Weights) -> MoE:
        return MoE(w.ops, matrix(w, "router.weight", COUNT), Routing(2, normalise=True), fused(w))

    return granite.GraniteMoeMoE(config), build


def phi_of() -> tuple[nn.Module, Callable[[Weights], MoE]]:
    config = phi_config.PhimoeConfig(
        hidden_size=DIM,
        intermediate_size=WIDTH,
        num_local_experts=COUNT,
        num_experts_per_tok=2,
        router_jitter_noise=0.2,
        input_jitter_noise=0.0,
    )

    def build(w: Weights) -> MoE:
        routing = Routing(2, "sparsemixer", jitter=0.2)
        return MoE(w.ops, matrix(w, "router.weight", COUNT), routing, fused(w))

    return phi.PhimoeSparseMoeBlock(config), build


def llama4_of() -> tuple[nn.Module, Callable[[Weights], MoE]]:
    config = llama4_config.Llama4TextConfig(
        hidden_size=DIM, intermediate_size=WIDTH, num_local_experts=COUNT, num_experts_per_tok=1
    )

    def build(w: Weights) -> MoE:
        return MoE(
            w.ops,
            matrix(w, "router.weight", COUNT),
            Routing(1, "sigmoid"),
            fused(w, transposed=True),
            weigh="inputs",
            shared=gated(w.sub("shared_expert"), WIDTH),
        )

    return llama4.Llama4TextMoe(config), build


def gpt_oss_of() -> tuple[nn.Module, Callable[[Weights], MoE]]:
    config = oss_config.GptOssConfig(
        hidden_size=DIM, intermediate_size=WIDTH, num_local_experts=COUNT, num_experts_per_tok=4
    )

    def build(w: Weights) -> MoE:
        e = w.sub("experts")
        up = load_fused(e, "gate_up_proj", COUNT, DIM, 2 * WIDTH, transposed=True, interleaved=True)
        experts = Experts(
            w.ops,
            up,
            load_fused(e, "down_proj", COUNT, WIDTH, DIM, transposed=True),
            "gelu_quick",
            load_biases(e, ["gate_up_proj_bias"], COUNT, 2 * WIDTH, interleaved=True),
            load_biases(e, ["down_proj_bias"], COUNT, DIM),
            limit=0.5,
        )
        router = w.linear("router", DIM, COUNT, bias=True)
        return MoE(w.ops, router, Routing(4, normalise=True), experts)

    module = oss.GptOssMLP(config)
    module.experts.limit = 0.5  # so that random weights reach it
    return module, build


MIXTURES = {
    "mixtral": mixtral_of,
    "qwen": qwen_of,
    "deepseek v2, greedy": lambda: deepseek_v2_of("greedy"),
    "deepseek v2, groups": lambda: deepseek_v2_of("group_limited_greedy"),
    "deepseek v3": deepseek_v3_of,
    "granite": granite_of,
    "phi": phi_of,
    "llama 4": llama4_of,
    "gpt-oss": gpt_oss_of,
}


def alone(tokens: Iterable[int]) -> Batch:
    """One sequence of these tokens, for what keeps no state."""
    return Batch.make(whole_numbers((), list(tokens)), (), torch.from_numpy)


@pytest.mark.parametrize("name", MIXTURES)
def test_every_mixture_of_hugging_face(name: str) -> None:
    torch.manual_seed(0)
    module, build = MIXTURES[name]()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(std=0.4)
        x = torch.randn(70, DIM)
        out = module.eval()(x[None])
    want = (out[0] if isinstance(out, tuple) else out).view(70, DIM)
    w = weights(module)
    layer = build(w)
    w.finish({})
    got = layer(x, alone(range(70)))
    assert float((got - want).norm() / want.norm()) < 1e-5
    assert torch.equal(layer(x[13:14], alone([13])), got[13:14])


def test_layouts_of_a_checkpoint() -> None:
    """Experts one by one, stacked, fused and transposed are the same weights."""
    gate, up = torch.randn(3, 6, 4), torch.randn(3, 6, 4)
    both = torch.cat((gate, up), 1)
    alone = {f"{e}.{n}.weight": t[e] for e in range(3) for n, t in (("w1", gate), ("w3", up))}
    braid = torch.stack((gate, up), 2).flatten(1, 2)
    of = lambda tensors: Weights(Source(tensors), ReferenceOps())  # noqa: E731
    held = [
        load_experts(of(alone), ("w1", "w3"), 3, 4, 6),
        load_experts(of({"w1.weight": gate, "w3.weight": up}), ("w1", "w3"), 3, 4, 6),
        load_fused(of({"all": both}), "all", 3, 4, 12),
        load_fused(of({"all": both.mT}), "all", 3, 4, 12, transposed=True),
        load_fused(of({"all": braid}), "all", 3, 4, 12, interleaved=True),
    ]
    for one in held:
        assert torch.equal(one.data, both)
    flat = load_biases(of({"a": gate[:, :, 0], "b": up[:, :, 0]}), ["a", "b"], 3, 6)
    assert torch.equal(flat.view(3, 12), both[:, :, 0])
    flat = load_biases(of({"a": braid[:, :, 0]}), ["a"], 3, 12, interleaved=True)
    assert torch.equal(flat.view(3, 12), both[:, :, 0])


def test_a_plan_counts_what_a_backend_holds() -> None:
    gate, up = torch.randn(3, 600, 64), torch.randn(3, 600, 64)
    source = Source({"w1.weight": gate, "w3.weight": up, "bias": torch.randn(3, 600)})
    for dtype, each in (("f32", 4), ("bf16", 2)):
        plan, ops = PlanOps(dtype), ReferenceOps("cpu", dtype)
        planned = load_experts(Weights(Outline(source), plan), ("w1", "w3"), 3, 64, 600)
        held = load_experts(Weights(source, ops), ("w1", "w3"), 3, 64, 600)
        assert planned.nbytes == held.nbytes == 3 * 1200 * 64 * each
        assert (planned.rows, planned.cols, planned.count) == (held.rows, held.cols, held.count)
        assert plan.file_bytes == {"F32": 3 * 1200 * 64 * 4}
        load_biases(Weights(source, plan), ["bias"], 3, 600)
        assert sum(plan.held_bytes.values()) == held.nbytes + 3 * 600 * 4
