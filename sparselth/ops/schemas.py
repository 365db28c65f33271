"""The schemas of every op, public or behind one that is."""

from __future__ import annotations

from .contract import SCHEMAS
from .contract_blocked import BLOCKED_SCHEMAS
from .contract_gpu import GPU_SCHEMAS

ALL_SCHEMAS = SCHEMAS | BLOCKED_SCHEMAS | GPU_SCHEMAS
