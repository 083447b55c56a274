"""Module and Parameter. Source: torch.nn.Module, torch.nn.Parameter."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple, Self

import numpy as np

from fastconv import device as device_module
from fastconv.autograd import Array, array, is_array
from fastconv.problem import boolean
from fastconv.tensors import Tensor


class Parameter(Tensor):
    """A Tensor that a Module registers when it becomes an attribute.

    data: an array or Tensor, whose memory is shared unless it is read-only, or numbers. TypeError for a dtype that
    is no float while requires_grad is True.
    """

    __slots__ = ()

    def __init__(self, data: Any, requires_grad: bool = True) -> None:
        if isinstance(data, np.ndarray) and not data.flags.writeable:
            data = data.copy()
        super().__init__(data, requires_grad)

    def __repr__(self) -> str:
        return f"Parameter containing:\n{super().__repr__()}"


class LoadResult(NamedTuple):
    """The keys that load_state_dict(strict=False) left out."""

    missing_keys: list[str]
    unexpected_keys: list[str]

    def __repr__(self) -> str:
        if not self.missing_keys and not self.unexpected_keys:
            return "<All keys matched successfully>"
        return f"LoadResult(missing_keys={self.missing_keys}, unexpected_keys={self.unexpected_keys})"


class HookHandle:
    """What register_forward_hook gives; `remove()` takes the hook away again."""

    def __init__(self, hooks: dict[int, Callable[..., Any]], hook: Callable[..., Any]) -> None:
        self._hooks = hooks
        hooks[id(self)] = hook

    def remove(self) -> None:
        """Take the hook away; once is enough."""
        self._hooks.pop(id(self), None)


# Where a Module keeps what is assigned to it, by kind.
_TABLES = ("_parameters", "_buffers", "_modules")


class Module:
    """The base of all layers: registers the Parameters and Modules that become its attributes."""

    training: bool

    def __init__(self) -> None:
        self.__dict__["_parameters"] = {}
        self.__dict__["_buffers"] = {}
        self.__dict__["_modules"] = {}
        self._not_saved: set[str] = set()
        self._forward_hooks: dict[int, Callable[..., Any]] = {}
        self.training = True

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The layer's output; every layer defines it."""
        raise NotImplementedError(f"{type(self).__name__} has no forward method")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        output = self.forward(*args, **kwargs)
        if not self._forward_hooks:
            return output
        for hook in tuple(self._forward_hooks.values()):
            changed = hook(self, args, output)
            output = output if changed is None else changed
        return output

    def register_forward_hook(self, hook: Callable[[Module, tuple[Any, ...], Any], Any]) -> HookHandle:
        """Have hook(module, inputs, output) called after every forward; what it returns, unless None, is the output."""
        return HookHandle(self._forward_hooks, hook)

    def __getattr__(self, name: str) -> Any:
        own = self.__dict__
        for table in _TABLES:
            if name in own.get(table, ()):
                return own[table][name]
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def __setattr__(self, name: str, value: Any) -> None:
        table = "_parameters" if isinstance(value, Parameter) else "_modules" if isinstance(value, Module) else None
        if table is not None:
            if table not in self.__dict__:
                raise AttributeError(f"{name}={type(value).__name__}: call super().__init__() before assigning it")
            self._register(table, name, value)
            return
        for table in _TABLES:
            entries = self.__dict__.get(table, {})
            if name in entries:
                if value is not None and not (table == "_buffers" and isinstance(value, Tensor)):
                    needs = {"_parameters": "nn.Parameter", "_buffers": "Tensor", "_modules": "nn.Module"}[table]
                    raise TypeError(f"{name}: cannot assign {type(value).__name__}, needs {needs} or None")
                entries[name] = value
                return
        object.__setattr__(self, name, value)

    def __delattr__(self, name: str) -> None:
        for table in _TABLES:
            if name in self.__dict__[table]:
                del self.__dict__[table][name]
                return
        object.__delattr__(self, name)

    def _register(self, table: str, name: str, value: Any) -> None:
        for other in _TABLES:
            if other != table:
                self.__dict__[other].pop(name, None)
        self.__dict__.pop(name, None)
        self.__dict__[table][name] = value

    def register_parameter(self, name: str, param: Parameter | None) -> None:
        """Add a Parameter, or None for one that the layer could have but has not."""
        if param is not None and not isinstance(param, Parameter):
            raise TypeError(f"param={type(param).__name__}: needs nn.Parameter or None")
        self._register("_parameters", name, param)

    def register_buffer(self, name: str, tensor: Any, persistent: bool = True) -> None:
        """Add a Tensor that is state but not trained; in state_dict if `persistent`."""
        self._register("_buffers", name, None if tensor is None else Tensor(tensor))
        if not persistent:
            self._not_saved.add(name)

    def add_module(self, name: str, module: Module | None) -> None:
        """Add a child under a name that need not be an identifier."""
        if module is not None and not isinstance(module, Module):
            raise TypeError(f"module={module!r}: needs an nn.Module, got {type(module).__name__}")
        if not isinstance(name, str) or "." in name or not name:
            raise ValueError(f"name={name!r}: needs a str without dots, not empty")
        self._register("_modules", name, module)

    def named_children(self) -> Iterator[tuple[str, Module]]:
        """Each direct child, with its name."""
        seen: set[Module] = set()
        for name, module in self._modules.items():
            if module is not None and module not in seen:
                seen.add(module)
                yield name, module

    def children(self) -> Iterator[Module]:
        """Each direct child."""
        return (module for _, module in self.named_children())

    def named_modules(self) -> Iterator[tuple[str, Module]]:
        """This module (named "") and all below it, each once, parents first."""
        return self._named_modules("", set())

    def _named_modules(self, prefix: str, seen: set[Module]) -> Iterator[tuple[str, Module]]:
        if self in seen:
            return
        seen.add(self)
        yield prefix, self
        for name, module in self._modules.items():
            if module is not None:
                yield from module._named_modules(f"{prefix}.{name}" if prefix else name, seen)

    def modules(self) -> Iterator[Module]:
        """This module and all below it, each once, parents first."""
        return (module for _, module in self.named_modules())

    def _named_tensors(self, table: str) -> Iterator[tuple[str, Any]]:
        seen: set[Tensor] = set()
        for prefix, module in self.named_modules():
            for name, tensor in module.__dict__[table].items():
                if tensor is not None and tensor not in seen:
                    seen.add(tensor)
                    yield (f"{prefix}.{name}" if prefix else name), tensor

    def named_parameters(self) -> Iterator[tuple[str, Parameter]]:
        """Each Parameter of this module and all below it, once, with its dotted name."""
        return self._named_tensors("_parameters")

    def parameters(self) -> Iterator[Parameter]:
        """Each Parameter of this module and all below it, once."""
        return (parameter for _, parameter in self.named_parameters())

    def named_buffers(self) -> Iterator[tuple[str, Tensor]]:
        """Each buffer of this module and all below it, once, with its dotted name."""
        return self._named_tensors("_buffers")

    def buffers(self) -> Iterator[Tensor]:
        """Each buffer of this module and all below it, once."""
        return (buffer for _, buffer in self.named_buffers())

    def _state(self, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
        """Every saved tensor under every name that it has."""
        saved = {name: buffer for name, buffer in self._buffers.items() if name not in self._not_saved}
        for name, tensor in {**self._parameters, **saved}.items():
            if tensor is not None:
                yield prefix + name, tensor
        for name, module in self._modules.items():
            if module is not None:
                yield from module._state(f"{prefix}{name}.")

    def state_dict(self) -> dict[str, Array]:
        """Copies of all parameters and saved buffers as arrays, under torch's keys, on the device where they are."""
        return {name: tensor._array.copy() for name, tensor in self._state()}

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True) -> LoadResult:
        """Copy arrays or Tensors into the parameters and buffers of the same names, in place, cast to their dtypes.

        They may be on another device than these.

        All or nothing: ValueError with every missing key, unexpected key (both only if `strict`) and wrong shape,
        TypeError for a value that is no numeric array, before anything is copied.
        """
        if not isinstance(state_dict, Mapping):
            raise TypeError(f"state_dict={state_dict!r:.60}: needs a dict of arrays, got {type(state_dict).__name__}")
        own = dict(self._state())
        missing = [name for name in own if name not in state_dict]
        unexpected = [name for name in state_dict if name not in own]
        faults = []
        if strict and missing:
            faults.append(f"Missing key(s) in state_dict: {', '.join(missing)}.")
        if strict and unexpected:
            faults.append(f"Unexpected key(s) in state_dict: {', '.join(map(str, unexpected))}.")
        values: dict[str, Array] = {}
        for name, tensor in own.items():
            if name not in state_dict:
                continue
            value = state_dict[name]
            if not (isinstance(value, Tensor) or is_array(value)):
                raise TypeError(f"state_dict[{name!r}]: needs an array or a Tensor, got {type(value).__name__}")
            values[name] = array(value)
            if values[name].dtype.kind not in "biuf":
                raise TypeError(
                    f"state_dict[{name!r}]: dtype {values[name].dtype} is not supported, needs real numbers"
                )
            if values[name].shape != tensor.shape:
                faults.append(f"size mismatch for {name}: {values[name].shape} in state_dict, needs {tensor.shape}.")
        if faults:
            raise ValueError("\n\t".join([f"Error(s) in loading state_dict for {type(self).__name__}:", *faults]))
        for name, new in values.items():
            own[name].data.copy_(device_module.moved(new, own[name].device))
        return LoadResult(missing, unexpected)

    def train(self, mode: bool = True) -> Self:
        """Set training mode, here and below: it matters to Dropout and batch normalisation."""
        mode = boolean("mode", mode)
        for module in self.modules():
            module.training = mode
        return self

    def eval(self) -> Self:
        """Set evaluation mode, here and below."""
        return self.train(False)

    def requires_grad_(self, requires_grad: bool = True) -> Self:
        """Say for every parameter whether it wants a gradient."""
        for parameter in self.parameters():
            parameter.requires_grad_(requires_grad)
        return self

    def to(self, device: str) -> Self:
        """Move all parameters, their gradients and all buffers to a device, in place; optimisers keep them.

        device: "cpu", "cuda" or "cuda:0" with a number, else ValueError; RuntimeError if there is no CUDA device, and
        nothing has moved then. Source: torch.nn.Module.to.
        """
        held = [*self.parameters(), *self.buffers()]
        held += [p.grad for p in self.parameters() if p.grad is not None]
        moved = [(one, device_module.moved(one._array, device)) for one in held]
        for one, values in moved:
            if values is not one._array:
                one._array = values
                one._state.bump()
        return self

    def cuda(self, device: int | None = None) -> Self:
        """Move to the current CUDA device or the one of this number; see `to`."""
        return self.to("cuda" if device is None else f"cuda:{device}")

    def cpu(self) -> Self:
        """Move to main memory; see `to`."""
        return self.to("cpu")

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Drop every parameter's gradient, or set it to zero."""
        zero_grad(self.parameters(), set_to_none)

    def apply(self, fn: Callable[[Module], object]) -> Self:
        """Call `fn` with every module below this one, and then with this one."""
        for module in self.children():
            module.apply(fn)
        fn(self)
        return self

    def extra_repr(self) -> str:
        """What stands between the parentheses of the repr."""
        return ""

    def __repr__(self) -> str:
        extra = self.extra_repr()
        children = [f"({name}): " + repr(module).replace("\n", "\n  ") for name, module in self._modules.items()]
        if not children and "\n" not in extra:
            return f"{type(self).__name__}({extra})"
        lines = (extra.split("\n") if extra else []) + children
        return f"{type(self).__name__}(\n  " + "\n  ".join(lines) + "\n)"


def zero_grad(parameters: Iterable[Tensor], set_to_none: bool) -> None:
    """Drop the gradients of `parameters`, or set them to zero."""
    for parameter in parameters:
        if set_to_none:
            parameter.grad = None
        elif parameter.grad is not None:
            parameter.grad.zero_()
