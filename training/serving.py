"""Many replies at a time from one model: requests join and leave a running batch.

    submit -> waiting -> prompt read (in pieces, between steps) -> a row of the cache, one token a step -> sink

One thread drives the model. Each step gives every row one token; before it, prompts that wait are read as far as rows are
free, a piece at a time, so that a long prompt never holds up those who are being answered for longer than a piece takes.
A row's tokens depend on its own settings and seed only (``training.generate``): neither on its neighbours, nor on when
it joined. A reply is cancelled by its request; its row is free at the next step.
"""

import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from infra.errors import HeadwaterError, InputError
from training.attention import KVCache, RowCache
from training.generate import Row, choose, make_row, read_prompts, stop_tokens
from training.model import parameter_count
from training.replies import READ_TOKENS, Ask, Piece, PromptRead, Reading, Sink, Ticket, TokenLogprob, Writing
from training.text_model import TextModel

FIRST_CAPACITY = 256
SMALL_MODEL = 50_000_000
"""Parameters below which a CPU's second thread costs more than it brings."""

log = logging.getLogger(__name__)


class Busy(HeadwaterError):
    """As many requests wait as may; ``seconds``: when it is worth asking again."""

    def __init__(self, waiting: int, seconds: int) -> None:
        super().__init__(f"{waiting} replies are being written or wait already", remedy=f"Ask again in {seconds} s.")
        self.seconds = seconds


class Engine:
    """One model, one thread, ``slots`` rows. ``close`` it."""

    def __init__(self, model: TextModel, *, slots: int = 16, queue: int = 64, name: str = "model") -> None:
        self.model = model
        self.slots, self.queue = slots, queue
        self._waiting: deque[Ticket] = deque()
        self._work = threading.Condition()
        self._closed = False
        self._reading: Reading | None = None
        self._arriving: list[tuple[Ticket, Row]] = []  # taken from the queue, not in the cache yet
        self._writing: list[Writing] = []
        self._open = 0  # replies that were asked for and have not ended
        self._pace = 1.0  # seconds a reply takes, of late
        self._cache = self._new_cache()
        self._spared = stop_tokens(model.decoder, model.special.stops)
        self._ends = frozenset(model.special.stops)
        self._thread = threading.Thread(target=self._run, name=f"engine-{name}", daemon=True)
        self._thread.start()

    def submit(self, ask: Ask, sink: Sink) -> Ticket:
        """Queue a request. Raises InputError for one that cannot be answered, Busy where too many wait."""
        if ask.replies > self.slots:
            raise InputError(f"{ask.replies} replies are asked for; {self.slots} can be written at a time")
        rows = (
            [] if ask.read_only else
            [make_row(self.model.decoder, ask.prompt, ask.sampling, place, place) for place in range(ask.replies)]
        )  # fmt: skip
        ticket = Ticket(ask, sink, rows)
        with self._work:
            if self._closed:
                raise HeadwaterError("the server is closing")
            if self._open + max(1, len(rows)) > self.slots + self.queue:
                raise Busy(self._open, max(1, min(60, round(self._pace * self._open / self.slots))))
            self._open += len(rows)
            self._waiting.append(ticket)
            self._work.notify()
        return ticket

    @property
    def load(self) -> dict[str, int]:
        """Replies being written, and all that were asked for and have not ended."""
        return {"writing": len(self._writing), "open": self._open}

    def close(self) -> None:
        """End what is being written, and the thread."""
        with self._work:
            self._closed = True
            self._work.notify()
        self._thread.join()

    def _new_cache(self) -> RowCache:
        decoder = self.model.decoder
        config, weight = decoder.config, decoder.embed_tokens.weight
        capacity = min(FIRST_CAPACITY, config.max_position)
        width = config.width_of_head
        return RowCache(config.layers, self.slots, config.kv_heads, capacity, width, weight.dtype, weight.device)

    def _run(self) -> None:
        if self.model.decoder.device.type == "cpu" and parameter_count(self.model.decoder.config) < SMALL_MODEL:
            torch.set_num_threads(1)
        with torch.inference_mode():
            while self._wait():
                try:
                    self._drop_cancelled()
                    self._read()
                    if self._writing:
                        self._step()
                except Exception as error:  # a defect, or no memory: these replies fail, the server goes on
                    log.exception("the engine failed in a step")
                    self._fail(error)
        self._fail(HeadwaterError("the server is closing"))

    def _wait(self) -> bool:
        """Until there is something to do; False where the engine is closed."""
        with self._work:
            while not (self._closed or self._waiting or self._reading or self._writing):
                self._work.wait()
            return not self._closed

    def _fail(self, error: Exception) -> None:
        tickets = [self._reading.ticket] if self._reading else []
        with self._work:
            if self._closed:
                tickets += self._waiting
                self._waiting.clear()
        for writing in self._writing:
            writing.end("error", str(error))
            self._ended(writing.ticket, 1)
        for ticket, row in self._arriving:
            ticket.sink(Piece(row.index, "", 0, (), "error", str(error)))
            self._ended(ticket, 1)
        for ticket in tickets:
            self._end_unread(ticket, "error", str(error))
        self._reading, self._arriving, self._writing, self._cache = None, [], [], self._new_cache()

    def _end_unread(self, ticket: Ticket, finish: str, error: str = "") -> None:
        """End a request of which nothing was written."""
        for place in range(max(1, len(ticket.rows))):
            ticket.sink(Piece(place, "", 0, (), finish, error))
        self._ended(ticket, len(ticket.rows))

    def _ended(self, ticket: Ticket, replies: int) -> None:
        self._pace += 0.1 * (time.monotonic() - ticket.since - self._pace)
        with self._work:
            self._open -= replies

    def _drop_cancelled(self) -> None:
        for place in reversed(range(len(self._writing))):
            if self._writing[place].ticket.cancelled:
                self._writing[place].end("cancelled")
                self._leave(place)
        if self._reading and self._reading.ticket.cancelled:
            self._end_unread(self._reading.ticket, "cancelled")
            self._reading = None
        with self._work:
            gone = [ticket for ticket in self._waiting if ticket.cancelled]
            if gone:
                self._waiting = deque(ticket for ticket in self._waiting if not ticket.cancelled)
        for ticket in gone:
            self._end_unread(ticket, "cancelled")

    def _leave(self, place: int) -> None:
        """A row's end; the last one takes its place."""
        self._ended(self._writing[place].ticket, 1)
        self._cache.leave(place)
        last = self._writing.pop()
        if place < len(self._writing):
            self._writing[place] = last

    def _read(self) -> None:
        """Read what waits, in order, as far as rows are free and a piece's tokens go."""
        if self._reading is None:
            few = self._next_short()
            if few:
                pairs = self._arriving = [(ticket, row) for ticket in few for row in ticket.rows]
                prompts = [ticket.ask.prompt for ticket, _ in pairs]
                for places, part, picked, ends in read_prompts(self.model.decoder, prompts, self.model.special.filler):
                    self._begin([pairs[place] for place in places], part, picked, ends)
                return
            with self._work:
                if self._waiting and len(self._waiting[0].rows) <= self.slots - len(self._writing):
                    self._reading = Reading(self.model, self._waiting.popleft())
        if self._reading is not None and self._reading.go_on():
            done, self._reading = self._reading, None
            ticket = done.ticket
            self._arriving = [(ticket, row) for row in ticket.rows]
            if ticket.ask.prompt_top is not None:
                ticket.sink(PromptRead(tuple(done.logprobs)))
            if not ticket.rows:
                self._end_unread(ticket, "length")
                return
            assert done.end is not None
            self._begin(self._arriving, done.cache, [0] * len(ticket.rows), done.end.expand(len(ticket.rows), -1))

    def _next_short(self) -> list[Ticket]:
        """The requests at the head of the queue that are read together."""
        few: list[Ticket] = []
        tokens, free = 0, self.slots - len(self._writing)
        with self._work:
            while self._waiting:
                ticket = self._waiting[0]
                tokens += len(ticket.ask.prompt)
                free -= len(ticket.rows)
                if tokens > READ_TOKENS or free < 0 or ticket.ask.prompt_top is not None or not ticket.rows:
                    break
                few.append(self._waiting.popleft())
        return few

    def _begin(self, rows: Sequence[tuple[Ticket, Row]], part: KVCache, picked: list[int], ends: Tensor) -> None:
        """Rows whose prompts have been read get their first token."""
        self._cache.join(part, picked)
        first = len(self._writing)
        self._writing += [Writing(ticket, row, self.model) for ticket, row in rows]
        self._arriving = [pair for pair in self._arriving if pair not in rows]
        self._take(ends, first)

    def _step(self) -> None:
        self._cache.make_room(max(self._cache.lengths) + 1)
        tokens = torch.tensor([writing.token for writing in self._writing], device=self.model.decoder.device)
        self._take(self.model.decoder(tokens.unsqueeze(1), cache=self._cache)[:, -1], 0)

    def _take(self, hidden: Tensor, first: int) -> None:
        """Choose a token for every row from the first on, given its last hidden state."""
        some = self._writing[first:]
        logits = self.model.decoder.logits(hidden).float()
        rows, positions = [writing.row for writing in some], [writing.number for writing in some]
        tokens, log_probs = choose(logits, rows, self._spared, positions)
        likeliest = self._likeliest(some, logits)
        done = []
        for place, (writing, token, log_prob) in enumerate(zip(some, tokens.tolist(), log_probs.tolist(), strict=True)):
            if log_prob != log_prob:  # NaN
                writing.end("error", "the model gives no finite probabilities: its weights are damaged")
                done.append(first + place)
                continue
            if writing.row.history is not None:
                writing.row.history.note(token)
            known = None
            if place in likeliest:
                ids = [other for other, _ in likeliest[place]]
                known = TokenLogprob(token, log_prob, ids.index(token) + 1 if token in ids else 0, likeliest[place])
            if writing.take(token, known, token in self._ends and not writing.ticket.ask.ignore_ends):
                done.append(first + place)
        for place in reversed(done):
            self._leave(place)

    def _likeliest(self, some: list[Writing], logits: Tensor) -> dict[int, tuple[tuple[int, float], ...]]:
        """The likeliest tokens, for the rows that ask for them."""
        wanted = {place: top for place, writing in enumerate(some) if (top := writing.ticket.ask.top) is not None}
        most = min(max(wanted.values(), default=0), logits.shape[-1])
        if not most:
            return dict.fromkeys(wanted, ())
        values, ids = logits[list(wanted)].log_softmax(-1).topk(most)
        return {
            place: tuple(zip(order[:top], likely[:top], strict=True))
            for (place, top), order, likely in zip(wanted.items(), ids.tolist(), values.tolist(), strict=True)
        }


@dataclass
class Reply:
    """A reply with all that came of it."""

    text: str = ""
    tokens: int = 0
    logprobs: list[TokenLogprob] = field(default_factory=list)
    finish: str = ""

    def add(self, piece: Piece) -> None:
        self.text += piece.text
        self.tokens = piece.tokens
        self.logprobs += piece.logprobs
        self.finish = piece.finish or self.finish


def answer(engine: Engine, ask: Ask) -> list[Reply]:
    """Submit a request and wait for its replies. Raises HeadwaterError where one failed."""
    pieces: queue.SimpleQueue[Piece | PromptRead] = queue.SimpleQueue()
    engine.submit(ask, pieces.put)
    replies = [Reply() for _ in range(ask.replies)]
    while not all(reply.finish for reply in replies):
        piece = pieces.get()
        if isinstance(piece, Piece):
            if piece.finish == "error":
                raise HeadwaterError(piece.error)
            replies[piece.reply].add(piece)
    return replies
