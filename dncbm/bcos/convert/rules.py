"""Which layer becomes what: a table by type, and a walk over a network that applies it.

A layer without an entry that has children is walked into; one that has none is refused, since
nobody knows whether it is linear. A subclass takes its parent's entry only if it adds no method.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from torch import nn

from dncbm.bcos.convert.options import ConvertOptions
from dncbm.errors import InvalidInput

_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


@dataclass(frozen=True)
class Scan:
    """Where a walk is."""

    options: ConvertOptions
    path: str = ""
    done: dict[nn.Module, nn.Module] = field(default_factory=dict)
    """Old to new, so that shared layers stay shared."""

    def below(self, name: str) -> "Scan":
        """The same walk, one step deeper."""
        return replace(self, path=f"{self.path}.{name}".lstrip("."))

    def refusal(
        self, layer: nn.Module, why: str = "has no B-cos form here", then: str = ""
    ) -> InvalidInput:
        """An error that names the layer, the reason and what to do."""
        name = f"Layer {self.path!r}" if self.path else "The network itself"
        then = then or (
            "Replace it before the conversion, or say what it becomes with "
            "register_converter(type, function)."
        )
        return InvalidInput(f"{name} ({_name(type(layer))}) {why}. {then}")


Rule = Callable[[nn.Module, Scan], nn.Module]
_rules: dict[str, Rule] = {}
"""By full name, so that no library needs to be imported for the sake of its names."""


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Decorator: the rule of the types with these full names."""

    def register(function: Rule) -> Rule:
        _rules.update(dict.fromkeys(names, function))
        return function

    return register


def register_converter(
    layer: type[nn.Module], function: Callable[[nn.Module, ConvertOptions], nn.Module]
) -> None:
    """What layers of a type become, in place of the built-in rule if there is one.

    Args:
        layer: the type; subclasses with methods of their own need their own converter.
        function: takes the layer (of a copy: its tensors may be taken) and the options. Its result
            must be linear in explanation mode (`dncbm.bcos.mode`) and, with `EXACT` options, the
            same function as the layer.
    """
    _rules[_name(layer)] = lambda module, scan: function(module, scan.options)


def converted(module: nn.Module, scan: Scan) -> nn.Module:
    """The B-cos form of a layer or a network, whose tensors it takes over.

    Raises:
        InvalidInput: an unsupported layer, with its path.
    """
    if module not in scan.done:
        scan.done[module] = _converted(module, scan)
    return scan.done[module]


def _converted(module: nn.Module, scan: Scan) -> nn.Module:
    found = _rule_of(type(module))
    if found is not None:
        return found(module, scan)
    if not module._modules and not isinstance(module, _CONTAINERS):
        raise scan.refusal(module)
    for name, child in module._modules.items():
        if child is not None:
            module._modules[name] = converted(child, scan.below(name))
    return module


def _rule_of(layer: type) -> Rule | None:
    for base in layer.__mro__:
        if _name(base) in _rules:
            return _rules[_name(base)]
        if any(callable(value) and not name.startswith("__") for name, value in vars(base).items()):
            return None
    return None


def _name(layer: type) -> str:
    return f"{layer.__module__}.{layer.__qualname__}"
