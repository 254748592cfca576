"""What the caller gets of a response head."""

from __future__ import annotations

from functools import lru_cache

from ._parser import ResponseHead

TYPE_CHECKING = False
if TYPE_CHECKING:
    from email.message import Message
    from typing import Optional, Type, Union

    from ._fields import ResponseFields


@lru_cache(maxsize=None)
def _fields_class() -> Type[ResponseFields]:
    # Imported late: `email.message` takes longer to import than all of this package.
    from ._fields import ResponseFields

    return ResponseFields


class HTTPResponse:
    """Status and header of a response.

    - `method` and `path` (str): those of the request, as given by the caller.
    - `status` (int) and `reason` (str, may be empty): from the status line.
    - `headers`: an `email.message.Message` with the values as they were sent (latin1, folded
      lines joined by one space). A missing field is `None` with `[]`.
    - `length` (int or None): number of bytes of the body that will come, 0 if the response
      cannot have one, `None` if the number is not known beforehand.
    - `trailers`: `None` until the body has been read to its end, then a message object with the
      trailer fields (RFC 9110, section 6.5), empty if there were none.
    - `body` (bytes or None): the whole body of a response that came from
      `HTTPConnection.pipeline`; `None` for any other.
    """

    __module__ = 'dugong'

    body: Optional[bytes] = None
    _trailers: Union[None, str, Message] = None

    def __init__(
        self,
        method: str,
        path: str,
        status: int,
        reason: str,
        headers: Union[Message, ResponseHead],
        length: Optional[int] = None,
    ) -> None:
        self.method = method
        self.path = path
        self.status = status
        self.reason = reason
        self.length = length
        # What was parsed becomes a message object when somebody asks for it.
        self._headers = headers

    @property
    def headers(self) -> Message:
        headers = self._headers
        if type(headers) is ResponseHead:
            headers = self._headers = _fields_class()(headers.fields, headers.lowered)
        return headers  # type: ignore[return-value]

    @headers.setter
    def headers(self, headers: Message) -> None:
        self._headers = headers

    @property
    def trailers(self) -> Optional[Message]:
        trailers = self._trailers
        if type(trailers) is str:
            trailers = self._trailers = _fields_class()(trailers)
        return trailers  # type: ignore[return-value]

    def __repr__(self) -> str:
        return f'<HTTPResponse {self.method} {self.path!r}: {self.status} {self.reason}>'
