"""Row and value operations against plain numpy on the decoded values."""

import numpy as np
import pytest
import torch

from rbee_worker.checkpoint import ops
from rbee_worker.checkpoint.formats import DECODABLE, FORMATS, Packed
from rbee_worker.errors import UnsupportedModel
from rbee_worker.ops.reference.dequant import dequantize

NUMPY = {"F32": np.float32, "F16": np.float16, "F64": np.float64}


def vector(values: list[float], name: str = "F32") -> Packed:
    array = np.array(values, dtype=np.float64)
    if name == "BF16":
        raw = torch.tensor(values).bfloat16().view(torch.uint8).numpy()
    else:
        raw = array.astype(NUMPY[name]).view(np.uint8)
    return Packed(raw.reshape(1, -1), name, array.shape)


@pytest.mark.parametrize("name", sorted(DECODABLE))
def test_half_split_moves_rows_of_every_format(name):
    fmt, heads, width = FORMATS[name], 3, 8
    rows = heads * width
    data = np.random.default_rng(0).integers(0, 60, (rows, 2 * fmt.bytes), dtype=np.uint8)
    packed = Packed(data, name, (rows, 2 * fmt.block))
    moved = ops.half_split_rows(packed, heads)
    order = np.arange(rows).reshape(heads, width // 2, 2).swapaxes(1, 2).reshape(-1)
    assert order[:8].tolist() == [0, 2, 4, 6, 1, 3, 5, 7]
    assert (moved.format, moved.shape) == (packed.format, packed.shape)
    assert torch.equal(dequantize(moved), dequantize(packed)[order])


def test_half_split_moves_elements_of_a_vector():
    moved = ops.half_split_rows(vector([0, 1, 2, 3, 10, 11, 12, 13]), 2)
    assert dequantize(moved).tolist() == [0, 2, 1, 3, 10, 12, 11, 13]
    assert moved.shape == (8,)


def test_half_split_refuses_what_it_cannot_order():
    with pytest.raises(ValueError, match="8 rows are not 3 heads"):
        ops.half_split_rows(vector([0] * 8), 3)
    with pytest.raises(ValueError, match="not 0 heads"):
        ops.half_split_rows(vector([0] * 8), 0)
    with pytest.raises(UnsupportedModel, match="Q8_0"):
        ops.half_split_rows(Packed(np.zeros((1, 34), np.uint8), "Q8_0", (32,)), 2)


@pytest.mark.parametrize("name", ["F32", "F16", "BF16", "F64"])
def test_value_operations(name):
    w = vector([-0.5, -2.0, -0.25], name)
    assert ops.floats(w).tolist() == [-0.5, -2.0, -0.25]
    assert dequantize(ops.add_one(w)).tolist() == [0.5, -1.0, 0.75]
    assert dequantize(ops.sub_one(w)).tolist() == [-1.5, -3.0, -1.25]
    want = np.log(np.array([0.5, 2.0, 0.25], np.float32))
    assert np.array_equal(dequantize(ops.neg_log(w)).numpy(), want)
    for op in (ops.add_one, ops.sub_one, ops.neg_log):
        assert (op(w).format, op(w).shape) == ("F32", (3,))


def test_value_operations_refuse_blocks():
    packed = Packed(np.zeros((1, 34), np.uint8), "Q8_0", (32,))
    for op in (ops.add_one, ops.sub_one, ops.neg_log):
        with pytest.raises(UnsupportedModel, match="Q8_0"):
            op(packed)


def test_shapes_lose_and_gain_ones():
    values = np.arange(12, dtype=np.float32).reshape(4, 3)
    w = ops.packed_floats(values)
    tall = ops.unsqueeze(w)
    assert tall.shape == (4, 1, 3)
    assert torch.equal(dequantize(tall), torch.from_numpy(values[:, None]))
    assert ops.squeeze(tall).shape == (4, 3)
    assert torch.equal(dequantize(ops.squeeze(tall)), torch.from_numpy(values))
    column = ops.squeeze(ops.packed_floats(values[:, :1]))
    assert (column.shape, column.data.shape) == ((4,), (1, 16))
    blocks = Packed(np.zeros((4, 34), np.uint8), "Q8_0", (4, 1, 32))
    assert ops.squeeze(blocks).shape == (4, 32)
    assert ops.squeeze(blocks).data.shape == (4, 34)


def test_columns_and_groups_become_vectors():
    """Shapes are told beforehand as they then are."""
    values = np.arange(-6, 0, dtype=np.float32)
    for name, given, want in (
        ("column", values[:, None], values),
        ("column", values, values),
        ("neg_log_column", values[:, None], np.log(-values)),
        ("flatten", values.reshape(2, 3), values),
    ):
        op, packed = ops.OPS[name], ops.packed_floats(given)
        found = op(packed, {})
        assert op.shape(given.shape) == found.shape == want.shape
        assert np.array_equal(dequantize(found).numpy(), want)
    assert ops.column(ops.packed_floats(values.reshape(2, 3))).shape == (2, 3)


def test_matrices_are_turned_in_their_own_format():
    values = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    op = ops.OPS["transpose"]
    for given in (values, values[0]):
        for format, kind in (("F32", np.float32), ("F16", np.float16)):
            data = np.ascontiguousarray(given.astype(kind)).reshape(-1, given.shape[-1])
            found = op(Packed(data.view(np.uint8), format, given.shape), {})
            want = given.swapaxes(-1, -2)
            assert op.shape(given.shape) == found.shape == want.shape
            assert found.format == format
            assert np.array_equal(dequantize(found).numpy(), want)
    with pytest.raises(UnsupportedModel, match="Q8_0 cannot be transposed"):
        ops.transpose(Packed(np.zeros((4, 34), np.uint8), "Q8_0", (4, 32)))


def test_factors_of_channels_gain_dimensions():
    values, op = np.arange(4, dtype=np.float32), ops.OPS["channels"]
    for given in (values, values.reshape(1, 1, 4)):
        found = op(ops.packed_floats(given), {})
        assert op.shape(given.shape) == found.shape == (1, 1, 4)
        assert np.array_equal(dequantize(found).numpy().ravel(), values)


def test_operations_take_their_argument_from_the_config():
    config = {"num_attention_heads": 2, "num_key_value_heads": 1}
    w = vector([0, 1, 2, 3, 10, 11, 12, 13])
    q = dequantize(ops.OPS["half_split_q"](w, config)).tolist()
    k = dequantize(ops.OPS["half_split_k"](w, config)).tolist()
    assert q == [0, 2, 1, 3, 10, 12, 11, 13]
    assert k == [0, 2, 10, 12, 1, 3, 11, 13]
    assert dequantize(ops.OPS["sub_one"](w, config)).tolist() == [-1, 0, 1, 2, 9, 10, 11, 12]
