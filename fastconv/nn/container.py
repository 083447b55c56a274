"""Modules made of modules. Source: torch.nn.Sequential."""

from __future__ import annotations

import operator
from collections.abc import Iterator, Mapping
from typing import Any, Self

from fastconv.nn.module import Module


class Sequential(Module):
    """Modules applied one after the other: Sequential(a, b), or Sequential(OrderedDict(first=a, second=b))."""

    def __init__(self, *args: Module | Mapping[str, Module]) -> None:
        super().__init__()
        if len(args) == 1 and isinstance(args[0], Mapping):
            named = list(args[0].items())
        else:
            named = [(str(i), module) for i, module in enumerate(args)]  # type: ignore[misc]
        for name, module in named:
            if not isinstance(module, Module):
                raise TypeError(f"args[{name}]={module!r:.60}: needs an nn.Module, got {type(module).__name__}")
            self.add_module(name, module)

    def forward(self, x: Any) -> Any:
        for module in self._modules.values():
            x = module(x)
        return x

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
            return type(self)(dict(list(self._modules.items())[index]))
        return self._modules[self._name(index)]

    def __setitem__(self, index: int, module: Module) -> None:
        self.add_module(self._name(index), module)

    def append(self, module: Module) -> Self:
        """Add a module at the end."""
        self.add_module(str(len(self)), module)
        return self
