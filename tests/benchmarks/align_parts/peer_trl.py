"""TRL on the same batches, by its own trainers in its own environment: ``python peer_trl.py losses|speed FOLDER``."""

import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer
from trl import (
    DPOConfig,
    DPOTrainer,
    GRPOConfig,
    GRPOTrainer,
    KTOConfig,
    KTOTrainer,
    RewardConfig,
    RewardTrainer,
    SFTConfig,
    SFTTrainer,
)
from trl.experimental.cpo import CPOConfig, CPOTrainer
from trl.experimental.orpo import ORPOConfig, ORPOTrainer

PAIR = [{"prompt": "a b", "chosen": " c", "rejected": " d"}] * 4


def arguments(folder: Path, **more: Any) -> dict[str, Any]:
    """What all trainers are told: float32 on the CPU, no logging, nothing saved."""
    return {
        "output_dir": str(folder / "trl"),
        "use_cpu": True,
        "bf16": False,
        "report_to": "none",
        "save_strategy": "no",
        "gradient_checkpointing": False,
        "per_device_train_batch_size": 4,
        "disable_dropout": True,
        **more,
    }


def rated(case: dict[str, Any], trainer: Any, model: Any) -> torch.Tensor:
    rows = [
        {
            "prompt_ids": row["prompt"],
            "completion_ids": row["chosen"],
            "KL_completion_ids": row["rejected"],
            "label": liked,
            "ref_logps": known[0],
            "ref_KL_logps": known[1],
        }
        for row, liked, known in zip(case["rows"], case["liked"], case["known"], strict=True)
    ]
    return trainer._compute_loss(model, trainer.data_collator(rows), False)


def preference(case: dict[str, Any], trainer: Any, model: Any) -> torch.Tensor:
    rows = [
        {
            "prompt_ids": row["prompt"],
            "chosen_ids": row["chosen"],
            "rejected_ids": row["rejected"],
            "ref_chosen_logps": known[0],
            "ref_rejected_logps": known[1],
        }
        for row, known in zip(case["rows"], case["known"], strict=True)
    ]
    return trainer._compute_loss(model, trainer.data_collator(rows), False)


def unreferenced(case: dict[str, Any], trainer: Any, model: Any) -> torch.Tensor:
    """Of the trainers of ORPO and SimPO."""
    batch: dict[str, Any] = {}
    for side in ("chosen", "rejected"):
        whole = [row["prompt"] + row[side] for row in case["rows"]]
        learnt = [[-100] * len(row["prompt"]) + row[side] for row in case["rows"]]
        batch[f"{side}_input_ids"] = padded(whole, 0)
        batch[f"{side}_attention_mask"] = padded([[1] * len(ids) for ids in whole], 0)
        batch[f"{side}_labels"] = padded(learnt, -100)
    return trainer.get_batch_loss_metrics(model, batch)[0]


def group(case: dict[str, Any], trainer: Any, model: Any) -> torch.Tensor:
    prompts, replies = ([row[side] for row in case["rows"]] for side in ("prompt", "chosen"))
    inputs = {
        "prompt_ids": padded(prompts, 0, left=True),
        "prompt_mask": padded([[1] * len(ids) for ids in prompts], 0, left=True),
        "completion_ids": padded(replies, 0),
        "completion_mask": padded([[1] * len(ids) for ids in replies], 0),
        "advantages": torch.tensor(case["advantages"]),
        "old_per_token_logps": padded(case["old"], 0.0),
        "ref_per_token_logps": padded(case["reference"], 0.0),
        "num_items_in_batch": torch.tensor(float(sum(map(len, replies)))),
    }
    trainer.current_gradient_accumulation_steps = 1
    return trainer._compute_loss(model, inputs)


def supervised(case: dict[str, Any], trainer: Any, model: Any) -> torch.Tensor:
    whole = [row["prompt"] + row["chosen"] for row in case["rows"]]
    inputs = {
        "input_ids": padded(whole, 0),
        "attention_mask": padded([[1] * len(ids) for ids in whole], 0),
        "labels": padded([[-100] * len(row["prompt"]) + row["chosen"] for row in case["rows"]], -100),
    }
    return trainer.compute_loss(model, inputs)


def scored(case: dict[str, Any], trainer: Any, model: Any) -> torch.Tensor:
    rows = [{f"{side}_ids": row["prompt"] + row[side] for side in ("chosen", "rejected")} for row in case["rows"]]
    return trainer.compute_loss(model, trainer.data_collator(rows))


def padded(rows: list[list[Any]], value: Any, left: bool = False) -> torch.Tensor:
    width = max(map(len, rows))
    fill = [[value] * (width - len(row)) for row in rows]
    return torch.tensor([[*more, *row] if left else [*row, *more] for row, more in zip(rows, fill, strict=True)])


def trainer_of(name: str, case: dict[str, Any], folder: Path, model: Any, tokenizer: Any) -> tuple[Any, Any]:
    """The trainer of a case with its settings, and how it is asked for a loss."""
    pairs = Dataset.from_list(PAIR)
    told, given = arguments(folder), dict(case["trl"])
    common = {"model": model, "train_dataset": pairs, "processing_class": tokenizer}
    if case["kind"] == "sft":
        told.pop("disable_dropout")
        text = Dataset.from_list([{"prompt": "a", "completion": " b"}] * 4)
        return SFTTrainer(**common | {"train_dataset": text}, args=SFTConfig(**told, **given)), supervised
    if case["kind"] == "reward":
        return RewardTrainer(**common, args=RewardConfig(**told, **given)), scored
    if case["kind"] == "kto":
        rows = Dataset.from_list([{"prompt": f"a {n}", "completion": " b", "label": n % 2 == 0} for n in range(4)])
        args = KTOConfig(**told, precompute_ref_log_probs=True, **given)
        return KTOTrainer(**common | {"train_dataset": rows}, args=args), rated
    if case["kind"] == "group":
        prompts = Dataset.from_list([{"prompt": "a"}] * 4)
        args = GRPOConfig(**told | {"num_generations": 4}, max_completion_length=case["longest"], **given)
        trainer = GRPOTrainer(
            model, reward_funcs=lambda completions, **_: [0.0] * len(completions), args=args, train_dataset=prompts,
            processing_class=tokenizer,
        )  # fmt: skip
        return trainer, group
    if name == "orpo":
        return ORPOTrainer(**common, args=ORPOConfig(**told, **given)), unreferenced
    if name in ("simpo", "conservative"):
        return CPOTrainer(**common, args=CPOConfig(**told, **given)), unreferenced
    return DPOTrainer(**common, args=DPOConfig(**told, precompute_ref_log_probs=True, **given)), preference


def losses(folder: Path) -> dict[str, float]:
    torch.set_num_threads(1)
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    found = {}
    for name, case in json.loads((folder / "cases.json").read_text()).items():
        if case["kind"] == "reward":
            model = AutoModelForSequenceClassification.from_pretrained(folder / "reward", dtype=torch.float32)
        else:
            model = AutoModelForCausalLM.from_pretrained(folder / "model", dtype=torch.float32)
        trainer, ask = trainer_of(name, case, folder, model, tokenizer)
        trainer.model.train()
        loss = ask(case, trainer, trainer.model)
        trainer.model.zero_grad()
        loss.backward()
        found[name] = loss.item()
        weights = {n: weight.grad for n, weight in trainer.model.named_parameters() if weight.grad is not None}
        save_file(weights, folder / f"trl-{name}.safetensors")
    return found


def speed(folder: Path) -> None:
    plan = json.loads((folder / "speed.json").read_text())
    torch.set_num_threads(plan["threads"])
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    model = AutoModelForCausalLM.from_pretrained(folder / "model", dtype=torch.float32)
    prompts = [prompt for prompt in plan["prompts"] for _ in range(plan["group"])]
    told = arguments(
        folder, per_device_train_batch_size=len(prompts), num_generations=plan["group"], learning_rate=1e-6
    )
    args = GRPOConfig(**told, loss_type="grpo", max_completion_length=plan["longest"], temperature=1.0, top_k=0)
    trainer = GRPOTrainer(
        model, reward_funcs=lambda completions, **_: [0.0] * len(completions), args=args,
        train_dataset=Dataset.from_list([{"prompt": "a"}] * len(prompts)), processing_class=tokenizer,
    )  # fmt: skip
    trainer.generation_config.eos_token_id = plan["stops"]
    trainer.eos_token_ids = plan["stops"]
    trainer.model_wrapped, trainer.current_gradient_accumulation_steps = trainer.model, 1
    trainer.create_optimizer()
    case = {
        "rows": [{"prompt": prompt, "chosen": reply} for prompt, reply in zip(prompts, plan["replies"], strict=True)],
        "advantages": torch.linspace(-1, 1, len(prompts)).tolist(),
    }
    replies = plan["replies"]
    inputs = {
        "prompt_ids": padded(prompts, 0, left=True),
        "prompt_mask": padded([[1] * len(ids) for ids in prompts], 0, left=True),
        "completion_ids": padded(replies, 0),
        "completion_mask": padded([[1] * len(ids) for ids in replies], 0),
        "advantages": torch.tensor(case["advantages"]),
        "num_items_in_batch": torch.tensor(float(sum(map(len, replies)))),
    }
    for _ in sys.stdin:
        began = time.perf_counter()
        sampled, _ = trainer._generate_single_turn(prompts, None, {}, plan["group"])
        between = time.perf_counter()
        for _ in range(plan["updates"]):
            trainer.model.train()
            trainer._compute_loss(trainer.model, inputs).backward()
            torch.nn.utils.clip_grad_norm_(trainer.model.parameters(), 1.0)
            trainer.optimizer.step()
            trainer.model.zero_grad()
        report = {"sample_s": between - began, "update_s": time.perf_counter() - between}
        print("TURN " + json.dumps(report | {"tokens": sum(map(len, sampled))}), flush=True)


if __name__ == "__main__":
    if sys.argv[1] == "speed":
        speed(Path(sys.argv[2]))
    else:
        print(json.dumps(losses(Path(sys.argv[2]))))
