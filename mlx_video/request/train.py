"""What a training asks for."""

from __future__ import annotations

from typing import Literal

TimestepSampling = Literal["uniform", "sigmoid", "shift", "logit_normal"]
LossWeighting = Literal["none", "bell"]
NetworkKind = Literal["lora", "loha"]
