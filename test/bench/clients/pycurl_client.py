"""pycurl (libcurl): one handle for all requests."""

import io

import pycurl
from workloads import HEADER, HEADER_VALUE, READ_BUFFER, WRITE_PIECE

from . import Server, Task, WrongAnswer, require


def version() -> str:
    return pycurl.version.split()[0] + ' ' + pycurl.version.split()[1]


class Client:
    FIELD = f'{HEADER}: {HEADER_VALUE}\r\n'.encode()

    def __init__(self, server: Server) -> None:
        self.url = server.url
        self.curl = pycurl.Curl()
        self.curl.setopt(pycurl.NOSIGNAL, 1)
        # libcurl reads this much at a time; the default of 16 KiB is slow for large bodies.
        self.curl.setopt(pycurl.BUFFERSIZE, 2 * READ_BUFFER)
        if server.authority is not None:
            self.curl.setopt(pycurl.CAINFO, server.authority)

    def close(self) -> None:
        self.curl.close()

    def get(self, count: int, task: Task) -> None:
        curl, expected, field = self.curl, task.body, self.FIELD
        curl.setopt(pycurl.URL, self.url + task.path)
        for _ in range(count):
            fields = []
            pieces = []
            curl.setopt(pycurl.HEADERFUNCTION, fields.append)
            curl.setopt(pycurl.WRITEFUNCTION, pieces.append)
            curl.perform()
            if (
                curl.getinfo(pycurl.RESPONSE_CODE) != 200
                or field not in fields
                or b''.join(pieces) != expected
            ):
                raise WrongAnswer(fields)
        curl.unsetopt(pycurl.HEADERFUNCTION)

    def connect(self, count: int, task: Task) -> None:
        self.curl.setopt(pycurl.FORBID_REUSE, 1)
        self.curl.setopt(pycurl.HTTPHEADER, ['Connection: close'])
        self.get(count, task)

    def readall(self, count: int, task: Task) -> bytes:
        curl, size = self.curl, len(task.body)
        curl.setopt(pycurl.URL, self.url + task.path)
        body = b''
        for _ in range(count):
            del body
            buffer = io.BytesIO()
            curl.setopt(pycurl.WRITEFUNCTION, buffer.write)
            curl.perform()
            body = buffer.getvalue()
            del buffer
            if curl.getinfo(pycurl.RESPONSE_CODE) != 200 or len(body) != size:
                raise WrongAnswer(len(body))
        return body

    def readinto(self, count: int, task: Task) -> None:
        curl, size, verify = self.curl, len(task.body), task.verify
        curl.setopt(pycurl.URL, self.url + task.path)
        position = 0

        def write(piece):
            nonlocal position
            if verify is not None:
                verify(position, memoryview(piece))
            position += len(piece)

        curl.setopt(pycurl.WRITEFUNCTION, write)
        for _ in range(count):
            position = 0
            curl.perform()
            if curl.getinfo(pycurl.RESPONSE_CODE) != 200 or position != size:
                raise WrongAnswer(position)

    def upload(self, count: int, task: Task, source) -> None:
        """Send what `source()` opens."""
        curl = self.curl
        curl.setopt(pycurl.URL, self.url + task.path)
        curl.setopt(pycurl.UPLOAD, 1)
        curl.setopt(pycurl.INFILESIZE_LARGE, len(task.payload))
        curl.setopt(pycurl.UPLOAD_BUFFERSIZE, WRITE_PIECE)
        # No waiting for "100 Continue": no other client does.
        curl.setopt(pycurl.HTTPHEADER, ['Expect:'])
        for _ in range(count):
            answer = []
            curl.setopt(pycurl.WRITEFUNCTION, answer.append)
            with source() as fh:
                curl.setopt(pycurl.READFUNCTION, fh.read)
                curl.perform()
            status = curl.getinfo(pycurl.RESPONSE_CODE)
            require(status == 200 and b''.join(answer) == task.body, answer)

    def upload_bytes(self, count: int, task: Task) -> None:
        self.upload(count, task, lambda: io.BytesIO(task.payload))

    def upload_pieces(self, count: int, task: Task) -> None:
        self.upload(count, task, lambda: io.BytesIO(task.payload))

    def upload_file(self, count: int, task: Task) -> None:
        self.upload(count, task, lambda: open(task.payload_file, 'rb'))
