"""Expressions of a kernel's Python: LLVM values, or Python objects where they are known."""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from llvmlite import ir

from rbee_worker.ops.cpu.compiler import emit as e
from rbee_worker.ops.cpu.compiler.simd import Op
from rbee_worker.ops.cpu.compiler.values import Device, KernelError, constant, tuple_value

if TYPE_CHECKING:
    from rbee_worker.ops.cpu.compiler.translate import Translation

_KNOWN: dict[type[ast.AST], Callable[..., Any]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv, ast.Mod: operator.mod, ast.LShift: operator.lshift,
    ast.RShift: operator.rshift, ast.BitAnd: operator.and_, ast.BitOr: operator.or_,
    ast.BitXor: operator.xor, ast.Pow: operator.pow,
    ast.USub: operator.neg, ast.Invert: operator.invert, ast.Not: operator.not_,
    ast.Eq: operator.eq, ast.NotEq: operator.ne, ast.Lt: operator.lt, ast.LtE: operator.le,
    ast.Gt: operator.gt, ast.GtE: operator.ge, ast.Is: operator.is_, ast.IsNot: operator.is_not,
}  # fmt: skip
_INTEGER = {
    ast.Add: "add", ast.Sub: "sub", ast.Mult: "mul", ast.LShift: "shl", ast.RShift: "ashr",
    ast.BitAnd: "and_", ast.BitOr: "or_", ast.BitXor: "xor",
}  # fmt: skip
_FLOAT = {ast.Add: "fadd", ast.Sub: "fsub", ast.Mult: "fmul", ast.Div: "fdiv"}
_ORDER = {
    ast.Eq: "==", ast.NotEq: "!=", ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">=",
}  # fmt: skip


class Expressions:
    """Evaluates syntax nodes at the builder's place.

    Local names are in `memory` if the function assigns them, otherwise in `plain` (LLVM values) or
    `known` (Python objects). stored: names that the function assigns anywhere; assigned: those of
    them that have a value at this place.
    """

    def __init__(
        self,
        to: Translation,
        builder: ir.IRBuilder,
        stored: frozenset[str],
        known: Mapping[str, Any],
        outside: Mapping[str, Any],
    ) -> None:
        self.to, self.b = to, builder
        self.stored, self.known, self.outside = stored, dict(known), outside
        self.assigned: set[str] = set()
        self.memory: dict[str, Any] = {}
        self.plain: dict[str, ir.Value] = {}

    def _eval(self, node: ast.expr) -> Any:
        do = getattr(self, f"_of_{type(node).__name__.lower()}", None)
        if do is None:
            raise KernelError(f"a kernel has no {type(node).__name__}")
        return do(node)

    def _parts(self, value: Any) -> list[Any]:
        """The values of a tuple."""
        if isinstance(value, ir.Value):
            if not isinstance(value.type, ir.ArrayType | ir.LiteralStructType):
                raise KernelError("not a tuple")
            return [self.b.extract_value(value, n) for n in range(len(value.type))]
        return list(value)

    def _of_constant(self, node: ast.Constant) -> Any:
        return node.value

    def _of_name(self, node: ast.Name) -> Any:
        return self._read(node.id)

    def _read(self, name: str) -> Any:
        if name in self.stored and name not in self.assigned:
            raise KernelError(self._unassigned(name))
        if name in self.memory:
            return self.b.load(self.memory[name])
        if name in self.plain:
            return self.plain[name]
        if name in self.known:
            return self.known[name]
        if name in self.outside:
            return self.outside[name]
        builtins = self.outside["__builtins__"]
        names = builtins if isinstance(builtins, dict) else vars(builtins)
        if name not in names:
            raise KernelError(f"{name} is not defined")
        return names[name]

    def _unassigned(self, name: str) -> str:
        """What is wrong with reading `name`, which this function assigns."""
        if name not in self.memory and name not in self.known:
            return f"{name} has no value yet"
        return (
            f"{name} may have no value: it is assigned in a branch or a loop that may not run; "
            "assign it before that too"
        )

    def _of_attribute(self, node: ast.Attribute) -> Any:
        owner = self._eval(node.value)
        if isinstance(owner, ir.Value):
            raise KernelError("a kernel's values have no attributes")
        return getattr(owner, node.attr)

    def _of_tuple(self, node: ast.Tuple) -> Any:
        return tuple(self._eval(x) for x in node.elts)

    def _of_subscript(self, node: ast.Subscript) -> Any:
        owner, index = self._eval(node.value), self._eval(node.slice)
        if isinstance(index, ir.Value):
            raise KernelError("an index must be known when the kernel is built")
        return self._parts(owner)[index] if isinstance(owner, ir.Value) else owner[index]

    def _of_binop(self, node: ast.BinOp) -> Any:
        return self._binary(type(node.op), self._eval(node.left), self._eval(node.right))

    def _binary(self, what: type[ast.operator], x: Any, y: Any) -> Any:
        if not isinstance(x, ir.Value) and not isinstance(y, ir.Value):
            return _of_known(what, x, y)
        a, b = self._alike(x, y)
        name = {e.i64: _INTEGER, e.f32: _FLOAT, e.f64: _FLOAT}.get(a.type, {}).get(what)
        if a.type == e.i1 and what in (ast.BitAnd, ast.BitOr, ast.BitXor):
            name = _INTEGER[what]
        if name is None:
            raise KernelError(f"no {what.__name__} of {a.type}; see simd.py for functions")
        return getattr(self.b, name)(a, b)

    def _alike(self, x: Any, y: Any) -> tuple[ir.Value, ir.Value]:
        """Two values of one type; a known one takes the type of the other."""
        if isinstance(x, ir.Value):
            return x, constant(y, x.type)
        return constant(x, y.type), y

    def _of_unaryop(self, node: ast.UnaryOp) -> Any:
        if isinstance(node.op, ast.Not):
            truth = self._truth(node.operand)
            return not truth if isinstance(truth, bool) else self.b.not_(truth)
        x = self._eval(node.operand)
        if not isinstance(x, ir.Value):
            return _of_known(type(node.op), x)
        if isinstance(node.op, ast.USub) and x.type in (e.i64, e.f32, e.f64):
            return self.b.neg(x) if x.type == e.i64 else self.b.fneg(x)
        if isinstance(node.op, ast.Invert) and x.type == e.i64:
            return self.b.not_(x)
        raise KernelError(f"no {type(node.op).__name__} of {x.type}")

    def _of_compare(self, node: ast.Compare) -> Any:
        if len(node.ops) > 1:
            raise KernelError("compare two values at a time")
        x, y, what = self._eval(node.left), self._eval(node.comparators[0]), type(node.ops[0])
        if not isinstance(x, ir.Value) and not isinstance(y, ir.Value):
            return _of_known(what, x, y)
        a, b = self._alike(x, y)
        if a.type not in (e.i64, e.i1, e.f32, e.f64) or what not in _ORDER:
            raise KernelError(f"no {what.__name__} of {a.type}; see simd.py for functions")
        if a.type in (e.f32, e.f64):
            compare = self.b.fcmp_unordered if what is ast.NotEq else self.b.fcmp_ordered
            return compare(_ORDER[what], a, b)
        return self.b.icmp_signed(_ORDER[what], a, b)

    def _truth(self, node: ast.expr) -> Any:
        """A condition: a known bool or an i1."""
        x = self._eval(node)
        if not isinstance(x, ir.Value):
            return bool(x)
        if x.type == e.i64:
            return self.b.icmp_signed("!=", x, e.number(0))
        return constant(x, e.i1)

    def _of_boolop(self, node: ast.BoolOp) -> Any:
        """and, or: a later operand is evaluated only if the ones before it do not decide."""
        stop = isinstance(node.op, ast.Or)  # an operand of this value decides
        first, *rest = node.values
        x = self._truth(first)
        for other in rest:
            if isinstance(x, bool):
                if x is stop:
                    return x
                x = self._truth(other)
                continue
            more, after = self.b.append_basic_block("more"), self.b.append_basic_block("after")
            before = self.b.block
            self.b.cbranch(x, *((after, more) if stop else (more, after)))
            self.b.position_at_end(more)
            y = constant(self._truth(other))
            last = self.b.block
            self.b.branch(after)
            self.b.position_at_end(after)
            x = self.b.phi(e.i1)
            x.add_incoming(e.number(int(stop), e.i1), before)
            x.add_incoming(y, last)
        return x

    def _of_ifexp(self, node: ast.IfExp) -> Any:
        test = self._truth(node.test)
        if isinstance(test, bool):
            return self._eval(node.body if test else node.orelse)
        blocks = [self.b.append_basic_block(n) for n in ("yes", "no")]
        after = self.b.append_basic_block("after")
        self.b.cbranch(test, *blocks)
        values, ends = [], []
        for block, part in zip(blocks, (node.body, node.orelse), strict=True):
            self.b.position_at_end(block)
            value = self._eval(part)
            values.append(tuple_value(self.b, value) if isinstance(value, tuple) else value)
            ends.append(self.b.block)
            self.b.branch(after)
        self.b.position_at_end(after)
        kinds = [v.type for v in values if isinstance(v, ir.Value)]
        held = [constant(v, kinds[0] if kinds else None) for v in values]
        result = self.b.phi(held[0].type)
        for value, end in zip(held, ends, strict=True):
            result.add_incoming(constant(value, held[0].type), end)
        return result

    def _of_call(self, node: ast.Call) -> Any:
        what = self._eval(node.func)
        if node.keywords or any(isinstance(a, ast.Starred) for a in node.args):
            raise KernelError("arguments are given one by one, in order")
        args = [self._eval(a) for a in node.args]
        if isinstance(what, Op):
            if len(args) != len(what.params):
                raise KernelError(f"takes {len(what.params)} arguments, got {len(args)}")
            held = [constant(a, k) for a, k in zip(args, what.params, strict=True)]
            return what.append(self.b, self.to.features, held)
        if isinstance(what, Device):
            return self.to.call(self.b, what, args)
        if what is np.float32 and len(args) == 1:
            return self._to_f32(args[0])
        if what is np.float64 and len(args) == 1:
            return self._to_f64(args[0])
        if what is len or (what in (int, abs, min, max) and not _any_value(args)):
            return what(*args)
        raise KernelError(f"{what!r} cannot be called from a kernel; is it a device function?")

    def _to_f32(self, x: Any) -> Any:
        if not isinstance(x, ir.Value):
            return np.float32(x)
        return x if x.type == e.f32 else self.b.sitofp(constant(x, e.i64), e.f32)

    def _to_f64(self, x: Any) -> Any:
        if not isinstance(x, ir.Value):
            return np.float64(x)
        if x.type == e.f32:
            return self.b.fpext(x, e.f64)
        return x if x.type == e.f64 else self.b.sitofp(constant(x, e.i64), e.f64)


def _of_known(what: type[ast.AST], *operands: Any) -> Any:
    """An operation on objects that are known beforehand."""
    if what not in _KNOWN:
        raise KernelError(f"a kernel has no {what.__name__}")
    return _KNOWN[what](*operands)


def _any_value(args: Sequence[Any]) -> bool:
    return any(isinstance(a, ir.Value) for a in args)
