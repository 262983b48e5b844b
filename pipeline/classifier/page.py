"""The classifier's report for people: one self-contained page, and the model card."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from pipeline.charts import Line, line_chart
from pipeline.classifier.config import ClassifierConfig
from pipeline.classifier.model import MODEL_FILE

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1c2733; max-width: 60rem; margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.5rem } h2 { font-size: 1.15rem; margin-top: 2rem }
table { border-collapse: collapse; width: 100% } th, td { text-align: left; padding: .25rem .6rem .25rem 0;
border-bottom: 1px solid #dde3ea; vertical-align: top } .n { text-align: right; font-variant-numeric: tabular-nums }
.figures { display: flex; gap: 2.5rem; flex-wrap: wrap } .figures b { display: block; font-size: 1.6rem }
p.note, figcaption { color: #5b6b7b } svg { max-width: 36rem } code { word-break: break-all }
"""


def report_page(figures: Mapping[str, Any]) -> str:
    """The figures of ``report.json`` as a page that needs nothing else."""
    material = figures["material"]
    low, high = figures["auc_95"]
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Quality classifier</title><style>{STYLE}</style></head><body>
<h1>Quality classifier</h1>
<p class="note">Model <code>{escape(figures["model_sha256"])}</code></p>
<div class="figures">
<div><b>{_number(figures["auc"])}</b>AUC, held out ({_number(low)} to {_number(high)})</div>
<div><b>{_number(figures["calibration_error"])}</b>calibration error</div>
<div><b>{_number(figures["threshold"])}</b>keeps {figures["keep_fraction"]:.0%} of the ordinary texts</div>
<div><b>{_number(figures["good_above_threshold"])}</b>of the good texts are above it</div>
</div>
<h2>Material</h2>
<p>{material["good_documents"]:,} good and {material["ordinary_documents"]:,} ordinary documents became
{material["passages_each_side"]:,} passages a side; {material["taken_out_as_overlap"]:,} documents were on both sides or
twice on one and were taken out. {_sorted_note(material["negatives_sorted_by_rules"])}
Held out for this page: {figures["held_out"]["good"]:,} good, {figures["held_out"]["ordinary"]:,} ordinary.</p>
<h2>Calibration</h2>
{_calibration(figures["calibration"])}
<h2>What else it prefers</h2>
<p class="note">Mean score of ordinary texts. Large differences between groups that should not differ are a bias.</p>
{_groups("Length", figures["by_length"])}
{_groups("Language", figures["by_language"])}
{_groups("Domain", figures["by_domain"])}
<h2>Nearest the threshold</h2>
<p class="note">Read these before you trust the threshold: the ordinary texts it decides most narrowly about.</p>
{_nearest(figures["nearest_threshold"])}
</body></html>
"""


def _sorted_note(by_rules: bool) -> str:
    if by_rules:
        return "Ordinary texts that fail the rules are the bad side; those that pass joined the good side."
    return "All ordinary texts are the bad side."


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _calibration(bands: Sequence[Mapping[str, float]]) -> str:
    """Share of good texts against mean score: on the diagonal, scores are probabilities."""
    found = [(band["score"], band["good"]) for band in bands]
    sizes = [3 + min(9, band["documents"] ** 0.5 / 3) for band in bands]
    chart = line_chart(
        [
            Line("calibrated", [(0.0, 0.0), (1.0, 1.0)], faint=True, dashed=True),
            Line("band of scores", found, dots=True, scattered=True, sizes=sizes),
        ],
        x="mean score",
        y="share that is good",
        describe="Calibration",
        x_range=(0.0, 1.0),
        y_range=(0.0, 1.0),
        alone=True,
    )
    return f"""<figure>{chart}
<figcaption>Each dot is a band of scores, its size the number of documents.</figcaption></figure>"""


def _groups(title: str, groups: Sequence[Mapping[str, Any]]) -> str:
    rows = "".join(
        f'<tr><td>{escape(str(group["group"]))}</td><td class="n">{group["documents"]:,}</td>'
        f'<td class="n">{group["mean_score"]:.3f}</td></tr>'
        for group in groups
    )
    return f"<table><tr><th>{title}</th><th class='n'>documents</th><th class='n'>mean score</th></tr>{rows}</table>"


def _nearest(documents: Sequence[Mapping[str, Any]]) -> str:
    rows = "".join(
        f'<tr><td class="n">{document["score"]:.4f}</td><td>{"kept" if document["kept"] else "dropped"}</td>'
        f"<td>{escape(document['excerpt'])}<br>"
        f"<span class='note'>{escape(document['url'] or document['id'])}</span></td></tr>"
        for document in documents
    )
    return f"<table><tr><th class='n'>score</th><th></th><th>text</th></tr>{rows}</table>"


def model_card(figures: Mapping[str, Any], config: ClassifierConfig, ingest_digest: str) -> str:
    """What the model is, from what, and how far it goes; with the digests that identify it."""
    low, high = figures["auc_95"]
    material = figures["material"]
    return f"""# Quality classifier

A fastText model that scores how much a text is like the good set. Labels: `good`, `ordinary`; the score is the
probability of `good`. Texts must be prepared as `pipeline.classifier.model.prepare` does (a mark after every line).

| | |
|---|---|
| file | `{MODEL_FILE.removeprefix("data/")}` |
| SHA-256 | `{figures["model_sha256"]}` |
| trained on ingest | `{ingest_digest}` |
| good | {", ".join(texts.described for texts in config.positives)}: {material["good_documents"]:,} documents |
| ordinary | {", ".join(texts.described for texts in config.negatives)}: {material["ordinary_documents"]:,} documents |
| rules that sort the ordinary texts | {", ".join(config.rules) if material["negatives_sorted_by_rules"] else "none"} |
| passages | {material["passages_each_side"]:,} a side, of about {config.passage_words} words |
| fastText | dimension {config.dimension}, {config.epochs} epochs, word n-grams to {config.word_ngrams}, \
{config.buckets:,} buckets, one thread, seed {config.seed} |
| AUC, held out | {_number(figures["auc"])} ({_number(low)} to {_number(high)}) |
| calibration error | {_number(figures["calibration_error"])} |

The score ranks texts of the kind it was trained on; it is no measure of truth, and what it prefers beyond quality is
in `report.html`: look there before choosing a threshold, and choose it as a share to keep, not as a score.
"""
