"""What a person can set of the residual network."""

from __future__ import annotations

from tasks.core.sections import Section
from tasks.core.space import Choice, Decay, Dropout, FloatRange, Rate, Size, Stride


class Space(Section):
    """Hyperparameters: a number is fixed, a range or a list of choices is searched."""

    learning_rate: Rate = FloatRange(low=1e-3, high=8e-3, log=True)
    """Peak learning rate of AdamW."""
    weight_decay: Decay = FloatRange(low=1e-2, high=2e-1, log=True)
    """Decoupled weight decay of AdamW."""
    width: Size = Choice(choices=(16, 24, 32))
    """Channels of the stem; each stage doubles them and halves the axes."""
    stages: Size = 3
    """Number of stages."""
    first_stride: Stride = 2
    """1: the first stage keeps the stem's width and axes, as is usual for small images; several times slower."""
    blocks: Size = 1
    """Residual blocks of a stage."""
    dropout: Dropout = 0.1
    """Dropout before the last layer."""
    label_smoothing: Dropout = 0.05
    """Share of a label's weight that is spread over all classes."""
