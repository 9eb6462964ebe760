"""OpenCL C for TIR's expressions."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import tvm
from tvm import tirx

from graphopt.codegen.linking.opencl_memory import Memory, load
from graphopt.codegen.linking.opencl_words import (
    BOOL,
    INT,
    Code,
    DataType,
    Level,
    Names,
    data_type,
    number,
)
from graphopt.errors import Unsupported


class Body:
    """A function's statements as they are written, and what the present block has names for."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.names = Names()
        self.named: dict[str, Code] = {}
        """The variable of an expression's text."""
        self._depth = 1

    def add(self, statement: str) -> None:
        """Write the next line."""
        self.lines.append("  " * self._depth + statement)

    @contextmanager
    def block(self, head: str) -> Iterator[None]:
        """Write `head { ... }`, with what is written meanwhile inside; `else` joins the last."""
        if head == "else":
            self.lines.pop()
            head = "} else"
        self.add(f"{head} {{")
        before, self.named = self.named, dict(self.named)
        self._depth += 1
        yield
        self._depth -= 1
        self.named = before
        self.add("}")


class Expressions:
    """Makes text of a kernel's expressions.

    What must be done before an expression is computed (only one side of a condition is) is written
    to the body first.

    Args:
        body: of the kernel.
    """

    def __init__(self, body: Body) -> None:
        self.body = body
        self.memory: dict[Any, Memory] = {}
        self.variables: dict[Any, Code] = {}
        self.reads = 0
        """Loads and calls so far: what has any may have another value later."""

    def __call__(self, expression: Any) -> Code:
        """The text.

        Raises:
            Unsupported: there is none for that in OpenCL C.
            NoImageError: an image is used otherwise than by whole pixels.
        """
        rule = RULES.get(type(expression))
        if rule is None:
            raise Unsupported(f"OpenCL C cannot say {type(expression).__name__}: {expression}")
        code = rule(self, expression)
        # What has a name already is not computed again.
        return self.body.named.get(code.text, code)

    def _variable(self, variable: Any) -> Code:
        return self.variables[variable]

    def _integer(self, constant: Any) -> Code:
        return number(int(constant.value), data_type(constant.ty))

    def _fraction(self, constant: Any) -> Code:
        return number(float(constant.value), data_type(constant.ty))

    def _load(self, what: Any) -> Code:
        return self._loaded(what, data_type(what.ty))

    def _loaded(self, what: Any, kind: DataType) -> Code:
        self.reads += 1
        (index,) = what.indices
        return load(self.memory[what.source], kind, index, self)

    def _sum(self, operation: Any, operator: str) -> Code:
        left, right = self(operation.a), self(operation.b)
        text = f"{left.at(Level.SUM)} {operator} {right.at(Level.PRODUCT)}"
        return _narrowed(Code(text, Level.SUM, left.type))

    def _product(self, operation: Any, operator: str) -> Code:
        left, right = self(operation.a), self(operation.b)
        text = f"{left.at(Level.PRODUCT)} {operator} {right.at(Level.UNARY)}"
        return _narrowed(Code(text, Level.PRODUCT, left.type))

    def _remainder(self, operation: Any) -> Code:
        if data_type(operation.ty).is_float:
            return self._function("fmod", operation.ty, operation.a, operation.b)
        return self._product(operation, "%")

    def _bits(self, operation: Any, operator: str) -> Code:
        # Always in brackets: compilers warn where others must know what binds more tightly.
        left, right = self(operation.a), self(operation.b)
        text = f"({left.at(Level.UNARY)} {operator} {right.at(Level.UNARY)})"
        return _narrowed(Code(text, Level.ATOM, left.type))

    def _inverted(self, operation: Any) -> Code:
        operand = self(operation.a)
        return _narrowed(Code(f"~{operand.at(Level.ATOM)}", Level.UNARY, operand.type))

    def _comparison(self, operation: Any, operator: str) -> Code:
        left, right = self(operation.a), self(operation.b)
        text = f"{left.at(Level.SUM)} {operator} {right.at(Level.SUM)}"
        return Code(text, Level.COMPARISON, BOOL.of_lanes(left.type.lanes))

    def _connective(self, operation: Any, operator: str, level: Level) -> Code:
        left, right = self(operation.a), self(operation.b)
        first = left.text if left.level == level else left.at(Level.COMPARISON)
        return Code(f"{first} {operator} {right.at(Level.COMPARISON)}", level, left.type)

    def _negation(self, operation: Any) -> Code:
        operand = self(operation.a)
        return Code(f"!{operand.at(Level.ATOM)}", Level.UNARY, operand.type)

    def _extreme(self, operation: Any, name: str) -> Code:
        return self._function(name, operation.ty, operation.a, operation.b)

    def _cast(self, cast: Any) -> Code:
        kind = data_type(cast.ty)
        value = cast.value
        if isinstance(value, tvm.ir.TensorLoad) and self.memory[value.source].converts(kind):
            return self._loaded(value, kind)
        value = self(value)
        if value.type == kind:
            return value
        if kind.lanes > 1:
            # True is -1 in a vector.
            text = f"-({value.text})" if value.type.scalar == BOOL.scalar else value.text
            return Code(f"convert_{kind.name}({text})", Level.ATOM, kind)
        return Code(f"({kind.name}){value.at(Level.ATOM)}", Level.UNARY, kind)

    def _broadcast(self, broadcast: Any) -> Code:
        value = self(broadcast.value)
        kind = value.type.of_lanes(int(broadcast.lanes))
        text = value.text
        if value.type == BOOL:
            text = f"-({text})"
        return Code(f"({kind.name})({text})", Level.UNARY, kind)

    def _ramp(self, ramp: Any) -> Code:
        lanes = int(ramp.lanes)
        parts = [self(ramp.base + ramp.stride * lane) for lane in range(lanes)]
        kind = parts[0].type.of_lanes(lanes)
        text = ", ".join(part.text for part in parts)
        return Code(f"({kind.name})({text})", Level.UNARY, kind)

    def _shuffle(self, shuffle: Any) -> Code:
        scalars: list[Code] = []
        for vector in map(self, shuffle.vectors):
            kind = vector.type.of_lanes(1)
            scalars += (
                (
                    Code(f"{vector.at(Level.ATOM)}.s{lane:x}", Level.ATOM, kind)
                    for lane in range(vector.type.lanes)
                )
                if vector.type.lanes > 1
                else [vector]
            )
        chosen = [scalars[int(index)] for index in shuffle.indices]
        if len(chosen) == 1:
            return chosen[0]
        kind = chosen[0].type.of_lanes(len(chosen))
        text = ", ".join(part.text for part in chosen)
        return Code(f"({kind.name})({text})", Level.UNARY, kind)

    def _select(self, select: Any) -> Code:
        """Both sides are computed: there is no branch."""
        condition, yes, no = map(self, (select.condition, select.true_value, select.false_value))
        if yes.type == BOOL:
            test = condition.at(Level.ATOM)
            return Code(f"({test} ? {yes.text} : {no.text})", Level.ATOM, BOOL)
        # The condition's numbers are as wide as those that are chosen.
        mask = DataType(f"int{yes.type.bits}", yes.type.lanes)
        test = condition.text
        if mask.lanes > condition.type.lanes:
            test = f"({mask.name})(-({test}))"
        elif mask.lanes > 1:
            test = f"convert_{mask.name}({test})"
        elif mask != INT or condition.level not in (Level.AND, Level.OR, Level.COMPARISON):
            test = f"({mask.name}){condition.at(Level.ATOM)}"
        return Code(f"select({no.text}, {yes.text}, {test})", Level.ATOM, yes.type)

    def _let(self, let: Any) -> Code:
        self.bind(let.var, let.value)
        return self(let.body)

    def bind(self, variable: Any, value: Any) -> None:
        """Declare a variable; none where the value has a name."""
        if _operator(value) == IF_THEN_ELSE:
            self.variables[variable] = self._if_then_else(value, variable.name)
            return
        reads = self.reads
        code = self(value)
        pure = reads == self.reads
        if pure and (code.text.isidentifier() or isinstance(value, tirx.IntImm | tirx.FloatImm)):
            self.variables[variable] = code
            return
        name = Code(self.body.names.new(variable.name), Level.ATOM, code.type)
        self.body.add(f"{code.type.name} {name.text} = {code.text};")
        self.variables[variable] = name
        # A product is written out where it is added to something: both are one operation there.
        if pure and not (code.type.is_float and code.level == Level.PRODUCT):
            self.body.named[code.text] = name

    def _if_then_else(self, call: Any, name: str = "chosen") -> Code:
        """Only one side is computed: the other one may read outside of memory."""
        condition, *sides = call.args
        kind = data_type(call.ty)
        result = Code(self.body.names.new(name), Level.ATOM, kind)
        test = self(condition).text
        self.body.add(f"{kind.name} {result.text};")
        for head, side in zip((f"if ({test})", "else"), sides, strict=True):
            with self.body.block(head):
                self.body.add(f"{result.text} = {self(side).text};")
        return result

    def _call(self, call: Any) -> Code:
        rule = CALLS.get(_operator(call))
        if rule is None:
            raise Unsupported(f"OpenCL C cannot call {_operator(call)}: {call}")
        return rule(self, call)

    def _extern(self, call: Any) -> Code:
        name, *operands = call.args
        return self._function(EXTERNS.get(name.value, name.value), call.ty, *operands)

    def _impure(self, call: Any) -> Code:
        self.reads += 1
        return self._extern(call)

    def _reinterpreted(self, call: Any) -> Code:
        kind = data_type(call.ty)
        return self._function(f"as_{kind.name}", call.ty, *call.args)

    def _is_nan(self, call: Any) -> Code:
        (operand,) = call.args
        value = self(operand)
        text = f"{value.at(Level.SUM)} != {value.at(Level.SUM)}"
        return Code(text, Level.COMPARISON, BOOL.of_lanes(value.type.lanes))

    def _function(self, name: str, result: Any, *operands: Any) -> Code:
        texts = ", ".join(self(operand).text for operand in operands)
        return Code(f"{name}({texts})", Level.ATOM, data_type(result))


def _narrowed(code: Code) -> Code:
    """C computes with int where numbers are smaller; TIR does not."""
    kind = code.type
    if kind.is_float or kind.lanes > 1 or kind.bits >= INT.bits:
        return code
    return Code(f"({kind.name})({code.text})", Level.UNARY, kind)


def _operator(call: Any) -> str:
    return str(getattr(getattr(call, "op", None), "name", ""))


IF_THEN_ELSE = "prim.if_then_else"

EXTERNS = {"nearbyint": "rint"}
"""C's functions that OpenCL calls otherwise."""

Rule = Callable[[Expressions, Any], Code]

RULES: dict[type, Rule] = {
    tvm.ir.Var: Expressions._variable,
    tirx.IntImm: Expressions._integer,
    tirx.FloatImm: Expressions._fraction,
    tvm.ir.TensorLoad: Expressions._load,
    tirx.Add: partial(Expressions._sum, operator="+"),
    tirx.Sub: partial(Expressions._sum, operator="-"),
    tirx.Mul: partial(Expressions._product, operator="*"),
    tirx.Div: partial(Expressions._product, operator="/"),
    tirx.Mod: Expressions._remainder,
    tirx.Min: partial(Expressions._extreme, name="min"),
    tirx.Max: partial(Expressions._extreme, name="max"),
    tirx.LShift: partial(Expressions._bits, operator="<<"),
    tirx.RShift: partial(Expressions._bits, operator=">>"),
    tirx.BitwiseAnd: partial(Expressions._bits, operator="&"),
    tirx.BitwiseOr: partial(Expressions._bits, operator="|"),
    tirx.BitwiseXor: partial(Expressions._bits, operator="^"),
    tirx.BitwiseNot: Expressions._inverted,
    tirx.EQ: partial(Expressions._comparison, operator="=="),
    tirx.NE: partial(Expressions._comparison, operator="!="),
    tirx.LT: partial(Expressions._comparison, operator="<"),
    tirx.LE: partial(Expressions._comparison, operator="<="),
    tirx.GT: partial(Expressions._comparison, operator=">"),
    tirx.GE: partial(Expressions._comparison, operator=">="),
    tirx.And: partial(Expressions._connective, operator="&&", level=Level.AND),
    tirx.Or: partial(Expressions._connective, operator="||", level=Level.OR),
    tirx.Not: Expressions._negation,
    tirx.Cast: Expressions._cast,
    tirx.Broadcast: Expressions._broadcast,
    tirx.Ramp: Expressions._ramp,
    tirx.Shuffle: Expressions._shuffle,
    tirx.Select: Expressions._select,
    tirx.Let: Expressions._let,
    tvm.ir.Call: Expressions._call,
}
"""How an expression is rendered, by its class."""

CALLS: dict[str, Rule] = {
    IF_THEN_ELSE: Expressions._if_then_else,
    "tirx.call_pure_extern": Expressions._extern,
    "tirx.call_extern": Expressions._impure,
    "tirx.reinterpret": Expressions._reinterpreted,
    "tirx.isnan": Expressions._is_nan,
}
"""How a call is rendered, by its operator."""
