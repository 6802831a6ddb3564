"""What a person can set of the two towers."""

from __future__ import annotations

from tasks.core.sections import Section
from tasks.core.space import Decay, Dropout, FloatRange, Rate, Size


class Space(Section):
    """Hyperparameters: a number is fixed, a range or a list of choices is searched."""

    learning_rate: Rate = FloatRange(low=3e-4, high=3e-3, log=True)
    """Peak learning rate of AdamW."""
    weight_decay: Decay = 1e-2
    """Decoupled weight decay of AdamW."""
    dim: Size = 256
    """Size of the vectors of users and items."""
    dropout: Dropout = 0.3
    """Dropout of the history's vector."""
    history_dropout: Dropout = 0.3
    """Share of earlier items that are left out while training."""
    user_dropout: Dropout = 0.9
    """Share of users that are unknown while training, so that the history has to do."""
    ridge: Rate = 300.0
    """Ridge of the closed form that the vectors start from: more of it trusts rare pairs less."""
    negatives: Size = 4096
    """Items drawn for a step's sampled softmax, where the catalogue is too large for the full one."""
