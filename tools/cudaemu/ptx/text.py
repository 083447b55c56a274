"""PTX as nvcc writes it, taken apart: functions, their variables, and basic blocks of instructions."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

# What a basic block may end with.
LEAVING = ("bra", "bra.uni", "ret", "ret.uni", "exit")
BARRIERS = ("bar.sync", "barrier.sync", "barrier.sync.aligned", "bar.warp.sync")

_FUNCTION = re.compile(
    r"\.(?P<kind>entry|func)\s*(?:\((?P<results>[^)]*)\))?\s*(?P<name>[\w$]+)\s*(?:\((?P<parameters>[^)]*)\))?[^;{}]*(?P<end>[;{])"
)
_PARAMETER = re.compile(r"\.param\s+(?:\.align\s+\d+\s+)?\.(?P<type>\w+)\s+(?P<name>[\w$]+)(?P<array>\[\d+\])?")
_VARIABLE = re.compile(
    r"(?P<extern>\.extern\s+)?(?:\.(?:visible|weak)\s+)?\.(?P<space>shared|global|const|local)\s+(?:\.align\s+(?P<align>\d+)\s+)?"
    r"\.(?P<type>\w+)\s+(?P<name>[\w$]+)(?:\[(?P<count>\d*)\])?\s*(?:=\s*\{?(?P<values>[^;}]*)\}?)?\s*;"
)
_REGISTERS = re.compile(r"\.reg\s+\.(?P<type>\w+)\s+(?P<names>.+)", re.DOTALL)
_PART = re.compile(r"\s*(?:(?P<label>[\w$]+):(?!:)|(?P<brace>[{}])|(?P<statement>[^\s;{}][^;]*);)")
_GUARD = re.compile(r"@(?P<not>!?)(?P<register>%\w+)\s+")
_NAME = re.compile(r"[A-Za-z_$][\w$]*")


class UnknownInstructionError(NotImplementedError):
    """An instruction, or a declaration, that is not understood."""


@dataclass(frozen=True, slots=True)
class Instruction:
    """One instruction: guard is the register whose truth it asks for (`negated`: whose untruth), "" for none."""

    line: int
    text: str
    guard: str
    negated: bool
    name: str
    operands: tuple[str, ...]

    def __str__(self) -> str:
        return f"line {self.line}: {self.text}"


@dataclass(frozen=True, slots=True)
class Variable:
    """An array in shared, global, const or local memory; `size` in bytes, None for dynamic shared memory."""

    name: str
    space: str
    align: int
    size: int | None
    values: bytes = b""


@dataclass(slots=True)
class Code:
    """A kernel or function. parameters, results: (name, type); registers: type by name, or by the name's letters."""

    name: str
    entry: bool
    parameters: list[tuple[str, str]]
    results: list[tuple[str, str]]
    registers: dict[str, str] = field(default_factory=dict)
    variables: list[Variable] = field(default_factory=list)
    blocks: list[list[Instruction]] = field(default_factory=list)
    labels: dict[str, int] = field(default_factory=dict)

    def register_type(self, name: str) -> str:
        """The type a register was declared with. KeyError if it was not."""
        return self.registers.get(name) or self.registers[name.rstrip("0123456789")]


def _bytes_of(kind: str) -> int:
    return int(kind[1:]) // 8


def _variable(found: re.Match[str]) -> Variable:
    size = _bytes_of(found["type"])
    count = 1 if found["count"] is None else int(found["count"] or 0)
    dynamic = found["extern"] is not None and not count
    values = b""
    if found["values"]:
        words = [word.strip() for word in found["values"].split(",")]
        if found["type"][0] not in "bus" or not all(re.fullmatch(r"-?(0x)?[0-9a-fA-F]+", word) for word in words):
            raise UnknownInstructionError(f"values of {found['name']}: {found['values'][:40]}")
        values = b"".join((int(word, 0) % 256**size).to_bytes(size, "little") for word in words)
    return Variable(
        found["name"], found["space"], int(found["align"] or size), None if dynamic else size * count, values
    )


def _parameters(text: str | None) -> list[tuple[str, str]]:
    found = list(_PARAMETER.finditer(text or ""))
    for one in found:
        if one["array"]:
            raise UnknownInstructionError(f"a parameter that is a structure: {one[0]}")
    return [(one["name"], one["type"]) for one in found]


def operands(text: str) -> tuple[str, ...]:
    """Split at commas outside of brackets."""
    return tuple(re.sub(r"\s+", "", word) for word in re.split(r",(?![^\[{(]*[\]})])", text)) if text else ()


def _body(code: Code, text: str, line: int) -> None:
    """Fill in what stands between a function's braces. line: where the text begins."""
    block: list[Instruction] = []
    # Names without %, of parameters of calls and in inline PTX, are used again and again.
    scoped: dict[str, str] = {}

    def declare(name: str, kind: str) -> None:
        if not name.startswith("%"):
            scoped[name] = name = f"{name}#{len(code.registers)}"
        code.registers[name] = kind

    at, seen = 0, 0
    while found := _PART.match(text, at):
        start = at + len(found[0]) - len(found[0].lstrip())
        line += text.count("\n", seen, start)
        at, seen = found.end(), start
        if found["label"]:
            if block:
                code.blocks.append(block)
                block = []
            code.labels[found["label"]] = len(code.blocks)
        statement = found["statement"]
        if statement is None or statement.startswith(".pragma"):
            continue
        if statement.startswith(".reg"):
            declared = _REGISTERS.fullmatch(statement)
            assert declared is not None
            for name in re.split(r"\s*,\s*", declared["names"].strip()):
                declare(re.sub(r"<\d+>", "", name), declared["type"])
        elif statement.startswith(".param"):
            ((name, kind),) = _parameters(statement)
            declare(name, kind)
        elif variable := _VARIABLE.fullmatch(statement + ";"):
            code.variables.append(_variable(variable))
        elif statement.startswith("."):
            raise UnknownInstructionError(f"{code.name}, line {line}: {statement}")
        else:
            renamed = _NAME.sub(lambda name: scoped.get(name[0], name[0]), statement) if scoped else statement
            guard = _GUARD.match(renamed)
            rest = renamed[guard.end() :] if guard else renamed
            name, *after = rest.split(maxsplit=1)
            register, negated = (guard["register"], bool(guard["not"])) if guard else ("", False)
            whole = " ".join(statement.split())
            block.append(Instruction(line, whole, register, negated, name, operands("".join(after))))
            if name in LEAVING + BARRIERS:
                code.blocks.append(block)
                block = []
    if text[at:].strip():
        raise UnknownInstructionError(f"{code.name}: {text[at : at + 60].strip()!r}")
    code.blocks.append(block)


def parse(text: str) -> tuple[dict[str, Code], list[Variable]]:
    """The functions of a PTX text by name, and the variables outside of them."""
    text = re.sub(r"//[^\n]*", "", text)
    found: dict[str, Code] = {}
    outside, at = [], 0
    while function := _FUNCTION.search(text, at):
        outside.append(text[at : function.start()])
        at = function.end()
        if function["end"] == ";":
            continue
        depth, end = 1, at
        while depth:
            end += 1
            depth += {"{": 1, "}": -1}.get(text[end - 1], 0)
        parameters, results = _parameters(function["parameters"]), _parameters(function["results"])
        code = Code(function["name"], function["kind"] == "entry", parameters, results)
        code.registers.update(parameters + results)
        _body(code, text[at : end - 1], text.count("\n", 0, at) + 1)
        found[code.name], at = code, end
    outside.append(text[at:])
    return found, [_variable(one) for part in outside for one in _VARIABLE.finditer(part)]
