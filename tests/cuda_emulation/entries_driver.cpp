// Reads convolutions from stdin, runs the kernels of single kept weights, writes the results.
//
// A case, as entries_cases.py encodes it: int64 op, dtype, seed, has_bias; int64 x[4], w[4],
// stride[2], padding[2], dilation[2], groups; int64 length of the plan and the plan; then the
// arrays that the op reads, in its own order. -DEMULATE_DTYPES, as bits, chooses what is compiled.
#include <memory>

#include "entries_conv2d.cu"
#include "entries_conv2d_grad_weight.cu"

#ifndef EMULATE_DTYPES
#define EMULATE_DTYPES 7
#endif

namespace {

using namespace sparselth;
using namespace sparselth::cuda;

// Exactly as long as asked for, so that AddressSanitizer sees the first byte too many.
struct Array {
  std::unique_ptr<char, decltype(&std::free)> memory{nullptr, &std::free};
  size_t bytes = 0;

  Array() = default;
  Array(int64_t count, size_t element)
      : memory(static_cast<char*>(std::malloc(count * element)), &std::free),
        bytes(count * element) {
    std::memset(memory.get(), 0xcd, bytes);
  }
  void* data() const { return memory.get(); }
};

Array read(int64_t count, size_t element) {
  Array array(count, element);
  if (std::fread(array.data(), 1, array.bytes, stdin) != array.bytes)
    emulation::fail("the case ends too early");
  return array;
}

int64_t read_word() {
  int64_t word;
  if (std::fread(&word, 1, sizeof word, stdin) != sizeof word) std::exit(4);
  return word;
}

std::vector<int64_t> read_words(int count) {
  std::vector<int64_t> words(count);
  for (int64_t& word : words) word = read_word();
  return words;
}

enum Op { kForward, kGradInput, kGradWeight };

template <class T>
void run(int64_t op, bool has_bias, const ConvGeometry& g) {
  const int64_t inputs = g.batch * g.c_in * g.height * g.width;
  const int64_t outputs = g.batch * g.c_out * g.out_height * g.out_width;
  const int64_t weights = g.c_out * (g.c_in / g.groups) * g.taps();
  const int64_t rows = op == kGradInput ? g.c_in : g.c_out;
  EntriesTile tile = op == kGradInput ? backward_tile(g) : forward_tile(g);
  if (!cut_into_tiles(tile, int32_t(g.kernel_h), int32_t(g.kernel_w)))
    emulation::fail("does not fit");
  const int64_t length = read_word();
  const Array words = read(length, 4);
  const EntriesPlan plan =
      read_plan(static_cast<const int32_t*>(words.data()), length, rows, tile.columns);
  Array result;
  if (op == kGradWeight) {
    const Array grad_output = read(outputs, sizeof(T)), input = read(inputs, sizeof(T));
    result = Array(weights, sizeof(T));
    std::memset(result.data(), 0, result.bytes);
    const Array partial(int64_t(splits_of(tile, plan)) * plan.count, 4);
    queue_correlate_entries<T>(tile, plan, input.data(), grad_output.data(), int32_t(rows),
                               partial.data(), result.data(), nullptr);
  } else {
    const Array input = read(op == kForward ? inputs : outputs, sizeof(T));
    const Array weight = read(weights, sizeof(T)), bias = read(has_bias ? rows : 0, sizeof(T));
    result = Array(op == kForward ? outputs : inputs, sizeof(T));
    queue_convolve_entries<T>(tile, plan, input.data(), weight.data(),
                              has_bias ? bias.data() : nullptr, int32_t(rows), result.data(),
                              nullptr);
  }
  std::fwrite(result.data(), 1, result.bytes, stdout);
}

template <class T, int kDtype>
void run_if_compiled(int64_t op, bool has_bias, const ConvGeometry& g) {
  if constexpr ((EMULATE_DTYPES >> kDtype & 1) != 0) return run<T>(op, has_bias, g);
  emulation::fail("not compiled");
}

}  // namespace

int main() {
  for (int64_t left = read_word(); left > 0; --left) {
    const std::vector<int64_t> head = read_words(4), x = read_words(4), w = read_words(4);
    const std::vector<int64_t> stride = read_words(2), padding = read_words(2);
    const std::vector<int64_t> dilation = read_words(2);
    const ConvGeometry g = conv_geometry(x, w, stride, padding, dilation, read_word());
    emulation::machine.order.seed(uint32_t(head[2]));
    if (head[1] == 0) run_if_compiled<float, 0>(head[0], head[3] != 0, g);
    if (head[1] == 1) run_if_compiled<__half, 1>(head[0], head[3] != 0, g);
    if (head[1] == 2) run_if_compiled<__nv_bfloat16, 2>(head[0], head[3] != 0, g);
  }
}
