// The kept weights as the inner loops of masked_conv2d and masked_linear read them: one row per
// output channel of (offset, value), where the weight reads from, relative to the tile, and its
// value. Made from the plan in every pass, since values change; cost: one pass over the weights.

// The kept weights of channel o are the entries begin[o] to begin[o + 1] of the lists.
template <class T>
struct SparseRows {
  const int32_t* begin;
  const uint32_t* offset;
  const T* value;
};

// Rows by group of input channels, and within a group by output channel: the order in which they
// are read. Kept in the plan's order, each group's part of a row would be a cache miss of its own.
template <class T>
struct PackedRows {
  std::vector<uint32_t> offset;
  std::vector<T> value;
  std::vector<int32_t> begin;  // of group g and channel o: [g * channels + o]; and the end of all
  int64_t channels, groups;

  SparseRows<T> group(int64_t g) const {
    return {begin.data() + g * channels, offset.data(), value.data()};
  }

  // Calls f(entry) for every entry of channel o in the plan's order.
  template <class F>
  void for_each_of(int64_t o, const F& f) const {
    for (int64_t at = o; at < groups * channels; at += channels)
      for (int32_t entry = begin[at]; entry < begin[at + 1]; ++entry) f(entry);
  }
};

// How many input channels to take at once, for a tile that reads `footprint` vectors of each.
// Rows are summed group by group when a row has kRowWorth weights in each; less does not pay for
// reading and writing the sums again (measured on 48 KiB of L1, 2026-11-25). What they read may be
// half as large again as the cache, as not every vector of a channel is read: 6 to 8 % less time
// than with once the cache, over the layers of ResNets and VGGs at 90 to 98 % (32 KiB, 2026-11-29).
inline int64_t channels_at_once(int64_t channels, int64_t out_channels, int64_t nnz,
                                int64_t footprint) {
  constexpr int64_t kRowWorth = 3;
  const int64_t fit =
      std::max<int64_t>(1, 3 * l1_bytes() / (2 * footprint * SPARSELTH_VECTOR_BYTES));
  const int64_t groups = (channels + fit - 1) / fit;
  return nnz >= kRowWorth * groups * out_channels ? fit : channels;
}

// Threads that share so many entries; waking the others costs some microseconds.
inline int64_t threads_for_entries(int64_t entries, const Threads& threads) {
  constexpr int64_t kEntriesPerThread = 1 << 14;
  return std::clamp<int64_t>(entries / kEntriesPerThread, 1, threads.count);
}

// The kept weights in the plan's order by output, which its order by input refers to.
template <class W>
std::vector<Compute<W>> values_by_output(const Plan& plan, const W* weight,
                                         const Threads& threads) {
  std::vector<Compute<W>> values(size_t(plan.nnz));
  const int64_t runs = std::min(threads_for_entries(plan.nnz, threads), plan.c_out);
  threads.run(runs, [&](int64_t run) {
    for (int64_t o = run * plan.c_out / runs; o < (run + 1) * plan.c_out / runs; ++o)
      for (int32_t j = plan.by_output.begin[o]; j < plan.by_output.begin[o + 1]; ++j)
        values[j] = value_of(weight[plan.weight_at(o, j)]);
  });
  return values;
}

// Fills the rows of output channels with the entries whose tap has an offset >= 0. value: called
// as value(channel, entry), or nullptr for rows of which only the offsets are read.
template <class T, class F>
PackedRows<T> pack_rows(const PlanRows& rows, int64_t channels, int64_t in_channels, int64_t group,
                        const F& value, const std::vector<int64_t>& tap_offset,
                        int64_t channel_step, const Threads& threads) {
  constexpr int32_t kTapMask = (1 << kTapBits) - 1;
  constexpr bool kHasValues = !std::is_null_pointer_v<F>;
  PackedRows<T> packed;
  packed.channels = channels;
  // At least one, though it be empty: results start from the bias in the first.
  packed.groups = std::max<int64_t>(1, (in_channels + group - 1) / group);
  packed.begin.assign(packed.groups * channels + 1, 0);

  const int64_t runs = std::min(threads_for_entries(rows.begin[channels], threads), channels);
  // Calls f(first, last, i) for the plan's entries of one group and channel, which begin[i] is of.
  const auto for_each_segment = [&](const auto& f) {
    threads.run(runs, [&](int64_t run) {
      for (int64_t o = run * channels / runs; o < (run + 1) * channels / runs; ++o) {
        int32_t j = rows.begin[o];
        for (int64_t g = 0; g < packed.groups; ++g) {
          const int64_t next_group = ((g + 1) * group) << kTapBits;
          const int32_t first = j;
          while (j < rows.begin[o + 1] && rows.code[j] < next_group) ++j;
          f(first, j, g * channels + o);
        }
      }
    });
  };
  const auto offset_of = [&](int32_t j) { return tap_offset[rows.code[j] & kTapMask]; };
  const bool all_taps =
      std::all_of(tap_offset.begin(), tap_offset.end(), [](int64_t at) { return at >= 0; });
  for_each_segment([&](int32_t first, int32_t last, int64_t i) {
    int32_t count = last - first;
    if (!all_taps)
      for (int32_t j = first; j < last; ++j) count -= offset_of(j) < 0;
    packed.begin[i + 1] = count;
  });
  for (size_t i = 1; i < packed.begin.size(); ++i) packed.begin[i] += packed.begin[i - 1];

  packed.offset.resize(packed.begin.back());
  if constexpr (kHasValues) packed.value.resize(packed.begin.back());
  for_each_segment([&](int32_t first, int32_t last, int64_t i) {
    int32_t to = packed.begin[i];
    [[maybe_unused]] const int64_t o = i % channels;
    for (int32_t j = first; j < last; ++j) {
      const int64_t channel = rows.code[j] >> kTapBits, tap = offset_of(j);
      if (!all_taps && tap < 0) continue;
      packed.offset[to] = uint32_t(channel * channel_step + tap);
      if constexpr (kHasValues) packed.value[to] = value(o, j);
      ++to;
    }
  });
  return packed;
}
