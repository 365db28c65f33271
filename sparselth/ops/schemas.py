"""The schemas of every op, public or behind one that is."""

from __future__ import annotations

from .contract import SCHEMAS
from .contract_gpu import GPU_SCHEMAS
from .contract_lanes import LANE_SCHEMAS

ALL_SCHEMAS = SCHEMAS | LANE_SCHEMAS | GPU_SCHEMAS
