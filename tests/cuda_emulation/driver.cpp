// Reads cases from stdin, runs the kernels on them, writes the results to stdout.
//
// A case, as cases.py encodes it: int64 op, dtype, pooled, ordered, chunk_size, seed, and as bits
// which of the op's lists are there; float64 settings[8], those of
// the optimizers' steps; the pattern, its length first; the number of tensors; per tensor int64
// out, inputs, taps, keep, offset and its arrays. An array lies `offset` elements into its
// allocation, as a view does. -DEMULATE_OPS and -DEMULATE_DTYPES, as bits, choose what is compiled.
#include <memory>

#include "admm_project.cu"
#include "masked_adamw.cu"
#include "masked_sgd.cu"
#include "topk_mask.cu"
#include "weight_overlap.cu"

#ifndef EMULATE_OPS
#define EMULATE_OPS 31
#endif
#ifndef EMULATE_DTYPES
#define EMULATE_DTYPES 15
#endif

namespace {

using namespace sparselth;
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

enum Op { kTopk, kAdmm, kOverlap, kSgd, kAdamw };

struct Case {
  int64_t op, dtype, pooled, ordered, chunk_size, seed, present;
  double settings[8];
};

// The most lists an op takes, and which of them are masks.
constexpr int kLists = 7;

bool is_mask(int64_t op, int list) {
  return (op == kOverlap && list == 2) || (op == kSgd && list == 3) || (op == kAdamw && list == 4);
}

struct Tensors {
  Axes axes;
  int64_t keep, offset;
  Array arrays[kLists], mask;

  Segment segment() const {
    Segment segment{};
    segment.values = arrays[0].data;
    segment.count = static_cast<uint32_t>(axes.size());
    segment.keep = static_cast<uint32_t>(keep);
    return segment;
  }

  // Of a weight, its gradient, kStates states, mask, z and u.
  template <int kStates>
  StepTensor<kStates> of_step() const {
    StepTensor<kStates> t{};
    t.weight = arrays[0].data, t.grad = arrays[1].data, t.mask = arrays[2 + kStates].data;
    t.z = arrays[3 + kStates].data, t.u = arrays[4 + kStates].data;
    for (int s = 0; s < kStates; ++s) t.states[s] = arrays[2 + s].data;
    t.count = static_cast<uint32_t>(axes.size());
    return t;
  }
};

template <class T>
std::vector<Tensors> read_tensors(const Case& c) {
  int64_t count;
  read_bytes(&count, sizeof count);
  std::vector<Tensors> list(count);
  for (Tensors& t : list) {
    int64_t head[5];
    read_bytes(head, sizeof head);
    t.axes = {head[0], head[1], head[2]}, t.keep = head[3], t.offset = head[4];
    for (int i = 0; i < kLists; ++i) {
      const size_t element = is_mask(c.op, i) ? sizeof(bool) : sizeof(T);
      if (c.present >> i & 1) t.arrays[i] = Array(t.axes.size(), element, t.offset, true);
    }
    if (c.op == kTopk) t.mask = Array(t.axes.size(), sizeof(bool), t.offset, false);
  }
  return list;
}

template <class AnySelection>
Array scratch_for(AnySelection& selection, const Case& c) {
  return Array(selection.prepare(static_cast<uint32_t>(c.chunk_size)), 1, 0, false);
}

template <class T>
void run_topk(const Case& c, const Pattern& pattern, std::vector<Tensors>& list) {
  Array nonfinite(list.size(), 8, 0, false);
  with_selection<T>(pattern, c.pooled != 0, [&](auto selection) {
    for (const Tensors& t : list) {
      Segment segment = t.segment();
      segment.mask = t.mask.data;
      selection.add(segment, t.axes);
    }
    const Array scratch = scratch_for(selection, c);
    queue_topk_mask(selection, scratch.data, nonfinite.data, nullptr);
  });
  for (const Tensors& t : list) t.mask.write();
  nonfinite.write();
}

template <class T>
void run_admm(const Case& c, const Pattern& pattern, std::vector<Tensors>& list) {
  Array residuals(2 * list.size(), 8, 0, false);
  with_selection<T>(pattern, c.pooled != 0, [&](auto selection) {
    for (const Tensors& t : list) {
      Segment segment = t.segment();
      segment.addend = t.arrays[1].data, segment.target = t.arrays[2].data;
      selection.add(segment, t.axes);
    }
    const Array scratch = scratch_for(selection, c);
    queue_admm_project(selection, scratch.data, residuals.data, c.ordered != 0, nullptr);
  });
  for (const Tensors& t : list) t.arrays[1].write(), t.arrays[2].write();
  residuals.write();
}

template <class T>
void run_overlap(const Case& c, std::vector<Tensors>& list) {
  Array counts(2 * list.size(), 8, 0, false);
  Selection<T> selection(/*pooled=*/false);
  for (int which = 0; which < 2; ++which) {
    for (const Tensors& t : list) {
      Segment segment = t.segment();
      segment.values = t.arrays[which].data, segment.mask = t.arrays[2].data;
      selection.add(segment);
    }
  }
  const Array scratch = scratch_for(selection, c);
  queue_weight_overlap(selection, (c.present & 4) != 0, scratch.data, counts.data, nullptr);
  counts.write();
}

template <class T>
void run_sgd(const Case& c, std::vector<Tensors>& list) {
  const double* s = c.settings;
  auto launcher = sgd_launcher<T>({s[0], s[1], s[2], s[3], s[4] != 0, s[5]},
                                  static_cast<uint32_t>(c.chunk_size), nullptr);
  for (const Tensors& t : list) launcher.add(t.of_step<1>());
  launcher.flush();
  for (const Tensors& t : list) t.arrays[0].write(), t.arrays[2].write();
}

template <class T>
void run_adamw(const Case& c, std::vector<Tensors>& list) {
  const double* s = c.settings;
  auto launcher = adamw_launcher<T>({s[0], s[1], s[2], s[3], s[4], s[5]}, s[6],
                                    static_cast<uint32_t>(c.chunk_size), nullptr);
  std::vector<float> steps;
  for (size_t i = 0; i < list.size(); ++i) steps.push_back(static_cast<float>(s[6] + double(i)));
  for (size_t i = 0; i < list.size(); ++i) {
    launcher.add({list[i].of_step<2>(), s[7] != 0 ? &steps[i] : nullptr});
  }
  launcher.flush();
  for (const Tensors& t : list)
    for (int i : {0, 2, 3}) t.arrays[i].write();
}

template <class T, int kOps = EMULATE_OPS>
void run_case(const Case& c) {
  int64_t length;
  read_bytes(&length, sizeof length);
  std::vector<int64_t> code(length);
  read_bytes(code.data(), sizeof(int64_t) * code.size());
  std::vector<Tensors> list = read_tensors<T>(c);
  if constexpr (kOps >> kTopk & 1) {
    if (c.op == kTopk) run_topk<T>(c, Pattern(code), list);
  }
  if constexpr (kOps >> kAdmm & 1) {
    if (c.op == kAdmm) run_admm<T>(c, Pattern(code), list);
  }
  if constexpr (kOps >> kOverlap & 1) {
    if (c.op == kOverlap) run_overlap<T>(c, list);
  }
  if constexpr (kOps >> kSgd & 1) {
    if (c.op == kSgd) run_sgd<T>(c, list);
  }
  if constexpr (kOps >> kAdamw & 1) {
    if (c.op == kAdamw) run_adamw<T>(c, list);
  }
}

template <int kDtypes = EMULATE_DTYPES>
void run_case_of_dtype(const Case& c) {
  if constexpr (kDtypes & 1) {
    if (c.dtype == 0) run_case<float>(c);
  }
  if constexpr (kDtypes & 2) {
    if (c.dtype == 1) run_case<double>(c);
  }
  if constexpr (kDtypes & 4) {
    if (c.dtype == 2) run_case<__half>(c);
  }
  if constexpr (kDtypes & 8) {
    if (c.dtype == 3) run_case<__nv_bfloat16>(c);
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
    run_case_of_dtype(c);
  }
  return 0;
}
