"""The floor: a blocking socket and a loop that knows every length beforehand.

It parses nothing: heads are recognised by their length, learned from the first response.
"""

import asyncio
import platform
import socket
import struct
import threading

from workloads import AIO_CONNECTIONS, READ_BUFFER, WRITE_PIECE

from . import Server, Task, WrongAnswer, require

#: Requests that are sent at once when pipelining.
BATCH = 64
#: Chunks below this size are received all at once.
SMALL_CHUNK = 4096
#: Most buffers that the system takes in one call.
VIEWS_MAX = 1024
OK = b'HTTP/1.1 200 OK\r\n'


def version() -> str:
    return platform.python_version()


class Client:
    def __init__(self, server: Server) -> None:
        self.server = server
        self.tls = server.context is not None
        self._sock = None
        self.loop = None
        self.protocols = []
        #: path -> length of the head of its response
        self.head_lengths = {}

    @property
    def sock(self) -> socket.socket:
        if self._sock is None:
            self._sock = self.connection()
        return self._sock

    def connection(self) -> socket.socket:
        server = self.server
        sock = socket.socket()
        sock.connect((server.host, server.port))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if server.context is not None:
            sock = server.context.wrap_socket(sock, server_hostname=server.host)
        return sock

    def close(self) -> None:
        if self._sock is not None:
            self._sock.close()
        for protocol in self.protocols:
            protocol.transport.abort()
        if self.loop is not None:
            self.loop.run_until_complete(asyncio.sleep(0))
            self.loop.close()

    def request(self, path: str, method='GET', extra='') -> bytes:
        host = f'{self.server.host}:{self.server.port}'
        return f'{method} {path} HTTP/1.1\r\nHost: {host}\r\n{extra}\r\n'.encode()

    def head_length(self, path: str, request=None) -> int:
        """Length of the head of a response, found out on a connection of its own."""
        request = self.request(path) if request is None else request
        if request not in self.head_lengths:
            with self.connection() as sock:
                sock.sendall(request)
                data = b''
                while b'\r\n\r\n' not in data:
                    data += sock.recv(4096)
                self.head_lengths[request] = data.index(b'\r\n\r\n') + 4
        return self.head_lengths[request]

    def receive(self, sock: socket.socket, size: int) -> bytes:
        """Receive exactly *size* bytes."""
        if not self.tls:
            return sock.recv(size, socket.MSG_WAITALL)
        data = bytearray(size)
        self.receive_into(sock, memoryview(data))
        return data

    def receive_into(self, sock: socket.socket, view: memoryview) -> None:
        start, end = 0, len(view)
        while start < end:
            got = sock.recv_into(view[start:])
            if not got:
                raise WrongAnswer('connection closed')
            start += got

    def get(self, count: int, task: Task) -> None:
        sock, request, expected = self.sock, self.request(task.path), task.body
        total = self.head_length(task.path) + len(expected)
        send, recv = sock.sendall, sock.recv
        for _ in range(count):
            send(request)
            data = recv(total)
            while len(data) < total:
                more = recv(total - len(data))
                if not more:
                    break
                data += more
            if not data.startswith(OK) or not data.endswith(expected):
                raise WrongAnswer(data)

    def connect(self, count: int, task: Task) -> None:
        request, expected = self.request(task.path, extra='Connection: close\r\n'), task.body
        total = self.head_length(task.path, request) + len(expected)
        for _ in range(count):
            sock = self.connection()
            sock.sendall(request)
            data = sock.recv(total)
            while len(data) < total:
                more = sock.recv(total - len(data))
                if not more:
                    break
                data += more
            sock.close()
            if not data.startswith(OK) or not data.endswith(expected):
                raise WrongAnswer(data)

    def receive_many(self, count: int, task: Task, before_receive) -> None:
        """Receive *count* responses; `before_receive(n)` is called when *n* have arrived."""
        sock, expected = self.sock, task.body
        head = self.head_length(task.path)
        total = head + len(expected)
        buffer = bytearray(READ_BUFFER)
        view = memoryview(buffer)
        done = end = 0
        while done < count:
            before_receive(done)
            got = sock.recv_into(view[end:])
            if not got:
                raise WrongAnswer('connection closed')
            end += got
            start = 0
            while end - start >= total:
                if (
                    not buffer.startswith(OK, start)
                    or buffer[start + head : start + total] != expected
                ):
                    raise WrongAnswer(bytes(buffer[start : start + total]))
                start += total
                done += 1
            view[: end - start] = view[start:end]
            end -= start

    def pipeline_coroutines(self, count: int, task: Task) -> None:
        sock, request = self.sock, self.request(task.path)
        sent = 0

        def keep_two_batches_going(done):
            nonlocal sent
            while sent < count and sent - done <= BATCH:
                batch = min(BATCH, count - sent)
                sock.sendall(request * batch)
                sent += batch

        self.receive_many(count, task, keep_two_batches_going)

    def pipeline_threads(self, count: int, task: Task) -> None:
        sock, request = self.sock, self.request(task.path)

        def send():
            for start in range(0, count, BATCH):
                sock.sendall(request * min(BATCH, count - start))

        sender = threading.Thread(target=send)
        sender.start()
        self.receive_many(count, task, lambda done: None)
        sender.join()

    def aio(self, count: int, task: Task) -> None:
        request, expected = self.request(task.path), task.body
        total = self.head_length(task.path) + len(expected)
        server = self.server

        class Protocol(asyncio.Protocol):
            def connection_made(self, transport):
                self.transport = transport

            def start(self, share):
                self.left = share
                self.received = b''
                self.done = asyncio.get_running_loop().create_future()
                self.transport.write(request)
                return self.done

            def data_received(self, data):
                if self.received:
                    data = self.received + data
                if len(data) < total:
                    self.received = data
                    return
                self.received = b''
                if not data.startswith(OK) or not data.endswith(expected):
                    self.done.set_exception(WrongAnswer(data))
                self.left -= 1
                if self.left:
                    self.transport.write(request)
                else:
                    self.done.set_result(None)

        async def work_all():
            while len(self.protocols) < AIO_CONNECTIONS:
                _, protocol = await asyncio.get_running_loop().create_connection(
                    Protocol, server.host, server.port, ssl=server.context
                )
                self.protocols.append(protocol)
            share = count // AIO_CONNECTIONS
            await asyncio.gather(*[protocol.start(share) for protocol in self.protocols])

        if self.loop is None:
            self.loop = asyncio.new_event_loop()
        self.loop.run_until_complete(work_all())

    def readall(self, count: int, task: Task) -> bytes:
        if task.chunk is not None:
            return self.read_chunked(count, task)
        sock, request, size = self.sock, self.request(task.path), len(task.body)
        head_length = self.head_length(task.path)
        body = b''
        for _ in range(count):
            del body
            sock.sendall(request)
            head = self.receive(sock, head_length)
            body = self.receive(sock, size)
            if not head.startswith(OK) or len(body) != size:
                raise WrongAnswer(head)
        return body

    def read_chunked(self, count: int, task: Task) -> bytes:
        sock, request, size, chunk = self.sock, self.request(task.path), len(task.body), task.chunk
        head_length = self.head_length(task.path)
        full, rest = divmod(size, chunk)
        chunks = [chunk] * full + ([rest] if rest else [])
        heads = [len(b'%x\r\n' % length) for length in chunks]
        last = len(b'0\r\n\r\n')
        if chunk < SMALL_CHUNK:
            # Takes the data of all the chunks out of the whole stream in one call.
            parts = [f'{head}x{length}s2x' for head, length in zip(heads, chunks)]
            layout = struct.Struct('=' + ''.join(parts) + f'{last}x')
        framing = memoryview(bytearray(max(heads) + 2))
        body = b''
        for _ in range(count):
            del body
            sock.sendall(request)
            head = self.receive(sock, head_length)
            if chunk < SMALL_CHUNK:
                body = b''.join(layout.unpack(self.receive(sock, layout.size)))
            else:
                # Receives each chunk at its place in the body.
                body = bytearray(size)
                view = memoryview(body)
                places = [framing[: heads[0]]]
                for start in range(0, size, chunk):
                    places.append(view[start : start + chunk])
                    places.append(framing)
                places[-1] = framing[: 2 + last]
                self.receive_into_all(sock, places)
            if not head.startswith(OK) or len(body) != size:
                raise WrongAnswer(head)
        return body

    def receive_into_all(self, sock: socket.socket, views) -> None:
        """Fill all the *views*."""
        if self.tls:
            for view in views:
                self.receive_into(sock, view)
            return
        for start in range(0, len(views), VIEWS_MAX):
            some = views[start : start + VIEWS_MAX]
            got = sock.recvmsg_into(some, 0, socket.MSG_WAITALL)[0]
            require(got == sum(map(len, some)), 'connection closed')

    def readinto(self, count: int, task: Task) -> None:
        sock, request, size = self.sock, self.request(task.path), len(task.body)
        verify = task.verify
        head_length = self.head_length(task.path)
        buffer = memoryview(bytearray(READ_BUFFER))
        for _ in range(count):
            sock.sendall(request)
            head = self.receive(sock, head_length)
            position = 0
            while position < size:
                got = sock.recv_into(buffer, min(READ_BUFFER, size - position))
                if not got:
                    break
                if verify is not None:
                    verify(position, buffer[:got])
                position += got
            if not head.startswith(OK) or position != size:
                raise WrongAnswer(head)

    def upload_request(self, task: Task) -> bytes:
        return self.request(task.path, 'PUT', f'Content-Length: {len(task.payload)}\r\n')

    def check_upload(self, task: Task) -> None:
        data = b''
        while not data.endswith(b'\r\n\r\n' + task.body):
            more = self.sock.recv(4096)
            require(bool(more), data)
            data += more
        require(data.startswith(OK), data)

    def upload_bytes(self, count: int, task: Task) -> None:
        sock, request = self.sock, self.upload_request(task)
        for _ in range(count):
            sock.sendall(request)
            sock.sendall(task.payload)
            self.check_upload(task)

    def upload_pieces(self, count: int, task: Task) -> None:
        sock, request, payload = self.sock, self.upload_request(task), memoryview(task.payload)
        size = len(payload)
        for _ in range(count):
            sock.sendall(request)
            for start in range(0, size, WRITE_PIECE):
                sock.sendall(payload[start : start + WRITE_PIECE])
            self.check_upload(task)

    def upload_file(self, count: int, task: Task) -> None:
        sock, request = self.sock, self.upload_request(task)
        for _ in range(count):
            sock.sendall(request)
            with open(task.payload_file, 'rb') as fh:
                if not self.tls:
                    sock.sendfile(fh)
                else:
                    for piece in iter(lambda: fh.read(READ_BUFFER), b''):
                        sock.sendall(piece)
            self.check_upload(task)
