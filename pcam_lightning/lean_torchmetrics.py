"""Import of torchmetrics without the packages that only its metrics need.

Lightning (2.6) imports two classes of torchmetrics (1.9). Its package imports all of its metrics,
and with them scipy.signal, torchvision and, where it is installed, transformers: seconds of the
start of every command (Lightning-AI/torchmetrics#3457). Any other use of the package loads it as
usual.
"""

import logging
import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from importlib.metadata import version
from importlib.util import spec_from_loader
from types import ModuleType
from typing import Any

PACKAGE = "torchmetrics"
LIGHT = {"Metric": "torchmetrics.metric", "MetricCollection": "torchmetrics.collections"}
"""The classes that Lightning imports, and their modules."""


def install() -> None:
    """Make the first import of torchmetrics in this process a lean one."""
    if PACKAGE not in sys.modules and not any(isinstance(f, _Finder) for f in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


class _Finder(MetaPathFinder):
    """Finder of the lean package; its first other use loads the whole package."""

    def __init__(self) -> None:
        self._module: ModuleType | None = None
        """The package while it is lean."""
        self._loader: Loader | None = None
        self._is_importing_light = False

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname == PACKAGE and self._module is None:
            spec = PathFinder.find_spec(fullname, path, target)
            if spec is not None and spec.loader is not None:
                self._loader = spec.loader
                spec.loader = _Lean(self)
            return spec
        if fullname.startswith(f"{PACKAGE}.") and self._module and not self._is_importing_light:
            self._load_all()
            if known := sys.modules.get(fullname):
                return spec_from_loader(fullname, _Known(known))
        return None

    def make_lean(self, module: ModuleType) -> None:
        """Give an empty module what Lightning uses, and load the rest on demand."""
        self._module = module
        module.__dict__["_logger"] = logging.getLogger(PACKAGE)  # the light modules import it
        module.__dict__["__version__"] = version(PACKAGE)
        module.__dict__["__getattr__"] = self._get

    def _get(self, name: str) -> Any:
        if name in LIGHT:
            self._is_importing_light = True
            try:
                import_module("torchmetrics.utilities")  # before the others: they form a circle
                return getattr(import_module(LIGHT[name]), name)
            finally:
                self._is_importing_light = False
        if name.startswith("__") or self._is_importing_light:
            raise AttributeError(f"module {PACKAGE!r} has no attribute {name!r}")
        module = self._module
        self._load_all()
        return getattr(module, name)

    def _load_all(self) -> None:
        module, loader, self._module = self._module, self._loader, None
        assert module is not None and loader is not None
        del module.__dict__["__getattr__"]
        sys.meta_path.remove(self)
        loader.exec_module(module)


class _Lean(Loader):
    def __init__(self, finder: _Finder) -> None:
        self._finder = finder

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        self._finder.make_lean(module)


class _Known(Loader):
    """Loader of a module that is loaded already."""

    def __init__(self, module: ModuleType) -> None:
        self._module, self._spec = module, module.__spec__

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._module

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self._spec
