"""A model folder as lm-evaluation-harness sees a model: the ids, the likelihoods and the texts are this project's own.

The harness's own adapter reads the text of tasks with control tokens switched on, puts no BOS before it unless told to, and
two where a chat template writes one. Here text is text, a text begins as the tokenizer begins texts, and a chat as its
template begins it. Imported only where the harness is installed.
"""

import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.models.utils import normalize_gen_kwargs
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from infra.errors import InputError
from training.chat_template import ChatFormat, chat_template
from training.generate import Sampling
from training.scoring import Continuation, score_continuations
from training.text_model import load_text_model

DEFAULT_NEW_TOKENS = 256
"""Longest answer where a task does not say: the harness's own."""


class HarnessModel(TemplateLM):
    """``chat`` lets tasks be put through the folder's chat template."""

    def __init__(self, folder: Path, batch_size: int = 8, chat: bool = False) -> None:
        super().__init__()
        self._model = load_text_model(folder)
        self._batch_size = batch_size
        self._name = str(folder)
        template = chat_template(folder) if chat else None
        if chat and template is None:
            raise InputError(
                "the model has no chat template", where=str(folder), remedy="Leave out --apply-chat-template."
            )
        self._chat: ChatFormat | None = None if template is None else self._model.chat_format(template)
        self._from_template = f"\U000f0000{secrets.token_hex(8)}\U000f0001"

    @property
    def tokenizer_name(self) -> str:
        return self._name.replace("/", "__")

    @property
    def eot_token_id(self) -> int:
        special = self._model.special
        return special.filler if special.eos is None else special.eos

    @property
    def prefix_token_id(self) -> int:
        """What stands before a text that is scored from its first token on."""
        return next(iter(self._model.special.beginning), self.eot_token_id)

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **more: Any) -> list[int]:
        if self._chat is not None and string.startswith(self._from_template):
            return self._chat.encode(string.removeprefix(self._from_template))
        prefix = [] if add_special_tokens is False else self._model.special.prefix
        return [*prefix, *self._model.encode(string)]

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        if self._chat is None:
            raise InputError("the model was opened without its chat template")
        return self._from_template + self._chat.text(chat_history, prompt=add_generation_prompt)

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        return "" if self._chat is None else self._chat.template

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[Any, list[int], list[int]]], **more: Any
    ) -> list[tuple[float, bool]]:
        pairs = [(context, continuation) for _, context, continuation in requests]
        return [(-each.nats, each.likeliest) for each in self._score(pairs)]

    def _score(self, pairs: Sequence[tuple[list[int], list[int]]]) -> list[Continuation]:
        return score_continuations(self._model.decoder, pairs, self._batch_size)

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        totals = []
        for request in requests:
            windows = get_rolling_token_windows(
                token_list=self.tok_encode(request.args[0], add_special_tokens=False),
                prefix_token=self.prefix_token_id,
                max_seq_len=self._model.decoder.config.max_position,
                context_len=1,
            )
            scores = self._score([make_disjoint_window(window) for window in windows])
            totals.append(-sum(each.nats for each in scores))
        return totals

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        limit = self._model.decoder.config.max_position
        prompts, settings = [], []
        for number, request in enumerate(requests):
            context, asked = request.args
            how = normalize_gen_kwargs(asked, DEFAULT_NEW_TOKENS)
            new = min(int(how["max_gen_toks"]), limit // 2)
            # A prompt that leaves no room for an answer loses its beginning.
            prompts.append(self.tok_encode(context)[-(limit - new) :] or [self.prefix_token_id])
            settings.append(
                Sampling(
                    max_new_tokens=new,
                    temperature=how.get("temperature") or 0.0,
                    top_p=how.get("top_p") or 1.0,
                    top_k=how.get("top_k") or 0,
                    stop=tuple(stop for stop in how.get("until") or () if stop),
                    seed=number,
                )
            )
        # Prompts of like length together: the shorter the padding, the less there is to compute.
        order = sorted(range(len(prompts)), key=lambda index: -len(prompts[index]))
        written = self._model.write([prompts[at] for at in order], [settings[at] for at in order], self._batch_size)
        texts = dict(zip(order, written, strict=True))
        return [texts[index] for index in range(len(prompts))]
