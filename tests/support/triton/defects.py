"""Defects of the Triton kernels, for `interpreted_defects.py`."""

# What is wrong, in which file, where, and the check that must notice.
DEFECTS = {
    "a digit too high": ("unstructured", "select.py", "(BINS - 1 - passed)", "(BINS - passed)"),
    "ties not ranked across chunks": (
        *("unstructured", "select.py"),
        *("range(first, chunk, MANY)", "range(first, 0, MANY)"),
    ),
    "ties ranked per tensor when global_": (
        *("ties", "select.py"),
        *("first = chunk * 0 if GLOBAL else word", "first = word"),
    ),
    "infinity not counted": (
        *("unstructured", "select.py"),
        *("(keys >= infinity(DTYPE))", "(keys > infinity(DTYPE))"),
    ),
    "masks of an overlap ignored": ("overlaps", "select.py", "if INSIDE:", "if False:"),
    "sums not rounded": (
        *("projections", "select.py"),
        *("found = sums.to(found.dtype)", "found = sums"),
    ),
    "ins added side by side": (
        *("order", "patterns.py"),
        "(BLOCK, 2, LANES >> (step + 1)))\n        first, second = "
        "tl.split(tl.permute(halves, (0, 2, 1)))",
        "(BLOCK, LANES >> (step + 1), 2))\n        first, second = tl.split(halves)",
    ),
    "outs added last": (
        *("order", "patterns.py"),
        *("column += squares_of(found)", "partial += squares_of(found)"),
    ),
    "the last of equal shapes": (
        *("ties", "patterns.py"),
        "first = tl.min(tl.where(bits == best[:, None], lane[None, :], LANES), 1)",
        "first = tl.max(tl.where(bits == best[:, None], lane[None, :], -1), 1)",
    ),
    "ties of N:M from the end": (
        *("ties", "patterns.py"),
        *("(rival < lane)", "(rival > lane)"),
    ),
    "NaN below all": (
        *("patterns", "patterns.py"),
        *("tl.where(scores != scores, ONE_NAN,", "tl.where(scores != scores, 0,"),
    ),
    "written in spite of NaN": (
        "projections",
        "admm_project.py",
        "if ALLOW_NONFINITE:",
        "if True:",
    ),
    "the dual of what is kept": (
        *("projections", "admm_project.py"),
        *("tl.where(kept, zero, v)", "v"),
    ),
    "momenta outside the mask": (
        *("steps", "masked_sgd.py"),
        *("tl.where(kept, buffer.to(DTYPE), zero)", "buffer.to(DTYPE)"),
    ),
    "moments outside the mask": (
        *("adamw", "masked_adamw.py"),
        *("tl.where(kept, mean.to(DTYPE), zero)", "mean.to(DTYPE)"),
    ),
    "the first tensor's step for all": (
        *("adamw", "masked_adamw.py"),
        *("pointer(table, segments, STEP, segment, tl", "pointer(table, segments, STEP, 0, tl"),
    ),
    "padding read from the next row": (
        *("convolutions", "masked_conv2d.py"),
        *("(column_of_x >= 0) & (column_of_x < width)", "(column_of_x < width)"),
    ),
    "channels of the first group": (
        *("convolutions", "masked_conv2d_grad_weight.py"),
        *("first_channel = group * c_in + first_in", "first_channel = first_in"),
    ),
    "blocks not turned round": (
        *("convolutions", "masked_conv2d.py"),
        *("place = lane[None, :] * SIZE + lane[:, None]", "place = lane[:, None] * SIZE + lane"),
    ),
    "negative results stored": (
        *("convolutions", "masked_conv2d.py"),
        *("tl.where(total < 0, 0, total)", "total"),
    ),
    "a row without its last block": (
        *("convolutions", "masked_conv2d.py"),
        *("range(begin, end)", "range(begin, end - 1)"),
    ),
    "pruned weights packed": (
        *("convolutions", "masked_conv2d.py"),
        *("tl.load(weight + at, there & kept,", "tl.load(weight + at, there,"),
    ),
    "a phase's offsets rounded to zero": (
        *("convolutions", "blocks.py"),
        'offsets = [at.div(stride[axis], rounding_mode="floor")',
        'offsets = [(at + 1).div(stride[axis], rounding_mode="floor")',
    ),
    "taps that miss a phase": ("convolutions", "blocks.py", "at % stride[axis] == 0", "at == at"),
    "one run of positions": (
        *("convolutions", "masked_conv2d_grad_weight.py"),
        *("(first + run < splits)", "(first + run < 1)"),
    ),
    "gradients of pruned weights": (
        *("convolutions", "masked_conv2d_grad_weight.py"),
        *("tl.where(kept != 0, total, 0.0)", "total + 0.0"),
    ),
    "pixels of the tap before": (
        *("boxes", "masked_conv2d_tma.py"),
        *("left - pad_w + right * dilation_w", "left - pad_w + down * dilation_w"),
    ),
    "padding forgotten": (
        *("boxes", "masked_conv2d_tma.py"),
        *("top - pad_h + down * dilation_h", "top + down * dilation_h"),
    ),
    "the next block's weights": (
        *("boxes", "masked_conv2d_tma.py"),
        *("packed.load([i * DEPTH, 0])", "packed.load([(i + 1) * DEPTH, 0])"),
    ),
    "the bias of the first row of blocks": (
        *("boxes", "masked_conv2d_tma.py"),
        *("out = first_out + tl.arange(0, WIDTH)", "out = tl.arange(0, WIDTH)"),
    ),
    "taps of the input gradient not turned": (
        *("boxes", "masked_conv2d_tma.py"),
        *("taps_h * taps_w - 1 - tap", "tap"),
    ),
    "pruned weights in wide blocks": (
        *("boxes", "masked_conv2d_tma.py"),
        *("there & (kept != 0)", "there"),
    ),
    "packed blocks of the other pass": (
        *("boxes", "masked_conv2d_tma.py"),
        *("own = packed[index.forward.count :]", "own = packed[:]"),
    ),
    "a row of blocks too short": (
        *("boxes", "wide_blocks.py"),
        *("(ends - counts, ends, torch", "(ends - counts, ends - 1, torch"),
    ),
    "boxes over the batch counted down": (
        *("boxes", "masked_conv2d_tma.py"),
        *("image = tile // (tiles_w * tiles_h) * IMAGES", "image = tile // (tiles_w * tiles_h)"),
    ),
    "channels of x as they come": (
        *("ordered", "masked_conv2d.py"),
        *("if x_order is not None:", "if False:"),
    ),
    "orders of x and y swapped": (
        *("ordered", "masked_conv2d.py"),
        *("(outs, ins) if transposed else (ins, outs)", "(ins, outs)"),
    ),
    "the bias of another channel": (
        *("ordered", "masked_conv2d.py"),
        *("tl.load(bias + out, out_there", "tl.load(bias + first_out + lane, out_there"),
    ),
    "results where channels do not lie": (
        *("ordered", "masked_conv2d.py"),
        *(
            "tl.store(to[:, None] + out[None, :]",
            "tl.store(to[:, None] + (first_out + lane)[None, :]",
        ),
    ),
    "weights packed as they come": (
        *("ordered", "masked_conv2d.py"),
        *("inside = tl.load(ins + inside, in_there", "tl.load(ins + inside, in_there"),
    ),
    "rows of dead channels left out": (
        *("ordered", "blocks.py"),
        *("rows = rows[counts.argsort(descending=True, stable=True)]", "rows = rows[counts > 0]"),
    ),
    "channels of dy as they come": (
        *("ordered", "masked_conv2d_grad_weight.py"),
        *("out = tl.load(outs + out, dy_there", "tl.load(outs + out, dy_there"),
    ),
    "a weight's gradient where its channel does not lie": (
        *("ordered", "masked_conv2d_grad_weight.py"),
        *("inside = tl.load(ins + inside, in_there", "tl.load(ins + inside, in_there"),
    ),
    "dead channels among the others": (
        *("ordered", "blocks.py"),
        *("mask = orders.applied(mask)", "orders.applied(mask)"),
    ),
    "settings in float32": (
        *("steps", "steps.py"),
        *("bits.to(tl.float64, bitcast=True)", "bits.to(tl.float64, bitcast=True).to(tl.float32)"),
    ),
}
