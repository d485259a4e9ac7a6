"""Imports of large packages without the parts that Lightning never uses.

Lightning (2.6) imports two classes of torchmetrics (1.9), whose package imports all of its metrics,
and with them scipy.signal, torchvision, matplotlib and, where it is installed, transformers
(Lightning-AI/torchmetrics#3457). It imports one class of torch._dynamo (torch 2.14), the front end
of `torch.compile`, and with its counter of operations the compiler triton. Together this is half
of the start of every command. Here each of these modules first has only the names that a run
needs; any other use of it loads the whole module.
"""

import functools
import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from importlib.metadata import version
from importlib.util import spec_from_loader
from types import ModuleType
from typing import Any, ClassVar


def install() -> None:
    """Make the first import of these modules in this process a lean one."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        lean = (_Torchmetrics(), _TorchmetricsPlots(), _FlopCounter(), _Dynamo())
        sys.meta_path[:0] = [_Finder(each) for each in lean if each.name not in sys.modules]


class LeanModule:
    """A module that has only a few names until another one is used."""

    name: str
    """Its full name."""
    module: ModuleType | None = None
    """The module while it is lean."""
    load: Callable[[ModuleType], None]
    """Run the code of the whole module in it."""
    is_importing = False
    """True while a submodule is imported without the rest."""

    def names(self) -> Mapping[str, Any]:
        """Return the names of the lean module, apart from those that `get` finds."""
        raise NotImplementedError

    def get(self, name: str) -> Any:
        """Return another name that needs no whole module, or raise KeyError."""
        raise KeyError(name)

    def complete(self) -> ModuleType:
        """Load the whole module, unless this has happened, and return it."""
        if self.module is not None:
            module, self.module = self.module, None
            del module.__dict__["__getattr__"]
            self.load(module)
        return sys.modules[self.name]

    def _get(self, name: str) -> Any:
        try:
            return self.get(name)
        except KeyError:
            pass
        if name.startswith("__") or self.is_importing:
            raise AttributeError(f"module {self.name!r} has no attribute {name!r}")
        return getattr(self.complete(), name)


class _Torchmetrics(LeanModule):
    name = "torchmetrics"
    classes: ClassVar = {
        "Metric": "torchmetrics.metric",
        "MetricCollection": "torchmetrics.collections",
    }
    """The classes that Lightning imports, and their modules."""

    def names(self) -> Mapping[str, Any]:
        return {"_logger": logging.getLogger(self.name), "__version__": version(self.name)}

    def get(self, name: str) -> Any:
        module = self.classes[name]
        self.is_importing = True
        try:
            import_module("torchmetrics.utilities")  # before the others: they form a circle
            return getattr(import_module(module), name)
        finally:
            self.is_importing = False


class _TorchmetricsPlots(LeanModule):
    name = "torchmetrics.utilities.plot"

    def names(self) -> Mapping[str, Any]:
        def plot_single_or_multi_val(*args: Any, **options: Any) -> Any:
            return self.complete().plot_single_or_multi_val(*args, **options)

        # The first two are types in annotations.
        return {
            "_AX_TYPE": object,
            "_PLOT_OUT_TYPE": object,
            "plot_single_or_multi_val": plot_single_or_multi_val,
        }


class _FlopCounter(LeanModule):
    name = "torch.utils.flop_counter"

    def names(self) -> Mapping[str, Any]:
        def FlopCounterMode(*args: Any, **options: Any) -> Any:
            return self.complete().FlopCounterMode(*args, **options)

        return {"FlopCounterMode": FlopCounterMode}


class _Dynamo(LeanModule):
    name = "torch._dynamo"

    def names(self) -> Mapping[str, Any]:
        def disable(function: Callable[..., Any], *args: Any, **options: Any) -> Any:
            """Return `function`, which `torch.compile` does not trace, even if it comes later."""

            @functools.cache
            def disabled() -> Callable[..., Any]:
                return self.complete().disable(function, *args, **options)

            def run(*inner: Any, **settings: Any) -> Any:
                call = disabled() if self.module is None else function
                return call(*inner, **settings)

            return run

        def graph_break(*_: Any, **__: Any) -> None:
            """Mark the end of a traced graph, of which there is none yet."""

        class OfCompiled(type):
            def __instancecheck__(cls, instance: Any) -> bool:
                return self.module is None and isinstance(instance, self.complete().OptimizedModule)

        class OptimizedModule(metaclass=OfCompiled):
            """The class of compiled networks in `isinstance`; there are none before the rest."""

        return {
            "disable": disable,
            "graph_break": graph_break,
            "OptimizedModule": OptimizedModule,
        }


class _Finder(MetaPathFinder):
    """Finder of a lean module; an import of its submodules loads the whole module."""

    def __init__(self, lean: LeanModule) -> None:
        self._lean = lean
        self._is_found = False

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        lean = self._lean
        if fullname == lean.name and not self._is_found:
            spec = PathFinder.find_spec(fullname, path, target)
            if spec is not None and spec.loader is not None:
                self._is_found = True
                lean.load = spec.loader.exec_module
                spec.loader = _Lean(lean)
            return spec
        is_submodule = fullname.startswith(f"{lean.name}.")
        if is_submodule and lean.module is not None and not lean.is_importing:
            lean.complete()
            if known := sys.modules.get(fullname):
                return spec_from_loader(fullname, _Known(known))
        return None


class _Lean(Loader):
    def __init__(self, lean: LeanModule) -> None:
        self._lean = lean

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        self._lean.module = module
        module.__dict__.update(self._lean.names(), __getattr__=self._lean._get)


class _Known(Loader):
    """Loader of a module that is loaded already."""

    def __init__(self, module: ModuleType) -> None:
        self._module, self._spec = module, module.__spec__

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._module

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self._spec
