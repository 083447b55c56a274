"""Modules made of modules. Source: torch.nn.Sequential, torch.nn.ModuleList."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Self

from fastconv.nn.module import Module


class _Container(Module):
    """Modules in an order, with a list's methods."""

    def _add(self, named: Iterable[tuple[str, Any]], argument: str) -> None:
        for name, module in named:
            if not isinstance(module, Module):
                raise TypeError(f"{argument}[{name}]={module!r:.60}: needs an nn.Module, got {type(module).__name__}")
            self.add_module(name, module)

    def _part(self, named: list[tuple[str, Module]]) -> Self:
        """A container of some of the modules."""
        raise NotImplementedError

    def __len__(self) -> int:
        return len(self._modules)

    def __iter__(self) -> Iterator[Module]:
        return iter(self._modules.values())

    def _name(self, index: int) -> str:
        names: list[str] = list(self._modules)
        number = operator.index(index)
        if not -len(names) <= number < len(names):
            raise IndexError(f"index={number}: needs {-len(names)} to {len(names) - 1}")
        return names[number]

    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            return self._part(list(self._modules.items())[index])
        return self._modules[self._name(index)]

    def __setitem__(self, index: int, module: Module) -> None:
        self.add_module(self._name(index), module)

    def append(self, module: Module) -> Self:
        """Add a module at the end."""
        self.add_module(str(len(self)), module)
        return self


class Sequential(_Container):
    """Modules applied one after the other: Sequential(a, b), or Sequential(OrderedDict(first=a, second=b))."""

    def __init__(self, *args: Module | Mapping[str, Module]) -> None:
        super().__init__()
        named = args[0].items() if len(args) == 1 and isinstance(args[0], Mapping) else enumerate(args)
        self._add(((str(name), module) for name, module in named), "args")

    def _part(self, named: list[tuple[str, Module]]) -> Self:
        return type(self)(dict(named))

    def forward(self, x: Any) -> Any:
        for module in self._modules.values():
            x = module(x)
        return x


class ModuleList(_Container):
    """A list whose modules are registered; what calls them is the module that holds it."""

    def __init__(self, modules: Iterable[Module] = ()) -> None:
        super().__init__()
        self.extend(modules)

    def _part(self, named: list[tuple[str, Module]]) -> Self:
        return type(self)(module for _, module in named)

    def extend(self, modules: Iterable[Module]) -> Self:
        """Add modules at the end."""
        self._add(((str(i), module) for i, module in enumerate(modules, len(self))), "modules")
        return self
