"""A recipe's ``scale``: its pretraining, derived from a size.

    headwater plan my-recipe --scale 125M          the same as `scale: 125M` in the recipe, or --set scale=125M

Shape, tokens, batch, learning rate and schedule come from ``training.scale``, for the recipe's own vocabulary, sequence
length and number of ranks. What the recipe itself (not the one it extends) or ``--set`` says of pretraining still
overrules the scale.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from infra.errors import ConfigError, missing_package

if TYPE_CHECKING:
    from training.scale import ScalePlan


def apply_scale(raw: Mapping[str, Any], origin: str) -> tuple[dict[str, Any], "ScalePlan | None"]:
    """The recipe with the values that its scale gives in the pretraining section, and whence (without torch: neither)."""
    try:
        from training.pretrain import PretrainConfig
        from training.scale import plan_scale, read_count
    except ModuleNotFoundError as error:
        if missing_package(error) is None:
            raise
        return dict(raw), None  # what it would give is for a stage that cannot run here

    stages = raw.get("stages") or {}
    section: Any = stages.get("pretrain") if isinstance(stages, Mapping) else None
    if not isinstance(section, Mapping):
        raise ConfigError("a scale needs a stage `pretrain`", where=origin, remedy="Add `pretrain: {}` to the stages.")
    parallel = section.get("parallel") or {}
    usual = PretrainConfig()
    plan = plan_scale(
        parameters=read_count(str(raw["scale"])),
        gpus=int(section.get("ranks", usual.ranks)) * int(section.get("nodes", usual.nodes)),
        vocab_size=_setting(stages, "tokenizer", "vocab_size"),
        seq_len=_setting(stages, "shards", "seq_len"),
        micro_batch=int(parallel.get("micro_batch", usual.parallel.micro_batch)),
        activation_checkpointing=bool(parallel.get("activation_checkpointing", False)),
    )
    derived = plan.recipe()
    optimizer = {**(section.get("optimizer") or {}), **derived["optimizer"]}
    return {**raw, "stages": {**stages, "pretrain": {**section, **derived, "optimizer": optimizer}}}, plan


def _setting(stages: Mapping[str, Any], stage: str, field: str) -> int:
    """A stage's field: the recipe's value, or the stage's default."""
    from flows.stages import load_stage

    given = (stages.get(stage) or {}).get(field)
    return int(load_stage(stage).config.model_fields[field].default if given is None else given)
