"""Kernels' Python translated to LLVM IR: the few constructs that kernels need, nothing else.

Values are 64-bit integers (addresses too), float32 numbers, booleans, vectors, and tuples of these.
Integers, floats and functions that are known when a kernel is built (constants, what a closure
holds) stay Python objects and are computed with at once: `if` on one of them drops the other
branch, and a function called with one is translated for it. There are `for .. in range`, `while`,
`if`, `and`/`or`/`not`, `x if c else y`, tuples, and calls of device functions and of `simd.Op`s;
there are no exceptions, no objects and no automatic conversions: write `f32(n)` for a float.
A `range` goes upwards.

Much less than numba can do, and 20 times faster to compile, which is what a first start waits for.
"""

from __future__ import annotations

import ast
import functools
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FunctionType
from typing import Any

import numpy as np
from llvmlite import ir

from rbee_worker.ops.cpu import emit as e
from rbee_worker.ops.cpu.simd import Op

Static = bool | int | np.floating  # known numbers; other known objects are functions and modules


class KernelError(TypeError):
    """What a kernel may not contain; the message begins with file and line."""


@dataclass(frozen=True, eq=False)
class Device:
    """A function that kernels call. apart: it is never inlined, so it is compiled once."""

    fn: FunctionType
    apart: bool = False


class Builder(ir.IRBuilder):  # type: ignore[misc]
    """An IRBuilder whose allocations all lie in the entry block, where LLVM can remove them."""

    def alloca(self, typ: ir.Type, size: Any = None, name: str = "") -> Any:
        """Memory of the function's frame, once per call, also inside a loop."""
        with self.goto_entry_block():
            return super().alloca(typ, size, name)


class Translation:
    """One module under construction, for a processor's LLVM feature string."""

    def __init__(self, features: str, triple: str, layout: str) -> None:
        self.features = features
        self.module = ir.Module("kernel")
        self.module.triple, self.module.data_layout = triple, layout
        self._done: dict[Any, ir.Function] = {}

    def entry(self, name: str, run: Device, fields: Sequence[ir.Type]) -> None:
        """The C function `name(args, step, tid, nt)`: `run` with the fields at `args`, each in 8
        bytes."""
        fn = ir.Function(self.module, ir.FunctionType(e.void, [e.i64] * 4), name)
        fn.attributes.add("nounwind")
        b = Builder(fn.append_basic_block())
        args, *common = fn.args
        loaded = [e.load(b, e.at(b, args, 8 * n), kind, 8) for n, kind in enumerate(fields)]
        self.call(b, run, [*common, *loaded])
        b.ret_void()

    def call(self, b: ir.IRBuilder, device: Device, args: Sequence[Any]) -> Any:
        """Append a call of `device`, translated for the types and known values of `args`."""
        code = _code(device.fn)
        names = [a.arg for a in code.args.args]
        if len(args) != len(names):
            raise KernelError(f"{device.fn.__name__} takes {len(names)} arguments, got {len(args)}")
        stored = _stored(code)
        known: dict[str, Any] = {}
        passed: dict[str, ir.Value] = {}
        for name, value in zip(names, args, strict=True):
            if isinstance(value, tuple):
                value = tuple_value(b, value)
            if not isinstance(value, ir.Value) and name not in stored:
                known[name] = value
            else:
                passed[name] = constant(value)
        key = (
            device,
            tuple((n, type(v), repr(v) if isinstance(v, Static) else v) for n, v in known.items()),
            tuple((n, str(v.type)) for n, v in passed.items()),
        )
        if key not in self._done:
            types = {n: v.type for n, v in passed.items()}
            self._done[key] = _Function(self, device, code, known, types).value
        return b.call(self._done[key], list(passed.values()))


def constant(value: Any, kind: ir.Type | None = None) -> ir.Value:
    """A known number as an LLVM constant, of `kind` where one is wanted; others as they are.

    Raises KernelError for what has no such value.
    """
    if isinstance(value, ir.Value):
        if kind is not None and value.type != kind:
            if value.type == e.i1 and kind == e.i64:
                raise KernelError("a boolean is not a number: write 1 if .. else 0")
            raise KernelError(f"expected {kind}, got {value.type}")
        return value
    if kind is None:
        if isinstance(value, bool):
            kind = e.i1
        elif isinstance(value, int):
            kind = e.i64
        elif isinstance(value, np.float32):
            kind = e.f32
        else:
            raise KernelError(f"{value!r} cannot be held by a kernel; a float is written f32(..)")
    if kind == e.f32 and isinstance(value, float | np.floating):
        return ir.Constant(e.f32, float(np.float32(value)))
    if (kind == e.i64 and type(value) is int) or (kind == e.i1 and isinstance(value, bool)):
        return ir.Constant(kind, int(value))
    raise KernelError(f"expected {kind}, got {value!r}")


def tuple_value(b: ir.IRBuilder, values: tuple[Any, ...]) -> Any:
    """A tuple as one value; one of known objects that are no numbers stays a Python tuple."""
    if not all(isinstance(v, ir.Value | Static) for v in values):
        return values
    held = [constant(v) for v in values]
    kinds = [v.type for v in held]
    same = all(k == kinds[0] for k in kinds)
    kind = ir.ArrayType(kinds[0], len(kinds)) if same else ir.LiteralStructType(kinds)
    return e.aggregate(b, kind, held)


@functools.cache
def _functions(path: str) -> dict[int, ast.FunctionDef]:
    """The functions of a source file by their first line, decorators included."""
    found = {}
    for node in ast.walk(ast.parse(Path(path).read_text())):
        if isinstance(node, ast.FunctionDef):
            found[min([node.lineno, *(d.lineno for d in node.decorator_list)])] = node
    return found


def _code(fn: FunctionType) -> ast.FunctionDef:
    code = fn.__code__
    try:
        return _functions(code.co_filename)[code.co_firstlineno]
    except KeyError:
        raise KernelError(f"{fn.__qualname__} is not written with def") from None


@functools.cache
def _stored(code: ast.FunctionDef) -> frozenset[str]:
    """Names that a function assigns."""
    names = (n for n in ast.walk(code) if isinstance(n, ast.Name))
    return frozenset(n.id for n in names if isinstance(n.ctx, ast.Store))


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


class _Function:
    """One device function being translated. `value`: the LLVM function."""

    def __init__(
        self,
        to: Translation,
        device: Device,
        code: ast.FunctionDef,
        known: Mapping[str, Any],
        types: Mapping[str, ir.Type],
    ) -> None:
        fn = device.fn
        self._to, self._path = to, fn.__code__.co_filename
        cells = zip(fn.__code__.co_freevars, fn.__closure__ or (), strict=True)
        self._outside = dict(fn.__globals__) | {name: cell.cell_contents for name, cell in cells}
        self._known = dict(known)
        self._memory: dict[str, Any] = {}
        self._plain: dict[str, ir.Value] = {}
        self._loops: list[tuple[ir.Block, ir.Block]] = []  # (where continue, where break goes)
        self._result: ir.Type | None = None
        name = to.module.get_unique_name(fn.__name__)
        self.value = ir.Function(to.module, ir.FunctionType(e.void, types.values()), name)
        self.value.linkage = "internal"
        self.value.attributes.add("nounwind")
        if device.apart:
            self.value.attributes.add("noinline")
        self._stored = _stored(code)
        self.b = Builder(self.value.append_basic_block())
        for name, arg in zip(types, self.value.args, strict=True):
            if name in self._stored:
                self._assign(name, arg)
            else:
                self._plain[name] = arg
        self._block(code.body)
        if not self.b.block.is_terminated:
            self._return(None)
        kind = self._result or e.void
        self.value.ftype = ir.FunctionType(kind, types.values())
        self.value.type = self.value.ftype.as_pointer()
        self.value.return_value.type = kind

    # ---- statements

    def _block(self, statements: Sequence[ast.stmt]) -> None:
        for statement in statements:
            if self.b.block.is_terminated:
                return  # nothing after continue, break and return is reached
            do = getattr(self, f"_do_{type(statement).__name__.lower()}", None)
            try:
                if do is None:
                    raise KernelError(f"a kernel has no {type(statement).__name__}")
                do(statement)
            except KernelError as error:
                if str(error).startswith(self._path) or ".py:" in str(error):
                    raise
                raise KernelError(f"{self._path}:{statement.lineno}: {error}") from None

    def _do_expr(self, node: ast.Expr) -> None:
        if not isinstance(node.value, ast.Constant):  # a docstring
            self._eval(node.value)

    def _do_pass(self, node: ast.Pass) -> None:
        pass

    def _do_assign(self, node: ast.Assign) -> None:
        value = self._eval(node.value)
        for target in node.targets:
            self._bind(target, value)

    def _do_annassign(self, node: ast.AnnAssign) -> None:
        if node.value is not None:
            self._bind(node.target, self._eval(node.value))

    def _do_augassign(self, node: ast.AugAssign) -> None:
        assert isinstance(node.target, ast.Name)
        value = self._binary(type(node.op), self._read(node.target.id), self._eval(node.value))
        self._bind(node.target, value)

    def _bind(self, target: ast.expr, value: Any) -> None:
        if isinstance(target, ast.Name):
            self._assign(target.id, value)
        elif isinstance(target, ast.Tuple):
            parts = self._parts(value)
            if len(parts) != len(target.elts):
                raise KernelError(f"{len(parts)} values for {len(target.elts)} names")
            for one, part in zip(target.elts, parts, strict=True):
                self._bind(one, part)
        else:
            raise KernelError("only names are assigned")

    def _parts(self, value: Any) -> list[Any]:
        if isinstance(value, ir.Value):
            if not isinstance(value.type, ir.ArrayType | ir.LiteralStructType):
                raise KernelError("not a tuple")
            return [self.b.extract_value(value, n) for n in range(len(value.type))]
        return list(value)

    def _assign(self, name: str, value: Any) -> None:
        if isinstance(value, tuple):
            value = tuple_value(self.b, value)
        if not isinstance(value, ir.Value | Static):
            if name in self._memory or name in self._known:
                raise KernelError(f"{name} cannot change: {value!r} is known beforehand")
            self._known[name] = value
            return
        value = constant(value)
        if name not in self._memory:
            self._memory[name] = self.b.alloca(value.type, name=name)
        kind = self._memory[name].type.pointee
        if kind != value.type:
            raise KernelError(f"{name} is {kind}, and is given {value.type}")
        self.b.store(value, self._memory[name])

    def _do_return(self, node: ast.Return) -> None:
        self._return(None if node.value is None else self._eval(node.value))

    def _return(self, value: Any) -> None:
        if isinstance(value, tuple):
            value = tuple_value(self.b, value)
        held = None if value is None else constant(value)
        kind = e.void if held is None else held.type
        if self._result is not None and self._result != kind:
            raise KernelError(f"returns {self._result} and {kind}")
        self._result = kind
        if held is None:
            self.b.ret_void()
        else:
            self.b.ret(held)

    def _do_if(self, node: ast.If) -> None:
        test = self._truth(node.test)
        if isinstance(test, bool):
            self._block(node.body if test else node.orelse)
            return
        yes, no, after = (self.b.append_basic_block(n) for n in ("yes", "no", "after"))
        self.b.cbranch(test, yes, no)
        for block, body in ((yes, node.body), (no, node.orelse)):
            self.b.position_at_end(block)
            self._block(body)
            self._go(after)
        self.b.position_at_end(after)
        if not after.is_terminated and not _is_reached(self.value, after):
            self.b.unreachable()

    def _go(self, block: ir.Block) -> None:
        if not self.b.block.is_terminated:
            self.b.branch(block)

    def _do_while(self, node: ast.While) -> None:
        head, inside, after = (self.b.append_basic_block(n) for n in ("while", "do", "done"))
        self.b.branch(head)
        self.b.position_at_end(head)
        test = self._truth(node.test)
        self.b.cbranch(constant(test), inside, after)
        self._loop(node, inside, head, after)
        self._go(head)
        self.b.position_at_end(after)

    def _loop(
        self, node: ast.While | ast.For, inside: ir.Block, again: ir.Block, after: ir.Block
    ) -> None:
        if node.orelse:
            raise KernelError("a loop has no else")
        self.b.position_at_end(inside)
        self._loops.append((again, after))
        self._block(node.body)
        self._loops.pop()

    def _do_for(self, node: ast.For) -> None:
        call = node.iter
        if not (isinstance(call, ast.Call) and self._eval(call.func) is range):
            raise KernelError("a for loop goes over a range")
        given = [constant(self._eval(a), e.i64) for a in call.args]
        start = given[0] if len(given) > 1 else e.number(0)
        stop = given[1] if len(given) > 1 else given[0]
        step = given[2] if len(given) > 2 else e.number(1)
        if isinstance(step, ir.Constant) and step.constant <= 0:
            raise KernelError("a range goes upwards")
        place = self.b.alloca(e.i64)
        self.b.store(start, place)
        head, inside, again, after = (
            self.b.append_basic_block(n) for n in ("for", "do", "next", "done")
        )
        self.b.branch(head)
        self.b.position_at_end(head)
        self.b.cbranch(self.b.icmp_signed("<", self.b.load(place), stop), inside, after)
        self.b.position_at_end(inside)
        self._bind(node.target, self.b.load(place))
        self._loop(node, inside, again, after)
        self._go(again)
        self.b.position_at_end(again)
        self.b.store(self.b.add(self.b.load(place), step, flags=("nsw",)), place)
        self.b.branch(head)
        self.b.position_at_end(after)

    def _do_continue(self, node: ast.Continue) -> None:
        self.b.branch(self._loops[-1][0])

    def _do_break(self, node: ast.Break) -> None:
        self.b.branch(self._loops[-1][1])

    # ---- expressions: LLVM values, or Python objects where they are known

    def _eval(self, node: ast.expr) -> Any:
        do = getattr(self, f"_of_{type(node).__name__.lower()}", None)
        if do is None:
            raise KernelError(f"a kernel has no {type(node).__name__}")
        return do(node)

    def _of_constant(self, node: ast.Constant) -> Any:
        return node.value

    def _of_name(self, node: ast.Name) -> Any:
        return self._read(node.id)

    def _read(self, name: str) -> Any:
        if name in self._memory:
            return self.b.load(self._memory[name])
        if name in self._plain:
            return self._plain[name]
        if name in self._known:
            return self._known[name]
        if name in self._stored:
            raise KernelError(f"{name} has no value yet")
        if name in self._outside:
            return self._outside[name]
        builtins = self._outside["__builtins__"]
        names = builtins if isinstance(builtins, dict) else vars(builtins)
        if name not in names:
            raise KernelError(f"{name} is not defined")
        return names[name]

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
            return _KNOWN[what](x, y)
        a, b = self._alike(x, y)
        name = {e.i64: _INTEGER, e.f32: _FLOAT}.get(a.type, {}).get(what)
        if a.type == e.i1 and what in (ast.BitAnd, ast.BitOr, ast.BitXor):
            name = _INTEGER[what]
        if name is None:
            raise KernelError(f"no {what.__name__} of {a.type}; see simd.py for functions")
        return getattr(self.b, name)(a, b)

    def _alike(self, x: Any, y: Any) -> tuple[ir.Value, ir.Value]:
        """Two values of one type; a known one takes the other's."""
        if isinstance(x, ir.Value):
            return x, constant(y, x.type)
        return constant(x, y.type), y

    def _of_unaryop(self, node: ast.UnaryOp) -> Any:
        if isinstance(node.op, ast.Not):
            truth = self._truth(node.operand)
            return not truth if isinstance(truth, bool) else self.b.not_(truth)
        x = self._eval(node.operand)
        if not isinstance(x, ir.Value):
            return _KNOWN[type(node.op)](x)
        if isinstance(node.op, ast.USub) and x.type in (e.i64, e.f32):
            return self.b.neg(x) if x.type == e.i64 else self.b.fneg(x)
        if isinstance(node.op, ast.Invert) and x.type == e.i64:
            return self.b.not_(x)
        raise KernelError(f"no {type(node.op).__name__} of {x.type}")

    def _of_compare(self, node: ast.Compare) -> Any:
        if len(node.ops) > 1:
            raise KernelError("compare two values at a time")
        x, y, what = self._eval(node.left), self._eval(node.comparators[0]), type(node.ops[0])
        if not isinstance(x, ir.Value) and not isinstance(y, ir.Value):
            return _KNOWN[what](x, y)
        a, b = self._alike(x, y)
        if a.type not in (e.i64, e.i1, e.f32) or what not in _ORDER:
            raise KernelError(f"no {what.__name__} of {a.type}; see simd.py for functions")
        if a.type == e.f32:
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
        """and, or: what comes later is only looked at where it matters."""
        stop = isinstance(node.op, ast.Or)  # the value that decides
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
            values.append(self._eval(part))
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
            return what.append(self.b, self._to.features, held)
        if isinstance(what, Device):
            return self._to.call(self.b, what, args)
        if what is np.float32 and len(args) == 1:
            return self._to_f32(args[0])
        if what is len or (what in (int, abs, min, max) and not _any_value(args)):
            return what(*args)
        raise KernelError(f"{what!r} cannot be called from a kernel; is it a device function?")

    def _to_f32(self, x: Any) -> Any:
        if not isinstance(x, ir.Value):
            return np.float32(x)
        return x if x.type == e.f32 else self.b.sitofp(constant(x, e.i64), e.f32)


def _any_value(args: Sequence[Any]) -> bool:
    return any(isinstance(a, ir.Value) for a in args)


def _is_reached(fn: ir.Function, block: ir.Block) -> bool:
    """Does any block of `fn` end by going to `block`?"""
    return any(block in b.terminator.operands for b in fn.blocks if b.is_terminated)
