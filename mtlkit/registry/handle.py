"""Handle: how a component travels to another process, by its qualified name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mtlkit.registry.registry import Registry

__all__ = ["Handle"]


@dataclass(frozen=True)
class Handle:
    """A component by its name and options, which any process can make again.

    A process that is spawned, such as a worker of a DataLoader, begins with nothing imported. There a handle discovers
    what is installed anew, imports the one plugin that it names, and constructs it; nothing of the plugin itself is
    pickled. Calling it is all there is to it::

        handle = Handle("tasks", "acme-mtl:wine", {"width": 4})
        task = handle()

    Attributes:
        kind: One of :data:`~mtlkit.hookspecs.KINDS`.
        name: The component's name, best its qualified one.
        options: Its options.
        files: The files that are plugins too.
    """

    kind: str
    name: str
    options: Mapping[str, Any] = field(default_factory=dict)
    files: tuple[str, ...] = ()

    def load(self) -> Any:
        """Return the component's class.

        Raises:
            MtlkitError: If it is not to be found here, or cannot be loaded.
        """
        registry = Registry.discover(files=[Path(each) for each in self.files])
        return registry.load(registry.find(self.kind, self.name))

    def __call__(self) -> Any:
        """Return a new instance with these options.

        Raises:
            MtlkitError: If it is not to be found here, or cannot be loaded.
        """
        return self.load()(**self.options)
