"""The public face: `HTTPConnection`.

Every operation that can wait exists once, as a coroutine in `_session`; `co_x` is that
coroutine, and `x` drives it. This room adds what outlives a single TCP connection: where to
connect to, the rules for connecting anew, and the interface of a readable binary stream.
"""

from __future__ import annotations

import io
import operator
from base64 import b64encode
from functools import partial

from ._body import BodyFollowing, RequestBody
from ._buffer import _Buffer
from ._exceptions import ConnectionClosed
from ._log import debug
from ._pipeline import MAX_PENDING, MAX_RETRIES, AsyncPipeline, Pipeline
from ._poll import eval_coroutine
from ._request import (
    CallerFields,
    absolute_target,
    check_address,
    check_port,
    checked_method,
    checked_target,
    connect_request,
    encode_host,
    host_and_port,
    pairs,
    tls_server_name,
)
from ._session import _JOIN, NO_BODY, Request, Session, how_it_ended
from ._settings import package
from ._source import as_bytes, open_source
from ._stream import DISCONNECTED, Stream

TYPE_CHECKING = False
if TYPE_CHECKING:
    import ssl
    from types import TracebackType
    from typing import Any, Iterable, List, Mapping, Optional, Tuple, Type, TypeVar, Union

    from ._poll import Coroutine
    from ._response import HTTPResponse

    T = TypeVar('T')
    Fields = Union[Mapping[str, Any], Iterable[Tuple[str, Any]]]

# Checked without looking at their characters.
_COMMON_METHODS = frozenset(('GET', 'HEAD', 'POST', 'PUT', 'DELETE', 'OPTIONS', 'PATCH'))

_ACCEPT = 'Accept-Encoding: identity\r\n'
_KEEP_ALIVE = 'Connection: keep-alive\r\n'


class _Form:
    """What the requests on a connection to *host* and *port* have in common; never changed.

    It is over *tls*, or *to_proxy* with the *fields* that are for that.
    """

    __slots__ = ('fields', 'origin', 'plain_end', 'start', 'tls')

    def __init__(
        self,
        tls: bool,
        to_proxy: bool,
        fields: Tuple[Tuple[str, Any], ...],
        host: str,
        port: int,
    ) -> None:
        self.tls = tls
        self.fields = fields
        default = package.HTTPS_PORT if tls else package.HTTP_PORT
        authority = host_and_port(host, port, default)
        # For request targets in absolute form, which only a proxy gets.
        self.origin = f'http://{authority}' if to_proxy else None
        self.start = f' HTTP/1.1\r\nHost: {authority}\r\n'
        # All that follows the target in a request with nothing of its own.
        self.plain_end = f'{self.start}Content-Length: 0\r\n{_ACCEPT}{_KEEP_ALIVE}\r\n'

    def with_origin(self, host: str, port: int) -> _Form:
        """Return the form on the same connection of requests for another origin."""

        return _Form(self.tls, self.origin is not None, self.fields, host, port)


class _Route:
    """Where the next connection goes, and the form of the requests on it; never changed."""

    __slots__ = ('context', 'form', 'host', 'port', 'proxy', 'tunnel_fields')

    def __init__(
        self,
        host: str,
        port: int,
        context: Optional[ssl.SSLContext],
        proxy: Optional[Tuple[str, int]],
        fields: Tuple[Tuple[str, Any], ...],
    ) -> None:
        self.host = host
        self.port = port
        self.context = context
        self.proxy = proxy
        self.tunnel_fields = CallerFields(fields).lines if fields and context else ''
        to_proxy = proxy is not None and not context
        self.form = _Form(bool(context), to_proxy, fields if to_proxy else (), host, port)


class HTTPConnection(io.BufferedIOBase):
    """A connection to an HTTP/1.1 server, over TCP or TLS, directly or through a proxy.

    *hostname* (str) and *port* (int, or a string of digits; default 80, or 443 with
    *ssl_context*) are those of the origin. *ssl_context* (`ssl.SSLContext`) makes it a TLS
    connection; the context is used as it is. One that only has `wrap_socket` waits for the
    handshake by itself, up to `timeout` at a time, also in an event loop. *proxy* is a pair of
    host name (str) and port (as above). *proxy_headers* (mapping) are header fields for the proxy
    only, `Proxy-Authorization` for instance: with a plain connection they go out with each
    request, but for those of which it has its own; with TLS, they go out with the `CONNECT`
    request.

    `ValueError` for host names with spaces or control characters. Nothing is connected before it
    is needed. Attributes that may be assigned: *hostname*, *port*, *ssl_context*, *proxy* and
    *proxy_headers* decide where the next connection goes; requests on the present one have the new
    `Host` at once. *timeout* takes effect with the next call. A subclass may override
    `co_connect` or `connect`: that is called whenever something has to be connected, and not
    before it is done is the request outstanding for which it was called.

    *One rule for time limits*: `timeout` (seconds, `None` for none) bounds each single wait for
    the network - for the name service, a TCP connection, a step of the TLS handshake, for
    something to receive, or for room to send - in all blocking methods, and in `async for` over
    `co_pipeline`. When it is exceeded, `ConnectionTimedOut` is raised. It does not bound the sum
    of the waits. For coroutines, it is the driver that has a time limit, see `AioFuture` and
    `eval_coroutine`.

    *After an interruption* - a time-out, an exception thrown into a coroutine, a coroutine that
    is closed or dropped - methods that have lost nothing may simply be called again: those that
    read a response head, or a limited amount of data. Those that may have sent part of something
    or lost part of a body (`send_request`, `write`, `write_eof`, `readall`, `read` without a
    size, `discard`, `readline` and `readlines` if they had something) leave the connection
    broken: every use raises `ConnectionClosed`, which names the cause, until `reset`.

    *Threads and coroutines*: one may send while another one reads. All other simultaneous use is
    a `StateError`, except for `disconnect` and `reset`, which may be called at any time from any
    thread, and end whatever waits with `ConnectionClosed`.

    The object is also a readable binary stream that ends with the body of the present response,
    and a context manager that disconnects in the end.
    """

    __module__ = 'dugong'

    # What each request looks up. The attributes in the dict of a class that is derived from one
    # in C, as this one is, are slow.
    __slots__ = ('_session', 'timeout')

    #: If true, a response with neither a length nor chunked coding is read until the server
    #: closes the connection (RFC 9112, section 6.3, rule 8) although the server does not say
    #: `Connection: close`. Else reading such a body raises `UnsupportedResponse`.
    assume_close = False

    #: If true, a body that ends with the connection must end with a TLS close_notify, else
    #: reading it raises `ConnectionClosed`: without, an attacker could have cut it.
    strict_eof = False

    #: If true, a bytes-like request body gets a `Content-MD5` field, unless the caller sets one.
    content_md5 = True

    def __init__(
        self,
        hostname: str,
        port: Optional[int] = None,
        ssl_context: Optional[ssl.SSLContext] = None,
        proxy: Optional[Tuple[str, int]] = None,
        proxy_headers: Optional[Fields] = None,
    ) -> None:
        if port is None:
            port = package.HTTPS_PORT if ssl_context else package.HTTP_PORT
        self._hostname = hostname
        self._host = encode_host(hostname)
        self._port = check_port(port)
        self._ssl_context = _checked_context(ssl_context)
        self._proxy = proxy
        self._proxy_address = None if proxy is None else check_address(proxy)
        self._proxy_headers = proxy_headers
        self._proxy_pairs = _checked_pairs(proxy_headers)
        self._route = self._new_route()
        #: Seconds that each single wait of a blocking method may take; `None`: no limit.
        self.timeout: Optional[float] = None
        self._session = Session(self._new_stream(), _Buffer(package.BUFFER_SIZE))

    def _new_route(self) -> _Route:
        return _Route(
            self._host, self._port, self._ssl_context, self._proxy_address, self._proxy_pairs
        )

    def _assigned(self) -> None:
        """Have an attribute take effect that was assigned."""

        self._route = route = self._new_route()
        session = self._session
        form = session.form
        if form is not None:
            # What it is connected to, and the fields for a proxy, remain until the next one.
            session.form = form.with_origin(route.host, route.port)

    def _form_on(self, session: Session) -> _Form:
        """Return the form of a request on *session*, as far as it is known by now."""

        form: Optional[_Form] = session.form
        return self._route.form if form is None else form

    @property
    def hostname(self) -> str:
        """Host name of the origin."""
        return self._hostname

    @hostname.setter
    def hostname(self, hostname: str) -> None:
        self._host = encode_host(hostname)
        self._hostname = hostname
        self._assigned()

    @property
    def port(self) -> int:
        """Port of the origin."""
        return self._port

    @port.setter
    def port(self, port: int) -> None:
        self._port = check_port(port)
        self._assigned()

    @property
    def ssl_context(self) -> Optional[ssl.SSLContext]:
        """The TLS settings, `None` for a plain connection."""
        return self._ssl_context

    @ssl_context.setter
    def ssl_context(self, ssl_context: Optional[ssl.SSLContext]) -> None:
        self._ssl_context = _checked_context(ssl_context)
        self._assigned()

    @property
    def proxy(self) -> Optional[Tuple[str, int]]:
        """Host name and port of the proxy, `None` for a direct connection."""
        return self._proxy

    @proxy.setter
    def proxy(self, proxy: Optional[Tuple[str, int]]) -> None:
        self._proxy_address = None if proxy is None else check_address(proxy)
        self._proxy = proxy
        self._assigned()

    @property
    def proxy_headers(self) -> Optional[Fields]:
        """Header fields for the proxy only."""
        return self._proxy_headers

    @proxy_headers.setter
    def proxy_headers(self, proxy_headers: Optional[Fields]) -> None:
        self._proxy_pairs = _checked_pairs(proxy_headers)
        self._proxy_headers = proxy_headers
        self._assigned()

    # Names that suites written for dugong 3.8 reach for

    @property
    def _rbuf(self) -> _Buffer:
        return self._session.buf

    @_rbuf.setter
    def _rbuf(self, buf: _Buffer) -> None:
        self._session.buf = buf

    @property
    def _sock(self) -> Any:
        return self._session.stream.sock

    @_sock.setter
    def _sock(self, sock: Any) -> None:
        self._session.stream.sock = sock

    @property
    def _out_remaining(self) -> bool:
        session = self._session
        return session.writing_body and not session.stream.closed

    def _co_fill_buffer(self, size: int) -> Coroutine[None]:
        return self._session.co_fill_buffer(size)

    # Connecting

    def _new_stream(self) -> Stream:
        if self._proxy_address is not None:
            return Stream(*self._proxy_address)
        return Stream(self._host, self._port)

    def _start_session(self, old: Session, lost: Optional[str] = None) -> Session:
        """Replace *old*, which is over, by a session that is not connected yet.

        If another thread has replaced it meanwhile, that session counts. *lost* tells why
        something has been lost that nobody was told of yet.
        """

        with old.stream.lock:
            session = self._session
            if session is old:
                # A reader may still be at work in the buffer of the old one.
                session = Session(self._new_stream(), _Buffer(old.buf.size))
                session.sender = old.sender
                session.lost = lost
                session.lost_body = old.body_loss
                session.disconnects = old.disconnects + old.stream.forgotten
                self._session = session
                old.replaced = True
            # Not that of a signal handler that disconnects at this moment: the caller is to see
            # that its own was given up.
            return session

    def _overrides(self, name: str) -> bool:
        """Whether the method *name* is not that of this class, but of a subclass or the object."""

        return getattr(getattr(self, name), '__func__', None) is not _OWN[name]

    @property
    def _connects_in_another_way(self) -> bool:
        return self._overrides('co_connect') or self._overrides('connect')

    def _co_connect(self, session: Session) -> Coroutine[Session]:
        """Connect *session*, in the way of a subclass if it has one; return what is connected."""

        if self._connects_in_another_way:
            if self._overrides('co_connect'):
                yield from self.co_connect()
            else:
                self.connect()
            # It may have begun anew, or somebody has disconnected.
            old, session = session, self._session
            if old.stream.forgotten and not session.stream.connected:
                raise ConnectionClosed(old.stream.cause)
        if not session.stream.connected:
            yield from session.co_connect(self._co_connect_session)
        return session

    def _co_connect_session(self, session: Session) -> Coroutine[None]:
        """Connect *session*; if that fails, leave an unconnected one in its place."""

        stream, route = session.stream, self._route
        context = route.context
        try:
            stream.host, stream.port = route.proxy or (route.host, route.port)
            if context:
                server_name = tls_server_name(route.host)
            yield from stream.co_open()
            if context:
                if route.proxy is not None:
                    request = connect_request(route.host, route.port, route.tunnel_fields)
                    yield from session.co_tunnel(request)
                yield from stream.co_start_tls(context, server_name, self.timeout)
            session.form = route.form
            seen = route
            while self._route is not seen:
                # Something was assigned meanwhile. What it is connected to remains.
                seen = self._route
                session.form = route.form.with_origin(seen.host, seen.port)
            stream.set_connected()
        except BaseException as exc:
            stream.abort(f'connecting {how_it_ended(exc)}')
            self._start_session(session, session.lost)
            session.announce()
            raise
        debug('connected to %s:%d', stream.host, stream.port)

    def connect(self) -> None:
        """Connect now; a connection that is already open is closed first.

        Not normally needed, as all methods connect when they have to. Waits. Raises
        `HostnameNotResolvable`, `DNSUnavailable`, `ProxyError`, `InvalidResponse` or
        `UnsupportedResponse` if the proxy does not speak HTTP, `ssl.SSLError`,
        `ConnectionTimedOut`, `ConnectionClosed` if the other side hangs up or `disconnect` is
        called meanwhile, or an `OSError` that lists all addresses that were tried. After an
        error the object is not connected, and can be used as a new one.
        """

        eval_coroutine(self.co_connect(), self.timeout)

    def co_connect(self) -> Coroutine[None]:
        """Coroutine twin of `connect`."""

        session = self._session
        if session.stream.connected or session.stream.closed:
            self.disconnect()
            session = self._start_session(session, session.loss)
        yield from session.co_connect(self._co_connect_session)

    def disconnect(self) -> None:
        """Close the connection at once and forget everything outstanding.

        Never raises nor waits, may be called from any thread and repeatedly. What waits for the
        connection in other threads or coroutines ends with `ConnectionClosed`. If something was
        outstanding (an answer, part of a body), reading and writing raise `ConnectionClosed`
        until the next request is sent, which connects anew. Who was reading the body of a
        response gets that until the next `read_response`, so that the request of another thread
        or coroutine does not make a body that was cut off look complete.
        """

        session = self._session
        loss = session.loss
        session.stream.abort()
        # A request may have been sent in this moment.
        if loss is None and session.loss is None:
            self._start_session(session)
        session.announce()
        debug('disconnected from %s:%d', self._hostname, self._port)

    def reset(self) -> None:
        """Same as `disconnect`; makes a broken connection usable again."""

        self.disconnect()

    def __enter__(self) -> HTTPConnection:
        return self

    def __exit__(
        self,
        exc_type: Optional[Type[BaseException]],
        exc_value: Optional[BaseException],
        traceback: Optional[TracebackType],
    ) -> None:
        self.disconnect()

    def get_ssl_peercert(self, binary_form: bool = False) -> Any:
        """Return the certificate of the server, `None` without TLS.

        The form is that of `ssl.SSLSocket.getpeercert`: a dict, or with *binary_form* the DER
        bytes. Connects if needed, see `connect`.
        """

        return eval_coroutine(self.co_get_ssl_peercert(binary_form), self.timeout)

    def co_get_ssl_peercert(self, binary_form: bool = False) -> Coroutine[Any]:
        """Coroutine twin of `get_ssl_peercert`."""

        sock = yield from self._co_tls_socket()
        if sock is None:
            return None
        return sock.getpeercert(True) if binary_form else sock.getpeercert()

    def get_ssl_cipher(self) -> Any:
        """Return name, protocol and secret bits of the cipher in use, `None` without TLS.

        See `ssl.SSLSocket.cipher`. Connects if needed, see `connect`. `ConnectionClosed` if the
        connection has ended, as after the last response of a server that closes it.
        """

        return eval_coroutine(self.co_get_ssl_cipher(), self.timeout)

    def co_get_ssl_cipher(self) -> Coroutine[Any]:
        """Coroutine twin of `get_ssl_cipher`."""

        sock = yield from self._co_tls_socket()
        return None if sock is None else sock.cipher()

    def _co_tls_socket(self) -> Coroutine[Any]:
        if not self._ssl_context:
            return None
        session = self._session_for_sending()
        session.raise_fault()
        if not session.stream.connected:
            session = yield from self._co_connect(session)
        stream = session.stream
        if stream.sock is None:
            raise ConnectionClosed(stream.cause)
        # The context may have been set after the connection was made.
        return stream.sock if stream.tls else None

    # Sending

    def send_request(
        self,
        method: str,
        path: str,
        headers: Optional[Fields] = None,
        body: Any = None,
        expect100: bool = False,
    ) -> None:
        """Send a request, connecting first if needed.

        - *method* (str): a token, `'GET'` for instance.
        - *path* (str): the request target, sent as it is; to be quoted by the caller.
        - *headers* (mapping of str to anything, not changed; or pairs of them, of which the last
          one of a name counts): header fields; values are sent as `str()` gives them. `Host`,
          `Content-Length`, `Transfer-Encoding`, `Accept-Encoding` (and `Expect` with *expect100*)
          are set by the library and dropped if given.
        - *body*: `None`; a bytes-like object; a `BodyFollowing`, to be followed by `write`; a
          binary stream, sent from its present position to its end, with `Content-Length` if it
          can tell its length, else chunked; or an iterable of bytes-like objects, sent chunked.
        - *expect100* (bool): ask the server whether it wants the body (RFC 9110, section
          10.1.1); needs a `BodyFollowing`. Next, `read_response` returns either a response with
          status 100, then the body can be written, or the final one, then it must not. A server
          that ignores it does not answer: set `timeout`, then `reset` and repeat without it.

        Several requests can be sent before the first response is read. The call waits until all
        has been handed to the system.

        Nothing is sent, and nothing changes, with `ValueError` or `TypeError` for arguments that
        cannot be sent, and `StateError` while the body of the previous request is incomplete,
        the answer to *expect100* is not read, or another thread is sending. Errors of connecting
        see `connect`. `ConnectionClosed` if the connection was lost or is broken: while sending
        the head, the request is not outstanding; while sending the body, that counts as sent,
        and `read_response` tries to get an answer. A body stream that ends before its announced
        length is a `StateError`; that, and any error of the stream itself after its first piece,
        breaks the connection.

        If the server has announced that it closes the connection, nothing is sent and no error
        is raised: the request counts as outstanding, and `read_response` raises
        `ConnectionClosed`, until `reset`.
        """

        session = self._session
        stream = session.stream
        if (
            not stream.connected
            or stream.closed
            # Or a subclass or the object has its own.
            or getattr(self.co_send_request, '__func__', None) is not _CO_SEND_REQUEST
        ):
            crt = self.co_send_request(method, path, headers, body, expect100)
            eval_coroutine(crt, self.timeout)
            return
        request = self._make_request(session.form, method, path, headers, body, expect100)
        debug('sending %s %s', method, path)
        session.send_request(request, self.timeout)

    def co_send_request(
        self,
        method: str,
        path: str,
        headers: Optional[Fields] = None,
        body: Any = None,
        expect100: bool = False,
    ) -> Coroutine[None]:
        """Coroutine twin of `send_request`; wrong arguments are found at its first step."""

        session = self._session_for_sending()
        stream = session.stream
        if stream.connected:
            request = self._make_request(session.form, method, path, headers, body, expect100)
            debug('sending %s %s', method, path)
            yield from session.co_send_request(request)
            return
        if headers is not None and not hasattr(headers, 'items'):
            # It may be an iterator, and the request may have to be made twice.
            headers = tuple(pairs(headers))
        make = partial(
            self._make_request,
            method=method,
            path=path,
            headers=headers,
            body=body,
            expect100=expect100,
        )
        request = make(self._form_on(session))
        debug('sending %s %s', method, path)
        if not stream.closed and self._connects_in_another_way:
            session = yield from self._co_connect(session)
        yield from session.co_send_request(request, self._co_connect_session, make)

    def _make_request(
        self,
        form: _Form,
        method: str,
        path: str,
        headers: Optional[Fields],
        body: Any,
        expect100: bool,
    ) -> Request:
        verb = method
        if type(method) is not str or method not in _COMMON_METHODS:
            verb = checked_method(method)
        target = checked_target(path)
        if form.origin is not None:
            target = absolute_target(form.origin, target)
            if form.fields:
                # Those of the caller count if they have the same name.
                headers = [*form.fields, *pairs(headers or ())]
        if headers is None and body is None and not expect100:
            request = Request(method, path, NO_BODY, form)
            request.head = f'{verb} {target}{form.plain_end}'.encode('latin1')
            return request

        start = f'{verb} {target}{form.start}'
        following = isinstance(body, BodyFollowing)
        if expect100 and not following:
            raise ValueError('expect100 needs a BodyFollowing as body')
        content = source = None
        request_body = NO_BODY
        end = _ACCEPT
        if following:
            # RFC 9110, section 10.1.1: nothing to expect if there is no content.
            expect100 = expect100 and body.length != 0
            request_body = RequestBody(body.length, expect100)
            if expect100:
                end += 'Expect: 100-continue\r\n'
        elif body is not None:
            content = as_bytes(body)
            if content is None:
                source = open_source(body)
        connection = _KEEP_ALIVE
        lines = ''
        request = Request(method, path, request_body, form)
        wants_md5 = content is not None and self.content_md5
        if headers is not None:
            fields = CallerFields(headers, expect100)
            lines = fields.lines
            names = fields.names
            if 'connection' in names:
                connection = ''
                options = [m.strip(' \t') for m in names['connection'].lower().split(',')]
                request.close = 'close' in options
            request.upgrade = 'upgrade' in names
            wants_md5 = wants_md5 and 'content-md5' not in names
        if source is not None:
            request.source = source
            request.before = start + lines
            request.after = f'{end}{connection}\r\n'
            return request
        if content is None:
            framing = request_body.framing_field()
        else:
            framing = f'Content-Length: {len(content)}\r\n'
            if wants_md5:
                framing += f'Content-MD5: {_md5(content)}\r\n'
            if len(content):
                request.content = content
            if len(content) >= _JOIN:
                request.body = RequestBody(len(content))
        request.head = f'{start}{lines}{framing}{end}{connection}\r\n'.encode('latin1')
        return request

    def _session_for_sending(self) -> Session:
        """Return the session to send on: a new one after `disconnect`."""

        session = self._session
        if session.stream.forgotten:
            return self._start_session(session, session.loss)
        return session

    def write(self, buf: Any) -> None:  # type: ignore[override]
        """Send request body data, after a request with a `BodyFollowing`.

        *buf* is a bytes-like object, or a binary stream that is read up to the announced length
        or its end. Without an announced length each call sends one chunk; empty data send
        nothing. Waits until all has been handed to the system.

        `ExcessBodyData` if there are more bytes than announced: nothing of *buf* is sent, and
        writing may go on. `StateError` if no body is being written, or the answer to *expect100*
        was not read. `ConnectionClosed` if the server has closed, or has refused the request
        with a final response: the body counts as sent, and `read_response` returns the response
        if there is one.
        """

        if type(self).co_write is not _CO_WRITE:
            # A subclass has its own.
            eval_coroutine(self.co_write(buf), self.timeout)
            return
        rest = self._session.write(buf, True)
        if rest is not None:
            eval_coroutine(rest, self.timeout)

    def co_write(self, buf: Any) -> Coroutine[None]:
        """Coroutine twin of `write`."""

        yield from self._session.co_write(buf)

    def write_eof(self, trailers: Optional[Mapping[str, Any]] = None) -> None:
        """End the request body of a `BodyFollowing`.

        Must be called for a body without announced length; *trailers* (mapping) are sent as
        trailer fields (RFC 9112, section 7.1.2), to be announced in the header by the caller. May
        be called once for a body with a length, when that has been reached, else `StateError`
        which says how much is missing; writing may go on. `ValueError` for trailers on such a
        body, or fields that must not be there (RFC 9110, section 6.5.1). `StateError` without a
        body to end. Waits; `ConnectionClosed` as for `write`.
        """

        eval_coroutine(self.co_write_eof(trailers), self.timeout)

    def co_write_eof(self, trailers: Optional[Mapping[str, Any]] = None) -> Coroutine[None]:
        """Coroutine twin of `write_eof`."""

        yield from self._session.co_write_eof(trailers)

    # Receiving

    def read_response(self) -> HTTPResponse:
        """Read the head of the next response, in the order of the requests.

        Waits until it is there. Interim responses are skipped, except for a 100 that was asked
        for, and a 101 if the request had an `Upgrade` field.

        `StateError` if the body of the previous response was not read to its end, if the request
        body was not written to its end, if another thread is reading, or if no request is
        outstanding. In the last case, if other threads are alive, it waits for a request:
        one second, or up to 60 seconds (or `timeout`, if less) while the thread that sent last is
        another one and alive.

        `InvalidResponse` or `UnsupportedResponse` if the server does not speak HTTP/1.x; the
        same error comes from every further call until `reset`. `ConnectionClosed` if there
        will be no response.
        """

        session = self._session
        patient = session.answer_coming or self._wait_for_sender(session)
        if getattr(self.co_read_response, '__func__', None) is not _CO_READ_RESPONSE:
            # A subclass or the object has its own.
            session = self._session
            session.patient = patient
            try:
                return eval_coroutine(self.co_read_response(), self.timeout)
            finally:
                session.patient = False
        # The sender may have begun a new session meanwhile.
        return self._session_for_reading().read_response(patient, self.timeout)

    def _wait_for_sender(self, session: Session) -> bool:
        """Wait until another thread sends a request; return whether there is something to read."""

        disconnects = session.disconnects
        waited = 0.0
        while True:
            found, waited = session.wait_for_sender(self.timeout, waited)
            if found or not session.replaced:
                return found
            # The sender could not connect; it may try again.
            session = self._session
            if session.stream.forgotten or session.disconnects != disconnects:
                raise ConnectionClosed(DISCONNECTED)

    def co_read_response(self) -> Coroutine[HTTPResponse]:
        """Coroutine twin of `read_response`.

        With no request outstanding, and none being sent, it raises `StateError` at once.
        """

        session = self._session_for_reading()
        return (yield from session.co_read_response(False, session.patient))

    def _session_for_reading(self) -> Session:
        """Return the session to read a response from, with what counts for that."""

        session = self._session
        session.assume_close = self.assume_close
        session.strict_eof = self.strict_eof
        return session

    def read(self, n: Optional[int] = None) -> bytes:
        """Read up to *n* bytes of the body.

        Returns `bytes`: at least one byte, as soon as there is something (for 128 KiB or more see
        `readinto`); empty at the end of the body, for *n* = 0, and if no body is being read. With
        `None` or a negative number, the same as `readall`. Waits for the first byte.

        `ConnectionClosed` if the connection ends before the body does: data that have been
        returned are right, but not all. `InvalidResponse` or `UnsupportedResponse` if the end of
        the body cannot be found; no data are returned from there on.
        """

        if n is None or n < 0:
            return self.readall()
        if getattr(self.co_read, '__func__', None) is not _CO_READ:
            # A subclass or the object has its own.
            return bytes(eval_coroutine(self.co_read(n), self.timeout))
        return eval_coroutine(self._session.co_read(n), self.timeout)

    def co_read(self, n: Optional[int] = None) -> Coroutine[bytearray]:
        """Coroutine twin of `read`; its result is a `bytearray` that belongs to the caller."""

        if n is None or n < 0:
            data = yield from self._session.co_readall()
        else:
            data = yield from self._session.co_read(n)
        return bytearray(data)

    def readinto(self, buf: Any) -> int:
        """Read body data into the writable buffer *buf*.

        Returns the number of bytes: what there is and fits, at least one; 0 at the end of the
        body. Waits and raises as `read`.

        If there is room for 128 KiB or more, and nothing is there yet, the first bytes may wait up
        to a millisecond for others, as waking up for each of many small pieces takes longer.
        """

        if getattr(self.co_readinto, '__func__', None) is not _CO_READINTO:
            # A subclass or the object has its own.
            return eval_coroutine(self.co_readinto(buf), self.timeout)
        return self._session.readinto(_target(buf), self.timeout)

    def co_readinto(self, buf: Any) -> Coroutine[int]:
        """Coroutine twin of `readinto`."""

        return (yield from self._session.co_readinto(_target(buf)))

    def readall(self) -> bytes:
        """Read the rest of the body and return it as `bytes`, empty if there is none.

        Waits for all of it. Raises as `read`; after any error the connection is broken.
        """

        if type(self).co_readall is not _CO_READALL:
            # A subclass has its own.
            return eval_coroutine(self.co_readall(), self.timeout)
        return self._session.readall(self.timeout)

    def co_readall(self) -> Coroutine[bytes]:
        """Coroutine twin of `readall`."""

        return (yield from self._session.co_readall())

    def discard(self) -> None:
        """Read the rest of the body and throw it away. Waits and raises as `readall`."""

        eval_coroutine(self.co_discard(), self.timeout)

    def co_discard(self) -> Coroutine[None]:
        """Coroutine twin of `discard`."""

        yield from self._session.co_discard()

    def read_raw(self, size: int) -> bytes:
        """Read up to *size* uninterpreted bytes, from the buffer or the network.

        Empty at the end of the connection. To look at what the server has sent after
        `InvalidResponse` or `UnsupportedResponse`, and to go on after a 101 response. From now
        on, all other calls that send or read are a `StateError`, until `reset`.
        `ConnectionClosed` if there is no connection. Waits for the first byte.
        """

        return eval_coroutine(self.co_read_raw(size), self.timeout)

    def co_read_raw(self, size: int) -> Coroutine[bytes]:
        """Coroutine twin of `read_raw`."""

        return (yield from self._session.co_read_raw(size))

    # Pipelines

    def pipeline(
        self,
        requests: Iterable[Any],
        *,
        max_pending: int = MAX_PENDING,
        max_retries: int = MAX_RETRIES,
        stream: bool = False,
    ) -> Pipeline:
        """Send many requests ahead and return an iterator over their responses, in order.

        *requests* is an iterable, which may be endless, of paths (str, for GET) or tuples of
        method, path, and optionally headers (mapping) and body (bytes-like). It is consumed as
        the window of requests in flight moves on. At most *max_pending* (int) requests, and 256
        KiB unless a single request is larger, are in flight; fewer if the server copes only with
        fewer.

        Each response has its whole body in `HTTPResponse.body` (bytes). With *stream*, the body
        is `None` and is to be read with the methods of the connection; what is left unread is
        discarded when the next response is asked for.

        A response that comes before its request was sent to its end is returned when that is
        done. With *stream* it is returned at once: the rest is sent whenever a read of the body
        waits, and before the next response; if that fails, the next step raises
        `ConnectionClosed`. Nothing more is sent of a request that the server refuses, with a
        status of 400 or above, or by closing.

        Requests that a lost connection leaves unanswered are sent again on a new one if their
        method is idempotent (RFC 9110, section 9.2.2). After *max_retries* (int) connections in
        a row that brought no complete answer, the last error is raised; 0 is as 1. A time-out
        counts as a lost connection, and so does a response that breaks the framing, if other
        requests were in flight with it; its request is then repeated alone. A request that is not
        idempotent is sent only when all others are answered, and nothing is sent before its answer
        is there. If the connection is lost in between, it is not repeated: `ConnectionClosed`.

        The attributes `sent`, `repeated`, `connections` and `in_flight` of the iterator are
        numbers; `unanswered` and `uncertain` are lists of requests: those taken from *requests*
        and not answered, and those non-idempotent ones of them that were sent. `retry()` repeats
        the last request with *stream*, whose body is never continued on another connection.
        `close()` gives up. `disconnect` ends the iterator with `ConnectionClosed`. After an error
        of its own the iterator is finished. What *requests* raises, or `ValueError` or
        `TypeError` for a request that cannot be sent, comes after the answers before it.
        After an interruption in a wait, by `KeyboardInterrupt` or the `TimeoutError` of a signal
        handler for instance, the next step goes on. One that comes anywhere else, or from
        *requests*, breaks the connection, and all further steps raise `ConnectionClosed`. While it
        connects, an `OSError` counts as a connection that was not made.

        While requests of it are in flight, other calls of `send_request` and `read_response` are a
        `StateError`; without *stream*, there is no body to read. So is the next step of the
        iterator if something else is outstanding then, or while another thread reads a streamed
        body; after the latter the iterator can go on.
        """

        return Pipeline(self, requests, max_pending, max_retries, stream)

    def co_pipeline(
        self,
        requests: Iterable[Any],
        *,
        max_pending: int = MAX_PENDING,
        max_retries: int = MAX_RETRIES,
        stream: bool = False,
    ) -> AsyncPipeline:
        """Same as `pipeline` for `async for` in asyncio, with the same `timeout` for each wait.

        For other event loops, `co_next()` of the result is a dugong coroutine with the next
        response, `None` after the last one; it is its driver that has a time limit.
        """

        return AsyncPipeline(self, requests, max_pending, max_retries, stream)

    def response_pending(self) -> bool:
        """Tell whether an answer is outstanding or partly read, and the connection open.

        Also true for a request that will not be answered because the server has announced that
        it closes, or because an earlier answer was wrong: `read_response` reports that. Does not
        wait.
        """

        return self._session.response_pending

    # The rest of what a readable binary stream has

    @property
    def closed(self) -> bool:
        """Always false: the object can be used again after whatever happened."""
        return False

    @property
    def name(self) -> str:
        """Host name and port, as what `io.TextIOWrapper` shows of it."""
        return f'{self._hostname}:{self._port}'

    def readable(self) -> bool:
        """Return true: response bodies can be read."""
        return True

    def writable(self) -> bool:
        """Return true: request bodies can be written."""
        return True

    def seekable(self) -> bool:
        """Return false."""
        return False

    def flush(self) -> None:
        """Do nothing; there is no output buffer."""

    def close(self) -> None:
        """Leave a healthy connection alone, disconnect a broken one. Never raises.

        Objects like `io.TextIOWrapper` close what they read from, but the end of a body is not
        the end of the connection; that is what `disconnect` is for.
        """

        # An object whose construction has failed is closed, too, when it is collected.
        session = getattr(self, '_session', None)
        if session is not None and session.fault is not None:
            self.disconnect()

    def read1(self, n: int = -1) -> bytes:
        """Read up to *n* bytes, by default those that there are, see `read`."""

        return self.read(n if n >= 0 else self._rbuf.size)

    def readinto1(self, buf: Any) -> int:
        """Same as `readinto`."""

        return self.readinto(buf)

    def readlines(self, hint: Optional[int] = -1) -> List[bytes]:
        """Read lines up to the end of the body, or until they have more than *hint* bytes.

        Waits and raises as `readline`, but if a line had been received before an error or an
        interruption, the connection is broken.
        """

        limit = -1 if hint is None else operator.index(hint)
        # Another thread may begin a new one meanwhile.
        session = self._session
        lines: List[bytes] = []
        size = 0
        try:
            for line in iter(self.readline, b''):
                lines.append(line)
                size += len(line)
                if 0 < limit < size:
                    break
        except BaseException as exc:
            if lines:
                session.lines_lost(exc)
            raise
        return lines

    def peek(self, n: int = 0) -> bytes:
        """Return body data that will be read next, at least one byte, without removing them.

        *n* is ignored. Empty at the end of the body. Waits and raises as `read`.
        """

        return eval_coroutine(self._session.co_peek(), self.timeout)

    def readline(self, size: Optional[int] = -1) -> bytes:
        """Read up to and including the next LF of the body, and at most *size* bytes of it.

        Empty at the end of the body. Waits and raises as `read`, but if a part of the line had
        been received before an error or an interruption, the connection is broken.
        """

        # That of the base class counts only the bytes since the last `peek`.
        limit = -1 if size is None else operator.index(size)
        return eval_coroutine(self._session.co_readline(limit), self.timeout)


# What a subclass or an object may replace, and a test even here.
_OWN = {name: getattr(HTTPConnection, name) for name in ('connect', 'co_connect')}
_CO_SEND_REQUEST = HTTPConnection.co_send_request
_CO_WRITE = HTTPConnection.co_write
_CO_READ = HTTPConnection.co_read
_CO_READ_RESPONSE = HTTPConnection.co_read_response
_CO_READALL = HTTPConnection.co_readall
_CO_READINTO = HTTPConnection.co_readinto


def _checked_context(context: Optional[ssl.SSLContext]) -> Optional[ssl.SSLContext]:
    """Return *context*, if it is one, or nothing."""

    if context and not hasattr(context, 'wrap_socket'):
        raise TypeError(f'ssl_context must be an ssl.SSLContext, not {type(context).__name__}')
    return context


def _checked_pairs(headers: Optional[Fields]) -> Tuple[Tuple[str, Any], ...]:
    """Return *headers* as pairs of name and value that can be sent."""

    if not headers:
        return ()
    checked = tuple(pairs(headers))
    CallerFields(checked)
    return checked


def _target(buf: Any) -> memoryview:
    """Return the bytes of *buf*, to read into."""

    view = memoryview(buf)
    if view.readonly:
        raise TypeError('readinto needs a writable buffer')
    return view.cast('B') if view.nbytes else memoryview(b'')


def _md5(data: memoryview) -> str:
    """Return the value of a Content-MD5 field (RFC 1864)."""

    # Imported late, as few programs need it and it takes a part of the time to import this all.
    import hashlib

    try:
        # Builds of OpenSSL with FIPS rules refuse MD5 for any other purpose.
        digest = hashlib.md5(data, usedforsecurity=False)
    except TypeError:
        # CPython 3.8 does not know the argument.
        digest = hashlib.md5(data)
    return b64encode(digest.digest()).decode('ascii')
