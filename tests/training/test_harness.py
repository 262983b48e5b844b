"""lm-evaluation-harness on our model folders, with task files of one's own and no network."""

import json
import math
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from infra.errors import ConfigError, InputError
from tests.training.folders import tiny_model, write_tokenizer
from training.generate import Sampling, generate
from training.harness import figures, run_harness
from training.hub_format import save_model
from training.text_model import load_text_model

TASK = """
task: letters
dataset_path: json
dataset_kwargs: {data_files: {test: letters.jsonl}}
output_type: multiple_choice
test_split: test
doc_to_text: "{{question}}"
doc_to_choice: "{{choices}}"
doc_to_target: "{{answer}}"
target_delimiter: ""
metric_list: [{metric: acc}]
"""


def test_the_table_becomes_figures_with_intervals() -> None:
    outcome = {
        "results": {
            "arc": {"alias": "arc", "acc,none": 0.4, "acc_stderr,none": 0.05, "acc_norm,none": 0.5},
            "gsm": {"exact_match,strict-match": 0.1, "exact_match_stderr,strict-match": "N/A", "sample_len": 9},
        },
        "n-samples": {"arc": {"original": 200, "effective": 100}},
    }
    table = {(each.task, each.metric): each.interval for each in figures(outcome)}
    assert set(table) == {("arc", "acc"), ("arc", "acc_norm"), ("gsm", "exact_match (strict-match)")}
    accuracy = table["arc", "acc"]
    assert accuracy.n == 100
    assert [accuracy.low, accuracy.high] == pytest.approx([0.302, 0.498], abs=1e-3)
    assert table["gsm", "exact_match (strict-match)"].low == 0.1


def test_a_missing_harness_is_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    with pytest.raises(ConfigError, match="not installed"):
        run_harness(tmp_path, ["arc_easy"])


def test_data_out_of_reach_is_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def simple_evaluate(**settings: object) -> None:
        raise ConnectionError("Couldn't reach 'allenai/ai2_arc' on the Hub")

    class TaskManager:
        def __init__(self, **settings: object) -> None:
            pass

        def match_tasks(self, tasks: list[str]) -> list[str]:
            return tasks

    monkeypatch.setitem(sys.modules, "lm_eval", SimpleNamespace(simple_evaluate=simple_evaluate))
    monkeypatch.setitem(sys.modules, "lm_eval.tasks", SimpleNamespace(TaskManager=TaskManager))
    monkeypatch.setitem(sys.modules, "training.harness_model", SimpleNamespace(HarnessModel=lambda *arguments: None))
    with pytest.raises(InputError, match="data of arc_easy cannot be read: Couldn't reach"):
        run_harness(tmp_path, ["arc_easy"])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("harness")
    save_model(tiny_model(init_std=0.1), root / "model", write_tokenizer(root / "tokenizer"))
    return root / "model"


def request(*args: object) -> SimpleNamespace:
    return SimpleNamespace(args=args)


def test_a_text_begins_once_and_is_text(folder: Path) -> None:
    pytest.importorskip("lm_eval")
    from training.harness_model import HarnessModel

    plain, chat = HarnessModel(folder), HarnessModel(folder, chat=True)
    model = load_text_model(folder)
    hostile = "<s>say<|end|>"
    assert plain.tok_encode(hostile) == [2, *model.encode(hostile)]
    assert not {2, 7} & set(model.encode(hostile))
    prompt = chat.apply_chat_template([{"role": "user", "content": hostile}])
    assert chat.tok_encode(prompt) == [2, 5, *model.encode(hostile), 7, 6], "one BOS, and the template's own ends"
    assert chat.tok_encode(prompt + " yes")[-4:] == model.encode(" yes")
    with pytest.raises(InputError, match="opened without"):
        plain.apply_chat_template([])


def test_likelihoods_and_texts_are_the_models_own(folder: Path) -> None:
    pytest.importorskip("lm_eval")
    from training.harness_model import HarnessModel

    harness, model = HarnessModel(folder, batch_size=2), load_text_model(folder)
    greedy = Sampling(max_new_tokens=5, temperature=0)
    best = generate(model.decoder, [model.prompt("pick ")], max_new_tokens=2, temperature=0).tokens[0]

    def nats(row: list[int], first: int) -> float:
        with torch.no_grad():
            log_probs = model.decoder.logits(model.decoder(torch.tensor([row[:-1]]))).log_softmax(-1)
        return -float(log_probs[0, first - 1 :].gather(1, torch.tensor(row[first:]).unsqueeze(1)).sum())

    prompt = model.prompt("pick")
    answers = harness._loglikelihood_tokens([(None, model.prompt("pick "), best), (None, prompt, model.encode(" abc"))])
    assert answers[0][1] and not answers[1][1]
    assert answers[1][0] == pytest.approx(-nats([*prompt, *model.encode(" abc")], len(prompt)), rel=1e-4)
    (rolled,) = harness.loglikelihood_rolling([request("a text")])
    assert rolled == pytest.approx(-nats(model.prompt("a text"), 1), rel=1e-4)
    written = harness.generate_until(
        [
            request("pick ", {"until": [], "max_gen_toks": 5}),
            request("longer than it ", {"until": ["\n"], "max_gen_toks": 5}),
        ]
    )
    assert written[0] == "".join(model.stream_text(model.prompt("pick "), greedy))


@pytest.mark.slow
def test_the_harness_agrees_with_our_own_likelihoods(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("lm_eval")
    model = load_text_model(folder)
    rows = [{"question": f"pick {number}: ", "choices": ["abc", "xyz"], "answer": number % 2} for number in range(20)]
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "letters.yaml").write_text(TASK)
    (tmp_path / "tasks" / "letters.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def likelihood(question: str, choice: str) -> float:
        context, whole = model.prompt(question), model.prompt(question + choice)
        row = torch.tensor([whole])
        with torch.no_grad():
            log_probs = model.decoder.logits(model.decoder(row[:, :-1])).log_softmax(-1)
        return float(log_probs[0, len(context) - 1 :].gather(1, row[0, len(context) :].unsqueeze(1)).sum())

    right = sum(
        max(range(2), key=lambda choice: likelihood(str(row["question"]), ["abc", "xyz"][choice])) == row["answer"]
        for row in rows
    )
    (figure,) = run_harness(folder, ["letters"], task_folder=tmp_path / "tasks")
    assert (figure.task, figure.metric, figure.interval.n) == ("letters", "acc", 20)
    assert figure.interval.value == pytest.approx(right / 20)
    assert math.isfinite(figure.interval.low)
    for chat in (False, True):
        (shown,) = run_harness(folder, ["letters"], task_folder=tmp_path / "tasks", few_shot=2, chat=chat, limit=6)
        assert shown.interval.n == 6
    with pytest.raises(ConfigError, match="knows no task"):
        run_harness(folder, ["no_such_task"], task_folder=tmp_path / "tasks")
