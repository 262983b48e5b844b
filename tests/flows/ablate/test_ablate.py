"""A lab from its file to its verdicts: what is built and trained, once; killed and run again; planned; shown."""

import json
import re
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from flows.ablate.lab import SAME, load_lab, trial_config
from flows.ablate.run import LabResult, plan_lab, run_lab
from infra.job import JobSpec
from infra.store.store import Store
from pipeline.quality.config import QualityConfig
from tests.flows.ablate.toy import InProcessLauncher, SimulatedLauncher, use_launcher, write_lab
from tests.support import kill_family


def digests(result: LabResult) -> dict[str, tuple[str, str]]:
    return {each.trial.name: (each.model.digest, each.items.digest) for each in result.measured}


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, LabResult, InProcessLauncher]:
    """A lab that was run once: English, the same with noise, and nothing filtered (which is the same as the noise)."""
    folder = tmp_path_factory.mktemp("lab")
    launcher = SimulatedLauncher()
    with pytest.MonkeyPatch.context() as patch:
        use_launcher(patch, launcher)
        result = run_lab(load_lab(str(write_lab(folder))), Store.at(folder / "ws"), quiet=True)
    return folder, result, launcher


def test_every_arm_is_trained_with_every_seed_at_every_rate_on_equal_terms(done) -> None:
    _, result, launcher = done
    names = [each.trial.name for each in result.measured]
    arms = ("default", "noisy", SAME)
    assert names == [f"{arm}-s{seed}-r{rate}" for seed in (0, 1) for arm in arms for rate in ("0.01", "0.003")]
    assert launcher.started.count("training.pretrain") == len(names) == launcher.started.count("training.answers")
    configs = {each.trial.name: each.trial.config for each in result.measured}
    assert {(c.tokens, c.steps, c.ranks, c.threads_per_rank, c.model) for c in configs.values()} == {
        (64 * 4 * 6, 0, 1, 1, configs["default-s0-r0.01"].model)
    }
    assert [configs[f"{arm}-s1-r0.01"].seed for arm in arms] == [1, 1, 1001]
    assert {config.order for config in configs.values()} == {"documents"}, "what arms share comes at the same time"
    words = {corpus.datasets["tokenizer"].digest for corpus in result.corpora.values()}
    assert len(words) == 1, "one tokenizer of all arms"


def test_what_an_arm_is_trained_on_is_told(done) -> None:
    _, result, _ = done
    view = result.as_dict()
    rows = {row["arm"]: row for row in view["arms"]}
    assert rows["default"]["documents"] == 60 and rows["noisy"]["documents"] == 100
    assert rows["default"]["unique_tokens"] == rows[SAME]["unique_tokens"] < rows["noisy"]["unique_tokens"]
    for row in view["arms"]:
        assert row["passes"] == pytest.approx(64 * 4 * 6 / row["unique_tokens"], abs=1e-3)
        assert abs(row["tokens"] - 64 * 4 * 6) < 64
    # Of English 60 documents and nothing else: their bytes are known.
    texts = [json.loads(line)["text"] for line in (done[0] / "texts.jsonl").read_text().splitlines()[:60]]
    size = sum(len(text.encode()) for text in texts)
    # </s> stands for no byte, and one ends each document.
    assert rows["default"]["bytes_per_token"] == pytest.approx(size / rows["default"]["unique_tokens"], rel=0.03)


def test_an_arm_that_filters_nothing_serves_as_the_control(done) -> None:
    _, result, _ = done
    assert result.lab.control == "noisy"
    found = {row["arm"]: row["word"] for row in result.as_dict()["verdicts"]}
    assert found.keys() == {"noisy", SAME} and found["noisy"] == "worse"


def test_labels_are_the_labs_own(done) -> None:
    store = Store.at(done[0] / "ws")
    labels = {label for name in store.names() for label in store.labels(name)}
    assert labels and all(label.startswith("lab-toy-") for label in labels)
    assert store.get_ref("quality", "lab-toy-default") != store.get_ref("quality", "lab-toy-noisy")
    assert store.get_ref("pretrain", "lab-toy-aa-s1-r0.003") is not None


def test_what_is_published_is_never_done_again(done, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, result, _ = done
    launcher = SimulatedLauncher()
    use_launcher(monkeypatch, launcher)
    lab, store = load_lab(str(folder / "lab.yaml")), Store.at(folder / "ws")
    again = run_lab(lab, store, quiet=True)
    assert launcher.started == [] and digests(again) == digests(result)
    assert again.comparison == result.comparison
    planned = plan_lab(lab, store)
    assert (planned.trainings, planned.published, planned.tokens, planned.hours) == (12, 12, 0, 0)


def test_a_lab_of_two_arms_is_a_part_of_one_of_three(done, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    folder, result, _ = done
    launcher = SimulatedLauncher()
    use_launcher(monkeypatch, launcher)
    more = json.loads((folder / "lab.yaml").read_text())
    more["tokenizer"] = f"tokenizer/{result.corpora['default'].datasets['tokenizer'].manifest.fingerprint}"
    more["arms"]["short"] = {"stages": {"quality": {"sources": [{"rules": SHORT}]}}}
    (folder / "more.yaml").write_text(json.dumps({**more, "lab": "more"}))
    store = Store.at(folder / "ws")
    lab = load_lab(str(folder / "more.yaml"), only=["short"])
    assert plan_lab(lab, store).trainings == 16
    found = run_lab(lab, store, quiet=True)
    assert launcher.started.count("training.pretrain") == 4, "only the new arm's"
    assert set(digests(result).values()) < set(digests(found).values()), "whatever the control is called"


def test_no_corpus_is_read_more_often_than_max_passes(done, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    _, result, _ = done
    unique = {arm: corpus.unique_tokens for arm, corpus in result.corpora.items()}
    use_launcher(monkeypatch, SimulatedLauncher())
    arms = {
        "default": {},
        "noisy": {"stages": {"quality": {"sources": [{}]}}},
        "other": {"stages": {"quality": {"sources": [{"rules": SHORT}]}}},
    }
    path = write_lab(tmp_path, arms=arms, tokens=10 * unique["noisy"], max_passes=0.5)
    store = Store.at(tmp_path / "ws")
    few = run_lab(load_lab(str(path), only=["noisy"]), store, quiet=True)
    smallest = few.corpora["other"].unique_tokens
    assert smallest < unique["default"], "the smallest arm decides, though it was not asked for"
    assert few.lab.config.tokens == smallest // 2
    assert plan_lab(load_lab(str(path), only=["noisy"]), store).published == 12
    enough = load_lab(str(path), ["tokens=500"])
    assert run_lab(enough, store, quiet=True).lab.config.tokens == 500


SHORT = [{"name": "short", "expression": "characters <= 900"}]


def test_a_kill_loses_nothing(done, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    class Dies(SimulatedLauncher):
        def carry_out(self, spec: JobSpec, work_dir: Path) -> None:
            if len(self.started) == 6:
                raise KeyboardInterrupt
            super().carry_out(spec, work_dir)

    _, result, _ = done
    lab, store = load_lab(str(write_lab(tmp_path))), Store.at(tmp_path / "ws")
    use_launcher(monkeypatch, Dies())
    with pytest.raises(KeyboardInterrupt):
        run_lab(lab, store, quiet=True)
    going_on = SimulatedLauncher()
    use_launcher(monkeypatch, going_on)
    assert digests(run_lab(lab, store, quiet=True)) == digests(result)
    assert 0 < going_on.started.count("training.pretrain") < 12


def test_the_plan_tells_trainings_tokens_and_hours_before_anything_is_built(tmp_path: Path) -> None:
    lab, store = load_lab(str(write_lab(tmp_path)), ["tokens=3000000"], seeds=3), Store.at(tmp_path / "ws")
    planned = plan_lab(lab, store)
    # default, noisy, control (found equal to noisy only when both are built) and A/A, three seeds, two rates
    assert (planned.trainings, planned.published, planned.tokens) == (24, 0, 24 * 3_000_000)
    assert planned.hours > 0 and "assumed" in planned.basis
    assert not (tmp_path / "ws").exists(), "a plan writes nothing"


@pytest.mark.slow
def test_an_anneal_branches_every_arm_from_one_trunk(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    launcher = InProcessLauncher()
    use_launcher(monkeypatch, launcher)
    path = write_lab(tmp_path, spend="anneal", anneal_share=0.5, rates=[0.01, 0.02], tokens=64 * 4 * 8)
    lab = load_lab(str(path))
    result = run_lab(lab, Store.at(tmp_path / "ws"), quiet=True)
    assert launcher.started.count("training.pretrain") == 2 + 12, "a trunk for each rate"
    for each in result.measured:
        trunk = next(record for record in each.model.manifest.inputs if record.role == "trunk")
        label = f"lab-toy-trunk-r{each.trial.rate:g}"
        assert trunk.digest == Store.at(tmp_path / "ws").get_ref("pretrain", label).digest
        losses = losses_of(each)
        assert each.model.manifest.stats["steps"] == 4 and losses[0] < 5.9, "log(400) is where a fresh model begins"
    rates = [line["lr"] for line in lines_of(result.measured[0])]
    assert rates[0] == pytest.approx(0.01 * (0.1 + 0.9 * 0.5)) and rates[-1] == pytest.approx(0.001)


def lines_of(measured: Any) -> list[Mapping[str, Any]]:
    text = measured.model.local("data/metrics.jsonl").read_text()
    return [line for line in map(json.loads, text.splitlines()) if "loss" in line]


def losses_of(measured: Any) -> list[float]:
    return [line["loss"] for line in lines_of(measured)]


def test_the_page_shows_verdicts_curves_corpora_and_documents_with_their_rules(done) -> None:
    _, result, _ = done
    page = Path(result.page).read_text()
    assert not re.search(r"(src|href)=\"(?!#)", page), "self-contained"
    for section in ("verdicts", "tasks", "curves", "corpora", "documents", "models"):
        assert f'id="{section}"' in page
    assert page.count('<path class="ground') == 2 * 3, "a band for each arm at each rate"
    shown = re.findall(r"default dropped, noisy kept <small>(\d+)</small>", page)
    assert shown == ["40"] and page.count("quality: no_noise") == 10
    assert "headwater why" in page and "--label lab-toy-default" in page


def test_the_trial_of_an_arm_takes_what_the_lab_says_and_the_rest_of_the_recipe(tmp_path: Path) -> None:
    lab = load_lab(
        str(write_lab(tmp_path)), ["pretrain.optimizer.clip=0.5", "rates=[0.2, 0.1]", "tokenizer.vocab_size=390"]
    )
    config = trial_config(lab, "noisy", 1, 0.2)
    assert (config.optimizer.clip, config.optimizer.lr, config.batch_sequences) == (0.5, 0.2, 4)
    assert config.model.hidden_size == 32 and lab.config.rates == (0.2, 0.1)
    assert lab.recipes["noisy"].node("tokenizer").config.vocab_size == 390 and not lab.config.tokenizer


def test_bundled_labs_hold(tmp_path: Path) -> None:
    lab = load_lab("filters")
    assert lab.control == "nothing" and lab.trained[0] == "default" and lab.trained[-1] == SAME
    assert [node.name for node in lab.recipes["nothing"].nodes] == (
        ["sample", "ingest", "decontaminate", "redact", "tokenizer", "shards", "pretrain"]
    )
    presets = [entry.presets for entry in lab.recipes["no-fineweb"].node("quality").config.sources]
    assert "fineweb_paper" not in presets[0] and "gopher_quality" in presets[0]
    for arm, recipe in lab.recipes.items():
        if arm != "nothing":  # a preset that goes takes along what was said of its rules
            rules = recipe.node("quality").config
            assert QualityConfig.model_validate(rules.model_dump()) == rules
    markdown = load_lab("extractors").recipes["markdown"].node("ingest").config
    assert markdown.extract.markup == "markdown"


@pytest.mark.slow
def test_a_filter_that_harms_is_found_and_one_that_does_not_is_not(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """With real models: leaving out English harms, leaving out a tenth of it does not."""
    use_launcher(monkeypatch, InProcessLauncher())
    keeps = {"harmful": "mean_word_length > 8", "harmless": "mean_word_length <= 8 and characters >= 890"}
    arms = {
        name: {"stages": {"quality": {"sources": [{"rules": [{"name": name, "expression": rule}]}]}}}
        for name, rule in keeps.items()
    }
    path = write_lab(tmp_path, arms={"default": {}, **arms}, control="harmful", tokens=64 * 4 * 30)
    lab = load_lab(str(path))
    result = run_lab(lab, Store.at(tmp_path / "ws"), quiet=True)
    documents = {row["arm"]: row["documents"] for row in result.arms()}
    assert documents["harmful"] == 40 and 45 < documents["harmless"] < 60
    words = {verdict.arm: verdict.word for verdict in result.comparison.verdicts}
    del words[SAME]  # whose p is not corrected: one lab in twenty calls it different
    assert words == {"harmful": "worse", "harmless": "cannot tell"}


@pytest.mark.slow
def test_trainings_side_by_side_that_are_killed_go_on_to_the_same_bytes(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As on a machine: processes of their own, two at a time, all ended by SIGKILL; against one that nothing disturbs."""
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    for folder in (killed, whole):
        folder.mkdir()
    command = [sys.executable, "-m", "headwater", "ablate", str(write_lab(killed)), "--json"]
    command += ["--set", "execution.workers=2", "--workspace", str(killed / "ws")]
    published = killed / "ws/datasets/pretrain"
    with (killed / "log.txt").open("w") as log:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, cwd=killed)
        while process.poll() is None and len(list(published.glob("*/manifest.json"))) < 3:
            time.sleep(0.2)
        kill_family(process)
        assert 3 <= len(list(published.glob("*/manifest.json"))) < 12, (killed / "log.txt").read_text()[-4000:]
        again = subprocess.run(command, stdout=subprocess.PIPE, stderr=log, cwd=killed, timeout=800, check=True)
    assert [row["arm"] for row in json.loads(again.stdout)["arms"]] == ["default", "noisy", SAME]
    use_launcher(monkeypatch, InProcessLauncher())
    run_lab(load_lab(str(write_lab(whole))), Store.at(whole / "ws"), quiet=True)
    made = [
        {dataset.digest for stage in ("pretrain", "answers") for dataset in Store.at(folder / "ws").datasets(stage)}
        for folder in (killed, whole)
    ]
    assert made[0] == made[1] and len(made[0]) == 24
