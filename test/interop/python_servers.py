"""One of Python's servers with a small application: `python python_servers.py KIND OPTIONS`

The application keeps files, and is the same behind every server: what the tests are about is
the server that carries it. Below the root directory are `docs` (read) and `uploads` (written).

    GET /docs/NAME      with ETag, Last-Modified, conditions and ranges
    GET /chunked/NAME   the same document, without a length
    GET /fields         the request's header fields as JSON
    PUT /uploads/NAME        stores the body
    PUT /refused/NAME   413, without reading the body
    DELETE /uploads/NAME

With `--keepalive N` the N-th request of a connection is answered with `Connection: close`.
"""

import argparse
import asyncio
import email.utils
import http
import http.server
import json
import os
import pathlib
import re
import shutil
import socket
import ssl
import sys
from collections import Counter
from typing import Any, Dict, Iterable, List, Mapping, NamedTuple, Optional, Tuple

PIECE = 1 << 16


class Answer(NamedTuple):
    status: int
    fields: List[Tuple[str, str]]
    body: bytes
    #: Whether to send a length; without one, the server has to frame the body itself.
    length: bool = True


def plain(status: int, text: str = '') -> Answer:
    return Answer(status, [('Content-Type', 'text/plain')], text.encode())


class Application:
    """*fields* have names in lower case."""

    def __init__(self, root: pathlib.Path, keepalive: Optional[int]) -> None:
        self.root = root
        self.keepalive = keepalive
        self._requests: Dict[object, int] = Counter()

    def is_last(self, peer: object) -> bool:
        """Count a request of the connection from *peer*: is it the last one allowed?"""
        self._requests[peer] += 1
        return self.keepalive is not None and self._requests[peer] % self.keepalive == 0

    def get(self, path: str, fields: Mapping[str, str]) -> Answer:
        if path == '/fields':
            return plain(200, json.dumps(dict(fields)))
        match = re.fullmatch('/(docs|chunked|uploads)/([0-9A-Za-z_./-]+)', path)
        if not match or '..' in path:
            return plain(404, 'no such document')
        directory, name = match.groups()
        file = self.root / ('uploads' if directory == 'uploads' else 'docs') / name
        if not file.is_file():
            return plain(404, 'no such document')
        body = file.read_bytes()
        if directory == 'chunked':
            return Answer(200, [('Content-Type', 'application/octet-stream')], body, length=False)
        return self._document(file, body, fields)

    def _document(self, file: pathlib.Path, body: bytes, fields: Mapping[str, str]) -> Answer:
        modified = int(file.stat().st_mtime)
        tag = f'"{modified:x}-{len(body):x}"'
        head = [
            ('Content-Type', 'application/octet-stream'),
            ('ETag', tag),
            ('Last-Modified', email.utils.formatdate(modified, usegmt=True)),
            ('Accept-Ranges', 'bytes'),
        ]
        if 'if-none-match' in fields:
            if fields['if-none-match'] == tag:
                return Answer(304, head, b'')
        elif 'if-modified-since' in fields:
            since = email.utils.parsedate_to_datetime(fields['if-modified-since']).timestamp()
            if modified <= since:
                return Answer(304, head, b'')
        match = re.fullmatch(r'bytes=(\d*)-(\d*)', fields.get('range', ''))
        if not match:
            return Answer(200, head, body)
        size = len(body)
        first, last = match.groups()
        if first:
            start, end = int(first), min(int(last or size), size - 1)
        else:
            start, end = max(size - int(last), 0), size - 1
        if start > end:
            return Answer(416, [('Content-Range', f'bytes */{size}')], b'')
        head.append(('Content-Range', f'bytes {start}-{end}/{size}'))
        return Answer(206, head, body[start : end + 1])

    def target(self, path: str) -> Optional[pathlib.Path]:
        """Where to store the body of a PUT; `None` if it is refused."""
        match = re.fullmatch('/uploads/([0-9A-Za-z_-]+)', path)
        return self.root / 'uploads' / match.group(1) if match else None

    def delete(self, path: str) -> Answer:
        file = self.target(path)
        if file is None or not file.is_file():
            return plain(404, 'no such document')
        file.unlink()
        return plain(204)


def has_body(method: str, status: int) -> bool:
    return method != 'HEAD' and status not in (204, 304)


# -- the standard library's http.server -----------------------------------------------------


def http_server(app: Application, options: argparse.Namespace) -> None:
    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = 'HTTP/' + options.version
        disable_nagle_algorithm = True

        def do_GET(self) -> None:
            fields = {name.lower(): value for name, value in self.headers.items()}
            self.reply(app.get(self.path, fields))

        do_HEAD = do_GET

        def do_DELETE(self) -> None:
            self.reply(app.delete(self.path))

        def do_PUT(self) -> None:
            file = app.target(self.path)
            chunked = 'Transfer-Encoding' in self.headers
            if file is None:
                self.refuse(413)
            elif chunked and self.protocol_version == 'HTTP/1.0':
                self.refuse(411)
            else:
                with file.open('wb') as out:
                    for piece in self.chunks() if chunked else self.pieces():
                        out.write(piece)
                self.reply(plain(201))

        def handle_expect_100(self) -> bool:
            if self.command == 'PUT' and app.target(self.path) is None:
                self.refuse(413)
                return False
            return super().handle_expect_100()

        def refuse(self, status: int) -> None:
            self.close_connection = True
            self.reply(plain(status, 'no'))
            if options.linger:
                self.connection.shutdown(socket.SHUT_WR)
                while self.rfile.read1(PIECE):
                    pass

        def pieces(self, size: Optional[int] = None) -> Iterable[bytes]:
            missing = int(self.headers['Content-Length']) if size is None else size
            while missing:
                piece = self.rfile.read(min(missing, PIECE))
                if not piece:
                    raise EOFError
                missing -= len(piece)
                yield piece

        def chunks(self) -> Iterable[bytes]:
            while True:
                size = int(self.rfile.readline(), 16)
                if not size:
                    break
                yield from self.pieces(size)
                self.rfile.readline()
            while self.rfile.readline().strip():
                pass

        def reply(self, answer: Answer) -> None:
            if app.is_last(self.client_address):
                self.close_connection = True
            body = answer.body if has_body(self.command, answer.status) else b''
            self.send_response(answer.status)
            for field in answer.fields:
                self.send_header(*field)
            chunked = not answer.length and self.protocol_version == 'HTTP/1.1'
            if chunked:
                self.send_header('Transfer-Encoding', 'chunked')
            elif answer.length:
                self.send_header('Content-Length', str(len(answer.body)))
            if self.close_connection:
                self.send_header('Connection', 'close')
            self.end_headers()
            if chunked:
                for start in range(0, len(body), PIECE):
                    piece = body[start : start + PIECE]
                    self.wfile.write(b'%x\r\n%b\r\n' % (len(piece), piece))
                if self.command != 'HEAD':
                    self.wfile.write(b'0\r\n\r\n')
            else:
                self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            pass

    class Server(http.server.ThreadingHTTPServer):
        request_queue_size = 128

    server = Server(('127.0.0.1', options.port), Handler)
    if options.certificate:
        # The handshake belongs into the thread of the connection, not into accept().
        server.socket = tls_context(options).wrap_socket(
            server.socket, server_side=True, do_handshake_on_connect=False
        )
    server.serve_forever()


def tls_context(options: argparse.Namespace) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(options.certificate, options.key)
    return context


# -- WSGI: gunicorn, werkzeug ---------------------------------------------------------------


def wsgi_application(app: Application) -> Any:
    def application(environ: Dict[str, Any], start_response: Any) -> Iterable[bytes]:
        method, path = environ['REQUEST_METHOD'], environ['PATH_INFO']
        if method == 'PUT':
            file = app.target(path)
            if file is None:
                answer = plain(413, 'no')
            else:
                with file.open('wb') as out:
                    if environ.get('wsgi.input_terminated'):
                        shutil.copyfileobj(environ['wsgi.input'], out, PIECE)
                    else:
                        missing = int(environ['CONTENT_LENGTH'])
                        while missing:
                            piece = environ['wsgi.input'].read(min(missing, PIECE))
                            if not piece:
                                raise EOFError
                            missing -= len(piece)
                            out.write(piece)
                answer = plain(201)
        elif method == 'DELETE':
            answer = app.delete(path)
        else:
            fields = {
                name[5:].replace('_', '-').lower(): value
                for name, value in environ.items()
                if name.startswith('HTTP_')
            }
            answer = app.get(path, fields)
        head = list(answer.fields)
        if answer.length and answer.status != 304:
            head.append(('Content-Length', str(len(answer.body))))
        phrase = http.HTTPStatus(answer.status).phrase
        start_response(f'{answer.status} {phrase}', head)
        body = answer.body if has_body(method, answer.status) else b''
        if answer.length:
            return [body]
        return (body[start : start + PIECE] for start in range(0, len(body), PIECE))

    return application


def gunicorn(app: Application, options: argparse.Namespace) -> None:
    from gunicorn.app.base import BaseApplication

    class Runner(BaseApplication):
        def load_config(self) -> None:
            settings = {
                'bind': f'127.0.0.1:{options.port}',
                'worker_class': 'gthread',
                'threads': 4,
                'keepalive': 30,
                'accesslog': None,
                'loglevel': 'warning',
                'certfile': options.certificate,
                'keyfile': options.key,
                'max_requests': options.keepalive or 0,
                'graceful_timeout': 2,
                'control_socket_disable': True,
            }
            for name, value in settings.items():
                if name in self.cfg.settings and value is not None:
                    self.cfg.set(name, value)

        def load(self) -> Any:
            return wsgi_application(app)

    Runner().run()


def werkzeug(app: Application, options: argparse.Namespace) -> None:
    from werkzeug.serving import run_simple

    context = tls_context(options) if options.certificate else None
    run_simple(
        '127.0.0.1', options.port, wsgi_application(app), threaded=True, ssl_context=context
    )


# -- ASGI: uvicorn, hypercorn ---------------------------------------------------------------


def asgi_application(app: Application) -> Any:
    async def application(scope: Dict[str, Any], receive: Any, send: Any) -> None:
        if scope['type'] != 'http':
            raise NotImplementedError
        method, path = scope['method'], scope['path']
        if method == 'PUT':
            file = app.target(path)
            if file is None:
                answer = plain(413, 'no')
            else:
                with file.open('wb') as out:
                    more = True
                    while more:
                        event = await receive()
                        if event['type'] == 'http.disconnect':
                            return
                        out.write(event.get('body', b''))
                        more = event.get('more_body', False)
                answer = plain(201)
        elif method == 'DELETE':
            answer = app.delete(path)
        else:
            answer = app.get(
                path, {name.decode().lower(): value.decode() for name, value in scope['headers']}
            )
        head = list(answer.fields)
        if answer.length and answer.status != 304:
            head.append(('Content-Length', str(len(answer.body))))
        if app.is_last(tuple(scope['client'])):
            head.append(('Connection', 'close'))
        await send(
            {
                'type': 'http.response.start',
                'status': answer.status,
                'headers': [(name.lower().encode(), value.encode()) for name, value in head],
            }
        )
        body = answer.body if has_body(method, answer.status) else b''
        for start in range(0, len(body), PIECE):
            piece = body[start : start + PIECE]
            await send({'type': 'http.response.body', 'body': piece, 'more_body': True})
        await send({'type': 'http.response.body', 'body': b''})

    return application


def uvicorn(app: Application, options: argparse.Namespace) -> None:
    import uvicorn

    uvicorn.run(
        asgi_application(app),
        host='127.0.0.1',
        port=options.port,
        http='h11',
        lifespan='off',
        log_level='warning',
        timeout_keep_alive=30,
        timeout_graceful_shutdown=1,
        ssl_certfile=options.certificate,
        ssl_keyfile=options.key,
    )


def hypercorn(app: Application, options: argparse.Namespace) -> None:
    import hypercorn.asyncio
    import hypercorn.config

    config = hypercorn.config.Config()
    config.bind = [f'127.0.0.1:{options.port}']
    config.certfile, config.keyfile = options.certificate, options.key
    config.keep_alive_timeout = 30
    config.keep_alive_max_requests = options.keepalive or 1 << 20
    config.graceful_timeout = 1
    config.accesslog = None
    # This server counts itself.
    app.keepalive = None
    asyncio.run(hypercorn.asyncio.serve(asgi_application(app), config))


# -- aiohttp --------------------------------------------------------------------------------


def aiohttp(app: Application, options: argparse.Namespace) -> None:
    from aiohttp import web

    async def handle(request: web.Request) -> web.StreamResponse:
        method, path = request.method, request.path
        if method == 'PUT':
            file = app.target(path)
            if file is None:
                answer = plain(413, 'no')
            else:
                with file.open('wb') as out:
                    async for piece in request.content.iter_chunked(PIECE):
                        out.write(piece)
                answer = plain(201)
        elif method == 'DELETE':
            answer = app.delete(path)
        elif path.startswith('/docs/') and (app.root / path[1:]).is_file():
            # This server has ranges and conditions of its own.
            return finish(request, web.FileResponse(app.root / path[1:]))
        else:
            answer = app.get(
                path, {name.lower(): value for name, value in request.headers.items()}
            )
        if answer.length:
            return finish(
                request,
                web.Response(status=answer.status, headers=answer.fields, body=answer.body),
            )
        response = web.StreamResponse(status=answer.status, headers=answer.fields)
        await finish(request, response).prepare(request)
        if method != 'HEAD':
            for start in range(0, len(answer.body), PIECE):
                await response.write(answer.body[start : start + PIECE])
        await response.write_eof()
        return response

    def finish(request: web.Request, response: web.StreamResponse) -> web.StreamResponse:
        if app.is_last(request.transport.get_extra_info('peername')):
            response.force_close()
        return response

    application = web.Application(client_max_size=1 << 30)
    application.router.add_route('*', '/{path:.*}', handle)
    web.run_app(
        application,
        host='127.0.0.1',
        port=options.port,
        ssl_context=tls_context(options) if options.certificate else None,
        print=None,
        access_log=None,
        shutdown_timeout=1,
    )


# -- moto -----------------------------------------------------------------------------------


def moto(app: Application, options: argparse.Namespace) -> None:
    import moto.server

    arguments = ['-H', '127.0.0.1', '-p', str(options.port)]
    if options.certificate:
        arguments += ['-s', '-c', options.certificate, '-k', options.key]
    moto.server.main(arguments)


KINDS = {
    'http.server': http_server,
    'uvicorn': uvicorn,
    'hypercorn': hypercorn,
    'aiohttp': aiohttp,
    'gunicorn': gunicorn,
    'werkzeug': werkzeug,
    'moto': moto,
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument('kind', choices=sorted(KINDS))
    parser.add_argument('--port', type=int, required=True)
    parser.add_argument('--root', type=pathlib.Path, required=True)
    parser.add_argument('--version', default='1.1', help='of HTTP, for http.server')
    parser.add_argument(
        '--linger', action='store_true', help='read on after refusing an upload (http.server)'
    )
    parser.add_argument('--certificate')
    parser.add_argument('--key')
    parser.add_argument('--keepalive', type=int)
    options = parser.parse_args()
    # The directory of this file must not shadow what the servers import.
    sys.path[:] = [p for p in sys.path if os.path.abspath(p) != os.path.dirname(__file__)]
    # Servers look at the command line, too.
    del sys.argv[1:]
    KINDS[options.kind](Application(options.root, options.keepalive), options)


if __name__ == '__main__':
    main()
