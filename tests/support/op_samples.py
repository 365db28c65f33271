"""Good calls of every op, for opcheck, gradcheck and what is made of them."""

import torch

from sparselth.ops.gpu.column_vector import find_column_vectors
from sparselth.ops.gpu.halo_blocks import find_halo_blocks
from sparselth.ops.gpu.unstructured import find_unstructured
from sparselth.ops.lanes.layout import lanes

ops = torch.ops.sparselth


def grad_tensor(*shape):
    return torch.randn(*shape, dtype=torch.float64, requires_grad=True)


def conv_arguments(layout=torch.contiguous_format, groups=2, batch=2):
    conv = ([2, 1], [1, 2], [1, 2], groups)
    x = grad_tensor(batch, 4, 4, 5).detach().contiguous(memory_format=layout).requires_grad_()
    weight = grad_tensor(4, 4 // groups, 3, 2)
    return x, weight, torch.rand(weight.shape) < 0.5, grad_tensor(4), conv


def lane_samples():
    """Return the same for the ops on activations in lanes: 5 images, a halo of 1 going in."""
    n, lane_count = 5, lanes(torch.float64)
    conv = ([2, 1], [1, 2], [1, 2], 2)
    images = torch.randn(n, 4, 4, 5, dtype=torch.float64)
    x = ops.to_lanes(images, lane_count, 1)
    weight = torch.randn(6, 2, 3, 2, dtype=torch.float64)
    mask = torch.rand(weight.shape) < 0.5
    y = ops.lanes_conv2d(x, n, 1, weight, mask, None, None, *conv)
    c = torch.rand(4, dtype=torch.float64) + 0.5
    window = ([2, 2], [2, 1], [0, 1])
    none = float("nan")
    two_terms = (x, n, 1, c, c, x, 1, c, None)
    one_term = (x, n, 1, c, None, None, 0, None, None)
    as_it_lies = (None, None, False, none)
    pooled, position = ops.lanes_max_pool2d(x, n, 1, *as_it_lies, *window, 1)
    return {
        "to_lanes": [(images, lane_count, 1)],
        "from_lanes": [(x, n, 1)],
        "lanes_conv2d": [(x, n, 1, weight, mask, weight[:, 0, 0, 0].contiguous(), None, *conv)],
        "lanes_conv2d_grad_input": [(y, n, 0, weight, mask, None, [4, 5], *conv)],
        "lanes_conv2d_grad_weight": [(y, 0, x, n, 1, mask, None, *conv)],
        "lanes_conv2d_backward": [(y, 0, x, n, 1, weight, mask, None, *conv)],
        "lanes_fused_conv2d": [
            (*two_terms, True, 6.0, True, weight, mask, weight[:, 0, 0, 0], None, *conv, True),
            (*one_term, False, none, False, weight, mask, None, None, *conv, False),
        ],
        "lanes_fused_conv2d_backward": [
            (y, 0, x, n, 1, c, c, True, none, weight, mask, None, *conv),
            (y, 0, x, n, 1, None, None, True, 6.0, weight, mask, None, *conv),
        ],
        "lanes_batch_norm": [
            (x, n, 1, c, c, c.clone(), c.clone(), 0.1, 1e-5, None),
            (x, n, 1, None, None, None, None, 0.0, 1e-5, None),
            (x, n, 1, c, c, None, None, 0.0, 1e-5, torch.stack([c, c], 1).double()),
        ],
        "lanes_scale_add_relu": [
            (x, n, 1, c, c, x, 1, c, None, True, 6.0, 0),
            (x, n, 1, None, None, None, 0, None, None, False, float("nan"), 1),
        ],
        "lanes_relu_backward_add": [
            (x, 1, x, 1, 6.0, x, 1, 0),
            (x, 1, None, 0, float("nan"), None, 0, 1),
        ],
        "lanes_batch_norm_backward": [
            (x, 1, x, 1, None, None, 6.0, x, n, 1, c, c, c, True, 1),
            (x, 1, None, 0, c, c, float("nan"), x, n, 1, c, c, None, False, 1),
        ],
        "lanes_max_pool2d": [
            (x, n, 1, *as_it_lies, *window, 1),
            (x, n, 1, c, c, True, 6.0, *window, 1),
            (x, n, 1, None, c, False, none, *window, 0),
        ],
        "lanes_max_pool2d_backward": [(pooled, n, 1, position, [4, 5], *window, 1)],
    }


def gpu_samples():
    """Return the same for the convolutions behind `masked_conv2d` on a GPU."""
    x, weight, mask, bias, conv = (
        t if isinstance(t, tuple) else t.detach() for t in conv_arguments(torch.channels_last)
    )
    by_output, by_input = find_unstructured(mask, conv[-1])
    y = ops.unstructured_conv2d(x, weight, mask, bias, by_output, *conv)
    return {
        "unstructured_conv2d": [
            (x, weight, mask, bias, by_output, *conv),
            (x, weight, mask, None, by_output, *conv),
        ],
        "unstructured_conv2d_grad_input": [(y, weight, mask, by_input, [4, 5], *conv)],
        "unstructured_conv2d_grad_weight": [(y, x, mask, by_output, *conv)],
        **tensor_core_samples(),
    }


def tensor_core_samples():
    x, weight, mask, bias, conv = (
        t if isinstance(t, tuple) else t.detach().half() if t.is_floating_point() else t
        for t in conv_arguments(torch.channels_last, groups=1)
    )
    by_output, by_input = find_column_vectors(mask, 8)
    blocks = find_halo_blocks(mask)
    y = ops.column_vector_conv2d(x, weight, mask, bias, by_output, 8, *conv)
    return {
        "column_vector_conv2d": [(x, weight, mask, bias, by_output, 8, *conv)],
        "column_vector_conv2d_grad_input": [(y, weight, mask, by_input, 8, [4, 5], *conv)],
        "halo_block_conv2d": [(x, weight, mask, bias, blocks.by_output, *conv)],
        "halo_block_conv2d_grad_input": [(y, weight, mask, blocks.by_input, [4, 5], *conv)],
        "halo_block_conv2d_grad_weight": [(y, x, mask, blocks.by_panel, *conv)],
    }


def samples():
    """Return op name -> list of argument tuples."""
    x, weight, mask, bias, conv = conv_arguments()
    last, *_ = conv_arguments(torch.channels_last)
    y = ops.masked_conv2d(x, weight, mask, bias, None, *conv).detach().requires_grad_()
    empty, *_ = conv_arguments(batch=0)
    a, w, m, b = grad_tensor(5, 7), grad_tensor(4, 7), torch.rand(4, 7) < 0.5, grad_tensor(4)
    g = grad_tensor(5, 4)
    lists = [[torch.randn(6), torch.randn(2, 3)] for _ in range(3)]
    squares = [torch.rand(6), torch.rand(2, 3)]
    masks = [torch.arange(6) % 2 == 0, torch.rand(2, 3) < 0.5]
    return {
        "masked_conv2d": [
            (x, weight, mask, bias, None, *conv),
            (last, weight, mask, None, None, *conv),
            (empty, weight, mask, bias, None, *conv),
        ],
        "masked_conv2d_relu": [
            (x, weight, mask, bias, None, *conv),
            (last, weight, mask, None, None, *conv),
        ],
        "masked_conv2d_grad_input": [(y, weight, mask, None, [4, 5], *conv)],
        "masked_conv2d_grad_weight": [(y, x, mask, None, *conv)],
        "masked_linear": [(a, w, m, b, None), (a, w, m, None, None)],
        "masked_linear_grad_input": [(g, w, m, None)],
        "masked_linear_grad_weight": [(g, a, m, None, False), (g, a, m, None, True)],
        "topk_mask": [
            (lists[0], [2, 3], False, []),
            (lists[0], [4], True, []),
            (lists[0], [3, 1], False, [0, 1, 2, 1]),
            (lists[0], [], False, [1, 1, 2]),
            (lists[0], [4], True, [2, 1, 1]),
        ],
        "admm_project_": [
            (lists[0], lists[1], lists[2], [2, 3], False, [], allow_nonfinite)
            for allow_nonfinite in (False, True)
        ],
        "weight_overlap": [(lists[0], lists[1], [], [2, 3]), (lists[0], lists[1], masks, [2, 0])],
        "masked_sgd_": [(*lists, masks, [], [], 0.1, 0.9, 0.0, 1e-4, True, 0.0)],
        "masked_adamw_": [
            (*lists, squares, masks, [], [], *count, 0.1, 0.9, 0.999, 1e-8, 1e-2, 0.0)
            for count in (([], 2), ([torch.tensor(2.0), torch.tensor(3.0)], 0))
        ],
        **lane_samples(),
        **gpu_samples(),
    }
