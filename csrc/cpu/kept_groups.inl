// Which weights a pattern keeps, compiled per instruction set.
//
// Boxes and kernel shapes: a pass that scores groups (group_scores.inl), the selection of
// select.inl among the scores, and the caller's pass over the values, which is told for each
// stretch what stays. N:M is decided within that pass, from the values themselves.

#include "cpu/group_scores.inl"

// Short runs of bytes are written a fixed number at a time: what is beyond their end is written
// again by the next run, or is room left for it.
inline constexpr int64_t kShortRun = ShapeTable::kMostTaps;

SPARSELTH_INLINE void copy_run(uint8_t* to, const uint8_t* from, int64_t n) {
  if (n <= kShortRun)
    std::memcpy(to, from, kShortRun);
  else
    std::memcpy(to, from, size_t(n));
}

SPARSELTH_INLINE void fill_run(uint8_t* to, uint8_t value, int64_t n) {
  if (n <= kShortRun)
    std::memset(to, value, kShortRun);
  else
    std::memset(to, value, size_t(n));
}

// What stays, group by group.
struct KeptGroups {
  std::vector<Grouping> groupings;
  std::vector<Stripe> stripes;
  std::vector<uint8_t> kept;       // per group: 1 where it stays
  std::vector<uint8_t> choices;    // per kernel: its shape
  std::vector<int64_t> nonfinite;  // per tensor: values that are NaN or infinite

  bool finite() const {
    return std::all_of(nonfinite.begin(), nonfinite.end(), [](int64_t n) { return n == 0; });
  }
};

template <class F>
void for_each_stripe(const KeptGroups& groups, const Threads& threads, const F& f) {
  const auto& stripes = groups.stripes;
  for_each_part(
      stripes.size(),
      [&](size_t i) { return values_in(groups.groupings[stripes[i].tensor], stripes[i]); }, threads,
      f);
}

// The k groups of the largest scores, of each tensor or (global) of all. counts_nonfinite: whether
// N:M, which needs no pass before the caller's, makes one to count what is not finite.
template <class T, class Source>
KeptGroups keep_groups(const Pattern& pattern, const std::vector<Axes>& axes,
                       const std::vector<int64_t>& k, bool global_, const Source& source,
                       bool counts_nonfinite, const Threads& threads) {
  KeptGroups groups;
  groups.groupings = groupings_of(pattern, axes);
  groups.stripes = make_stripes(groups.groupings);
  groups.nonfinite.assign(axes.size(), 0);
  const bool scored = pattern.kind != Pattern::kNOfM;
  if (!scored && !counts_nonfinite) return groups;
  std::vector<int64_t> sizes, nonfinite(groups.stripes.size());
  int64_t total = 0;
  for (const Grouping& g : groups.groupings) sizes.push_back(g.groups()), total += g.groups();
  const std::unique_ptr<double[]> scores(new double[scored ? size_t(total) : 0]);
  if (pattern.kind == Pattern::kKernelShapes) groups.choices.resize(size_t(total));
  const ShapeTable table(pattern);
  for_each_stripe(groups, threads, [&](int64_t i) {
    const Stripe& stripe = groups.stripes[i];
    const Grouping& g = groups.groupings[stripe.tensor];
    if (!scored)
      nonfinite[i] = count_nonfinite_in<T>(stripe, g, source);
    else if (g.shaped)
      nonfinite[i] = score_shapes<T>(stripe, g, source, table, scores.get(), groups.choices.data());
    else
      nonfinite[i] = score_boxes<T>(stripe, g, source, scores.get());
  });
  for (size_t i = 0; i < nonfinite.size(); ++i)
    groups.nonfinite[groups.stripes[i].tensor] += nonfinite[i];
  if (!scored) return groups;

  std::vector<const double*> of_tensor;
  for (const Grouping& g : groups.groupings) of_tensor.push_back(scores.get() + g.first);
  const auto chunks = make_chunks(sizes, global_);
  const ValuesOf<double> ranked{of_tensor};
  const Selection<double> selection = select<double>(chunks, sizes.size(), k, ranked, threads);
  groups.kept.resize(size_t(total) + kShortRun);  // copied in runs of a fixed length
  for_each_chunk(chunks, threads, [&](int64_t c) {
    uint8_t* to = groups.kept.data() + groups.groupings[chunks[c].tensor].first;
    apply_cut<double>(
        chunks[c], selection.cuts[c], ranked,
        [=](int64_t i, int n, const uint8_t* kept) { std::copy(kept, kept + n, to + i); });
  });
  return groups;
}

// What stays of one row of a stripe's boxes, one byte per column. Needs room for kShortRun bytes
// after the row.
inline void row_of_boxes(const KeptGroups& groups, const ShapeTable& table, const Stripe& stripe,
                         int64_t out, uint8_t* row) {
  const Grouping& g = groups.groupings[stripe.tensor];
  const int64_t taps = g.axes.taps;
  int64_t group = g.first + g.group(out, stripe.input_begin);
  if (g.box.inputs == 1 && g.box.taps == 1) {
    const int64_t columns = (stripe.input_end - stripe.input_begin) * taps;
    return void(std::memcpy(row, groups.kept.data() + group, size_t(columns)));
  }
  for (int64_t input = stripe.input_begin; input < stripe.input_end; ++input) {
    const uint8_t* kept = groups.kept.data() + group;
    const int64_t columns = first_column(g, input + 1) - first_column(g, input);
    if (g.shaped) {
      copy_run(row, table.kept[kept[0] ? groups.choices[group] : ShapeTable::kMost], taps);
    } else if (g.box.taps == taps) {
      fill_run(row, kept[0], columns);
    } else if (g.box.taps == 1) {
      for (int64_t at = 0; at < columns; at += taps) copy_run(row + at, kept, taps);
    } else {
      for (int64_t t = 0; t < columns; ++t) row[t] = kept[t % taps / g.box.taps];
    }
    row += columns;
    group += g.blocks[2];
  }
}

// What stays of one row under n of m: the values whose rank in their group is below n. The rank
// counts those that are larger, or equal and before.
template <class T>
class RowOfNOfM {
 public:
  RowOfNOfM(const Grouping& g, int64_t n, int64_t m) : row_(g.axes.row()), n_(n) {
    for (int64_t d = 1; d < m; ++d) shifts_.push_back(d * g.axes.taps);
    margin_ = (m - 1) * g.axes.taps;
    keys_.assign(size_t(margin_ + row_ + kKeysAtOnce + margin_), Key<T>(kNoKey));
    place_.assign(size_t(row_ + kKeysAtOnce), Key<T>(0));
    for (int64_t j = 0, tap = 0, place = 0; j < row_; ++j) {
      place_[j] = Key<T>(place);
      if (++tap == g.axes.taps) tap = 0, place = place + 1 == m ? 0 : place + 1;
    }
    m_ = Key<T>(m);
  }

  template <class Source>
  void mark(const Source& source, int tensor, int64_t out, uint8_t* kept) {
    Key<T>* keys = keys_.data() + margin_;
    for (int64_t j = 0; j < row_; j += kKeysAtOnce) {
      const int n = int(std::min<int64_t>(kKeysAtOnce, row_ - j));
      source.fill(tensor, out * row_ + j, n, keys + j);
    }
    using V = Vec<Key<T>>;
    constexpr int kN = kLanes<Key<T>>;
    for (int64_t j = 0; j < row_; j += kN) {
      const V key = load(keys + j), place = load(place_.data() + j);
      V rank{};
      for (size_t d = 0; d < shifts_.size(); ++d) {
        const V distance = broadcast(Key<T>(d + 1));
        rank -= (place >= distance) & (load(keys + j - shifts_[d]) >= key);
        rank -= (place + distance < m_) & (load(keys + j + shifts_[d]) > key);
      }
      store_mask<Key<T>>(kept + j, rank < Key<T>(n_));
    }
  }

 private:
  int64_t row_, n_, margin_;
  Key<T> m_;
  std::vector<int64_t> shifts_;
  std::vector<Key<T>> keys_;   // of the row, with room for neighbors on both sides
  std::vector<Key<T>> place_;  // of a column in its group
};

// Calls block(begin, n, kept) for stretches of a stripe's values, kept[j] being 1 where value
// begin + j stays.
template <class T, class Source, class Block>
SPARSELTH_INLINE void apply_groups(const KeptGroups& groups, const Pattern& pattern,
                                   const Stripe& stripe, const Source& source, const Block& block) {
  const Grouping& g = groups.groupings[stripe.tensor];
  const int64_t begin = first_column(g, stripe.input_begin);
  const int64_t width = first_column(g, stripe.input_end) - begin;
  std::vector<uint8_t> row(size_t(width + kKeysAtOnce));
  if (pattern.kind == Pattern::kNOfM) {
    RowOfNOfM<T> chosen(g, pattern.n, pattern.m);
    for (int64_t out = stripe.out_begin; out < stripe.out_end; ++out) {
      chosen.mark(source, stripe.tensor, out, row.data());
      block(out * width, width, static_cast<const uint8_t*>(row.data()));
    }
    return;
  }
  const ShapeTable table(pattern);
  // Short rows are handed on several at a time: a stripe of whole rows is one stretch of memory.
  constexpr int64_t kAtOnce = 2 * kKeysAtOnce;
  uint8_t gathered[kAtOnce];
  int64_t waiting = 0, from = 0;
  const auto flush = [&] {
    if (waiting > 0) block(from, waiting, static_cast<const uint8_t*>(gathered));
    waiting = 0;
  };
  for (int64_t out = stripe.out_begin; out < stripe.out_end; ++out) {
    row_of_boxes(groups, table, stripe, out, row.data());
    for (int64_t r = first_row(g, out); r < first_row(g, out + 1); ++r) {
      const int64_t at = r * g.axes.row() + begin;
      if (width > kAtOnce / 2 || width < g.axes.row()) {
        block(at, width, static_cast<const uint8_t*>(row.data()));
        continue;
      }
      if (waiting + width > kAtOnce) flush();
      if (waiting == 0) from = at;
      std::memcpy(gathered + waiting, row.data(), size_t(width));
      waiting += width;
    }
  }
  flush();
}
