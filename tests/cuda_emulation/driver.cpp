// Reads cases from stdin, runs the kernels on them, writes the results to stdout.
//
// A case: int64 op, dtype, pooled, chunk_size, tensors, seed; float64 settings[5] (masked_sgd_:
// lr, momentum, dampening, weight_decay, nesterov); per tensor int64 count, keep, offset and its
// arrays. An array lies `offset` elements into its allocation, as a view does. Which ops and
// dtypes are compiled is chosen with -D: all of them, or one of each for a mutant.
#include <memory>

#include "admm_project.cu"
#include "masked_sgd.cu"
#include "topk_mask.cu"
#include "weight_overlap.cu"

namespace {

using namespace sparselth::cuda;

void read_bytes(void* target, size_t bytes) {
  if (std::fread(target, 1, bytes, stdin) != bytes) emulation::fail("the case ends too early");
}

void write_bytes(const void* source, size_t bytes) { std::fwrite(source, 1, bytes, stdout); }

// Exactly as long as asked for, so that AddressSanitizer sees the first byte too many.
struct Array {
  std::unique_ptr<char, decltype(&std::free)> memory{nullptr, &std::free};
  char* data = nullptr;
  size_t bytes = 0;

  Array() = default;
  Array(size_t count, size_t element, size_t offset, bool from_stdin)
      : memory(static_cast<char*>(std::malloc((count + offset) * element)), &std::free),
        data(memory.get() + offset * element),
        bytes(count * element) {
    std::memset(memory.get(), 0xcd, (count + offset) * element);
    if (from_stdin) read_bytes(data, bytes);
  }
  void write() const { write_bytes(data, bytes); }
};

enum Op : int64_t { kTopk, kAdmm, kOverlap, kSgd };

struct Case {
  int64_t op, dtype, pooled, ordered, chunk_size, tensors, seed;
  double settings[5];
};

struct Tensors {
  int64_t count, keep, offset;
  Array a, b, c, d;
};

// Which arrays come in: topk scores; admm w, u, z; overlap a, b; sgd w, grad, momentum, mask.
template <class T>
std::vector<Tensors> read_tensors(const Case& c) {
  std::vector<Tensors> list(c.tensors);
  for (Tensors& t : list) {
    int64_t head[3];
    read_bytes(head, sizeof head);
    t.count = head[0], t.keep = head[1], t.offset = head[2];
    const auto array = [&](size_t element, bool in) {
      return Array(t.count, element, t.offset, in);
    };
    t.a = array(sizeof(T), true);
    if (c.op != kTopk) t.b = array(sizeof(T), true);
    if (c.op == kAdmm || c.op == kSgd) t.c = array(sizeof(T), true);
    if (c.op == kTopk) t.b = array(sizeof(bool), false);
    if (c.op == kSgd) t.d = array(sizeof(bool), true);
  }
  return list;
}

template <class T>
void run_case(const Case& c) {
  std::vector<Tensors> list = read_tensors<T>(c);
  Selection<T> selection(c.pooled != 0);
  const size_t words = 2 * list.size();
  Array results(words, 8, 0, false);
  Array scratch;
  const auto prepare = [&] {
    scratch = Array(selection.prepare(static_cast<uint32_t>(c.chunk_size)), 1, 0, false);
  };
  if (c.op == kTopk) {
    for (Tensors& t : list) selection.add(t.a.data, nullptr, t.b.data, t.count, t.keep);
    prepare();
    results = Array(list.size(), 8, 0, false);
    queue_topk_mask(selection, scratch.data, results.data, nullptr);
    for (Tensors& t : list) t.b.write();
    results.write();
  } else if (c.op == kAdmm) {
    for (Tensors& t : list) selection.add(t.a.data, t.b.data, t.c.data, t.count, t.keep);
    prepare();
    queue_admm_project(selection, scratch.data, results.data, c.ordered != 0, nullptr);
    for (Tensors& t : list) t.b.write(), t.c.write();
    results.write();
  } else if (c.op == kOverlap) {
    for (Tensors& t : list) selection.add(t.a.data, nullptr, nullptr, t.count, t.keep);
    for (Tensors& t : list) selection.add(t.b.data, nullptr, nullptr, t.count, t.keep);
    prepare();
    queue_weight_overlap(selection, scratch.data, results.data, nullptr);
    results.write();
  } else {
    const SgdSettings settings{c.settings[0], c.settings[1], c.settings[2], c.settings[3],
                               c.settings[4] != 0};
    SgdLauncher<T> launcher(settings, static_cast<uint32_t>(c.chunk_size), nullptr);
    for (Tensors& t : list) launcher.add(t.a.data, t.b.data, t.c.data, t.d.data, t.count);
    launcher.flush();
    for (Tensors& t : list) t.a.write(), t.c.write();
  }
}

}  // namespace

int main() {
  int64_t cases;
  read_bytes(&cases, sizeof cases);
  for (int64_t i = 0; i < cases; ++i) {
    Case c;
    read_bytes(&c, sizeof c);
    emulation::machine.order.seed(static_cast<uint32_t>(c.seed));
    if (c.dtype == 0) run_case<float>(c);
#ifndef EMULATE_FLOAT_ONLY
    if (c.dtype == 1) run_case<double>(c);
    if (c.dtype == 2) run_case<__half>(c);
    if (c.dtype == 3) run_case<__nv_bfloat16>(c);
#endif
  }
  return 0;
}
