// Reads convolutions from stdin, runs the kernel of vectors of weights, writes the results.
//
// A case, as conv_cases.py encodes it: what read_head reads; int64 length of the plan and the
// plan; then input, weight, mask and bias, activations in channels_last.
#include "column_vector_conv2d.cu"
#include "conv_head.h"

namespace {

using namespace sparselth;
using namespace sparselth::cuda;

enum Op { kForward16, kForward8, kGradInput16, kGradInput8 };

template <class T, int kVector>
void run(const Head& head) {
  const auto& [op, dtype, has_bias, g] = head;
  const bool forward = op <= kForward8;
  const int64_t inputs = head.inputs(), outputs = head.outputs(), weights = head.weights();
  const int64_t rows = forward ? g.c_out : g.c_in;
  ColumnVectorTile tile;
  if (!cut_into_vector_tiles(forward ? forward_pass(g) : backward_pass(g), tile))
    emulation::fail("does not fit");
  const int64_t length = read_word();
  const Array words = read(length, 4);
  const ColumnVectorPlan plan = read_column_vector_plan(static_cast<const int32_t*>(words.data()),
                                                        length, rows, tile.columns, kVector);
  if (plan.steps < 0) emulation::fail("the plan's length is wrong");
  const Array input = read(forward ? inputs : outputs, sizeof(T));
  const Array weight = read(weights, sizeof(T)), mask = read(weights, 1);
  const Array bias = read(has_bias ? rows : 0, sizeof(T));
  const Array result(forward ? outputs : inputs, sizeof(T)),
      packed(plan.steps, kPackedBytes<kVector>);
  const WeightStrides strides = weight_strides(g.c_in * g.taps(), g.taps(), 1, g.taps(), !forward);
  queue_convolve_column_vectors<T, kVector>(tile, plan, input.data(), weight.data(), mask.data(),
                                            strides, strides, has_bias ? bias.data() : nullptr,
                                            int32_t(rows), packed.data(), result.data(), nullptr);
  result.write();
}

}  // namespace

int main() {
  for (int64_t left = read_word(); left > 0; --left) {
    const Head head = read_head();
    const bool by_8 = head.op == kForward8 || head.op == kGradInput8;
    if (head.dtype == 1)
      by_8 ? run<__half, 8>(head) : run<__half, 16>(head);
    else
      by_8 ? run<__nv_bfloat16, 8>(head) : run<__nv_bfloat16, 16>(head);
  }
}
