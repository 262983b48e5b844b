"""Building a model that no single rank could hold.

Under ZeRO-3 every parameter is cut up the moment it is created, and filled one at a time: the most a rank ever holds is
its share and one whole parameter. A parameter's first values depend on the seed and its name only, so the result is the
model that ``build_model`` would have made.
"""

import torch

from training.create_engine import deepspeed_config
from training.model import Decoder, ModelConfig, build_model, init_parameter, parameter_count
from training.optimizer import OptimizerConfig
from training.parallel import ParallelConfig
from training.ranks import Ranks


def build_for_engine(
    shape: ModelConfig, seed: int, optimizer: OptimizerConfig, parallel: ParallelConfig, ranks: Ranks
) -> Decoder:
    """A decoder with fresh weights for ``create_engine``: whole on every rank, or cut up at once under ZeRO-3."""
    if not parallel.cut_while_built:
        return build_model(shape, seed, checkpointing=parallel.checkpointing)
    import deepspeed

    settings = deepspeed_config(optimizer, parallel, ranks, parameter_count(shape))
    with deepspeed.zero.Init(config_dict_or_path=settings):
        decoder = Decoder(shape, parallel.checkpointing)
    for name, parameter in decoder.named_parameters():
        with torch.no_grad(), deepspeed.zero.GatheredParameters([parameter], modifier_rank=0):
            if ranks.first:
                init_parameter(name, parameter, shape, seed)
    return decoder
