"""The samples that torch's wheel carries to test its own modules and optimizers with."""

import pytest
import torch

pytest.importorskip("expecttest", reason="torch.testing._internal needs expecttest")

_frozen = torch.backends.__allow_nonbracketed_mutation_flag
from torch.testing._internal.common_modules import ModuleErrorEnum, module_db  # noqa: E402
from torch.testing._internal.common_optimizers import optim_db  # noqa: E402

# Its import forbids flags such as torch.backends.cudnn.benchmark to be set, for the whole process.
torch.backends.__allow_nonbracketed_mutation_flag = _frozen

__all__ = ["ModuleErrorEnum", "module_db", "optim_db"]
