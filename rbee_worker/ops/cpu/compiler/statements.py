"""A device function, translated statement by statement.

`self.assigned` holds the names that have a value at this place, whichever way it was reached.
Reading any other name raises UnboundLocalError in Python and would read leftover memory in machine
code, so the translator refuses it: a name that is assigned in one branch only, or in the body of a
loop that may not run.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from llvmlite import ir

from rbee_worker.ops.cpu.compiler import emit as e
from rbee_worker.ops.cpu.compiler.expressions import Expressions
from rbee_worker.ops.cpu.compiler.values import (
    Builder,
    Device,
    KernelError,
    Static,
    constant,
    tuple_value,
)

if TYPE_CHECKING:
    from rbee_worker.ops.cpu.compiler.translate import Translation


@dataclass(frozen=True)
class _Loop:
    """A loop under translation: the blocks that `continue` and `break` go to, and for each jump
    there the names that have a value."""

    again: ir.Block
    after: ir.Block
    at_again: list[set[str]] = field(default_factory=list)
    at_break: list[set[str]] = field(default_factory=list)


class Function(Expressions):
    """`device` translated for types of some arguments and known values of the others.

    code: its syntax tree; stored: names that it assigns. `value` is the LLVM function.
    """

    def __init__(
        self,
        to: Translation,
        device: Device,
        code: ast.FunctionDef,
        stored: frozenset[str],
        known: Mapping[str, Any],
        types: Mapping[str, ir.Type],
    ) -> None:
        fn = device.fn
        name = to.module.get_unique_name(fn.__name__)
        self.value = ir.Function(to.module, ir.FunctionType(e.void, types.values()), name)
        self.value.linkage = "internal"
        self.value.attributes.add("nounwind")
        if device.noinline:
            self.value.attributes.add("noinline")
        cells = zip(fn.__code__.co_freevars, fn.__closure__ or (), strict=True)
        outside = dict(fn.__globals__) | {name: cell.cell_contents for name, cell in cells}
        super().__init__(to, Builder(self.value.append_basic_block()), stored, known, outside)
        self._path = fn.__code__.co_filename
        self._loops: list[_Loop] = []
        self._result: ir.Type | None = None
        for name, arg in zip(types, self.value.args, strict=True):
            if name in stored:
                self._assign(name, arg)
            else:
                self.plain[name] = arg
        self._block(code.body)
        if not self.b.block.is_terminated:
            try:
                self._return(None)
            except KernelError as error:
                raise error.at(self._path, code.body[-1].lineno) from None
        kind = self._result or e.void  # only now is it known what the function returns
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
                raise error.at(self._path, statement.lineno) from None

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
        if not isinstance(node.target, ast.Name):
            raise KernelError("only names are assigned")
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

    def _assign(self, name: str, value: Any) -> None:
        if isinstance(value, tuple):
            value = tuple_value(self.b, value)
        self.assigned.add(name)
        if not isinstance(value, ir.Value | Static):
            if name in self.memory or name in self.known:
                raise KernelError(f"{name} cannot change: {value!r} is known beforehand")
            self.known[name] = value
            return
        value = constant(value)
        if name not in self.memory:
            self.memory[name] = self.b.alloca(value.type, name=name)
        kind = self.memory[name].type.pointee
        if kind != value.type:
            raise KernelError(f"{name} is {kind}, and is given {value.type}")
        self.b.store(value, self.memory[name])

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
        before, ends = self.assigned, list[set[str]]()
        for block, body in ((yes, node.body), (no, node.orelse)):
            self.b.position_at_end(block)
            self.assigned = set(before)
            self._block(body)
            self._go(after, ends)
        self._continue_at(after)
        self._meet(ends)

    def _meet(self, ends: Sequence[set[str]]) -> None:
        """Paths join here; a name has a value if it has one at the end of each of them."""
        if ends:
            self.assigned = set.intersection(*ends)

    def _continue_at(self, block: ir.Block) -> None:
        """Append to `block` from here on. It ends at once if no branch leads to it."""
        self.b.position_at_end(block)
        if not any(block in b.terminator.operands for b in self.value.blocks if b.is_terminated):
            self.b.unreachable()

    def _go(self, block: ir.Block, ends: list[set[str]]) -> None:
        """Branch to `block`, if this is reached, and note in `ends` which names have a value."""
        if not self.b.block.is_terminated:
            self.b.branch(block)
            ends.append(self.assigned)

    def _do_while(self, node: ast.While) -> None:
        head, inside, after = (self.b.append_basic_block(n) for n in ("while", "do", "done"))
        self.b.branch(head)
        self.b.position_at_end(head)
        test = self._truth(node.test)
        if test is True:
            self.b.branch(inside)
        else:
            self.b.cbranch(constant(test), inside, after)
        self.b.position_at_end(inside)
        loop = _Loop(head, after)
        skipped = [] if test is True else [self.assigned]
        self.assigned = set(self.assigned)
        self._body(node, loop)
        self._continue_at(after)
        self._meet([*skipped, *loop.at_break])

    def _body(self, node: ast.While | ast.For, loop: _Loop) -> None:
        """Translate a loop's body; its end goes where `continue` does."""
        if node.orelse:
            raise KernelError("a loop has no else")
        self._loops.append(loop)
        self._block(node.body)
        self._loops.pop()
        self._go(loop.again, loop.at_again)

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
        loop = _Loop(again, after)
        skipped = [] if _runs(start, stop) else [self.assigned]
        self.assigned = set(self.assigned)
        self._bind(node.target, self.b.load(place))
        self._body(node, loop)
        self._meet([*(skipped or loop.at_again), *loop.at_break])
        self.b.position_at_end(again)
        self.b.store(self.b.add(self.b.load(place), step, flags=("nsw",)), place)
        self.b.branch(head)
        self.b.position_at_end(after)

    def _do_continue(self, node: ast.Continue) -> None:
        self._go(self._loops[-1].again, self._loops[-1].at_again)

    def _do_break(self, node: ast.Break) -> None:
        self._go(self._loops[-1].after, self._loops[-1].at_break)


def _runs(start: ir.Value, stop: ir.Value) -> bool:
    """Whether a range from `start` to `stop` is known to be not empty."""
    known = isinstance(start, ir.Constant) and isinstance(stop, ir.Constant)
    return known and start.constant < stop.constant
