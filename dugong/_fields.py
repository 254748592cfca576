"""The message object in which a caller finds the header or trailer fields of a response."""

from __future__ import annotations

from email.message import Message

from ._parser import split_fields

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, List, Optional, Tuple


class ResponseFields(Message):
    """A message object for checked field lines, each with a CRLF before it; *lowered* are the same
    in lower case.

    Most callers look up a field or two: these are searched in the text. Anything else a message
    object can do begins with making it one, with all lines split into the list in which `Message`
    keeps them.
    """

    _headers: List[Tuple[str, str]]

    def __init__(self, fields: str, lowered: Optional[str] = None) -> None:
        # What `Message` would set here is missing until it is asked for, see `__getattr__`. One
        # attribute, as those of a class that has such a method are slow.
        self._text: Optional[Tuple[str, str]] = (
            fields,
            fields.lower() if lowered is None else lowered,
        )

    def __getattr__(self, name: str) -> Any:
        state = dict(self.__dict__)
        text = state.pop('_text', None)
        if text is None or '_headers' in state or name.startswith('__'):
            raise AttributeError(f'{type(self).__name__!r} object has no attribute {name!r}')
        super().__init__()
        self._headers = split_fields(text[0])
        # Last, as another thread may be looking up a field meanwhile.
        self._text = None
        # What the caller has set before stays.
        self.__dict__.update(state)
        return getattr(self, name)

    def get(self, name: str, failobj: Any = None) -> Any:
        """Return the value of the first field *name* (str), *failobj* if there is none."""

        text = self._text
        if text is None or ':' in name:
            return super().get(name, failobj)
        fields, lowered = text
        mark = f'\r\n{name.lower()}:'
        begin = lowered.find(mark)
        if begin < 0:
            return failobj
        begin += len(mark)
        end = fields.find('\r\n', begin)
        return fields[begin : end if end >= 0 else None].strip(' \t')

    __getitem__ = get
