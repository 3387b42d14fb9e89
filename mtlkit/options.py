"""Options: the keyword-only signature of a component is the schema of what a configuration may set.

The parameters before them are facts, which the assembly supplies by name. One signature serves both the person who
writes ``GradNorm(3, alpha=1.0)`` and the one who writes ``strategy: {name: gradnorm, alpha: 1.0}``.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import types
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, create_model
from pydantic_core import to_jsonable_python

from mtlkit.errors import ConfigError, PluginError, is_ctrl_c
from mtlkit.problems import as_json, problems_of
from mtlkit.yamlfile import Document, SettingPath

__all__ = ["Signature", "signature_of"]

_SETTINGS = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, protected_namespaces=())


@dataclass(frozen=True)
class Signature:
    """What a component's constructor takes.

    Attributes:
        facts: The names of the parameters that the assembly supplies, in order.
        model: A pydantic model of the options.
    """

    facts: tuple[str, ...]
    model: type[BaseModel]

    @property
    def names(self) -> list[str]:
        """The names of the options."""
        return [str(field.alias) for field in self.model.model_fields.values()]

    def check(self, options: Mapping[str, object], document: Document, path: SettingPath) -> dict[str, Any]:
        """Return the options, checked and with every default.

        Raises:
            ConfigError: With every option that is unknown, missing, or of the wrong type or size.
        """
        try:
            checked = self.model.model_validate_json(as_json(options))
        except ValidationError as error:
            raise ConfigError(problems_of(error, document, path, self.model)) from None
        return {str(field.alias): getattr(checked, name) for name, field in self.model.model_fields.items()}

    def plain(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Return checked options as plain data, such as YAML can hold."""
        return {name: to_jsonable_python(value) for name, value in options.items()}


def signature_of(component: type, *, all_options: bool = False, leave_out: AbstractSet[str] = frozenset()) -> Signature:
    """Derive the schema of a component's options from its constructor.

    Args:
        component: The class.
        all_options: Whether parameters that are not keyword-only are options too, but for the first one: as in
            torch.optim, whose first parameter is what is to be optimised.
        leave_out: Parameters that are no options here.

    Raises:
        PluginError: If the signature cannot be a schema.
    """
    known: Any = component  # which mypy would not take for something that can be hashed
    return _derived(known, all_options, frozenset(leave_out))


@functools.lru_cache(maxsize=256)  # pydantic takes milliseconds for each, and a hundred tasks may be of one class
def _derived(component: Any, all_options: bool, leave_out: frozenset[str]) -> Signature:  # noqa: FBT001 - as it is cached
    name = f"{component.__module__}.{component.__qualname__}"
    constructor: Any = vars(component).get("__init__") or component.__init__
    try:
        parameters = list(inspect.signature(constructor).parameters.values())[1:]
        hints = get_type_hints(constructor, include_extras=True)
    except (TypeError, ValueError, NameError) as error:
        raise PluginError(f"The constructor of {name} cannot be read as options: {error}.") from error
    facts: list[str] = []
    fields: dict[str, Any] = {}
    for position, parameter in enumerate(parameters):
        if parameter.kind in {parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL}:
            if constructor is object.__init__:
                continue
            spelt = str(parameter).partition(":")[0]
            raise PluginError(
                f"The constructor of {name} takes {spelt}: options are named one by one, keyword-only, typed and with "
                "defaults, so that they can be checked."
            )
        if parameter.kind is not parameter.KEYWORD_ONLY and not (all_options and position > 0):
            facts.append(parameter.name)
            continue
        if parameter.name in leave_out:
            continue
        if parameter.name not in hints:
            raise PluginError(f"Option '{parameter.name}' of {name} has no type annotation; options are checked by it.")
        if parameter.name.startswith("_"):
            raise PluginError(f"Option '{parameter.name}' of {name} begins with '_', and no configuration can set it.")
        default = ... if parameter.default is parameter.empty else parameter.default
        annotation = _plain_annotation(hints[parameter.name])
        adapter = _adapter(annotation, parameter.name, name)
        # Under a name of its own, since pydantic's models have attributes that an option may be called like.
        field: Any = Field(_as_read(default, adapter), alias=parameter.name)
        fields[f"option_{parameter.name}"] = (annotation, field)
    return Signature(tuple(facts), create_model(component.__name__, __config__=_SETTINGS, **fields))


def _adapter(annotation: Any, option: str, component: str) -> TypeAdapter[Any]:
    """Return what checks values by an annotation.

    Raises:
        PluginError: If it is an annotation of what no configuration can hold.
    """
    try:
        adapter: TypeAdapter[Any] = TypeAdapter(annotation, config=_SETTINGS)
        adapter.json_schema()
    except Exception as error:  # pydantic's own errors here have no common root
        if is_ctrl_c(error):
            raise KeyboardInterrupt from error
        raise PluginError(
            f"Option '{option}' of {component} cannot be checked by its annotation {annotation}: an option is "
            "something that YAML can hold, such as a number, a text, a list or a Literal."
        ) from error
    return adapter


def _as_read(default: Any, adapter: TypeAdapter[Any]) -> Any:
    """Return a default as it is once it was written down and read: a float's 0 is 0.0, or states would differ by it."""
    if type(default) is int:
        with contextlib.suppress(ValidationError):
            read = adapter.validate_python(default)
            return read if read == default else default
    return default


def _plain_annotation(annotation: Any) -> Any:
    """Drop tensors from unions, for torch.optim allows `float | Tensor` and a configuration holds no tensor."""
    origin = get_origin(annotation)
    arguments = get_args(annotation)
    if origin in {Union, types.UnionType}:
        kept = [_plain_annotation(a) for a in arguments if getattr(a, "__name__", "") != "Tensor"]
        return Union[tuple(kept)]  # noqa: UP007
    if origin is Annotated or not arguments or origin not in {tuple, list}:
        return annotation
    return origin[tuple(a if a is ... else _plain_annotation(a) for a in arguments)]
