// Reads cases from stdin, runs the kernels on them, writes the results to stdout.
//
// A case, as cases.py encodes it: int64 op, dtype, global_, allow_nonfinite, chunk_size, seed, and
// as bits which of the op's lists are there; float64 settings[8], those of the optimizers' steps;
// the pattern, its length first; the number of tensors; per tensor int64 out, inputs, taps, keep,
// offset and its arrays. An array lies `offset` elements into its allocation, as a view does.
// -DEMULATE_OPS and -DEMULATE_DTYPES, as bits, choose what is compiled.
#include "common/pattern.h"
#include "reading.h"

#ifndef EMULATE_OPS
#define EMULATE_OPS 31
#endif
#ifndef EMULATE_DTYPES
#define EMULATE_DTYPES 15
#endif

// A mutant is one op: it need not read the sources of the others.
#define EMULATES(op) (EMULATE_OPS >> (op) & 1)
#define TOPK 0
#define ADMM 1
#define OVERLAP 2
#define SGD 3
#define ADAMW 4

#if EMULATES(TOPK)
#include "topk_mask.cu"
#endif
#if EMULATES(ADMM)
#include "admm_project.cu"
#endif
#if EMULATES(OVERLAP)
#include "weight_overlap.cu"
#endif
#if EMULATES(SGD)
#include "masked_sgd.cu"
#endif
#if EMULATES(ADAMW)
#include "masked_adamw.cu"
#endif

namespace {

using namespace sparselth;
using namespace sparselth::cuda;

struct Case {
  int64_t op, dtype, global_, allow_nonfinite, chunk_size, seed, present;
  double settings[8];
};

// The most lists an op takes, and which of them are masks.
constexpr int kLists = 7;

bool is_mask(int64_t op, int list) {
  return (op == OVERLAP && list == 2) || (op == SGD && list == 3) || (op == ADAMW && list == 4);
}

struct Tensors {
  Axes axes;
  int64_t keep, offset;
  Array arrays[kLists], mask;
};

template <class T>
std::vector<Tensors> read_tensors(const Case& c) {
  std::vector<Tensors> list(read_word());
  for (Tensors& t : list) {
    const std::vector<int64_t> head = read_words(5);
    t.axes = {head[0], head[1], head[2]}, t.keep = head[3], t.offset = head[4];
    for (int i = 0; i < kLists; ++i) {
      const size_t element = is_mask(c.op, i) ? sizeof(bool) : sizeof(T);
      if (c.present >> i & 1) t.arrays[i] = read(t.axes.size(), element, t.offset);
    }
    if (c.op == TOPK) t.mask = Array(t.axes.size(), sizeof(bool), t.offset);
  }
  return list;
}

// --- selections

#if EMULATES(TOPK) || EMULATES(ADMM) || EMULATES(OVERLAP)
Segment segment_of(const Tensors& t) {
  Segment segment{};
  segment.values = t.arrays[0].data();
  segment.count = static_cast<uint32_t>(t.axes.size());
  segment.keep = static_cast<uint32_t>(t.keep);
  return segment;
}

template <class AnySelection>
Array scratch_for(AnySelection& selection, const Case& c) {
  return Array(selection.prepare(static_cast<uint32_t>(c.chunk_size)), 1);
}
#endif

#if EMULATES(TOPK)
template <class T>
void run_topk(const Case& c, const Pattern& pattern, std::vector<Tensors>& list) {
  const Array nonfinite(list.size(), 8);
  with_selection<T>(pattern, c.global_ != 0, [&](auto selection) {
    for (const Tensors& t : list) {
      Segment segment = segment_of(t);
      segment.mask = t.mask.data();
      selection.add(segment, t.axes);
    }
    const Array scratch = scratch_for(selection, c);
    queue_topk_mask(selection, scratch.data(), nonfinite.data(), nullptr);
  });
  for (const Tensors& t : list) t.mask.write();
  nonfinite.write();
}
#endif

#if EMULATES(ADMM)
template <class T>
void run_admm(const Case& c, const Pattern& pattern, std::vector<Tensors>& list) {
  const Array residuals(2 * list.size(), 8);
  with_selection<T>(pattern, c.global_ != 0, [&](auto selection) {
    for (const Tensors& t : list) {
      Segment segment = segment_of(t);
      segment.addend = t.arrays[1].data(), segment.target = t.arrays[2].data();
      selection.add(segment, t.axes);
    }
    const Array scratch = scratch_for(selection, c);
    queue_admm_project(selection, scratch.data(), residuals.data(), c.allow_nonfinite != 0,
                       nullptr);
  });
  for (const Tensors& t : list) t.arrays[1].write(), t.arrays[2].write();
  residuals.write();
}
#endif

#if EMULATES(OVERLAP)
template <class T>
void run_overlap(const Case& c, std::vector<Tensors>& list) {
  const Array counts(2 * list.size(), 8);
  Selection<T> selection(/*global_=*/false);
  for (int which = 0; which < 2; ++which) {
    for (const Tensors& t : list) {
      Segment segment = segment_of(t);
      segment.values = t.arrays[which].data(), segment.mask = t.arrays[2].data();
      selection.add(segment);
    }
  }
  const Array scratch = scratch_for(selection, c);
  queue_weight_overlap(selection, (c.present & 4) != 0, scratch.data(), counts.data(), nullptr);
  counts.write();
}
#endif

// --- steps of optimizers

#if EMULATES(SGD) || EMULATES(ADAMW)
// Of a weight, its gradient, kStates states, mask, z and u.
template <int kStates>
StepTensor<kStates> step_of(const Tensors& tensors) {
  const auto& [axes, keep, offset, arrays, mask] = tensors;
  StepTensor<kStates> t{};
  t.weight = arrays[0].data(), t.grad = arrays[1].data(), t.mask = arrays[2 + kStates].data();
  t.z = arrays[3 + kStates].data(), t.u = arrays[4 + kStates].data();
  for (int s = 0; s < kStates; ++s) t.states[s] = arrays[2 + s].data();
  t.count = static_cast<uint32_t>(axes.size());
  return t;
}
#endif

#if EMULATES(SGD)
template <class T>
void run_sgd(const Case& c, std::vector<Tensors>& list) {
  const double* s = c.settings;
  auto launcher = sgd_launcher<T>({s[0], s[1], s[2], s[3], s[4] != 0, s[5]},
                                  static_cast<uint32_t>(c.chunk_size), nullptr);
  for (const Tensors& t : list) launcher.add(step_of<1>(t));
  launcher.flush();
  for (const Tensors& t : list) t.arrays[0].write(), t.arrays[2].write();
}
#endif

#if EMULATES(ADAMW)
template <class T>
void run_adamw(const Case& c, std::vector<Tensors>& list) {
  const double* s = c.settings;
  auto launcher = adamw_launcher<T>({s[0], s[1], s[2], s[3], s[4], s[5]}, s[6],
                                    static_cast<uint32_t>(c.chunk_size), nullptr);
  std::vector<float> steps;
  for (size_t i = 0; i < list.size(); ++i) steps.push_back(static_cast<float>(s[6] + double(i)));
  for (size_t i = 0; i < list.size(); ++i) {
    launcher.add({step_of<2>(list[i]), s[7] != 0 ? &steps[i] : nullptr});
  }
  launcher.flush();
  for (const Tensors& t : list)
    for (int i : {0, 2, 3}) t.arrays[i].write();
}
#endif

template <class T>
void run_case(const Case& c) {
  const std::vector<int64_t> code = read_words(read_word());
  std::vector<Tensors> list = read_tensors<T>(c);
#if EMULATES(TOPK)
  if (c.op == TOPK) run_topk<T>(c, Pattern(code), list);
#endif
#if EMULATES(ADMM)
  if (c.op == ADMM) run_admm<T>(c, Pattern(code), list);
#endif
#if EMULATES(OVERLAP)
  if (c.op == OVERLAP) run_overlap<T>(c, list);
#endif
#if EMULATES(SGD)
  if (c.op == SGD) run_sgd<T>(c, list);
#endif
#if EMULATES(ADAMW)
  if (c.op == ADAMW) run_adamw<T>(c, list);
#endif
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
  for (int64_t left = read_word(); left > 0; --left) {
    Case c;
    read_bytes(&c, sizeof c);
    emulation::machine.order = {uint64_t(c.seed)};
    run_case_of_dtype(c);
  }
  return 0;
}
