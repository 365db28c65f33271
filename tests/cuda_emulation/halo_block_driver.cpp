// Reads convolutions from stdin, runs the kernels of blocks of weights, writes the results.
//
// A case, as conv_cases.py encodes it: what read_head reads; int64 length of the plan and the
// plan; then input, weight, mask and bias, or grad_output, input and mask; activations in
// channels_last, weight and mask contiguous.
#include "conv_head.h"
#include "halo_block_conv2d.cu"
#include "halo_block_conv2d_grad_weight.cu"

namespace {

using namespace sparselth;
using namespace sparselth::cuda;

enum Op { kForward, kGradInput, kGradWeight };

template <class T>
void convolve(const Head& head) {
  const auto& [op, dtype, has_bias, g] = head;
  const bool forward = op == kForward;
  const int64_t inputs = head.inputs(), outputs = head.outputs(), weights = head.weights();
  const int64_t rows = forward ? g.c_out : g.c_in;
  HaloTile tile;
  if (!cut_into_halo_tiles(forward ? forward_pass(g) : backward_pass(g), tile))
    emulation::fail("does not fit");
  const int64_t length = read_word();
  const Array words = read(length, 4);
  const HaloPlan plan =
      read_halo_plan(static_cast<const int32_t*>(words.data()), length, rows, tile.columns);
  if (plan.blocks < 0) emulation::fail("the plan's length is wrong");
  const Array input = read(forward ? inputs : outputs, sizeof(T));
  const Array weight = read(weights, sizeof(T)), mask = read(weights, 1);
  const Array bias = read(has_bias ? rows : 0, sizeof(T));
  const Array result(forward ? outputs : inputs, sizeof(T)), packed(plan.blocks, kPackedBytes);
  const int64_t taps = g.taps(), out = g.c_in * taps;
  const WeightStrides strides = weight_strides(out, taps, 1, taps, !forward);
  queue_convolve_halo_blocks<T>(tile, plan, input.data(), weight.data(), mask.data(), strides,
                                strides, has_bias ? bias.data() : nullptr, int32_t(rows),
                                packed.data(), result.data(), nullptr);
  result.write();
}

template <class T>
void correlate(const Head& head) {
  const ConvGeometry& g = head.geometry;
  PanelTile tile;
  if (!cut_into_panel_tiles(forward_pass(g), tile)) emulation::fail("does not fit");
  const int64_t length = read_word();
  const Array words = read(length, 4);
  const PanelPlan plan =
      read_panel_plan(static_cast<const int32_t*>(words.data()), length, g.c_out, forward_pass(g));
  if (plan.items < 0) emulation::fail("the plan's length is wrong");
  const Array grad_output = read(head.outputs(), sizeof(T)), input = read(head.inputs(), sizeof(T));
  const Array mask = read(head.weights(), 1), result(head.weights(), sizeof(T));
  const Array partial(partial_sums(tile, plan), 4);
  if (plan.items == 0) std::memset(result.data(), 0, result.bytes());
  if (plan.items != 0)
    queue_correlate_halo_blocks<T>(tile, plan, input.data(), grad_output.data(), mask.data(),
                                   int32_t(g.c_out), partial.data(), result.data(), nullptr);
  result.write();
}

template <class T>
void run(const Head& head) {
  head.op == kGradWeight ? correlate<T>(head) : convolve<T>(head);
}

}  // namespace

int main() {
  for (int64_t left = read_word(); left > 0; --left) {
    const Head head = read_head();
    head.dtype == 1 ? run<__half>(head) : run<__nv_bfloat16>(head);
  }
}
