"""What a person can set of the tabular network."""

from __future__ import annotations

from tasks.core.sections import Section
from tasks.core.space import Choice, Decay, Dropout, FloatRange, Rate, Size


class Space(Section):
    """Hyperparameters: a number is fixed, a range or a list of choices is searched."""

    learning_rate: Rate = FloatRange(low=1.5e-3, high=4e-3, log=True)
    """Peak learning rate of AdamW."""
    weight_decay: Decay = FloatRange(low=3e-2, high=1.0, log=True)
    """Decoupled weight decay of AdamW."""
    hidden: Size = Choice(choices=(192, 256))
    """Width of the hidden layers."""
    layers: Size = 3
    """Number of hidden layers."""
    dropout: Dropout = FloatRange(low=0.3, high=0.5)
    """Dropout after each hidden layer."""
    feature_dropout: Dropout = FloatRange(low=0.25, high=0.4)
    """Share of columns whose embedding is dropped, per row, while training."""
    number_dim: Size = 8
    """Size of a numeric column's embedding."""
    category_dim: Size = 4
    """Size of a categorical column's embedding."""
