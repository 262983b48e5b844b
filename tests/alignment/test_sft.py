"""The loss of packed rows is that of each conversation alone, and noise and adapters do what they claim."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from alignment.conversations import cut
from alignment.lora import LoraConfig, adapted, add_adapters, merged, save_adapters
from alignment.packing import pack
from alignment.sft import PackedBatch, noisy_embeddings, sft_losses
from alignment.turns import Conversation, Message
from tests.alignment.toys import LetterTokenizer, tiny_decoder
from training.model import Decoder

TOKENIZER = LetterTokenizer()
TALKS = [
    ("ab", "cd", "efgh", "ijk"),
    ("x", "y"),
    ("hello there", "good day", "how are you?", "well", "bye", "so long"),
    ("why?", "so"),
]


def batch_of(*talks: tuple[str, ...], length: int = 96) -> PackedBatch:
    chats = [
        Conversation(str(n), tuple(Message(("user", "assistant")[i % 2], text) for i, text in enumerate(talk)))
        for n, talk in enumerate(talks)
    ]
    pieces = [piece for chat in chats for piece in cut(TOKENIZER, chat, length).pieces]
    return PackedBatch.of(pack(pieces, length, TOKENIZER.pad_id), torch.device("cpu"))


def by_hand(model: Decoder, talk: tuple[str, ...]) -> torch.Tensor:
    """Loss of one conversation, from all its logits: each assistant's words and end, nothing else."""
    ids, counted = [TOKENIZER.bos_id], [False]
    for number, text in enumerate(talk):
        role = ("user", "assistant")[number % 2]
        words = [*TOKENIZER.encode(text), TOKENIZER.token_id("<|end|>")]
        ids += [TOKENIZER.token_id(f"<|{role}|>"), *words]
        counted += [False] + [role == "assistant"] * len(words)
    logits = model.logits(model(torch.tensor([ids])))[0, :-1]
    losses = F.cross_entropy(logits, torch.tensor(ids[1:]), reduction="none")
    return losses[torch.tensor(counted[1:])].sum()


def test_packed_rows_have_the_loss_and_gradient_of_each_conversation_alone() -> None:
    model = tiny_decoder()
    batch = batch_of(*TALKS)
    assert len(batch.input_ids) < len(TALKS), "several share a row"
    packed = sft_losses(model, batch)["loss"]
    packed.backward()
    gradients = {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}
    model.zero_grad()
    alone = torch.stack([by_hand(model, talk) for talk in TALKS]).sum()
    alone.backward()
    torch.testing.assert_close(packed, alone)
    for name, weight in model.named_parameters():
        torch.testing.assert_close(gradients[name], weight.grad, atol=1e-5, rtol=1e-5)
    replies = [text for talk in TALKS for text in talk[1::2]]
    assert batch.tokens == sum(len(text) + 1 for text in replies)


def test_noise_is_bounded_by_the_length_of_a_piece_and_hangs_on_its_row_alone() -> None:
    model = tiny_decoder()
    batch = batch_of(*TALKS, ("more", "of it"), length=64)
    rows = len(batch.input_ids)
    assert rows >= 2
    noisy = replace(batch, noise=(5.0, tuple(range(rows))))

    def embedded(some: PackedBatch) -> torch.Tensor:
        with noisy_embeddings(model, some):
            return model.embed_tokens(some.input_ids)

    plain, changed = embedded(batch), embedded(noisy)
    moved = (changed - plain).abs().amax(-1)
    places = [(row, piece) for row in range(rows) for piece in batch.segments[row].unique()]
    for row, piece in places:
        there = batch.segments[row] == piece
        bound = 5.0 / (int(there.sum()) * model.config.hidden_size) ** 0.5
        assert 0.6 * bound < moved[row][there].max() <= bound
    assert noisy.segments is not None
    last = replace(noisy, input_ids=noisy.input_ids[-1:], segments=noisy.segments[-1:], noise=(5.0, (rows - 1,)))
    assert torch.equal(embedded(last)[0], changed[-1])
    assert torch.equal(embedded(batch), plain), "no noise is left behind"
    assert not torch.equal(sft_losses(model, noisy)["loss"], sft_losses(model, batch)["loss"])


@torch.no_grad()
def merge(model: Decoder, config: LoraConfig) -> Decoder:
    read = merged(lambda name: model.get_parameter(name).detach(), config, adapted(model))
    plain = Decoder(model.config)
    plain.load_state_dict({name: read(name) for name in plain.state_dict()})
    return plain


@pytest.mark.parametrize("tie", [True, False])
def test_adapters_start_as_nothing_learn_alone_and_are_merged(tie: bool) -> None:
    model, plain = tiny_decoder(tie=tie), tiny_decoder(tie=tie)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    config = LoraConfig(rank=4, alpha=8)
    add_adapters(model, config, seed=1)
    batch = batch_of(*TALKS)
    torch.testing.assert_close(sft_losses(model, batch)["loss"], sft_losses(plain, batch)["loss"])
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    assert sum(weight.numel() for weight in trained) < 0.5 * sum(weight.numel() for weight in plain.parameters())
    optimizer = torch.optim.AdamW(trained, lr=0.02)
    first = float(sft_losses(model, batch)["loss"].detach())
    for _ in range(20):
        optimizer.zero_grad()
        sft_losses(model, batch)["loss"].backward()
        optimizer.step()
    assert float(sft_losses(model, batch)["loss"].detach()) < 0.7 * first
    now = model.state_dict()
    assert all(torch.equal(now[name], tensor) for name, tensor in before.items()), "the model's weights stay"
    alone = merge(model, config)
    assert set(alone.state_dict()) == set(before)
    torch.testing.assert_close(sft_losses(alone, batch)["loss"], sft_losses(model, batch)["loss"])


def test_adapters_are_read_by_peft(tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    transformers = pytest.importorskip("transformers")
    from tests.training.test_evaluate import real_tokenizer
    from training.hub_format import save_model

    tokenizer = tmp_path / "tokenizer"
    size = real_tokenizer(tokenizer).vocab_size
    model = tiny_decoder(vocab_size=size)
    save_model(model, tmp_path / "base", tokenizer)
    config = LoraConfig(rank=4, alpha=8, targets=("q_proj", "v_proj", "down_proj"))
    add_adapters(model, config, seed=1)
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith("lora_B"):
                weight.copy_(0.1 * torch.randn(weight.shape, generator=draw))
    names = save_adapters(model.get_parameter, config, adapted(model), tmp_path / "adapter", str(tmp_path / "base"))
    assert len(load_file(tmp_path / "adapter" / names[0])) == 2 * 3 * model.config.layers
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "base", dtype=torch.float32)
    both = peft.PeftModel.from_pretrained(theirs, tmp_path / "adapter")
    ids = torch.from_numpy(np.random.default_rng(0).integers(8, size, (2, 20)))
    with torch.no_grad():
        torch.testing.assert_close(both(ids).logits, model.logits(model(ids)), atol=1e-4, rtol=1e-4)
        plain = merge(model, config)
        torch.testing.assert_close(both.merge_and_unload()(ids).logits, plain.logits(plain(ids)), atol=1e-4, rtol=1e-4)
