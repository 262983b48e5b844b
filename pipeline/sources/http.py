"""Reading over HTTP as a crawl's mirror needs it: in ranges, resumed where a connection broke, and politely.

A request that fails for a reason that passes (503, 429, 403 from a rate limit, a cut or silent connection) is made again
after a growing pause, or after the pause the server asks for; what has arrived is never fetched twice. A reason that does
not pass (404, a file that changed) is one clear sentence. Only the standard library is used.
"""

import http.client
import io
import os
import random
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from email.message import Message
from pathlib import Path

from infra.errors import InputError

# 403 is what some mirrors say to those who ask too often, and what others say for good.
FEW_DENIALS = 2
PASSING = frozenset({403, 408, 425, 429, 500, 502, 503, 504})
WINDOW_BYTES = 1 << 20
MOST_BYTES = 1 << 30
"""Of a file that is fetched whole into memory."""
AGENT = "headwater (polite crawl reader)"


@dataclass(frozen=True)
class Patience:
    """How long to go on. ``tries`` counts attempts without any progress; a byte that arrives starts the count anew."""

    tries: int = 8
    first_pause_s: float = 1.0
    longest_pause_s: float = 60.0
    silence_s: float = 30.0
    sleep: Callable[[float], None] = field(default=time.sleep, repr=False)

    def pause(self, attempt: int, asked: float | None) -> None:
        """Wait before attempt number ``attempt + 1``; jitter keeps many workers from coming back together."""
        pause = min(self.longest_pause_s, self.first_pause_s * 2**attempt)
        self.sleep(min(self.longest_pause_s, asked) if asked is not None else pause * (0.5 + random.random() / 2))


def is_http(address: str) -> bool:
    return address.startswith(("http://", "https://"))


def fetch(url: str, patience: Patience = Patience()) -> bytes:
    """A whole small file."""
    with HttpFile(url, patience) as stream:
        data = stream.read(MOST_BYTES + 1)
    if len(data) > MOST_BYTES:
        raise InputError(f"the answer is larger than {MOST_BYTES} bytes", where=url)
    return data


def download(url: str, target: Path, patience: Patience = Patience()) -> Path:
    """The file in a cache: fetched once, continued after an interruption, put in its place when it is whole."""
    if target.is_file():
        return target
    begun = target.with_name(f"{target.name}.part")
    try:
        begun.parent.mkdir(parents=True, exist_ok=True)
        with HttpFile(url, patience) as source, begun.open("ab") as part:
            source.seek(part.tell() if part.tell() <= source.size else 0)
            part.truncate(source.tell())
            while data := source.read(WINDOW_BYTES):
                part.write(data)
            part.flush()
            os.fsync(part.fileno())
        os.replace(begun, target)
    except OSError as error:
        raise InputError(
            f"the cache cannot be written: {error.strerror}", where=str(target.parent), remedy="Choose another cache."
        ) from error
    return target


class HttpFile(io.RawIOBase):
    """A remote file, read front to back over one connection; short steps back are served from memory.

    ``size`` is known once something was read. A file that changes between two requests is noticed by its size or ETag.
    """

    def __init__(self, url: str, patience: Patience = Patience(), *, end: int | None = None) -> None:
        super().__init__()
        self._url = url
        self._end = end  # what is asked for at most; the file itself may go on
        self._patience = patience
        self._answer: http.client.HTTPResponse | None = None
        self._window = bytearray()
        self._base = 0
        self._position = 0
        self._size: int | None = None
        self._tag = ""

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        if whence == io.SEEK_END:
            offset += self.size
        elif whence == io.SEEK_CUR:
            offset += self._position
        self._position = offset
        return offset

    @property
    def tag(self) -> str:
        """The server's name for this version of the file, if it gives one."""
        return self._tag if self.size else ""

    @property
    def size(self) -> int:
        if self._size is None:
            kept, self._position = self._position, 0
            self._more(1)
            self._position = kept
        return self._size or 0

    def read(self, size: int | None = -1) -> bytes:
        wanted = 1 << 62 if size is None or size < 0 else size
        pieces = []
        while wanted > 0 and (piece := self._more(min(wanted, WINDOW_BYTES))):
            pieces.append(piece)
            wanted -= len(piece)
            self._position += len(piece)
        return b"".join(pieces)

    def close(self) -> None:
        self._hang_up()
        super().close()

    def _more(self, wanted: int) -> bytes:
        """Bytes from the current position: at least one, unless the file ends here."""
        begin = self._position - self._base
        if not 0 <= begin <= len(self._window):
            self._hang_up()
            self._window.clear()
            self._base, begin = self._position, 0
        if begin == len(self._window):
            self._fill()
            begin = self._position - self._base
        return bytes(self._window[begin : begin + wanted])

    def _fill(self) -> None:
        """Append what arrives next to the window, in as many attempts as it takes."""
        attempt = denied = 0
        while True:
            place = self._base + len(self._window)
            if place >= min(self._end or 1 << 62, self._size if self._size is not None else 1 << 62):
                return
            asked: float | None = None
            try:
                if self._answer is None:
                    self._answer = self._request(place)
                    if self._size is not None and place >= self._size:
                        return
                data = self._answer.read1(WINDOW_BYTES)
                if data:
                    self._window += data
                    surplus = len(self._window) - 2 * WINDOW_BYTES
                    if surplus > 0:
                        del self._window[:surplus]
                        self._base += surplus
                    return
                problem = "the connection was cut"
            except urllib.error.HTTPError as error:
                if error.code == 416:
                    self._size = place if self._size is None else self._size
                    return
                denied += error.code == 403
                if error.code not in PASSING or denied > FEW_DENIALS:
                    raise self._refusal(error) from None
                problem, asked = f"the server answers {error.code}", _retry_after(error.headers)
            except (OSError, http.client.HTTPException) as error:
                problem = str(error) or type(error).__name__
            self._hang_up()
            attempt += 1
            if attempt >= self._patience.tries:
                raise InputError(
                    f"the file could not be fetched: {problem}, {attempt} times",
                    where=self._url,
                    remedy="Try again later; what was published stays.",
                )
            self._patience.pause(attempt - 1, asked)

    def _request(self, place: int) -> http.client.HTTPResponse:
        last = "" if self._end is None else self._end - 1
        headers = {"User-Agent": AGENT, "Accept-Encoding": "identity", "Range": f"bytes={place}-{last}"}
        request = urllib.request.Request(self._url, headers=headers)
        answer: http.client.HTTPResponse = urllib.request.urlopen(request, timeout=self._patience.silence_s)
        self._check(answer, place)
        if answer.status != 206 and place:
            # A server without ranges begins at the beginning: pass over what is already here.
            left = place
            while left > 0 and (skipped := len(answer.read(min(left, WINDOW_BYTES)))):
                left -= skipped
        return answer

    def _check(self, answer: http.client.HTTPResponse, place: int) -> None:
        length = answer.headers.get("Content-Length")
        total = answer.headers.get("Content-Range", "").rpartition("/")[2]
        size = int(total) if total.isdigit() else None
        if answer.status != 206 and length and length.isdigit():
            size = int(length)
        tag = answer.headers.get("ETag", "")
        if (self._size is not None and size is not None and size != self._size) or (
            self._tag and tag and tag != self._tag
        ):
            raise InputError("the file changed while it was read", where=self._url, remedy="Run the stage again.")
        self._size = size if size is not None else self._size
        self._tag = tag or self._tag

    def _refusal(self, error: urllib.error.HTTPError) -> InputError:
        if error.code == 404:
            return InputError("there is no such file", where=self._url, remedy="Check the crawl's name and the path.")
        return InputError(f"the server refuses it ({error.code} {error.reason})", where=self._url)

    def _hang_up(self) -> None:
        if self._answer is not None:
            self._answer.close()
            self._answer = None


def _retry_after(headers: Message) -> float | None:
    value = headers.get("Retry-After", "")
    return float(value) if value.isdigit() else None
