"""A judge for docs/alignment/judge.md, as a package of one's own would give it: the reward model of the workspace.

PYTHONPATH=. HEADWATER_HOME=WORKSPACE headwater judge ppo --against sft --judge tests.alignment.taste:REWARD
"""

import os
import re
from functools import cache

import torch

from alignment.conversations import render_prompt, render_reply
from alignment.judge import OutsideReward
from alignment.replies import RewardModel, collate
from alignment.template_chat import chat_tokenizer
from alignment.turns import AnyTokenizer, Message
from infra.store.files import read_json
from infra.store.store import Store
from training.hub_format import load_reward_model

TURN = re.compile(r"^(system|user|assistant): ", re.MULTILINE)


@cache
def trained() -> tuple[AnyTokenizer, RewardModel]:
    """The reward model, its scores on the scale of its training pairs."""
    folder = Store.at(os.environ["HEADWATER_HOME"]).resolve("reward").local("data")
    figures = read_json(folder / "reward.json")
    model = RewardModel(*load_reward_model(folder / "model", torch.float32), figures["mean"], figures["std"])
    return chat_tokenizer(folder / "model"), model.eval()


@torch.no_grad()
def score(prompt: str, reply: str) -> float:
    """What the reward model gives a reply, in its standard deviations."""
    tokenizer, model = trained()
    _, *parts = TURN.split(prompt)
    turns = [Message(role, said.removesuffix("\n")) for role, said in zip(parts[::2], parts[1::2], strict=True)]
    batch = collate([render_prompt(tokenizer, turns)], [render_reply(tokenizer, reply)], tokenizer.pad_id)
    return float(model.judge(batch))


REWARD = OutsideReward(score, tie=0.1)
