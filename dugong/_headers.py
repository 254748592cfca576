"""Case-insensitive mapping, as used for header fields. Knows nothing of HTTP."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, Iterable, Iterator, Tuple, Union

    _Base = MutableMapping[str, Any]
else:
    _Base = MutableMapping


class CaseInsensitiveDict(_Base):
    """A mutable mapping whose keys are compared without regard to case.

    Keys must be `str`. Iteration gives the keys in the order of insertion, each with the
    spelling that was last used to set it. Takes the arguments that `dict` takes.
    """

    __module__ = 'dugong'

    def __init__(
        self,
        data: Union[Mapping[str, Any], Iterable[Tuple[str, Any]], None] = None,
        **kwargs: Any,
    ) -> None:
        # Lower-case key to (key as last set, value)
        self._store: Dict[str, Tuple[str, Any]] = {}
        self.update(() if data is None else data, **kwargs)

    def __setitem__(self, key: str, value: Any) -> None:
        self._store[key.lower()] = (key, value)

    def __getitem__(self, key: str) -> Any:
        return self._store[key.lower()][1]

    def __delitem__(self, key: str) -> None:
        del self._store[key.lower()]

    def __iter__(self) -> Iterator[str]:
        return (key for key, _ in self._store.values())

    def __len__(self) -> int:
        return len(self._store)

    def __eq__(self, other: object) -> bool:
        """Compare with any mapping, ignoring the case of the keys of both."""

        if not isinstance(other, Mapping):
            return NotImplemented
        return dict(self.lower_items()) == {
            key.lower() if isinstance(key, str) else key: value for key, value in other.items()
        }

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f'{type(self).__name__}({dict(self.items())!r})'

    def lower_items(self) -> Iterator[Tuple[str, Any]]:
        """Iterate over `(key in lower case, value)`."""

        return ((lowered, value) for lowered, (_, value) in self._store.items())

    def copy(self) -> CaseInsensitiveDict:
        """Return a shallow copy."""

        return type(self)(self)
