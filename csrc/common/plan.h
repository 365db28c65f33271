// The plan: a mask's packed indices, one int32 array.
//
//   header     [version, C_out, C_in / groups, taps, groups, nnz, 0, 0]
//   by output  begin[C_out + 1], at[nnz], code[nnz]     rows of the forward pass
//   by input   begin[C_in + 1],  at[nnz], code[nnz]     rows of the input gradient
//
// at    by output: index of the weight in the dense (C_out, C_in/groups, kH, kW) tensor, ascending.
//       by input: its place among the weights by output. Taken from the dense tensor in this order,
//       every weight would be a cache miss of its own.
// code  channel << kTapBits | tap: where the weight reads from. The channel counts over all
//       groups: input channels in the first half, output channels in the second.
//
// Cost: one pass over the mask, eight entries at a time where they are pruned.
#pragma once

#include <cstdint>
#include <cstring>
#include <stdexcept>
#include <vector>

namespace sparselth {

inline constexpr int32_t kPlanVersion = 2;
inline constexpr int kPlanHeader = 8;
inline constexpr int kTapBits = 12;

struct PlanRows {
  const int32_t* begin;
  const int32_t* at;
  const int32_t* code;
};

struct Plan {
  int64_t c_out, c_in_per_group, taps, groups, nnz;
  PlanRows by_output, by_input;
  // Whether the weight lies in memory as (C_out, kH, kW, C_in), and its gradient is to. Of one
  // group only: what is checked says nothing of a channel within its group.
  bool channels_last = false;

  explicit Plan(const int32_t* data)
      : c_out(data[1]), c_in_per_group(data[2]), taps(data[3]), groups(data[4]), nnz(data[5]) {
    const int32_t* at = data + kPlanHeader;
    by_output = {at, at + c_out + 1, at + c_out + 1 + nnz};
    at = by_output.code + nnz;
    by_input = {at, at + c_in() + 1, at + c_in() + 1 + nnz};
  }
  int64_t c_in() const { return c_in_per_group * groups; }

  // Where entry j by output, one of output channel o, lies in the dense weight.
  int64_t weight_at(int64_t o, int32_t j) const {
    if (!channels_last) return by_output.at[j];
    const int32_t code = by_output.code[j];
    return (o * taps + (code & ((1 << kTapBits) - 1))) * c_in_per_group + (code >> kTapBits);
  }
};

// Whether 32 bits hold the indices of a mask. row: weights per output channel.
inline bool plannable(int64_t c_out, int64_t c_in, int64_t row, int64_t taps) {
  return taps < (1 << kTapBits) && (c_in > c_out ? c_in : c_out) < (1 << (31 - kTapBits)) &&
         c_out * row <= INT32_MAX;
}

// Whether all values lie in [0, limit). Without branches, so that it runs in vectors: a value's own
// sign bit, or that of its distance to the last one allowed, shows what lies outside.
inline bool all_below(const int32_t* values, int64_t count, int64_t limit) {
  const uint32_t last = uint32_t(limit - 1);
  uint32_t outside = 0;
  for (int64_t i = 0; i < count; ++i) outside |= uint32_t(values[i]) | (last - uint32_t(values[i]));
  return int32_t(outside) >= 0;
}

// Whether a half of a plan, one of `rows` rows, stays inside: at below `most`, channels and taps
// below theirs, and rows that follow each other up to the last entry.
inline bool rows_fit(const PlanRows& half, int64_t rows, int64_t nnz, int64_t most,
                     int64_t channels, int64_t taps) {
  constexpr uint32_t kTapMask = (1u << kTapBits) - 1;
  if (half.begin[0] != 0 || half.begin[rows] != nnz) return false;
  bool ascend = true;
  for (int64_t r = 0; r < rows; ++r) ascend &= half.begin[r] <= half.begin[r + 1];
  const uint32_t last_tap = uint32_t(taps - 1);
  uint32_t outside = 0;
  for (int64_t i = 0; i < nnz; ++i) outside |= last_tap - (uint32_t(half.code[i]) & kTapMask);
  return ascend && int32_t(outside) >= 0 && all_below(half.at, nnz, most) &&
         all_below(half.code, nnz, channels << kTapBits);
}

// Throws unless the plan is one of a mask of this shape: its header says so, its length is what
// the header claims, and no index in the half that a pass reads leads outside.
//
// The indices are looked at in every call. Remembered instead, by address or by a sum in the
// header, they could change unseen; and a pass copies them into rows of its own anyway
// (cpu/sparse_rows.inl), which costs several times as much as this does in vectors.
inline void check_plan(const int32_t* data, int64_t length, int64_t c_out, int64_t c_in_per_group,
                       int64_t taps, int64_t groups, bool by_input) {
  const int64_t c_in = c_in_per_group * groups;
  bool fits = plannable(c_out, c_in, c_in_per_group * taps, taps) && length >= kPlanHeader &&
              data[0] == kPlanVersion && data[1] == c_out && data[2] == c_in_per_group &&
              data[3] == taps && data[4] == groups && data[5] >= 0 &&
              length == kPlanHeader + c_out + 1 + c_in + 1 + 4 * int64_t(data[5]);
  if (fits) {
    const Plan plan(data);
    const int64_t weights = c_out * c_in_per_group * taps;
    fits = rows_fit(plan.by_output, c_out, plan.nnz, weights, c_in, taps) &&
           (!by_input || rows_fit(plan.by_input, c_in, plan.nnz, plan.nnz, c_out, taps));
  }
  if (!fits) throw std::runtime_error("the plan belongs to another mask or version; rebuild it");
}

inline std::vector<int32_t> build_plan(const uint8_t* mask, int64_t c_out, int64_t c_in_per_group,
                                       int64_t taps, int64_t groups) {
  if (groups < 1 || c_out % groups != 0)
    throw std::runtime_error("a plan needs groups that divide the output channels");
  const int64_t c_in = c_in_per_group * groups, row = c_in_per_group * taps;
  if (!plannable(c_out, c_in, row, taps))
    throw std::runtime_error("the weight is too large for a plan of 32-bit indices");

  std::vector<int32_t> flat;
  std::vector<int32_t> begin(c_out + 1, 0);
  for (int64_t o = 0; o < c_out; ++o) {
    const int64_t end = (o + 1) * row;
    for (int64_t i = o * row; i < end;) {
      uint64_t eight = 1;
      if (i + 8 <= end) std::memcpy(&eight, mask + i, 8);
      if (eight == 0) {
        i += 8;
        continue;
      }
      if (mask[i]) flat.push_back(int32_t(i));
      ++i;
    }
    begin[o + 1] = int32_t(flat.size());
  }

  const int64_t nnz = int64_t(flat.size());
  std::vector<int32_t> plan(kPlanHeader + c_out + 1 + c_in + 1 + 4 * nnz, 0);
  const int32_t header[] = {kPlanVersion,  int32_t(c_out),  int32_t(c_in_per_group),
                            int32_t(taps), int32_t(groups), int32_t(nnz)};
  std::memcpy(plan.data(), header, sizeof header);

  int32_t* out_begin = plan.data() + kPlanHeader;
  int32_t* out_at = out_begin + c_out + 1;
  int32_t* out_code = out_at + nnz;
  int32_t* in_begin = out_code + nnz;
  int32_t* in_at = in_begin + c_in + 1;
  int32_t* in_code = in_at + nnz;
  std::memcpy(out_begin, begin.data(), begin.size() * sizeof(int32_t));
  if (nnz) std::memcpy(out_at, flat.data(), nnz * sizeof(int32_t));

  const int64_t out_per_group = c_out / groups;
  for (int64_t o = 0; o < c_out; ++o) {
    const int64_t first_channel = o / out_per_group * c_in_per_group;
    for (int32_t j = begin[o]; j < begin[o + 1]; ++j) {
      const int64_t within = flat[j] - o * row;
      const int64_t channel = first_channel + within / taps;
      out_code[j] = int32_t(channel << kTapBits | within % taps);
      ++in_begin[channel + 1];
    }
  }
  for (int64_t c = 0; c < c_in; ++c) in_begin[c + 1] += in_begin[c];
  std::vector<int32_t> next(in_begin, in_begin + c_in);
  for (int64_t o = 0; o < c_out; ++o)
    for (int32_t j = begin[o]; j < begin[o + 1]; ++j) {
      const int32_t to = next[out_code[j] >> kTapBits]++;
      in_at[to] = j;
      in_code[to] = int32_t(o << kTapBits | (out_code[j] & ((1 << kTapBits) - 1)));
    }
  return plan;
}

}  // namespace sparselth
