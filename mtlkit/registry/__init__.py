"""The registry: what is installed, found by metadata alone; what may be used; and each component loaded by name.

Nothing here imports a plugin but :meth:`Registry.load`, and the files that were given as plugins.
"""

from mtlkit.registry.distributions import Distribution, Origin
from mtlkit.registry.handle import Handle
from mtlkit.registry.names import OWN
from mtlkit.registry.records import Record, State, Status
from mtlkit.registry.registry import Registry
from mtlkit.registry.rules import Rule

__all__ = ["OWN", "Distribution", "Handle", "Origin", "Record", "Registry", "Rule", "State", "Status"]
