// Reads convolutions from stdin, runs the kernels of single kept weights, writes the results.
//
// A case, as conv_cases.py encodes it: int64 op, dtype, seed, has_bias; int64 x[4], w[4],
// stride[2], padding[2], dilation[2], groups; int64 length of the plan and the plan; then the
// arrays that the op reads, in its own order. -DEMULATE_DTYPES, as bits, chooses what is compiled.
#include "conv_head.h"
#include "unstructured_conv2d.cu"
#include "unstructured_conv2d_grad_weight.cu"

#ifndef EMULATE_DTYPES
#define EMULATE_DTYPES 7
#endif

namespace {

using namespace sparselth;
using namespace sparselth::cuda;

enum Op { kForward, kGradInput, kGradWeight };

template <class T>
void run(const Head& head) {
  const auto& [op, dtype, has_bias, g] = head;
  const int64_t inputs = head.inputs(), outputs = head.outputs(), weights = head.weights();
  const int64_t rows = op == kGradInput ? g.c_in : g.c_out;
  UnstructuredTile tile;
  if (!cut_into_tiles(op == kGradInput ? backward_pass(g) : forward_pass(g), tile))
    emulation::fail("does not fit");
  const int64_t length = read_word();
  const Array words = read(length, 4);
  const UnstructuredPlan plan =
      read_plan(static_cast<const int32_t*>(words.data()), length, rows, tile.columns, weights);
  if (plan.count < 0) emulation::fail("the plan's length is wrong");
  Array result;
  if (op == kGradWeight) {
    const Array grad_output = read(outputs, sizeof(T)), input = read(inputs, sizeof(T));
    result = Array(weights, sizeof(T));
    std::memset(result.data(), 0, result.bytes());
    const Array partial(int64_t(splits_of(tile, plan)) * plan.count, 4);
    queue_correlate_unstructured<T>(tile, plan, input.data(), grad_output.data(), int32_t(rows),
                                    partial.data(), result.data(), nullptr);
  } else {
    const Array input = read(op == kForward ? inputs : outputs, sizeof(T));
    const Array weight = read(weights, sizeof(T)), bias = read(has_bias ? rows : 0, sizeof(T));
    result = Array(op == kForward ? outputs : inputs, sizeof(T));
    queue_convolve_unstructured<T>(tile, plan, input.data(), weight.data(),
                                   has_bias ? bias.data() : nullptr, int32_t(rows), result.data(),
                                   nullptr);
  }
  result.write();
}

template <class T, int kDtype>
void run_if_compiled(const Head& head) {
  if constexpr ((EMULATE_DTYPES >> kDtype & 1) != 0) return run<T>(head);
  emulation::fail("not compiled");
}

}  // namespace

int main() {
  for (int64_t left = read_word(); left > 0; --left) {
    const Head head = read_head();
    if (head.dtype == 0) run_if_compiled<float, 0>(head);
    if (head.dtype == 1) run_if_compiled<__half, 1>(head);
    if (head.dtype == 2) run_if_compiled<__nv_bfloat16, 2>(head);
  }
}
