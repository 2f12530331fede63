"""Calls of tasks and their results as JSON: from a function's annotations, and back. Pure.

A payload is ``{"task": NAME, "args": {PARAMETER: VALUE, ...}}``; a result is the JSON of what the
function returned. Types are what msgspec knows (structs, dataclasses, ``datetime``, ``Literal``,
``list[...]``, ``Annotated[int, msgspec.Meta(ge=0)]`` and so on) and pydantic models, anywhere
inside; what has no annotation is plain JSON. Nothing is pickled, so a payload can hold nothing
that runs.
"""

import inspect
from collections.abc import Callable, Mapping
from typing import Any, Final, get_type_hints

import msgspec

from queue_node_sdk.errors import BadRequest, ConfigurationError
from queue_node_sdk.options import plain

_NOTHING: Final = inspect.Parameter.empty
_VARIADIC: Final = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


class BadArguments(BadRequest, TypeError):
    """A task cannot be called with these; at the sender, or at a worker with other code."""


class BadResult(BadRequest, TypeError):
    """A task returned what its annotation does not allow, or the reader expects another type."""


class Envelope(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A payload: which task, with what."""

    task: str
    args: dict[str, msgspec.Raw] = {}


_decode_envelope: Final = msgspec.json.Decoder(Envelope).decode


def open_envelope(payload: str) -> Envelope:
    """The call in a payload.

    Raises:
        BadArguments: it is no call of a task.
    """
    try:
        return _decode_envelope(payload)
    except (msgspec.DecodeError, UnicodeError) as error:
        raise BadArguments(f"the payload is no call of a task: {error}") from error


class CallCodec:
    """How one function is called, and what it returns."""

    def __init__(self, name: str, function: Callable[..., Any]) -> None:
        """Read the annotations.

        Raises:
            ConfigurationError: the function cannot be a task.
        """
        self.name: Final = name
        self.signature: Final = inspect.signature(function)
        try:
            hints = get_type_hints(function, include_extras=True)
        except Exception as error:
            # Whatever an annotation raises when it is evaluated, a NameError most often.
            raise ConfigurationError(
                f"task {name}: an annotation cannot be read: {error!r}; types that are imported "
                "under TYPE_CHECKING are not there at run time"
            ) from error
        self._parameters: dict[str, msgspec.json.Decoder[Any]] = {}
        self._required: list[str] = []
        for parameter in self.signature.parameters.values():
            if parameter.kind in _VARIADIC or parameter.kind is parameter.POSITIONAL_ONLY:
                raise ConfigurationError(
                    f"task {name}: {parameter} has no name that a payload could carry"
                )
            self._parameters[parameter.name] = _decoder(name, hints.get(parameter.name, Any))
            if parameter.default is _NOTHING:
                self._required.append(parameter.name)
        self._result = _decoder(name, hints.get("return", Any))

    def payload(self, positional: tuple[Any, ...], named: Mapping[str, Any]) -> str:
        """The payload of a call; arguments that are left out are the worker's defaults.

        Raises:
            BadArguments: the function cannot be called so.
        """
        try:
            bound = self.signature.bind(*positional, **named)
        except TypeError as error:
            raise BadArguments(f"{self.name}: {error}") from error
        try:
            args = {name: msgspec.Raw(to_json(value)) for name, value in bound.arguments.items()}
        except (TypeError, ValueError, OverflowError, RecursionError) as error:
            raise BadArguments(f"{self.name}: this cannot be JSON: {error}") from error
        # What a worker would refuse is refused here, where somebody sees it.
        self.arguments(args)
        return to_json(Envelope(self.name, args)).decode()

    def arguments(self, args: Mapping[str, msgspec.Raw]) -> dict[str, Any]:
        """The keyword arguments of a call.

        Raises:
            BadArguments: an argument is of the wrong type, missing or unknown.
        """
        if unknown := args.keys() - self._parameters.keys():
            raise BadArguments(f"{self.name}: no parameter {', '.join(sorted(unknown))}")
        if missing := [name for name in self._required if name not in args]:
            raise BadArguments(f"{self.name}: missing: {', '.join(missing)}")
        values: dict[str, Any] = {}
        for name, raw in args.items():
            try:
                values[name] = self._parameters[name].decode(raw)
            except (msgspec.DecodeError, ValueError) as error:
                raise BadArguments(f"{self.name}: {name}: {error}") from error
        return values

    def result_text(self, value: object) -> str | None:
        """What the job's result says; none for ``None``.

        Raises:
            BadResult: it is not what the function says that it returns.
        """
        if value is None:
            return None
        try:
            text = to_json(value).decode()
        except (TypeError, ValueError, OverflowError, RecursionError) as error:
            raise BadResult(f"{self.name}: the result cannot be JSON: {error}") from error
        self.result(text)
        return text

    def result(self, text: str | None) -> Any:  # noqa: ANN401 - as the function says
        """What the function returned.

        Raises:
            BadResult: the text is of another type than the function says.
        """
        if not text:
            return None
        try:
            return self._result.decode(text)
        except (msgspec.DecodeError, ValueError) as error:
            raise BadResult(f"{self.name}: the result: {error}") from error


def to_json(value: object) -> bytes:
    """JSON of anything that a task may take or return.

    Raises:
        TypeError, ValueError, OverflowError, RecursionError: there is none.
    """
    return _encode(value)


def _from_model(value: object) -> object:
    """A pydantic model as JSON, without importing pydantic; a subclass of ``str`` as a ``str``."""
    if hasattr(type(value), "model_dump_json"):
        return msgspec.Raw(value.model_dump_json().encode())  # type: ignore[attr-defined]
    return plain(value)


def _to_model(kind: Any, value: object) -> object:  # noqa: ANN401 - a type, of whatever kind
    if hasattr(kind, "model_validate_json"):
        # In JSON's mode: a strict model takes a date as text then.
        return kind.model_validate_json(_encode(value))
    raise TypeError(f"objects of type {kind.__qualname__} are not supported")


_encode: Final = msgspec.json.Encoder(enc_hook=_from_model).encode


def _decoder(task: str, kind: object) -> "msgspec.json.Decoder[Any]":
    try:
        return msgspec.json.Decoder(kind, dec_hook=_to_model)
    except TypeError as error:
        raise ConfigurationError(
            f"task {task}: {kind!r} cannot be read from JSON: {error}"
        ) from error
